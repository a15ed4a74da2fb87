"""Starts the Space: puts the parts together, and has them served until a signal comes."""

import os
import sys
from collections.abc import Sequence
from functools import partial

from sd_space.command_line import Command
from sd_space.serving.lifecycle import Lifecycle, Space


def main(argv: Sequence[str] | None = None) -> int:
    return Lifecycle().run(lambda: build(Command.parse(argv, os.environ)))


def build(command: Command) -> Space:
    """Imports libraries late: what can be checked without them is checked before, for they take seconds."""
    from sd_space.logs import set_up_logs
    from sd_space.serving.connections import max_open_per_address, quieten_logs, raise_handle_limit
    from sd_space.serving.environment import check_environment, turn_off_analytics
    from sd_space.serving.listening import Address, check, start_server

    set_up_logs()
    quieten_logs()
    settings, address, handles = command.settings, Address.from_env(os.environ), raise_handle_limit()
    check_environment(os.environ, address.host)
    turn_off_analytics(os.environ)
    check(address)
    from sd_space.backends import make_backend
    from sd_space.process_memory import freeze_gc
    from sd_space.serving.results import ResultStore

    store = ResultStore.from_settings(settings)
    backend = make_backend(settings)  # before gradio: ZeroGPU's package must be imported first
    backend.start()
    from sd_space.card import load_card
    from sd_space.recorded import load_recorded
    from sd_space.serving.gate import Gate
    from sd_space.serving.gradio_queue import drain_event_streams, serve_with
    from sd_space.serving.limits import Capacity
    from sd_space.serving.metrics import Metrics
    from sd_space.serving.runs import Runs
    from sd_space.ui import build_demo
    from sd_space.ui.serving import launch

    card, recorded = load_card(), load_recorded()
    gate = Gate(card, settings.secret, settings.token_ttl_s)
    metrics, capacity = Metrics(backend.status), Capacity(settings, backend.status)
    runs = Runs(backend, store, settings.result_ttl_s, capacity, metrics.count_run)
    demo = build_demo(settings, card, gate, backend, store, recorded, capacity, runs)
    serve_with(partial(start_server, address, handles))
    parts = (demo, settings, backend, metrics, capacity, gate, store, recorded, runs, max_open_per_address(handles))
    open_page = partial(launch, *parts, share=command.share, auth=command.auth)
    drain, close_page = partial(drain_event_streams, demo), partial(demo.close, verbose=False)
    return Space(backend, store, open_page, drain, close_page, on_loaded=freeze_gc)


if __name__ == "__main__":
    sys.exit(main())
