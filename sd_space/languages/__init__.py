"""The languages of the page: English, which stands in the code, and a table for each other one."""

import re
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any

ENGLISH = "en"
# An entry of Accept-Language: a language, what narrows it, and its weight from 0 to 1; blanks may stand around those.
_ENTRY = re.compile(r"\s*([a-z]+)(?:-[a-z0-9-]+)?\s*(?:;\s*q=([01](?:\.\d{0,3})?)\s*)?", re.ASCII | re.IGNORECASE)
_current = ContextVar("language", default=ENGLISH)


class Phrase(str):
    """A text for people: English as a `str`; other languages are made from its template and values."""

    template: str
    values: Mapping[str, object]

    def __new__(cls, template: str, /, **values: object) -> "Phrase":
        phrase = super().__new__(cls, template.format(**values) if values else template)
        phrase.template, phrase.values = str(template), values
        return phrase

    def __getnewargs_ex__(self) -> tuple[tuple[str], dict[str, object]]:
        return (self.template,), dict(self.values)


@cache
def tables() -> dict[str, Mapping[str, str]]:
    """By language, its texts by the English ones."""
    files = Path(__file__).parent.glob("*.toml")
    return {file.stem: tomllib.loads(file.read_text(encoding="utf-8")) for file in sorted(files)}


def translate(text: str, /, **values: object) -> str:
    """The text in the current language, with its values, of which phrases are translated too.

    One that is in no table stays as it is.
    """
    if isinstance(text, Phrase):
        values = {**text.values, **values}
        text = text.template
    text = table().get(text, text)
    spoken = {name: said(value) if isinstance(value, str) else value for name, value in values.items()}
    return text.format(**spoken) if spoken else text


def said(text: str) -> str:
    """A phrase in the current language; any other text is somebody's own, and stays as it is."""
    return translate(text) if isinstance(text, Phrase) else text


def table() -> Mapping[str, str]:
    """That of the current language; English needs none."""
    return tables().get(_current.get(), {})


def current_language() -> str:
    return _current.get()


@contextmanager
def speaking(language: str) -> Iterator[None]:
    """Texts that are translated within are in this language."""
    token = _current.set(language)
    try:
        yield
    finally:
        _current.reset(token)


def language_for(headers: Mapping[str, Any]) -> str:
    """Of the languages here, that which the caller's browser likes best (Accept-Language, RFC 9110, 12.5.4)."""
    entries = filter(None, map(_ENTRY.fullmatch, headers.get("accept-language", "").split(",")))
    wanted = [(float(weight or 1), name.lower()) for name, weight in (entry.groups() for entry in entries)]
    known = [(weight, name) for weight, name in wanted if weight and name in _names()]
    return max(known, key=lambda pair: pair[0])[1] if known else ENGLISH


def _names() -> set[str]:
    return {ENGLISH, *tables()}
