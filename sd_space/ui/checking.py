"""The fold in which a picture is checked: its components, and what is said of the picture."""

from dataclasses import dataclass
from html import escape

import gradio as gr

from sd_space.errors import QueueFull, SpaceError
from sd_space.languages import Phrase, translate
from sd_space.serving.gate import Gate
from sd_space.serving.verifier import Verifier
from sd_space.serving.verify import MAX_PICTURE_BYTES, Verification
from sd_space.ui.translation import html

UNREADABLE = Phrase(
    "This is no PNG, JPEG or WebP picture that can be read here; choose another file of at most 5.9 MB."
)


@dataclass(frozen=True, slots=True)
class Checking:
    """`ask` is pressed by the page's scripts alone, which hand the picture over with the press."""

    ask: gr.Button
    found: gr.HTML


def lay_out() -> gr.HTML:
    """The fold, of which what is found is a part."""
    with gr.Accordion(Phrase("Check a picture"), open=False, elem_id="checking"):
        html(chooser)
        return gr.HTML(elem_id="found", padding=False)


def lay_out_unseen(found: gr.HTML) -> Checking:
    return Checking(ask=gr.Button(visible="hidden", elem_id="ask-check"), found=found)


def chooser() -> str:
    question = translate("Did a model make a picture, which one, and was it changed since? Its marks may say so.")
    return (
        f'<div id="check" data-max-bytes="{MAX_PICTURE_BYTES}"><p>{question}</p><label>'
        f'{translate("Choose the picture")} <input type="file" accept="image/png,image/jpeg,image/webp"></label>'
        f'<p class="aid">{translate("Or drop it here. The server reads its marks and keeps nothing of it.")}</p></div>'
    )


def found_html(found: Verification) -> str:
    """All that was found, and a press for the recipe, which the page's scripts read in the file itself."""
    points = "".join(f"<li>{escape(translate(sentence))}</li>" for sentence in found.sentences)
    button = f'<button type="button" id="use-recipe">{translate("Put its recipe into the form")}</button>'
    return f"<ul>{points}</ul>{button if found.recipe else ''}"


class CheckHandler:
    def __init__(self, gate: Gate, verifier: Verifier):
        self.gate = gate
        self.verifier = verifier

    async def verify(self, token: str, picture: str) -> str:
        """What is shown of a picture's marks; nothing to somebody who has not accepted the licence."""
        if self.gate.visitor_of(token) is None:
            return ""
        try:
            return found_html(await self.verifier.verify(picture))
        except QueueFull as full:
            return f'<p class="note error" role="alert">{escape(translate(full.message))}</p>'
        except SpaceError:
            return f'<p class="note error" role="alert">{translate(UNREADABLE)}</p>'
