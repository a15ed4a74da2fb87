"""Starts the Space: reads the settings, puts the parts together, serves until told to stop."""

import argparse
import functools
import gc
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from sd_space.errors import CannotStart
from sd_space.runtime_errors import innermost
from sd_space.serving.console import make_printable, say
from sd_space.settings import PREFIX, Settings

# Process managers kill what has not ended 10 s after SIGTERM (Docker's default), and then files stay behind.
DRAIN_S = 6.0  # seconds that running pictures get to finish
FETCH_S = 1.0  # and pages to fetch the last of them
STOP_S = 9.0  # after which the process ends, whatever still hangs
START_LOOK_S = 0.1  # how often the start looks whether the model is there
UNCOLLECTED_S = 60.0  # while it comes, garbage is not collected for so long: what a start makes stays, almost all


logger = logging.getLogger("sd_space.app")


class Space(NamedTuple):
    """What serves: the page with its address, the engine behind it, the files that it gives out."""

    demo: Any
    url: str
    backend: Any
    store: Any


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A web demo of Stable Diffusion v1-4.")
    parser.add_argument("--share", action="store_true", help="also serve through a public share link of Gradio")
    parser.add_argument("--auth", metavar="USER:PASSWORD", help="ask visitors for this name and password")
    parser.add_argument("--model", help="same as SD_SPACE_MODEL: auto, tiny, a Hub id, a folder or a .safetensors file")
    parser.add_argument("--backend", help="same as SD_SPACE_BACKEND")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Serves until SIGINT or SIGTERM; returns the exit status: 2, after a sentence, where there is nothing to serve."""
    gc.disable()
    collect_from_s = time.monotonic() + UNCOLLECTED_S
    make_printable()
    arguments = parse_arguments(argv)
    set_up_logs()
    stop = threading.Event()
    try:
        space = start(arguments, stop)
    except CannotStart as error:
        print(error, file=sys.stderr)
        return 2
    except Exception as error:  # a library's own: what it says is all that is known
        print(f"The Space cannot start: {innermost(error)} says “{error}”; correct that first.", file=sys.stderr)
        return 2
    serve(space, stop, collect_from_s)
    if any(thread.name == "engine" for thread in threading.enumerate()):
        os._exit(0)  # unwound while it imports or computes, it could crash
    return 0


def set_up_logs() -> None:
    from sd_space.serving.connections import quieten_logs

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for client in ("httpx", "httpx2"):
        logging.getLogger(client).setLevel(logging.WARNING)  # they log whole addresses
    for server in ("mcp", "sse_starlette"):
        logging.getLogger(server).setLevel(logging.WARNING)  # they log calls and what is sent
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it warns of callers' bytes
    quieten_logs()


def start(arguments: argparse.Namespace, stop: threading.Event) -> Space:
    """Puts the parts together and the page up; `stop` is set by a signal. Raises CannotStart."""
    from sd_space.serving.connections import raise_handle_limit
    from sd_space.serving.environment import check_environment, turn_off_analytics
    from sd_space.serving.listening import Address, check

    if arguments.auth is not None and not all(arguments.auth.partition(":")[::2]):
        raise CannotStart("--auth must be USER:PASSWORD, with neither part empty.")
    given = {PREFIX + name.upper(): getattr(arguments, name) for name in ("model", "backend")}
    settings = Settings.from_env(os.environ | {name: value for name, value in given.items() if value})
    address = Address.from_env(os.environ)
    handles = raise_handle_limit()
    check_environment(os.environ, address.host)
    turn_off_analytics(os.environ)
    check(address)  # libraries take seconds to import; what can be known before them is told before, and holds after

    from sd_space.backends import make_backend
    from sd_space.process_memory import tune_malloc
    from sd_space.serving.results import ResultStore

    store = ResultStore(settings.result_dir, settings.result_ttl_s)
    store.check()

    backend = make_backend(settings)  # before gradio: ZeroGPU's package wants to be imported first
    if settings.device in ("auto", "cpu") and not os.path.exists("/dev/nvidiactl"):
        tune_malloc()

    from sd_space.card import load_card
    from sd_space.recorded import load_recorded
    from sd_space.serving.gate import Gate
    from sd_space.serving.gradio_queue import serve_with
    from sd_space.serving.limits import Capacity
    from sd_space.serving.listening import start_server
    from sd_space.serving.metrics import Metrics
    from sd_space.ui import build_demo
    from sd_space.ui.serving import launch, served_files

    card = load_card()
    gate = Gate(card, settings.secret, settings.token_ttl_s)
    metrics = Metrics(backend.status)
    recorded = load_recorded()
    capacity = Capacity(settings, backend.status)
    demo = build_demo(settings, card, gate, backend, store, metrics, recorded, capacity)
    stop_on_signals(stop, backend)
    auth = tuple(arguments.auth.split(":", 1)) if arguments.auth else None
    files = served_files(store, recorded)
    serve_with(functools.partial(start_server, address, handles))
    store.start()
    try:
        backend.prepare()
        say("Starting the page.")  # and finds out whether anybody reads: Gradio prints too, and would fail
        url = launch(demo, settings, backend, metrics, capacity, gate, files, share=arguments.share, auth=auth)
    except BaseException:
        store.close()
        raise
    return Space(demo, url, backend, store)


def stop_on_signals(stop: threading.Event, backend: Any) -> None:
    def be_told(number: int, frame: object) -> None:
        if stop.is_set():  # told twice: nothing is finished any more
            threading.Thread(target=backend.close, args=(0.0,), daemon=True).start()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, be_told)


def serve(space: Space, stop: threading.Event, collect_from_s: float) -> None:
    """Loads the model, serves until `stop` is set, and ends what is under way."""
    from sd_space.process_memory import freeze_gc
    from sd_space.schema import Stage
    from sd_space.serving.gradio_queue import drain_event_streams

    demo, backend = space.demo, space.backend
    say(f"Serving on {space.url}")
    backend.start()  # only now: importing torch takes seconds, and the page is up already
    while backend.status().stage not in (Stage.READY, Stage.FAILED) and not stop.wait(START_LOOK_S):
        if time.monotonic() > collect_from_s:
            gc.enable()
    freeze_gc()
    stop.wait()
    deadline_s = time.monotonic() + STOP_S
    _end_in(STOP_S)
    status = backend.status()
    under_way = status.running + status.waiting
    logger.info("told to stop: nothing new is taken, %d requests get %g s to finish", under_way, DRAIN_S)
    backend.close(DRAIN_S)
    drain_event_streams(demo, deadline_s - FETCH_S)
    if under_way and status.is_ready:
        time.sleep(FETCH_S)
    space.store.close()
    demo.close(verbose=False)
    logger.info("stopped")


def _end_in(seconds: float) -> None:
    """Ends the process after that time, so that nothing that hangs can hold up a stop."""

    def end() -> None:
        logger.error("the stop took longer than %g s; ending at once", seconds)
        os._exit(1)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()


if __name__ == "__main__":
    sys.exit(main())
