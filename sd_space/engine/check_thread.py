"""The thread in which the safety checker runs, so that a check that never ends blocks nothing else."""

import threading
from collections.abc import Callable

from sd_space.engine.side_thread import SideThread
from sd_space.errors import SafetyCheckFailed
from sd_space.lived_time import wait_lived


class CheckThread(SideThread):
    """Runs checks, for so long as somebody waits."""

    def __init__(self) -> None:
        super().__init__("safety-checker")
        self._hanging: threading.Event | None = None  # set when the call that hung returns after all

    @property
    def is_stuck(self) -> bool:
        return self._hanging is not None and not self._hanging.is_set()

    def run(self, call: Callable[[], bool], timeout_s: float) -> bool:
        """The result of `call`; raises what it raises, and SafetyCheckFailed when it takes too long."""
        if self.is_stuck:
            raise SafetyCheckFailed("The safety checker does not answer.")
        pending = self.submit(call)
        done = pending.done
        if not wait_lived(done, timeout_s):
            self._hanging = done
            raise SafetyCheckFailed("The safety checker does not answer.")
        return pending.result()
