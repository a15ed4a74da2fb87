"""The page's style sheet and scripts, joined from the files of `page/`."""

import json
import re
from functools import cache
from pathlib import Path

from sd_space.card import ModelCard
from sd_space.languages import table
from sd_space.ui.first_screen import first_colors, first_screen

_FOLDER = Path(__file__).with_name("page")
# In this order: rules for narrow windows and forced colours override those before them, and scripts share names.
_FIRST_STYLES = ("first_paint", "gate")
_STYLES = (
    "column", "banner", "workspace", "progress", "results", "viewer", "announcer", "aids", "changing", "programs",
    "experiments", "adaptations",
)  # fmt: skip
_SCRIPTS = (
    "changes", "folds", "announcer", "chime", "run", "connection", "focus", "gallery", "copying", "viewer", "status",
    "storage", "tabs", "aids", "changing", "paint", "own_picture", "comparison", "checking", "picture_text",
    "settings", "history", "programs", "experiments", "steps",
)  # fmt: skip
# Who has accepted the licence before does not see its gate while the server is asked; see `first_paint.css`.
_RETURNING = """try {
  if (localStorage.getItem('sd_space.token')) document.documentElement.classList.add('returning')
} catch (error) {}
"""


def style_sheet() -> str:
    return "\n".join(_read(f"{name}.css") for name in _STYLES)


def script(has_history: bool) -> str:
    """A function that Gradio calls when the page has loaded; all files are parts of its body."""
    body = f"const keepsHistory = {json.dumps(has_history)}\n"
    body += "\n".join(_read(f"{name}.js") for name in _SCRIPTS)
    return f"() => {{\n{body}}}\n"


# Gradio's own words follow the page's language.
_TRANSLATE = r"""const translate = (english, values = {}) =>
  (translations[english] ?? english).replace(/[{](\w+)[}]/g, (_, name) => values[name])
Object.defineProperty(navigator, 'language', { value: document.documentElement.lang })
"""
_TRANSLATED = re.compile(r"translate\(\s*'([^']+)'")


@cache
def script_texts() -> frozenset[str]:
    """What the scripts say, in English."""
    files = (*_SCRIPTS, "first_screen")
    return frozenset(text for name in files for text in _TRANSLATED.findall(_read(f"{name}.js")))


def _translation() -> str:
    own = {text: words for text, words in table().items() if text in script_texts()}
    return f"const translations = {json.dumps(own, ensure_ascii=False)}\n{_TRANSLATE}"


def head() -> str:
    """What the document itself must have before any script of Gradio's runs."""
    styles = first_colors() + "".join(_read(f"{name}.css") for name in _FIRST_STYLES)
    return f"<style>{styles}</style><script>{_RETURNING}{_translation()}</script>"


def body(card: ModelCard) -> str:
    """What stands in the document before Gradio's part."""
    return f"{first_screen(card)}<script>{_read('first_screen.js')}</script>"


@cache
def _read(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")
