"""Step-level continuous batching: one UNet call serves everyone who is waiting.

`Engine` is one synchronous object without threads: `add_request`, then `step` until `is_idle`. Its owner
(`backends/engine_thread.py`) calls it from one thread. A request that arrives joins at the next step, one that is
cancelled leaves at the next step, and a picture is decoded, screened and delivered right after its own last step.
"""

import logging
import time
from collections.abc import Callable

from sd_space.engine.active_request import ActiveRequest
from sd_space.engine.batcher import BatchKey, StepBatcher, Trajectory, TrajectoryStatus
from sd_space.engine.denoiser import Denoiser
from sd_space.engine.denoising_state import DenoisingState
from sd_space.engine.finishing import Finished, Finisher
from sd_space.engine.inspector import Inspector
from sd_space.engine.pacing import Timed, make_pacer
from sd_space.engine.previews import Previews
from sd_space.engine.safety import SafetyScreen
from sd_space.engine.step_times import StepTimes
from sd_space.errors import Cancelled, EngineFailed, SafetyCheckFailed, SpaceError
from sd_space.runtime_errors import (
    GENERATION_FAILED,
    is_device_lost,
    is_out_of_memory,
    to_space_error,
    traceback_without_message,
)
from sd_space.schema import AdmittedRequest, GenerationResult, RequestFailed, Update

logger = logging.getLogger(__name__)


