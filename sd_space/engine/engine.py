"""Step-level continuous batching: one UNet call serves everyone who is waiting.

`Engine` is one synchronous object without threads: `add_request`, then `step` until `is_idle`. Whoever owns it
(`backends/local.py`) calls it from one thread. A request that arrives joins at the next step, one that is cancelled
is gone at the next step, and a picture is decoded, screened and delivered as soon as its own last step is done.
"""

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch

from sd_space.engine.batcher import BatchKey, StepBatcher, Trajectory
from sd_space.engine.denoiser import Denoiser, DenoisingState, EncodedPrompt
from sd_space.engine.safety import SafetyScreen
from sd_space.engine.step_times import StepTimes
from sd_space.errors import Cancelled, EngineFailed, SafetyCheckFailed, SpaceError
from sd_space.runtime_errors import is_device_lost, is_out_of_memory, traceback_without_message
from sd_space.schema import (
    AdmittedRequest,
    GenerationRequest,
    GenerationResult,
    PictureFinished,
    Preview,
    Progress,
    RequestFailed,
    ScreenedImage,
    Update,
)
from sd_space.settings import WIDTHS

logger = logging.getLogger(__name__)

WORTHWHILE = 0.9  # a wider call must cost at most this share of the narrower one's time per picture
CALIBRATION_ROUNDS = 5  # of which the first warms up
LONG_STEP_S = 5.0  # nothing wider is tried, and nothing measured again
PROBE_SIZE = 64  # pixels a side
LONG_PROBE_S = 0.25  # launches alone take a tenth of that
FAILED = "Something went wrong while your pictures were made; please try again."
OUT_OF_MEMORY = "This picture needs more memory than the device has free; please try a smaller size or fewer pictures."


@dataclass(slots=True, eq=False)
class _Run:
    """A request in the engine. Everything it holds is dropped when it ends."""

    admitted: AdmittedRequest
    trajectories: list[Trajectory]
    added_s: float
    encoded: EncodedPrompt | None = None
    images: dict[int, ScreenedImage] = field(default_factory=dict)
    elapsed_s: dict[str, float] = field(default_factory=dict)
    started_s: float | None = None
    reported_s: float = float("-inf")

    @property
    def request(self) -> GenerationRequest:
        return self.admitted.request


