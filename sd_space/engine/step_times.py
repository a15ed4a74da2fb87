"""How long steps take on this machine, and from that how long each request still takes. Imports no torch."""

import bisect
from collections import Counter, deque
from collections.abc import Iterable

import numpy as np

from sd_space.engine.batcher import BatchKey, Trajectory

MAX_SIZES = 64  # calls whose times are kept, by size and pictures; visitors may ask for thousands of sizes


class StepTimes:
    """Measured seconds, smoothed; for sizes that were not measured they are interpolated by the work of a call."""

    def __init__(self) -> None:
        self._step_s: dict[tuple[BatchKey, int], float] = {}  # (key, pictures in the call), the latest last
        self._by_work: list[tuple[int, BatchKey, int]] = []  # the same keys in the order of their work
        self._finish_s: dict[tuple[int, int], float] = {}  # (height, width): decode and safety check of one picture
        self.slowest_s = 0.0
        self.finishes_beside = False  # pictures are decoded and checked while others step

    def record_step(self, key: BatchKey, pictures: int, seconds: float) -> None:
        before = self._step_s.pop((key, pictures), None)
        self._step_s[key, pictures] = self._smoothed(before, seconds)
        if before is None:
            bisect.insort(self._by_work, (_work(key, pictures), key, pictures))
        if len(self._step_s) > MAX_SIZES:
            oldest = next(iter(self._step_s))
            del self._step_s[oldest]
            del self._by_work[bisect.bisect_left(self._by_work, (_work(*oldest), *oldest))]

    def record_finish(self, height: int, width: int, seconds: float) -> None:
        self._finish_s[height, width] = self._smoothed(self._finish_s.pop((height, width), None), seconds)
        if len(self._finish_s) > MAX_SIZES:
            del self._finish_s[next(iter(self._finish_s))]

    def step_s(self, key: BatchKey, pictures: int) -> float | None:
        """Seconds of one UNet call with `pictures` of `key`; `None` before any was measured."""
        if (key, pictures) in self._step_s:
            return self._step_s[key, pictures]
        if not self._step_s:
            return None
        # Below the least work that was measured, and above the most, time grows in proportion to work.
        wanted, most = _work(key, pictures), self._by_work[-1][0]
        known, seconds = zip(*((work, self._step_s[k, n]) for work, k, n in self._by_work), strict=True)
        return float(np.interp(wanted, (0, *known), (0.0, *seconds))) * max(1.0, wanted / most)

    def finish_s(self, height: int, width: int) -> float:
        """Seconds of decode and safety check of one picture; 0 before any was measured."""
        if (height, width) in self._finish_s:
            return self._finish_s[height, width]
        return max((s * height * width / (h * w) for (h, w), s in self._finish_s.items()), default=0.0)

    def forecast(
        self,
        denoised: Iterable[Trajectory],
        in_order: Iterable[Trajectory],
        seats: int,
        under_way: tuple[BatchKey, int] | None = None,
    ) -> dict[str, float]:
        """Seconds until each request has all of its pictures, if no other comes or goes; empty if nothing was measured.

        `denoised` are only to be decoded; `in_order` take the `seats` in that order; `under_way` is a UNet call that is
        counted as a step already, but has not ended. Simulates the queue, from one picture's last step to the next.
        """
        now_s = free_s = (self.step_s(*under_way) or 0.0) if under_way else 0.0  # `free_s`: for the next decode
        ends_s = {}

        def finish(trajectory: Trajectory) -> None:
            nonlocal now_s, free_s
            free_s = max(now_s, free_s) + self.finish_s(trajectory.key.height, trajectory.key.width)
            ends_s[trajectory.request_id] = free_s
            now_s = now_s if self.finishes_beside else free_s

        for trajectory in denoised:
            finish(trajectory)
        line = deque(in_order)
        seated: list[tuple[int, Trajectory]] = []  # (the round of its last step, picture)
        rounds = 0
        while line or seated:
            while line and len(seated) < seats:
                seated.append((rounds + line[0].steps_left, line.popleft()))
            # Different keys take turns: in a round every seated picture steps once, with one call for each key.
            counts = Counter(t.key for _, t in seated)
            calls_s = [call_s for key, n in counts.items() if (call_s := self.step_s(key, n)) is not None]
            if not calls_s:
                return {}
            next_end = min(end for end, _ in seated)
            now_s += (next_end - rounds) * sum(calls_s)
            rounds = next_end
            for end, trajectory in seated:
                if end == rounds:
                    finish(trajectory)
            seated = [(end, trajectory) for end, trajectory in seated if end > rounds]
        return ends_s

    def _smoothed(self, before: float | None, seconds: float) -> float:
        """A call of less than half replaces what was known: a size's first calls on CUDA prepare and record kernels."""
        self.slowest_s = max(self.slowest_s, seconds)
        return seconds if before is None or seconds < before / 2 else 0.8 * before + 0.2 * seconds


def _work(key: BatchKey, pictures: int) -> int:
    """What the time of a UNet call grows with: rows times pixels."""
    return pictures * (2 if key.has_guidance else 1) * key.height * key.width
