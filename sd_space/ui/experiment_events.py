"""Connects the events of the experiments with their handlers."""

from typing import Any

import gradio as gr

from sd_space.ui.aids import hand_over_js
from sd_space.ui.events import page_event
from sd_space.ui.experiment_handlers import ExperimentHandlers
from sd_space.ui.storage import EXPERIMENT, TOKEN, recall_js, remember_js

_PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "preprocess": False}
# The request filter lets no lists through.
_AS_TEXT_JS = "(token, words) => [token, words.join(', ')]"
_QUIET, _QUEUED = _PRIVATE | {"queue": False}, _PRIVATE | {"concurrency_limit": None}


def wire(demo: gr.Blocks, on: ExperimentHandlers, token: gr.Textbox, handed: gr.Textbox, withdraw: gr.Button) -> None:
    """`handed` holds what the page's scripts hand over with a press."""
    own = on.parts
    demo.load(None, None, [token, own.runs], js=recall_js(TOKEN, EXPERIMENT), **_QUIET).then(
        page_event(on.resume), [token, own.runs], own.view, **_QUEUED
    )
    own.runs.change(None, own.runs, None, js=remember_js(EXPERIMENT), **_QUIET)
    own.field.input(page_event(on.offer_values), own.field, own.values, trigger_mode="always_last", **_QUIET)
    asked: list[Any] = [token, own.field, own.values, own.prompt, own.seed]
    own.draw_strip.click(page_event(on.draw_strip), asked, own.view, **_QUEUED)
    own.tab.select(page_event(on.offer), own.words, own.offers, js="(words) => [words.join(', ')]", **_QUEUED)
    own.ask_limitation.click(
        page_event(on.draw_limitation), [token, handed], own.view, js=hand_over_js("ask-limitation"), **_QUEUED
    )
    own.draw_words.click(page_event(on.draw_words), [token, own.words], own.view, js=_AS_TEXT_JS, **_QUEUED)
    own.draw_steps.click(page_event(on.draw_steps), [token, own.steps_prompt], own.view, **_QUEUED)
    own.stop.click(page_event(on.stop), [token, own.runs], None, **_QUIET)
    own.export.click(page_event(on.export), [token, own.runs], own.view, **_QUEUED)
    withdraw.click(page_event(on.clear), None, own.view, **_QUIET)
