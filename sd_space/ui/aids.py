"""The components that help to ask: what is read of the prompt, the time it takes now, settings and runs of before."""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from sd_space.ui import aid_views
from sd_space.ui.translation import html

# Tells the page's scripts what the prompt is now.
ANNOUNCE_PROMPT_JS = (
    "(prompt) => { document.dispatchEvent(new CustomEvent('sd_space.prompt', { detail: prompt })); return [] }"
)


@dataclass(frozen=True, slots=True)
class Aids:
    """`ask_*` are pressed by the page's scripts alone, which hand their words over with the press."""

    reading: gr.HTML
    outlook: gr.HTML
    record: gr.HTML
    ask_reading: gr.Button
    ask_outlook: gr.Button
    ask_settings: gr.Button
    ask_run: gr.Button
    handed: gr.Textbox


def lay_out_lines() -> dict[str, Any]:
    """What stands below the prompt."""
    reading = gr.HTML(elem_id="reading", padding=False)
    outlook = gr.HTML(elem_id="outlook", padding=False)
    html(aid_views.offer, elem_id="offer-line")
    return {"reading": reading, "outlook": outlook}


def lay_out_history() -> None:
    """What stands below the pictures."""
    html(aid_views.history, elem_id="history-line")


def lay_out_unseen() -> dict[str, Any]:
    """What the page's scripts press and read."""
    names = ("ask_reading", "ask_outlook", "ask_settings", "ask_run")
    buttons = {name: gr.Button(visible="hidden", elem_id=name.replace("_", "-")) for name in names}
    record = gr.HTML(visible="hidden", elem_id="record", padding=False)
    return buttons | {"record": record, "handed": gr.Textbox(visible="hidden", elem_id="handed")}


def hand_over_js(button_id: str) -> str:
    """A script that gives an event, after the token, what the page's scripts have laid down at its button."""
    return f"(token) => [token, ...document.getElementById({button_id!r}).handed]"


def lay_out_chooser() -> None:
    """Where a picture is chosen whose settings are wanted."""
    html(aid_views.chooser, elem_id="chooser-line")
