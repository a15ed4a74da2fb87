"""The page's style sheet and scripts, joined from the files of `page/`."""

from pathlib import Path

_FOLDER = Path(__file__).with_name("page")
# In this order: rules for narrow windows and forced colours override those before them, and scripts share names.
_STYLES = (
    "column", "banner", "gate", "workspace", "progress", "results", "viewer", "announcer", "aids", "changing",
    "adaptations",
)  # fmt: skip
_SCRIPTS = (
    "changes", "announcer", "chime", "run", "focus", "gallery", "copying", "viewer", "status", "downloads", "storage",
    "accordions", "acceptance", "aids", "changing", "paint", "own_picture", "comparison", "checking", "picture_text",
    "settings", "history",
)  # fmt: skip


def style_sheet() -> str:
    return "\n".join(_read(f"{name}.css") for name in _STYLES)


def script() -> str:
    """A function that Gradio calls when the page has loaded; all files are parts of its body."""
    body = "\n".join(_read(f"{name}.js") for name in _SCRIPTS)
    return f"() => {{\n{body}}}\n"


def head() -> str:
    """What the document itself must have before any script of Gradio's runs."""
    return f"<style>{_read('first_paint.css')}</style><script>{_read('returning.js')}</script>"


def _read(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")
