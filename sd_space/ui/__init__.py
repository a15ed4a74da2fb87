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
from sd_space.serving.limits import Capacity
from sd_space.serving.metrics import Metrics
from sd_space.serving.results import ResultStore
from sd_space.serving.runs import Runs
from sd_space.settings import Settings
from sd_space.ui import views
from sd_space.ui.endpoints import add_endpoints
from sd_space.ui.events import translate_errors
from sd_space.ui.handlers import Handlers
from sd_space.ui.layout import Page, lay_out
from sd_space.ui.serving import served_files
from sd_space.ui.storage import DRAFT, RUN, TOKEN, recall_js, remember_js


def build_demo(
    settings: Settings,
    card: ModelCard,
    gate: Gate,
    backend: Backend,
    store: ResultStore,
    metrics: Metrics,
    recorded: Sequence[RecordedExample],
    capacity: Capacity,
) -> gr.Blocks:
    """The page and its endpoints; the pictures of `recorded` stand beside the examples. Starts nothing."""
    gr.set_static_paths(served_files(store, recorded))
    runs = Runs(
        backend,
        store,
        settings.result_ttl_s,
        capacity,
        on_done=lambda run, outcome: metrics.count([picture.outcome for picture in run.finished], outcome),
    )
    with gr.Blocks(title=views.TITLE, analytics_enabled=False) as demo:
        page = lay_out(card, recorded)
        # Before the page's events: of two events of one name Gradio renames the later one.
        add_endpoints(gate, backend, capacity, runs, store.marks)
        _wire(demo, page, Handlers(page, settings, gate, backend, store, capacity, runs), card)
    set_up_queue(demo, capacity)
    return demo


def _wire(demo: gr.Blocks, page: Page, on: Handlers, card: ModelCard) -> None:
    """Connects events with handlers. `quiet` events skip the queue; none shows Gradio's own spinner."""
    # Inputs are checked by the gate, not by the components, which let some bad values through and log others.
    private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "preprocess": False}
    quiet, queued = private | {"queue": False}, private | {"concurrency_limit": None}
    visibility = [page.gate, page.workspace, page.withdraw]
    model_view = [page.banner, page.clock, *page.model_controls.values(), page.size]
    filled = [*page.controls.values(), page.random_seed, page.size]
    run_view = [
        page.run_id, page.controls["seed"], page.generate, page.cancel, page.status, page.progress, page.results,
        page.gallery, page.recipe, page.download_all,
    ]  # fmt: skip

    demo.load(None, None, [page.token, page.run_id, page.prompt], js=recall_js(TOKEN, RUN, DRAFT), **quiet).then(
        translate_errors(on.open_page), page.token, {*visibility, *model_view, *filled}, **quiet
    ).then(translate_errors(on.resume), [page.token, page.run_id, page.prompt], {*run_view, *filled}, **queued)
    page.prompt.change(None, page.prompt, None, js=remember_js(DRAFT), **quiet)
    page.clock.tick(
        translate_errors(on.tick), None, model_view, inputs_kwargs=page.model_controls | {"size": page.size}, **quiet
    )
    page.token.change(None, page.token, None, js=remember_js(TOKEN), **quiet)
    page.run_id.change(None, page.run_id, None, js=remember_js(RUN), **quiet)

    # By hand alone: after each run the server fills the field.
    seed: Any = page.controls["seed"]
    seed.input(None, None, page.random_seed, js="() => false", **quiet)

    enable_js = "(agree) => ({__type__: 'update', interactive: agree})"
    page.agree.change(None, page.agree, page.accept, js=enable_js, **quiet)
    page.accept.click(translate_errors(on.accept), page.agree, [*visibility, page.token], **quiet)
    cleared = [page.token, page.agree, page.accept, page.prompt, page.controls["negative_prompt"]]
    page.withdraw.click(translate_errors(on.withdraw), page.token, [*visibility, *run_view, *cleared], **quiet)

    gr.on(
        [page.prompt.submit, page.generate.click],
        translate_errors(on.generate),
        page.token,
        [*run_view, *visibility],
        inputs_kwargs=page.form,
        **queued,
    )
    page.cancel.click(translate_errors(on.cancel), [page.token, page.run_id], page.cancel, **quiet)
    for button, example in zip(page.examples, card.examples, strict=True):
        js = f"() => {{ document.querySelector('#prompt textarea').focus(); return {json.dumps(example.text)} }}"
        button.click(None, None, page.prompt, js=js, **quiet)
