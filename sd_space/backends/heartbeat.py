"""The heartbeat of the engine's thread: whether it still works, or hangs in a step."""

import contextlib
from collections.abc import Iterator

from sd_space.lived_time import LivedTime

STUCK_AFTER_S = 60.0  # without a heartbeat for this long, or ten times the slowest step, the thread counts as hung


class Heartbeat:
    """The engine's thread beats it between its steps; any thread may look."""

    def __init__(self) -> None:
        self._lived_s = LivedTime()  # a process that was paused for a minute does not hang
        self._last_s = self._lived_s()
        self._slowest_step_s = 0.0
        self._allowed_s = 0.0

    def start(self) -> None:
        self._lived_s.start()
        self.beat()

    def stop(self) -> None:
        self._lived_s.stop()

    def beat(self) -> float:
        """Returns its time."""
        self._last_s = self._lived_s()
        return self._last_s

    @property
    def age_s(self) -> float:
        """Seconds since the last one, without those in which this process was paused."""
        return self._lived_s() - self._last_s

    @property
    def is_overdue(self) -> bool:
        return self.age_s > max(STUCK_AFTER_S, self._allowed_s, 10 * self._slowest_step_s)

    @contextlib.contextmanager
    def allow(self, work_s: float) -> Iterator[None]:
        """For work that is no step, may take so long, and says nothing about the next step."""
        self.beat()
        self._allowed_s = work_s
        try:
            yield
        finally:
            self.beat()
            self._allowed_s = 0.0

    def expect(self, step_s: float) -> None:
        """A step may take so long. One that hung says nothing about the next."""
        if step_s < STUCK_AFTER_S:
            self._slowest_step_s = max(self._slowest_step_s, step_s)
