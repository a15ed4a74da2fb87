"""How long steps take on this machine, and from that how long everyone will wait. Pure Python, no tensors."""

from collections import Counter, deque
from collections.abc import Iterable

from sd_space.engine.batcher import BatchKey, Trajectory


class StepTimes:
    """Measured, smoothed, and scaled by area for sizes not seen yet."""

    def __init__(self) -> None:
        self._step_s: dict[tuple[BatchKey, int], float] = {}  # (key, pictures in the call)
        self._finish_s: dict[tuple[int, int], float] = {}  # (height, width): decode and safety check of one picture
        self.slowest_s = 0.0

    def record_step(self, key: BatchKey, pictures: int, seconds: float) -> None:
        self._step_s[key, pictures] = self._smoothed(self._step_s.get((key, pictures)), seconds)

    def record_finish(self, height: int, width: int, seconds: float) -> None:
        self._finish_s[height, width] = self._smoothed(self._finish_s.get((height, width)), seconds)

    def step_s(self, key: BatchKey, pictures: int) -> float | None:
        """Seconds of one UNet call with `pictures` of `key`; `None` before any was measured."""
        if (key, pictures) in self._step_s:
            return self._step_s[key, pictures]
        known = sorted((_pixels(k, n), seconds) for (k, n), seconds in self._step_s.items())
        if not known:
            return None
        wanted = _pixels(key, pictures)
        smaller = [point for point in known if point[0] <= wanted]
        larger = [point for point in known if point[0] >= wanted]
        if smaller and larger:
            (low, low_s), (high, high_s) = smaller[-1], larger[0]
            return low_s + (high_s - low_s) * (wanted - low) / max(high - low, 1)
        nearest, nearest_s = smaller[-1] if smaller else larger[0]
        return nearest_s * wanted / nearest

    def finish_s(self, height: int, width: int) -> float:
        """Seconds of decode and safety check of one picture; 0 before any was measured."""
        if (height, width) in self._finish_s:
            return self._finish_s[height, width]
        return max((s * height * width / (h * w) for (h, w), s in self._finish_s.items()), default=0.0)

    def forecast(self, denoised: Iterable[Trajectory], in_order: Iterable[Trajectory], seats: int) -> dict[str, float]:
        """Seconds until each request has all of its pictures, while nobody else comes or goes. Empty: not known yet.

        `denoised` are only to be decoded; the others take their `seats` in order. Plays the queue forward, from
        one picture's last step to the next.
        """
        now_s, ends_s = 0.0, {}
        for trajectory in denoised:
            now_s += self.finish_s(trajectory.key.height, trajectory.key.width)
            ends_s[trajectory.request_id] = now_s
        line = deque(in_order)
        seated: list[tuple[int, Trajectory]] = []  # (rounds done when its last step is, picture)
        rounds = 0
        while line or seated:
            while line and len(seated) < seats:
                seated.append((rounds + line[0].steps_left, line.popleft()))
            # Seats of different keys take turns: one step of everybody takes all of their calls.
            calls_s = [self.step_s(key, n) for key, n in Counter(t.key for _, t in seated).items()]
            if None in calls_s:
                return {}
            next_end = min(end for end, _ in seated)
            now_s += (next_end - rounds) * sum(calls_s)
            rounds = next_end
            for end, trajectory in seated:
                if end == rounds:
                    now_s += self.finish_s(trajectory.key.height, trajectory.key.width)
                    ends_s[trajectory.request_id] = now_s
            seated = [(end, trajectory) for end, trajectory in seated if end > rounds]
        return ends_s

    def _smoothed(self, before: float | None, seconds: float) -> float:
        self.slowest_s = max(self.slowest_s, seconds)
        return seconds if before is None else 0.8 * before + 0.2 * seconds


def _pixels(key: BatchKey, pictures: int) -> int:
    """What a UNet call's work grows with: rows times area."""
    return pictures * (2 if key.has_guidance else 1) * key.height * key.width
