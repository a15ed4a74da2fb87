"""Connects the page's events with their handlers.

Quiet events skip the queue; none shows Gradio's own spinner.
"""

import json
from typing import Any

import gradio as gr

from sd_space.card import ModelCard
from sd_space.ui.aid_handlers import AidHandlers
from sd_space.ui.aids import ANNOUNCE_PROMPT_JS, hand_over_js
from sd_space.ui.changing import ANNOUNCE_START_JS, ASK_VARIATIONS_JS, SET_START_JS
from sd_space.ui.checking import CheckHandler
from sd_space.ui.events import page_event
from sd_space.ui.handlers import Handlers
from sd_space.ui.layout import Page
from sd_space.ui.storage import DRAFT, RUN, SHOWN, TOKEN, recall_js, remember_js

# What stands behind the # of the page's address; the longest prompts in it are far shorter.
LINK_JS = "() => location.hash.slice(1, 20_000)"
OPENED_JS = "() => { document.documentElement.classList.remove('returning'); return [] }"

# Inputs are checked by the gate, not by the components, which let some bad values through and log others.
_PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "preprocess": False}
_QUIET = _PRIVATE | {"queue": False}
_QUEUED = _PRIVATE | {"concurrency_limit": None}


class Wiring:
    """One method for each part of the page."""

    def __init__(self, page: Page, on: Handlers):
        self._page, self._on = page, on
        self._visibility = [page.gate, page.tabs, *page.licensed_tabs, page.leave, page.confirm]
        self._model_view = [page.banner, page.clock, page.generate, *page.model_controls.values(), page.size]
        self._filled = [*page.controls.values(), page.random_seed, page.size]
        self._run_view = [
            page.run_id, page.shown_id, page.controls["seed"], page.generate, page.cancel, page.status, page.progress,
            page.results, page.gallery, page.recipe, page.download_all, page.aids.record,
        ]  # fmt: skip

    def opening(self, demo: gr.Blocks) -> None:
        """The page opens, comes back after a reload, and keeps what it needs for that."""
        page, on = self._page, self._on
        stored = [page.token, page.run_id, page.shown_id, page.prompt]
        opened = demo.load(None, None, page.link, js=LINK_JS, **_QUIET).then(
            None, None, stored, js=recall_js(TOKEN, RUN, SHOWN, DRAFT), **_QUIET
        )
        opened = opened.then(
            page_event(on.open_page),
            [page.token, page.link],
            {*self._visibility, *self._model_view, *self._filled},
            **_QUIET,
        )
        opened.then(None, None, None, js=OPENED_JS, **_QUIET)
        opened.then(page_event(on.resume), [*stored, page.link], {*self._run_view, *self._filled}, **_QUEUED)
        page.prompt.change(None, page.prompt, None, js=remember_js(DRAFT), **_QUIET)
        page.clock.tick(
            page_event(on.tick),
            None,
            self._model_view,
            inputs_kwargs=page.model_controls | {"size": page.size, "link": page.link},
            **_QUIET,
        )
        page.token.change(None, page.token, None, js=remember_js(TOKEN), **_QUIET)
        page.run_id.change(None, page.run_id, None, js=remember_js(RUN), **_QUIET)
        page.shown_id.change(None, page.shown_id, None, js=remember_js(SHOWN), **_QUIET)

        # By hand alone: after each run the server fills the field.
        seed: Any = page.controls["seed"]
        seed.input(None, None, page.random_seed, js="() => false", **_QUIET)

        page.new_seeds.click(None, None, page.random_seed, js="() => true", **_QUIET)

    def licence(self) -> None:
        """It is accepted, and the acceptance withdrawn."""
        page, on = self._page, self._on
        enable_js = "(agree) => ({__type__: 'update', interactive: agree})"
        page.agree.change(None, page.agree, page.accept, js=enable_js, **_QUIET)
        page.accept.click(page_event(on.accept), page.agree, [*self._visibility, page.token], **_QUIET)
        cleared = [
            page.token,
            page.agree,
            page.accept,
            page.prompt,
            page.controls["negative_prompt"],
            page.aids.reading,
        ]
        cleared += [page.checking.found, *on.filler.without_start()]
        for button, asks in ((page.leave, "true"), (page.stay, "false")):
            js = f"() => [{asks}, !{asks}].map((visible) => ({{__type__: 'update', visible}}))"
            button.click(None, None, [page.confirm, page.leave], js=js, **_QUIET)
        page.withdraw.click(
            page_event(on.withdraw), page.token, [*self._visibility, *self._run_view, *cleared], **_QUIET
        )

    def drawing(self, card: ModelCard) -> None:
        """Pictures are asked for, from words and from a picture, and cancelled; examples fill in the prompt."""
        page, on = self._page, self._on
        drawing: dict[str, Any] = {
            "fn": page_event(on.generate),
            "inputs": page.token,
            "outputs": [*self._run_view, *self._visibility],
            "inputs_kwargs": page.form | {"link": page.link, "shown_id": page.shown_id},
            **_QUEUED,
        }
        gr.on([page.prompt.submit, page.generate.click], **drawing)
        start: list[Any] = [page.controls[name] for name in ("init_image", "mask", "variation_strength")]
        gr.on([control.change for control in start], None, start, None, js=ANNOUNCE_START_JS, **_QUIET)
        page.changing.set_start.click(None, None, start, js=SET_START_JS, **_QUIET)
        page.changing.ask_variations.click(
            page_event(on.fill_in), page.aids.handed, self._filled, js=ASK_VARIATIONS_JS, **_QUIET
        ).then(**drawing)
        page.cancel.click(page_event(on.cancel), [page.token, page.run_id], page.cancel, **_QUIET)
        for button, example in zip(page.examples, card.examples, strict=True):
            js = f"() => {{ document.querySelector('#prompt textarea').focus(); return {json.dumps(example.text)} }}"
            button.click(None, None, page.prompt, js=js, **_QUIET)

    def aids(self, aids: AidHandlers) -> None:
        """What helps to ask, and runs of before."""
        page, on = self._page, self._on
        parts = page.aids
        page.prompt.change(None, page.prompt, None, js=ANNOUNCE_PROMPT_JS, **_QUIET)
        # Of several presses while an answer is on its way, the last one counts.
        parts.ask_reading.click(
            page_event(aids.reading),
            [page.token, page.prompt],
            parts.reading,
            trigger_mode="always_last",
            **_QUIET,
        )
        parts.ask_outlook.click(page_event(aids.outlook), page.token, parts.outlook, **_QUIET)
        parts.ask_settings.click(
            page_event(aids.settings),
            [page.token, parts.handed],
            [page.status, *self._filled],
            js=hand_over_js("ask-settings"),
            **_QUIET,
        )
        parts.ask_run.click(
            page_event(on.bring_back),
            [page.token, page.run_id, parts.handed],
            [*{*self._run_view, *self._filled, *self._visibility}],
            js=hand_over_js("ask-run"),
            **_QUEUED,
        )

    def checking(self, on: CheckHandler) -> None:
        page = self._page
        js = hand_over_js("ask-check")
        page.checking.ask.click(
            page_event(on.verify),
            [page.token, page.aids.handed],
            page.checking.found,
            js=js,
            concurrency_limit=None,
            trigger_mode="always_last",
            **_PRIVATE,
        )
