"""The first screen as plain HTML in the document: it is seen, and can be used, before Gradio's scripts have come.

`page/first_screen.js` puts Gradio's own components in its place once they are there, with what was done meanwhile.
Nothing is accepted here: the press goes on to the button of the page, and the server answers that.
"""

from sd_space.card import ModelCard
from sd_space.languages import translate
from sd_space.ui import views
from sd_space.ui.theme import THEME

# Those of the theme that the first screen is painted with; its own style sheet comes later.
_COLORS = (
    "body_text_color",
    "body_text_color_subdued",
    "background_fill_primary",
    "block_background_fill",
    "border_color_primary",
    "checkbox_background_color",
    "checkbox_background_color_selected",
    "checkbox_border_color",
    "link_text_color",
    "button_primary_background_fill",
    "button_primary_background_fill_hover",
)


def first_screen(card: ModelCard) -> str:
    return (
        f'<main id="first-screen"><div id="first-masthead">{views.masthead()}</div>'
        f'<section id="first-gate">{views.gate(card)}{views.restrictions()}'
        f'<label><input type="checkbox" autocomplete="off"> {translate(views.AGREE)}</label>'
        f'<button type="button" disabled>{translate(views.ACCEPT)}</button></section></main>'
    )


def first_colors() -> str:
    """The theme's colours under the names that Gradio gives them, each for light and dark."""
    values = {name: (_resolved(name), _resolved(f"{name}_dark")) for name in _COLORS}
    lines = (f"--{name.replace('_', '-')}: light-dark({light}, {dark});" for name, (light, dark) in values.items())
    return f"#first-screen {{ {' '.join(lines)} }}"


def _resolved(name: str) -> str:
    """The value of one of the theme's variables, which may name another one; dark ones are as light where not given."""
    value = getattr(THEME, name, None) or getattr(THEME, name.removesuffix("_dark"))
    if not value.startswith("*"):
        return value
    other = value.removeprefix("*")
    return _resolved(f"{other}_dark" if name.endswith("_dark") and not other.endswith("_dark") else other)
