"""The life of the app's process: the page opens, the model loads, a signal comes, and what runs gets time to end."""

import gc
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sd_space.errors import CannotStart
from sd_space.runtime_errors import innermost
from sd_space.schema import Stage
from sd_space.serving.console import make_printable, say

if TYPE_CHECKING:  # they would take their time before a wrong call is refused
    from sd_space.backends import Backend
    from sd_space.serving.results import ResultStore

# Process managers kill a process 10 s after SIGTERM (Docker's default), and then its files stay behind.
DRAIN_S = 6.0  # seconds that running pictures get to finish
FETCH_S = 1.0  # and pages to fetch the last of them
STOP_S = 9.0  # after which the process ends, whatever still hangs
START_LOOK_S = 0.1  # how often the start looks whether the model is loaded
# Garbage collection is off while the model loads, for at most this long: nearly all objects made then live on.
UNCOLLECTED_S = 60.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Space:
    """The parts that have a beginning and an end. `drain` waits, until a time on the monotonic clock at most, for
    pages to read how their events ended.
    """

    backend: "Backend"
    store: "ResultStore"
    open_page: Callable[[], str]  # serves the page in the background and returns its address
    drain: Callable[[float], None]
    close_page: Callable[[], None]
    on_loaded: Callable[[], None]  # once the model is there, or cannot be loaded


class Lifecycle:
    """From the first line of the process to its exit status. Must be made in the main thread."""

    def __init__(self) -> None:
        gc.disable()
        self._collect_from_s = time.monotonic() + UNCOLLECTED_S
        self._stop = threading.Event()

    def run(self, build: Callable[[], Space]) -> int:
        """Serves what `build` puts together until a signal stops it; returns the exit status.

        That is 2 if it cannot start, and 130 if it is interrupted before the page is up.
        """
        make_printable()
        try:
            space = build()
            self._open(space)
        except CannotStart as error:
            print(error, file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("Stopped before the page was up.", file=sys.stderr)
            return 130  # as shells say of SIGINT
        except Exception as error:  # a library's own: what it says is all that is known
            print(f"The Space cannot start: {innermost(error)} says “{error}”; correct that first.", file=sys.stderr)
            return 2
        self._load(space)
        self._stop.wait()
        self._close(space)
        return 0

    def _open(self, space: Space) -> None:
        """Serves the page, without a model yet. Raises CannotStart."""
        self._stop_on_signals(space.backend)
        space.store.start()
        try:
            say("Starting the page.")  # finds out whether anybody reads the output: Gradio prints too, and would fail
            say(f"Serving on {space.open_page()}")
        except BaseException:
            space.store.close()
            raise

    def _stop_on_signals(self, backend: "Backend") -> None:
        def handle_signal(number: int, frame: object) -> None:
            if self._stop.is_set():  # the second one: nothing is finished any more
                threading.Thread(target=backend.close, args=(0.0,), daemon=True).start()
            self._stop.set()

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, handle_signal)

    def _load(self, space: Space) -> None:
        """Returns once the model is loaded, or cannot be, or a signal has come."""
        backend = space.backend
        while backend.status().stage not in (Stage.READY, Stage.FAILED) and not self._stop.wait(START_LOOK_S):
            if time.monotonic() > self._collect_from_s:
                gc.enable()
        space.on_loaded()

    def _close(self, space: Space) -> None:
        """Lets what runs finish, tells everybody else, and removes the results."""
        deadline_s = time.monotonic() + STOP_S
        force_exit_after(STOP_S)
        status = space.backend.status()
        num_requests = status.running + status.waiting
        logger.info("stopping: no new requests, %d running ones get %g s to finish", num_requests, DRAIN_S)
        space.backend.close(DRAIN_S)
        space.drain(deadline_s - FETCH_S)
        if num_requests and status.is_ready:
            time.sleep(FETCH_S)
        space.store.close()
        space.close_page()
        logger.info("stopped")


def force_exit_after(seconds: float) -> None:
    """Ends the process after that time, so that nothing that hangs can hold up a stop."""

    def exit_now() -> None:
        logger.error("the stop took longer than %g s; exiting now", seconds)
        os._exit(1)

    timer = threading.Timer(seconds, exit_now)
    timer.daemon = True
    timer.start()
