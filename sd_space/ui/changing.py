"""The components with which a picture is changed or varied: their values are what the next pictures start from."""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from sd_space.languages import Phrase
from sd_space.request import REQUEST_FIELDS
from sd_space.serving.source_pictures import SOURCES
from sd_space.ui import changing_views
from sd_space.ui.translation import html

# Takes what the page's scripts have laid down at the button, without asking the server.
SET_START_JS = "() => document.getElementById('set-start').handed"
ASK_VARIATIONS_JS = "() => document.getElementById('ask-variations').handed"
# Tells the page's scripts what the next pictures start from.
ANNOUNCE_START_JS = """(init_image, mask, variation_strength) => {
    const detail = { init_image, mask, variation_strength }
    document.dispatchEvent(new CustomEvent('sd_space.start', { detail }))
    return []
}"""


@dataclass(frozen=True, slots=True)
class Changing:
    """Buttons that are pressed by the page's scripts alone, which hand their values over with the press."""

    set_start: gr.Button
    ask_variations: gr.Button


def lay_out() -> gr.Slider:
    """What stands beside the prompt once a start is chosen: how much of it may change."""
    with gr.Column(elem_id="changing"):
        html(changing_views.start)
        strength = gr.Slider(
            0.1,
            1.0,
            value=0.6,
            step=0.05,
            label=REQUEST_FIELDS["strength"].label,
            info=Phrase("From a little to everything"),
            elem_id="strength",
            elem_classes="field-strength",
        )
        html(changing_views.painter)
    return strength


def lay_out_unseen() -> tuple[Changing, dict[str, gr.components.Component]]:
    """What the page's scripts press, and the other controls of the fields that are about a start."""
    controls: dict[str, gr.components.Component] = {}
    for name in ("init_image", "mask", "variation_seed", "variation_strength"):
        field = REQUEST_FIELDS[name]
        kind = gr.Textbox if name in SOURCES else gr.Number
        value: Any = "" if name in SOURCES else field.default
        controls[name] = kind(value, label=field.label, visible="hidden", elem_id=name)
    buttons = (gr.Button(visible="hidden", elem_id=name) for name in ("set-start", "ask-variations"))
    return Changing(*buttons), controls
