"""The languages of the page: each text of ours in each table, and nothing in them that would not be text."""

import ast
import string
from pathlib import Path

import pytest

from sd_space.languages import tables
from sd_space.ui.assets import script_texts
from sd_space.ui.limitations import LIMITATIONS

PACKAGE = Path(__file__).parent.parent / "sd_space"
_CALLS = {"Phrase", "translate"}


def placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


def is_text(template: str) -> bool:
    """Whether it has letters outside of its placeholders."""
    return any(c.isalpha() for words, *_ in string.Formatter().parse(template) for c in words)


def asked_for() -> set[str]:
    """Every text that the code gives to `translate` or makes a `Phrase` of, in Python and in the page's scripts."""
    texts = {text for one in LIMITATIONS for text in (one.title, one.look_at, one.why)} | script_texts()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in _CALLS and node.args:
                texts |= {text for text in constants(node.args[0]) if is_text(text)}
    return texts


def constants(given: ast.expr) -> list[str]:
    if isinstance(given, ast.IfExp):
        return constants(given.body) + constants(given.orelse)
    return [given.value] if isinstance(given, ast.Constant) else []


@pytest.mark.parametrize("language", tables())
def test_a_table_has_each_text_of_ours_and_no_other(language):
    assert tables()[language].keys() == asked_for()


@pytest.mark.parametrize("language", tables())
def test_a_translation_has_the_placeholders_of_its_text_and_no_markup(language):
    for text, words in tables()[language].items():
        assert words.strip() and placeholders(words) == placeholders(text), text
        assert words[0].isspace() == text[0].isspace() and not set(words) & set('"&\\'), text
        assert "<" not in words or "<" in text, text
