"""The page and the public endpoints: gradio is imported here, and in `serving.gradio_queue`.

What the page shows is `layout`, what happens on its events `handlers`, what is public `endpoints`, how it is served
`serving`. All of them end in `Gate.admit` and `Runs`: there, and not in the page, the licence is enforced and pictures
are made.
"""

import json
from collections.abc import Sequence

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
from sd_space.ui.events import careful
from sd_space.ui.handlers import Handlers
from sd_space.ui.layout import Page, lay_out
from sd_space.ui.serving import served_files

# Storage is blocked in some frames (huggingface.co with third-party cookies off): then nothing is remembered.
# What is being written belongs to its tab, the acceptance and the last run to the visitor.
_RECALL_JS = """() => { const get = (storage, key) => { try { return window[storage].getItem('sd_space.' + key) || '' }
  catch (error) { return '' } }
  return [get('localStorage', 'token'), get('localStorage', 'run'), get('sessionStorage', 'draft')] }"""
_REMEMBER_JS = "(value) => {{ try {{ {}.setItem('sd_space.{}', value || '') }} catch (error) {{}} return [] }}"


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
    """The page and its endpoints; `recorded` are shown with the examples. Starts nothing."""
    gr.set_static_paths(served_files(store, recorded))
    runs = Runs(
        backend,
        store,
        settings.result_ttl_s,
        capacity,
        on_done=lambda run: metrics.count([picture.outcome for picture in run.finished], run.outcome),
    )
    with gr.Blocks(title=views.TITLE, analytics_enabled=False) as demo:
        page = lay_out(card, recorded)
        # First: Gradio would rename a public endpoint after a page's event.
        add_endpoints(gate, backend, capacity, runs)
        _wire(page, Handlers(page, settings, gate, backend, store, capacity, runs), card)
    set_up_queue(demo, capacity)
    return demo


def _wire(page: Page, on: Handlers, card: ModelCard) -> None:
    """Which event calls which handler. `quiet` events answer at once and show no spinner."""
    # What comes in is checked by us, not by the components: they let half of it through, and log the rest.
    private = {"api_visibility": "private", "show_progress": "hidden", "preprocess": False}
    quiet, queued = private | {"queue": False}, private | {"concurrency_limit": None}
    doors = [page.gate, page.studio, page.withdraw]
    model_defaults = [page.banner, page.clock, page.steps, page.guidance, page.scheduler, page.size]
    run_view = [
        page.run_id, page.seed, page.generate, page.cancel, page.status, page.waiting, page.results, page.gallery,
        page.recipe, page.download_all,
    ]  # fmt: skip
    form = [*on.fields().values(), page.random_seed, page.size]
    blocks = gr.context.Context.root_block

    blocks.load(None, None, [page.token, page.run_id, page.prompt], js=_RECALL_JS, **quiet).then(
        careful(on.open_page), page.token, list(dict.fromkeys([*doors, *model_defaults, *form])), **quiet
    ).then(
        careful(on.resume), [page.token, page.run_id, page.prompt], list(dict.fromkeys([*run_view, *form])), **queued
    )
    page.prompt.change(None, page.prompt, None, js=_REMEMBER_JS.format("sessionStorage", "draft"), **quiet)
    page.clock.tick(careful(on.tick), [page.steps, page.guidance, page.scheduler, page.size], model_defaults, **quiet)
    page.token.change(None, page.token, None, js=_REMEMBER_JS.format("localStorage", "token"), **quiet)
    page.run_id.change(None, page.run_id, None, js=_REMEMBER_JS.format("localStorage", "run"), **quiet)

    enable_js = "(agree) => ({__type__: 'update', interactive: agree})"
    page.agree.change(None, page.agree, page.accept, js=enable_js, **quiet)
    page.accept.click(careful(on.accept), page.agree, [*doors, page.token], **quiet)
    page.withdraw.click(
        careful(on.withdraw), page.token, [*doors, *run_view, page.token, page.agree, page.accept, page.prompt,
        page.negative_prompt], **quiet
    )  # fmt: skip

    gr.on(
        [page.prompt.submit, page.generate.click],
        careful(on.generate),
        [page.token, *form, page.embed_recipe],
        [*run_view, *doors],
        **queued,
    )
    page.cancel.click(careful(on.cancel), [page.token, page.run_id], page.cancel, **quiet)
    for button, example in zip(page.examples, card.examples, strict=True):
        js = f"() => {{ document.querySelector('#prompt textarea').focus(); return {json.dumps(example.text)} }}"
        button.click(None, None, page.prompt, js=js, **quiet)
