"""The time that a run still takes, as people can read it: it counts down, and follows new estimates slowly."""

import math
import time
from collections.abc import Callable

FOLLOWS_WITHIN_S = 3.0  # in which two thirds of a change are taken over


class TimeLeft:
    """Estimates jump where visitors take turns: what is shown is the moment of the end, which moves slowly."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic):
        self._now_s = now_s
        self._end_s: float | None = None
        self._updated_s = 0.0

    def update(self, estimate_s: float | None) -> float | None:
        """The seconds to show now that this is the newest estimate; `None` as long as there was none."""
        now_s = self._now_s()
        if estimate_s is not None:
            newest_s = now_s + estimate_s
            weight = 1 - math.exp((self._updated_s - now_s) / FOLLOWS_WITHIN_S)
            self._end_s = newest_s if self._end_s is None else self._end_s + (newest_s - self._end_s) * weight
            self._updated_s = now_s
        return None if self._end_s is None else max(0.0, self._end_s - now_s)
