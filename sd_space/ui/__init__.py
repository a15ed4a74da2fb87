"""The page and the public endpoints: gradio is imported here, and in `serving.gradio_queue`.

`layout` says what the page shows, `handlers` what happens on its events, `endpoints` what is public, `serving` how it
is served. Pictures are asked for through `Gate.admit` and `Runs` alone: there the licence is enforced, not in the page.
"""

import json
from collections.abc import Sequence
from typing import Any

import gradio as gr

from sd_space.backends import Backend
from sd_space.card import ModelCard
from sd_space.recorded import RecordedExample
from sd_space.serving.gate import Gate
from sd_space.serving.gradio_queue import set_up_queue
from sd_space.serving.intake import Intake
from sd_space.serving.limits import Capacity
from sd_space.serving.results import ResultStore
from sd_space.serving.runs import Runs
from sd_space.serving.verifier import Verifier
from sd_space.settings import Settings
from sd_space.ui import experiment_events, programs, views
from sd_space.ui.aid_handlers import AidHandlers
from sd_space.ui.aids import ANNOUNCE_PROMPT_JS, hand_over_js
from sd_space.ui.changing import ANNOUNCE_START_JS, ASK_VARIATIONS_JS, SET_START_JS
from sd_space.ui.checking import CheckHandler
from sd_space.ui.endpoints import add_endpoints
from sd_space.ui.events import translate_errors
from sd_space.ui.experiment_handlers import ExperimentHandlers
from sd_space.ui.handlers import Handlers
from sd_space.ui.layout import Page, lay_out
from sd_space.ui.serving import served_files
from sd_space.ui.storage import DRAFT, RUN, SHOWN, TOKEN, recall_js, remember_js

# What stands behind the # of the page's address; the longest prompts in it are far shorter.
LINK_JS = "() => location.hash.slice(1, 20_000)"
OPENED_JS = "() => { document.documentElement.classList.remove('returning'); return [] }"

# Inputs are checked by the gate, not by the components, which let some bad values through and log others.
_PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "preprocess": False}


def build_demo(
    settings: Settings,
    card: ModelCard,
    gate: Gate,
    backend: Backend,
    store: ResultStore,
    recorded: Sequence[RecordedExample],
    capacity: Capacity,
    runs: Runs,
) -> gr.Blocks:
    """The page and its endpoints; the pictures of `recorded` stand beside the examples. Starts nothing."""
    gr.set_static_paths(served_files(store, recorded))
    with gr.Blocks(title=views.TITLE, analytics_enabled=False) as demo:
        page = lay_out(card, recorded, settings.history)
        # Before the page's events: of two events of one name Gradio renames the later one.
        verifier = Verifier(capacity, store.marks)
        intake = Intake(gate, backend, capacity, runs)
        add_endpoints(gate, backend, intake, verifier)
        handlers = Handlers(page, settings, gate, backend, store, capacity, runs)
        _wire(demo, page, handlers, AidHandlers(page, gate, backend, handlers.filler.fill), card)
        _wire_checking(page, CheckHandler(gate, verifier))
        experiments = ExperimentHandlers(page.experiments, settings, gate, backend, intake, runs, store)
        experiment_events.wire(demo, experiments, page.token, page.aids.handed, page.withdraw)
        programs.wire(page.programs, page.token, settings.token_ttl_s)
    set_up_queue(demo, capacity)
    return demo


