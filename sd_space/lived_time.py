"""A clock that counts only the time in which this process could run.

While the process is stopped or the machine sleeps, other clocks go on; afterwards every timeout would seem to be over.
"""

import threading
import time
from collections.abc import Callable

TICK_S = 1.0
LONGEST_GAP_S = 2.0  # the most that is counted between two ticks


class LivedTime:
    """Call it to read it. Between `start` and `stop`, one thread ticks once a second while the process runs."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic):
        self._now_s = now_s
        self._last_tick = (0.0, now_s())  # (lived seconds, clock); one tuple, so that readers need no lock
        self._stopping = threading.Event()

    def __call__(self) -> float:
        lived_s, at_s = self._last_tick
        return lived_s + min(self._now_s() - at_s, LONGEST_GAP_S)

    def tick(self) -> None:
        (lived_s, at_s), now_s = self._last_tick, self._now_s()
        self._last_tick = (lived_s + min(now_s - at_s, LONGEST_GAP_S), now_s)

    def start(self) -> None:
        threading.Thread(target=self._keep_ticking, name="lived time", daemon=True).start()

    def stop(self) -> None:
        self._stopping.set()

    def _keep_ticking(self) -> None:
        while not self._stopping.wait(TICK_S):
            self.tick()


def wait_lived(event: threading.Event, timeout_s: float) -> bool:
    """Like `event.wait`, but a pause of the process shortens the wait by one tick at most."""
    while not event.wait(min(TICK_S, timeout_s)):
        timeout_s -= TICK_S
        if timeout_s <= 0:
            return False
    return True
