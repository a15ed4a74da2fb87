"""Time as this process lives through it: while it is stopped, or its machine asleep, none passes.

After a pause every other clock says that whatever was under way has taken far too long.
"""

import threading
import time
from collections.abc import Callable

TICK_S = 1.0
LONGEST_GAP_S = 2.0  # what counts, at most, of the time between two ticks


class LivedTime:
    """A clock, read by calling it; one thread notes that the process runs, between `start` and `stop`."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic):
        self._now_s = now_s
        self._noted = (0.0, now_s())  # lived until then, and when that was; exchanged as a whole
        self._stopping = threading.Event()

    def __call__(self) -> float:
        lived_s, at_s = self._noted
        return lived_s + min(self._now_s() - at_s, LONGEST_GAP_S)

    def tick(self) -> None:
        (lived_s, at_s), now_s = self._noted, self._now_s()
        self._noted = (lived_s + min(now_s - at_s, LONGEST_GAP_S), now_s)

    def start(self) -> None:
        threading.Thread(target=self._keep_ticking, name="lived time", daemon=True).start()

    def stop(self) -> None:
        self._stopping.set()

    def _keep_ticking(self) -> None:
        while not self._stopping.wait(TICK_S):
            self.tick()


def wait_lived(event: threading.Event, timeout_s: float) -> bool:
    """`event.wait`, but a pause costs one tick at most."""
    while not event.wait(min(TICK_S, timeout_s)):
        timeout_s -= TICK_S
        if timeout_s <= 0:
            return False
    return True