class Engine:
    """Makes pictures of many requests at once. Not thread-safe: it belongs to one thread.

    `width` is the most pictures that share a UNet call. `previews=False` leaves mosaics out. A request's Progress
    comes at its first step and then at most every `report_every_s`; previews are computed only for those, about
    0.1 ms each. Raises SafetyCheckFailed without a SafetyScreen.
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
    ):
        if not isinstance(screen, SafetyScreen):
            raise SafetyCheckFailed("Pictures are made only with a safety screen.")
        self.times = times or StepTimes()
        self.unet_calls: dict[int, tuple[int, float]] = {}  # by pictures: how many calls, and their seconds in all
        self._denoiser = denoiser
        self._screen = screen
        self._batcher = StepBatcher(width)
        self.previews = previews
        self._report_every_s = report_every_s
        self._now_s = now_s
        self._runs: dict[str, _Run] = {}
        self._states: dict[int, DenoisingState] = {}  # by trajectory_id
        self._denoised: deque[Trajectory] = deque()  # past their last step, not decoded yet
        self._fitting: dict[BatchKey, int] = {}  # most pictures a call, where more ran out of memory
        self._updates: list[Update] = []
        self._next_id = 0

    @property
    def width(self) -> int:
        return self._batcher.width

    @property
    def is_idle(self) -> bool:
        return not self._runs and not self._updates

    @property
    def is_healthy(self) -> bool:
        return self._screen.is_healthy

    def counts(self) -> tuple[int, int, int]:
        """Requests that wait, requests that run, and free places in the UNet call."""
        waiting = sum(place > 0 for place in self._batcher.queue_positions().values())
        return waiting, len(self._runs) - waiting, self.width - len(self._batcher.seated())

    def add_request(self, admitted: AdmittedRequest) -> None:
        """Puts the request's pictures in line; they join at the next step if there is room."""
        request = admitted.request
        try:
            num_timesteps = self._denoiser.num_timesteps(request)
        except Exception as error:
            self._updates.append(RequestFailed(admitted.request_id, _told(error, admitted.request_id)))
            return
        key = BatchKey(request.height, request.width, request.guidance_scale > 1.0)
        run = _Run(admitted, [], self._now_s())
        for index, seed in enumerate(request.seeds):
            self._next_id += 1
            run.trajectories.append(
                Trajectory(self._next_id, admitted.request_id, admitted.visitor, seed, index, key, num_timesteps)
            )
            self._batcher.add(run.trajectories[-1])
        self._runs[admitted.request_id] = run

    def step(self) -> list[Update]:
        """One UNet call for those whose turn it is, then what has become of it. Errors reach only whom they concern."""
        batch = [trajectory for trajectory in self._batcher.next_batch() if self._prepare(trajectory)]
        self._denoise(batch)
        self._finish_pictures()
        self._report()
        updates, self._updates = self._updates, []
        return updates

    def cancel(self, request_id: str) -> None:
        """Frees the request's rows at once; the next `step` says so. Unknown and finished ones are left alone."""
        self._fail(request_id, Cancelled("Cancelled; the device is free."))

    def _prepare(self, trajectory: Trajectory) -> bool:
        """Encodes and draws noise when a picture gets its first seat; False if that ended its request."""
        if trajectory.request_id not in self._runs:
            return False
        if trajectory.trajectory_id in self._states:
            return True
        run = self._runs[trajectory.request_id]
        if run.started_s is None:
            run.elapsed_s["queue"] = self._now_s() - run.added_s
        try:
            if run.encoded is None:
                began_s = self._now_s()
                run.encoded = self._denoiser.encode_prompt(run.request)
                run.elapsed_s["encode_prompt"] = self._now_s() - began_s
            state = self._denoiser.prepare_latents(run.request, trajectory.seed, run.encoded)
        except Exception as error:
            self._fail(trajectory.request_id, error)
            return False
        run.started_s = run.started_s or self._now_s()
        self._states[trajectory.trajectory_id] = state
        return True

    def _denoise(self, batch: list[Trajectory]) -> None:
        """One step for `batch`, in as few UNet calls as fit. A call that fails is halved and run again.

        So it fails only whom it must, and exactly: no noise scheduler has moved before the UNet call has succeeded.
        """
        batch = [trajectory for trajectory in batch if trajectory.request_id in self._runs]
        if not batch:
            return
        key = batch[0].key
        if len(batch) > self._fitting.get(key, len(batch)):
            self._halve(batch)
            return
        began_s = self._now_s()
        try:
            errors = self._denoiser.denoise_step([self._states[t.trajectory_id] for t in batch])
            failure = None
        except Exception as error:
            failure = error
        if failure is None:
            timed = self._denoiser.keep_pace((key, len(batch)))
            if timed is not None:
                self._record(*timed, self._now_s() - began_s)
            for trajectory, error in zip(batch, errors, strict=True):
                if error is not None:
                    self._fail(trajectory.request_id, error)
            self._denoised.extend(self._batcher.advance([t for t in batch if t.request_id in self._runs]))
            return
        is_full = is_out_of_memory(failure)
        if is_full:
            failure = failure.with_traceback(None)  # it keeps the failed call's tensors
        if len(batch) == 1 and is_full and self._denoiser.make_room():
            self._fitting.clear()  # there is more room now
            self._denoise(batch)
        elif len(batch) == 1 or is_device_lost(failure):
            self._fail(batch[0].request_id, failure)
        else:
            if is_full:
                self._fitting[key] = (len(batch) + 1) // 2
            failure = None
            self._denoiser.free_memory()
            self._halve(batch)

    def _record(self, key: BatchKey, pictures: int, seconds: float) -> None:
        self.times.record_step(key, pictures, seconds)
        calls, total_s = self.unet_calls.get(pictures, (0, 0.0))
        self.unet_calls[pictures] = calls + 1, total_s + seconds

    def _halve(self, batch: list[Trajectory]) -> None:
        middle = (len(batch) + 1) // 2
        self._denoise(batch[:middle])
        self._denoise(batch[middle:])

    def _finish_pictures(self) -> None:
        """Decodes and screens one picture, so that others' steps wait for no more than that.

        Those of one request that is alone here go together: there is nobody to wait, and as the plain
        pipeline decodes them in one batch, so do the same pixels come out.
        """
        if not self._denoised:
            return
        group = [self._denoised.popleft()]
        while self._denoised and len(self._runs) == 1 and not len(self._batcher):
            group.append(self._denoised.popleft())
        run = self._runs[group[0].request_id]
        began_s = self._now_s()
        if run.started_s is not None:
            run.elapsed_s["denoise"] = began_s - run.started_s
        states = [self._states.pop(trajectory.trajectory_id) for trajectory in group]
        try:
            images = self._decode(group, states, run)
        except Exception as error:
            self._fail(run.admitted.request_id, error)
            return
        self.times.record_finish(run.request.height, run.request.width, (self._now_s() - began_s) / len(group))
        for trajectory, image in zip(group, images, strict=True):
            run.images[trajectory.index] = image
            self._updates.append(PictureFinished(trajectory.request_id, trajectory.index, image))
        if len(run.images) == len(run.trajectories):
            self._complete(run)

    def _decode(self, group: list[Trajectory], states: list[DenoisingState], run: _Run) -> list[ScreenedImage]:
        """Latents to screened pictures. What is no number is not decoded: it is broken, and the rest is not."""
        request = run.request
        images = {
            t.index: self._screen.broken(t.seed, request.height, request.width)
            for t, state in zip(group, states, strict=True)
            if not bool(torch.isfinite(state.latents).all())
        }
        whole = [(t, state) for t, state in zip(group, states, strict=True) if t.index not in images]
        if whole:
            began_s = self._now_s()
            decoded = self._denoiser.decode_latents(torch.cat([state.latents for _, state in whole]))
            self._denoiser.synchronize()
            decoded_s = self._now_s()
            screened = self._screen.screen(decoded, [t.seed for t, _ in whole])
            images |= {t.index: image for (t, _), image in zip(whole, screened, strict=True)}
            run.elapsed_s["decode"] = run.elapsed_s.get("decode", 0.0) + decoded_s - began_s
            run.elapsed_s["safety"] = run.elapsed_s.get("safety", 0.0) + self._now_s() - decoded_s
        return [images[t.index] for t in group]

    def _complete(self, run: _Run) -> None:
        run.elapsed_s["total"] = self._now_s() - run.added_s
        images = tuple(run.images[index] for index in sorted(run.images))
        truncated = run.encoded.truncated if run.encoded else ""
        request_id = run.admitted.request_id
        self._updates.append(GenerationResult(request_id, images, dict(run.elapsed_s), truncated))
        del self._runs[request_id]

    def _fail(self, request_id: str, error: Exception) -> None:
        """Ends a request and drops all that it held; the others are untouched. Raises if the device itself is lost."""
        if is_device_lost(error):
            raise error
        run = self._runs.pop(request_id, None)
        if run is None:
            return
        self._batcher.remove(request_id)
        for trajectory in run.trajectories:
            self._states.pop(trajectory.trajectory_id, None)
        self._denoised = deque(t for t in self._denoised if t.request_id != request_id)
        self._updates.append(RequestFailed(request_id, _told(error, request_id)))

    def _report(self) -> None:
        now_s = self._now_s()
        due = [run for run in self._runs.values() if now_s - run.reported_s >= self._report_every_s]
        if not due:
            return
        places = self._batcher.queue_positions()
        seconds_left = self.times.forecast(self._denoised, self._batcher.in_order(), self.width)
        for run in due:
            run.reported_s = now_s
            request_id = run.admitted.request_id
            self._updates.append(self._progress(run, places.get(request_id, 0), seconds_left.get(request_id)))

    def _progress(self, run: _Run, queue_position: int, seconds_left: float | None) -> Progress:
        started = [t for t in run.trajectories if t.trajectory_id in self._states]
        unfinished = [t for t in started if t.steps_left] or started
        last = min(unfinished or run.trajectories, key=lambda trajectory: trajectory.step_index)
        return Progress(
            request_id=run.admitted.request_id,
            queue_position=queue_position,
            step_index=last.step_index,
            num_timesteps=last.num_timesteps,
            pictures_done=len(run.images),
            num_pictures=len(run.trajectories),
            seconds_left=seconds_left,
            previews=tuple(self._preview(t) for t in run.trajectories) if self.previews and started else (),
        )

    def _preview(self, trajectory: Trajectory) -> Preview | None:
        state = self._states.get(trajectory.trajectory_id)
        if state is None or state.noise_pred is None:
            return None
        return self._screen.preview(self._denoiser.predicted_latents(state))