class Engine:
    """Makes pictures of many requests at once. Not thread-safe: it belongs to one thread.

    `width` is the most pictures that share a UNet call. A request's Progress comes at its first step and then at most
    every `report_every_s`; with `previews` it has a mosaic of each picture, which takes about 0.1 ms to compute.
    `most_pictures` caps the width where the memory profile does, which changes when memory runs out. `beside` says
    whether pictures may be finished while others step, which takes memory for both.
    Raises SafetyCheckFailed without a SafetyScreen.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        screen: SafetyScreen,
        width: int,
        times: StepTimes | None = None,
        previews: bool = True,
        report_every_s: float = 0.2,
        now_s: Callable[[], float] = time.perf_counter,
        most_pictures: Callable[[], int | None] = lambda: None,
        beside: Callable[[], bool] = lambda: False,
    ):
        if not isinstance(screen, SafetyScreen):
            raise SafetyCheckFailed("Pictures are made only with a safety screen.")
        self.times = times or StepTimes()
        self.unet_calls: dict[int, tuple[int, float]] = {}  # by pictures: how many calls, and their seconds in all
        self._denoiser = denoiser
        self._screen = screen
        self._pacer = make_pacer(denoiser.device, now_s)
        self._previews = Previews(denoiser, screen)
        self._finisher = Finisher(denoiser, screen, now_s)
        self._inspector = Inspector(denoiser, screen)
        self.batcher = StepBatcher(width)
        self.previews = previews
        self._report_every_s = report_every_s
        self._now_s = now_s
        self._most_pictures = most_pictures
        self._beside = beside
        self._requests: dict[str, ActiveRequest] = {}  # by request_id
        self._states: dict[int, DenoisingState] = {}  # by trajectory_id
        self._max_batch_by_key: dict[BatchKey, int] = {}  # the pictures that fit a call, where more ran out of memory
        self._updates: list[Update] = []
        self._next_id = 0

    @property
    def width(self) -> int:
        return self.batcher.width

    @property
    def is_idle(self) -> bool:
        return not self._requests and not self._updates and not self._finisher.under_way

    @property
    def is_healthy(self) -> bool:
        return self._screen.is_healthy

    def counts(self) -> tuple[int, int]:
        """How many requests wait, and how many run."""
        waiting = sum(place > 0 for place in self.batcher.queue_positions().values())
        return waiting, len(self._requests) - waiting

    def add_request(self, admitted: AdmittedRequest) -> None:
        """Queues the request's pictures; they join at the next step if there is room."""
        request = admitted.request
        try:
            num_timesteps = self._denoiser.num_timesteps(request)
        except Exception as error:
            self._report_failure(admitted.request_id, error)
            return
        active = ActiveRequest(admitted, num_timesteps, self._now_s())
        for _ in request.seeds:
            self._next_id += 1
            self.batcher.add(active.new_trajectory(self._next_id))
        self._requests[admitted.request_id] = active

    def step(self) -> list[Update]:
        """One UNet call for the pictures whose turn it is. Returns what is new of each request.

        An error ends only the requests that it concerns.
        """
        self.batcher.width = min(self.width, self._most_pictures() or self.width)
        self.times.finishes_beside = self._beside()
        batch = [trajectory for trajectory in self.batcher.next_batch() if self._prepare(trajectory)]
        self._denoise(batch)
        self._finish_pictures()
        self._report_progress()
        updates, self._updates = self._updates, []
        return updates

    def cancel(self, request_id: str) -> None:
        """Frees the request's rows at once; the next `step` reports it. Ignores unknown and finished requests."""
        self._fail(request_id, Cancelled("Cancelled; the device is free."))

    def _prepare(self, trajectory: Trajectory) -> bool:
        """Encodes the request and starts the picture before its first step; False if that ended the request."""
        active = self._requests.get(trajectory.request_id)
        if active is None:
            return False
        if trajectory.status is TrajectoryStatus.RUNNING:
            return True
        try:
            encoded = active.encode(self._denoiser, self._screen, self._now_s)
            request = active.request.of_picture(trajectory.index)
            state = self._denoiser.prepare_latents(request, trajectory.seed, encoded, active.source)
        except Exception as error:
            self._fail(trajectory.request_id, error)
            return False
        active.started_s = active.started_s or self._now_s()
        self._states[trajectory.trajectory_id] = state
        trajectory.status = TrajectoryStatus.RUNNING
        return True

    def _denoise(self, batch: list[Trajectory]) -> None:
        """One step for `batch`, in as few UNet calls as fit. A call that fails is split in halves, which run again.

        So an error ends no more requests than it must. Pictures stay exact: no scheduler steps before the UNet is done.
        """
        batch = [trajectory for trajectory in batch if trajectory.request_id in self._requests]
        if not batch:
            return
        if len(batch) > self._max_batch_by_key.get(batch[0].key, len(batch)):
            self._denoise_halves(batch)
            return
        self._pacer.begin()
        try:
            errors = self._denoiser.denoise_step([self._states[t.trajectory_id] for t in batch])
        except Exception as error:
            is_retried = is_out_of_memory(error) or (len(batch) > 1 and not is_device_lost(error))
            failure = error.with_traceback(None) if is_retried else error  # a traceback holds the call's tensors
        else:
            self._advance(batch, errors)
            return
        self._recover(batch, failure)

    def _advance(self, batch: list[Trajectory], errors: list[Exception | None]) -> None:
        self._record(self._pacer.end((batch[0].key, len(batch))))
        results = list(zip(batch, errors, strict=True))
        full = [(trajectory, error) for trajectory, error in results if error is not None and is_out_of_memory(error)]
        for trajectory, error in results:
            active = self._requests.get(trajectory.request_id)
            if error is None and active is not None:
                error = self._inspector.keep(active, trajectory, self._states[trajectory.trajectory_id])
            if error is not None and not is_out_of_memory(error):
                self._fail(trajectory.request_id, error)
        advanced = [t for t, error in results if error is None and t.request_id in self._requests]
        for trajectory in self.batcher.advance(advanced):
            self._finisher.add(trajectory, self._states[trajectory.trajectory_id].latents)
        if full:
            self._recover([trajectory for trajectory, _ in full], full[0][1].with_traceback(None))

    def _recover(self, batch: list[Trajectory], failure: Exception) -> None:
        """Runs the step that failed once more: in halves, or with less memory where a call cannot be smaller."""
        is_full = is_out_of_memory(failure)
        is_smallest = len(batch) == 1 or (is_full and self._denoiser.has_fixed_rows)
        if is_smallest and is_full and self._denoiser.reduce_memory():
            self._max_batch_by_key.clear()  # larger batches may fit now
            self._denoise(batch)
        elif is_smallest or is_device_lost(failure):
            for trajectory in batch:
                self._fail(trajectory.request_id, failure)
        else:
            if is_full:
                self._max_batch_by_key[batch[0].key] = (len(batch) + 1) // 2
            self._denoiser.free_memory()
            self._denoise_halves(batch)

    def _record(self, timed: Timed) -> None:
        for (key, pictures), seconds in timed:
            self.times.record_step(key, pictures, seconds)
            calls, total_s = self.unet_calls.get(pictures, (0, 0.0))
            self.unet_calls[pictures] = calls + 1, total_s + seconds

    def _denoise_halves(self, batch: list[Trajectory]) -> None:
        middle = (len(batch) + 1) // 2
        self._denoise(batch[:middle])
        self._denoise(batch[middle:])

    def _finish_pictures(self) -> None:
        """Decodes and screens one picture, so that the steps of others wait no longer, or with `beside` not at all.

        Those of a request that is alone are decoded as one batch, as diffusers does, which gives the same pixels.
        """
        is_alone = not len(self.batcher)
        if self._finisher.in_line and not self._finisher.under_way:
            beside = not is_alone and self._beside()
            if not beside:
                self._record(self._pacer.finish())
            self._finisher.begin(beside, together=is_alone and len(self._requests) == 1)
        if finished := self._finisher.ended(wait=is_alone):
            self._deliver(finished)

    def _deliver(self, finished: Finished) -> None:
        """Hands out what is finished; a request that was cancelled meanwhile gets nothing."""
        first = finished.group[0]
        active = self._requests.get(first.request_id)
        if active is None or first not in active.trajectories:
            return
        if finished.error is not None:
            self._fail(active.request_id, finished.error)
            return
        took_s = sum(finished.elapsed_s.values()) / len(finished.group)
        self.times.record_finish(first.key.height, first.key.width, took_s)
        for trajectory in finished.group:
            self._states.pop(trajectory.trajectory_id, None)
        self._updates += active.take(finished)
        if active.is_complete:
            self._complete(active)

    def _complete(self, active: ActiveRequest) -> None:
        """Hands out the result of a request that has all of its pictures, once nothing else is decoded of them."""
        try:
            inspected = self._inspector.begin(active)
        except Exception as error:
            self._fail(active.request_id, error)
            return
        for trajectory, latents in inspected:
            self._finisher.add(trajectory, latents)
        if not inspected:
            active.elapsed_s["total"] = self._now_s() - active.added_s
            self._updates.append(active.result())
            del self._requests[active.request_id]

    def _fail(self, request_id: str, error: Exception) -> None:
        """Ends a request and drops all that it held; the others go on. Raises `error` if the device itself is lost."""
        if is_device_lost(error):
            raise error
        active = self._requests.pop(request_id, None)
        if active is None:
            return
        self.batcher.remove(request_id)
        for trajectory in active.trajectories:
            self._states.pop(trajectory.trajectory_id, None)
        self._finisher.remove(request_id)
        self._report_failure(request_id, error)

    def _report_failure(self, request_id: str, error: Exception) -> None:
        if not isinstance(error, SpaceError):
            logger.error("request %s failed:\n%s", request_id, traceback_without_message(error))
        self._updates.append(RequestFailed(request_id, to_space_error(error)))

    def _report_progress(self) -> None:
        now_s = self._now_s()
        due = [active for active in self._requests.values() if now_s - active.reported_s >= self._report_every_s]
        if not due:
            return
        positions = self.batcher.queue_positions()
        denoised = (*self._finisher.under_way, *self._finisher.in_line)
        seconds_left = self.times.forecast(denoised, self.batcher.in_order(), self.width, self._pacer.under_way)
        for active in due:
            active.reported_s = now_s
            position = positions.get(active.request_id, 0)
            states = [self._states.get(t.trajectory_id) for t in active.trajectories] if self.previews else []
            previews = tuple(map(self._previews.latest, states))
            self._updates.append(active.progress(position, seconds_left.get(active.request_id), previews))


def run_to_completion(engine: Engine, admitted: AdmittedRequest) -> GenerationResult:
    """Makes the pictures of one request. Raises the error that ended it, if one did."""
    engine.add_request(admitted)
    while not engine.is_idle:
        for update in engine.step():
            if isinstance(update, RequestFailed) and update.request_id == admitted.request_id:
                raise update.error
            if isinstance(update, GenerationResult) and update.request_id == admitted.request_id:
                return update
    raise EngineFailed(GENERATION_FAILED)
