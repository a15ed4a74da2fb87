"""The languages of the page: English, which stands in the code, and a table for each other one."""

import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any

ENGLISH = "en"
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
    wanted = []
    for part in headers.get("accept-language", "").split(","):
        tag, _, weight = part.partition(";q=")
        try:
            wanted.append((-float(weight or 1), tag.strip().lower().partition("-")[0]))
        except ValueError:
            continue
    known = [name for weight, name in sorted(wanted, key=lambda pair: pair[0]) if weight < 0 and name in _names()]
    return known[0] if known else ENGLISH


def _names() -> set[str]:
    return {ENGLISH, *tables()}