def _told(error: Exception, request_id: str) -> SpaceError:
    """The sentence for the visitor; the log gets the type and place of what was not expected."""
    if isinstance(error, SpaceError):
        return error
    logger.error("request %s failed:\n%s", request_id, traceback_without_message(error))
    return EngineFailed(OUT_OF_MEMORY if is_out_of_memory(error) else FAILED)


def run_to_completion(engine: Engine, admitted: AdmittedRequest) -> GenerationResult:
    """Makes the pictures of one request and returns them; raises what ended it otherwise."""
    engine.add_request(admitted)
    while not engine.is_idle:
        for update in engine.step():
            if isinstance(update, RequestFailed) and update.request_id == admitted.request_id:
                raise update.error
            if isinstance(update, GenerationResult) and update.request_id == admitted.request_id:
                return update
    raise EngineFailed(FAILED)


def calibrate(
    denoiser: Denoiser,
    request: GenerationRequest,
    widths: tuple[int, ...] = WIDTHS,
    now_s: Callable[[], float] = time.perf_counter,
) -> tuple[int, StepTimes]:
    """The widest UNet call that still makes a picture's step cheaper, and the times that were measured.

    Joining pays where a step is bound by launches and idle units; where it is bound by arithmetic it would only
    delay everyone. Stops at the second width that does not pay (one may be a busy moment's fault), at one that does
    not fit, or where a step is long. Where even a tiny picture's step is (v1-4 on a CPU), nothing more is measured: a
    step at the model's own size takes up to a minute there.
    """
    request = replace(request, num_inference_steps=CALIBRATION_ROUNDS * len(widths))  # no state runs out of steps
    times, encoded = StepTimes(), denoiser.encode_prompt(request)
    side = min(PROBE_SIZE, request.width, request.height)
    probe = [denoiser.prepare_latents(replace(request, width=side, height=side), 0, encoded)]
    if denoiser.device.type == "cuda":  # the first call also loads the libraries' code from the disk
        _fastest(denoiser, [probe], now_s, rounds=1)
    probe_s = (_fastest(denoiser, [probe], now_s, rounds=2) or [0.0])[0]
    if probe_s > LONG_PROBE_S:
        times.slowest_s = probe_s * request.width * request.height / side**2  # a guess, more than it will be
        return widths[0], times
    key = BatchKey(request.height, request.width, request.guidance_scale > 1.0)
    best, best_s, narrow, failed = widths[0], 0.0, [], 0
    for width in widths:
        if best_s > LONG_STEP_S or failed == 2:
            break
        wide = [denoiser.prepare_latents(request, seed, encoded) for seed in range(width)]
        least = _fastest(denoiser, [narrow, wide] if narrow else [wide], now_s)
        if least is None and narrow:
            break
        if least is None:
            if not denoiser.make_room():
                raise torch.OutOfMemoryError("not even one picture fits")
            return calibrate(denoiser, request, widths, now_s)
        times.record_step(key, width, least[-1])
        if not narrow or least[-1] / width < WORTHWHILE * least[0] / best:
            best, best_s, narrow, failed = width, least[-1], wide, 0
        else:
            failed += 1
    return best, times


def _fastest(
    denoiser: Denoiser,
    batches: list[list[DenoisingState]],
    now_s: Callable[[], float],
    rounds: int = CALIBRATION_ROUNDS,
) -> list[float] | None:
    """Seconds of one step of each batch, the least of a few rounds; `None` if they do not fit into memory.

    The batches take turns, so that company on the machine slows all alike.
    """
    least = [float("inf")] * len(batches)
    began_s = now_s()
    try:
        for _ in range(rounds):
            for k, states in enumerate(batches):
                step_began_s = now_s()
                denoiser.denoise_step(states)
                denoiser.synchronize()
                least[k] = min(least[k], now_s() - step_began_s)
            if now_s() - began_s > LONG_STEP_S:
                break
        return least
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    # Having left this block lets go of what the failed call held.
    denoiser.free_memory()
    return None
