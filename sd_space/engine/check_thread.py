"""The thread in which the safety checker runs, so that a check that never ends blocks nothing else."""

import queue
import threading
from collections.abc import Callable
from typing import Any

from sd_space.errors import SafetyCheckFailed
from sd_space.lived_time import wait_lived


class CheckThread:
    """One daemon thread that runs checks, so that a check that never ends blocks neither the engine nor the exit."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._hanging: threading.Event | None = None  # set when the call that hung returns after all

    @property
    def is_stuck(self) -> bool:
        return self._hanging is not None and not self._hanging.is_set()

    def run(self, call: Callable[[], bool], timeout_s: float) -> bool:
        """The result of `call`; raises what it raises, and SafetyCheckFailed when it takes too long."""
        if self.is_stuck:
            raise SafetyCheckFailed("The safety checker does not answer.")
        if self._thread is None or not self._thread.is_alive():  # also after a fork, which takes no threads along
            self._thread = threading.Thread(target=self._work, name="safety-checker", daemon=True)
            self._thread.start()
        done = threading.Event()
        outcome: list[Any] = []
        self._calls.put((call, done, outcome))
        if not wait_lived(done, timeout_s):
            self._hanging = done
            raise SafetyCheckFailed("The safety checker does not answer.")
        verdict, error = outcome
        if error is not None:
            raise error
        return verdict

    def end(self) -> None:
        """Ends the worker thread, which frees its per-thread CUDA handles."""
        self._calls.put(None)

    def _work(self) -> None:
        while (item := self._calls.get()) is not None:
            call, done, outcome = item
            try:
                outcome[:] = [call(), None]
            except Exception as error:
                outcome[:] = [None, error]
            done.set()
            del item, call, done, outcome  # holds no picture while it waits for the next