def _wire(demo: gr.Blocks, page: Page, on: Handlers, aids: AidHandlers, card: ModelCard) -> None:
    """Connects events with handlers. `quiet` events skip the queue; none shows Gradio's own spinner."""
    quiet, queued = _PRIVATE | {"queue": False}, _PRIVATE | {"concurrency_limit": None}
    visibility = [page.gate, page.tabs, *page.licensed_tabs, page.leave, page.confirm]
    model_view = [page.banner, page.clock, page.generate, *page.model_controls.values(), page.size]
    filled = [*page.controls.values(), page.random_seed, page.size]
    run_view = [
        page.run_id, page.shown_id, page.controls["seed"], page.generate, page.cancel, page.status, page.progress,
        page.results, page.gallery, page.recipe, page.download_all, page.aids.record,
    ]  # fmt: skip

    stored = [page.token, page.run_id, page.shown_id, page.prompt]
    opened = demo.load(None, None, page.link, js=LINK_JS, **quiet).then(
        None, None, stored, js=recall_js(TOKEN, RUN, SHOWN, DRAFT), **quiet
    )
    opened = opened.then(
        translate_errors(on.open_page),
        [page.token, page.link],
        {*visibility, *model_view, *filled},
        **quiet,
    )
    opened.then(None, None, None, js=OPENED_JS, **quiet)
    opened.then(translate_errors(on.resume), [*stored, page.link], {*run_view, *filled}, **queued)
    page.prompt.change(None, page.prompt, None, js=remember_js(DRAFT), **quiet)
    page.clock.tick(
        translate_errors(on.tick),
        None,
        model_view,
        inputs_kwargs=page.model_controls | {"size": page.size, "link": page.link},
        **quiet,
    )
    page.token.change(None, page.token, None, js=remember_js(TOKEN), **quiet)
    page.run_id.change(None, page.run_id, None, js=remember_js(RUN), **quiet)
    page.shown_id.change(None, page.shown_id, None, js=remember_js(SHOWN), **quiet)

    # By hand alone: after each run the server fills the field.
    seed: Any = page.controls["seed"]
    seed.input(None, None, page.random_seed, js="() => false", **quiet)

    page.new_seeds.click(None, None, page.random_seed, js="() => true", **quiet)

    enable_js = "(agree) => ({__type__: 'update', interactive: agree})"
    page.agree.change(None, page.agree, page.accept, js=enable_js, **quiet)
    page.accept.click(translate_errors(on.accept), page.agree, [*visibility, page.token], **quiet)
    cleared = [page.token, page.agree, page.accept, page.prompt, page.controls["negative_prompt"], page.aids.reading]
    cleared += [page.checking.found, *on.filler.without_start()]
    for button, asks in ((page.leave, "true"), (page.stay, "false")):
        js = f"() => [{asks}, !{asks}].map((visible) => ({{__type__: 'update', visible}}))"
        button.click(None, None, [page.confirm, page.leave], js=js, **quiet)
    page.withdraw.click(translate_errors(on.withdraw), page.token, [*visibility, *run_view, *cleared], **quiet)

    drawing: dict[str, Any] = {
        "fn": translate_errors(on.generate),
        "inputs": page.token,
        "outputs": [*run_view, *visibility],
        "inputs_kwargs": page.form | {"link": page.link, "shown_id": page.shown_id},
        **queued,
    }
    gr.on([page.prompt.submit, page.generate.click], **drawing)
    start: list[Any] = [page.controls[name] for name in ("init_image", "mask", "variation_strength")]
    gr.on([control.change for control in start], None, start, None, js=ANNOUNCE_START_JS, **quiet)
    page.changing.set_start.click(None, None, start, js=SET_START_JS, **quiet)
    page.changing.ask_variations.click(
        translate_errors(on.fill_in), page.aids.handed, filled, js=ASK_VARIATIONS_JS, **quiet
    ).then(**drawing)
    page.cancel.click(translate_errors(on.cancel), [page.token, page.run_id], page.cancel, **quiet)
    for button, example in zip(page.examples, card.examples, strict=True):
        js = f"() => {{ document.querySelector('#prompt textarea').focus(); return {json.dumps(example.text)} }}"
        button.click(None, None, page.prompt, js=js, **quiet)

    parts = page.aids
    page.prompt.change(None, page.prompt, None, js=ANNOUNCE_PROMPT_JS, **quiet)
    # Of several presses while an answer is on its way, the last one counts.
    parts.ask_reading.click(
        translate_errors(aids.reading), [page.token, page.prompt], parts.reading, trigger_mode="always_last", **quiet
    )
    parts.ask_outlook.click(translate_errors(aids.outlook), page.token, parts.outlook, **quiet)
    parts.ask_settings.click(
        translate_errors(aids.settings),
        [page.token, parts.handed],
        [page.status, *filled],
        js=hand_over_js("ask-settings"),
        **quiet,
    )
    parts.ask_run.click(
        translate_errors(on.bring_back),
        [page.token, page.run_id, parts.handed],
        [*{*run_view, *filled, *visibility}],
        js=hand_over_js("ask-run"),
        **queued,
    )


def _wire_checking(page: Page, on: CheckHandler) -> None:
    js = hand_over_js("ask-check")
    page.checking.ask.click(
        translate_errors(on.verify),
        [page.token, page.aids.handed],
        page.checking.found,
        js=js,
        concurrency_limit=None,
        trigger_mode="always_last",
        **_PRIVATE,
    )
