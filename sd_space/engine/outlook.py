"""How long a request with the model's default values would take if it came now. Imports no torch."""

from sd_space.engine.batcher import BatchKey, StepBatcher, Trajectory
from sd_space.engine.step_times import StepTimes
from sd_space.request import GenerationRequest

INTERVAL_S = 1.0  # between two forecasts


class Outlook:
    """Belongs to the engine's thread."""

    def __init__(self, request: GenerationRequest, num_timesteps: int):
        self._last_s: float | None = None
        self._request = request
        self._num_timesteps = num_timesteps
        self._next_s = float("-inf")

    def seconds(self, batcher: StepBatcher, times: StepTimes, now_s: float) -> float | None:
        """The last forecast, or a new one where that is old; `None` until a step was measured."""
        if now_s < self._next_s:
            return self._last_s
        self._next_s = now_s + INTERVAL_S
        imagined = StepBatcher(batcher.width)
        for trajectory in (*batcher.in_order(), *self._newcomers()):
            imagined.add(trajectory)
        self._last_s = times.forecast((), imagined.in_order(), batcher.width).get("")
        return self._last_s

    def _newcomers(self) -> list[Trajectory]:
        """The pictures of a visitor whom nobody else can be."""
        key = BatchKey.of(self._request)
        return [Trajectory(-1, "", "", seed, k, key, self._num_timesteps) for k, seed in enumerate(self._request.seeds)]
