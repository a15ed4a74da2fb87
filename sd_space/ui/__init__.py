"""The page and the public endpoints: gradio is imported here, and in `serving.gradio_queue`.

`layout` says what the page shows, `wiring` which events it has, `handlers` what happens on them, `endpoints` what is
public, `serving` how it is served. Pictures are asked for through `Gate.admit` and `Runs` alone: there the licence is
enforced, not in the page.
"""

from collections.abc import Sequence

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
from sd_space.ui.checking import CheckHandler
from sd_space.ui.endpoints import add_endpoints
from sd_space.ui.experiment_handlers import ExperimentHandlers
from sd_space.ui.handlers import Handlers
from sd_space.ui.layout import lay_out
from sd_space.ui.serving import served_files
from sd_space.ui.wiring import Wiring


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
        wiring = Wiring(page, handlers)
        wiring.opening(demo)
        wiring.licence()
        wiring.drawing(card)
        wiring.aids(AidHandlers(page, gate, backend, handlers.filler.fill))
        wiring.checking(CheckHandler(gate, verifier))
        experiments = ExperimentHandlers(page.experiments, settings, gate, backend, intake, runs, store)
        experiment_events.wire(demo, experiments, page.token, page.aids.handed, page.withdraw)
        programs.wire(page.programs, page.token, settings.token_ttl_s)
    set_up_queue(demo, capacity)
    return demo
