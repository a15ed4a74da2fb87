"""The model card's words in folds, for which Gradio's Markdown is fetched when one of them is opened."""

from typing import Any

import gradio as gr

_SHOW_JS = "() => ({__type__: 'update', visible: true})"


def lay_out(fold: gr.Accordion, markdown: str, **options: Any) -> None:
    """Adds the text to the current part of the page, which is below `fold`.

    A closed fold alone does not keep Gradio from fetching the scripts of what is in it; `visible=False` does.
    """
    text = gr.Markdown(markdown, visible=False, elem_classes="english", **options)
    fold.expand(None, None, text, js=_SHOW_JS, api_visibility="private", show_progress="hidden", queue=False)
