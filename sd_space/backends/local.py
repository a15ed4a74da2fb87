"""One thread of this process owns the engine and the device; everybody else talks to its inbox.

The thread imports torch and diffusers, loads the model and then steps for as long as there is work. `generate` runs on
the caller's event loop and is fed through `call_soon_threadsafe`, so neither side ever waits for the other.
"""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from sd_space.errors import EngineFailed, ModelUnavailable, QueueFull, SpaceError
from sd_space.faults import described, is_device_lost, is_out_of_memory
from sd_space.lived_time import LivedTime
from sd_space.schema import (
    AdmittedRequest,
    BackendStatus,
    GenerationRequest,
    GenerationResult,
    ModelInfo,
    Progress,
    RequestFailed,
    Stage,
    Update,
)
from sd_space.settings import WIDTHS, Settings

if TYPE_CHECKING:
    from sd_space.engine.engine import Engine
    from sd_space.model.pipeline import LoadedPipeline

logger = logging.getLogger(__name__)

REPRODUCIBLE_WIDTH = 4  # fixed: a measured width could differ from one start to the next, and pixels with it
BEAT_S = 1.0  # the thread looks up at least this often while it has nothing to do
STUCK_AFTER_S = 60.0  # and this long without a beat, or ten times the slowest step, means that it hangs
FAILED = "Something went wrong while your pictures were made; please try again."
BROKEN = "The model stopped working, so no pictures can be made; the operator has been told."
STOPPED = "The Space is restarting; please try again in a minute."


def load(
    settings: Settings,
    on_stage: Callable[[Stage], None] = lambda stage: None,
    on_progress: Callable[[str], None] = lambda detail: None,
) -> "LoadedPipeline":
    """Imports the libraries and loads the model, in the calling thread. Raises ModelUnavailable."""
    on_stage(Stage.IMPORTING)
    import transformers

    transformers.utils.logging.set_verbosity_error()  # importing diffusers makes it warn of optional packages
    from sd_space.model.pipeline import load_pipeline
    from sd_space.model.spec import PipelineSpec, detect_hardware

    on_stage(Stage.LOADING)
    return load_pipeline(PipelineSpec.from_settings(settings, detect_hardware()), on_progress=on_progress)


def build_engine(
    loaded: "LoadedPipeline", settings: Settings, on_stage: Callable[[Stage], None] = lambda stage: None
) -> "Engine":
    """The engine over a loaded model: safety screen tested, width measured. Raises SafetyCheckFailed."""
    from sd_space.engine.denoiser import Denoiser
    from sd_space.engine.engine import Engine, calibrate
    from sd_space.engine.safety import SafetyScreen, fit_latent_rgb
    from sd_space.model.hub_errors import VISITORS_SENTENCE

    on_stage(Stage.CHECKING)
    pipeline, defaults = loaded.pipeline, loaded.info.defaults
    width = settings.max_batch_size or (REPRODUCIBLE_WIDTH if settings.reproducible else None)
    most = loaded.placement.profile.max_pictures
    width = min(width, most) if width and most else width
    fixed_rows = 2 * width if settings.reproducible and width else None
    placement = loaded.placement
    denoiser = Denoiser(pipeline, fixed_rows, placement.fall_back, placement.unet_runner, settings.turbo)
    screen = SafetyScreen(
        pipeline.safety_checker,
        pipeline.feature_extractor,
        fit_latent_rgb(denoiser.decode_latents, denoiser.latent_channels),
        loaded.missing_checker_tensors,
    )
    on_stage(Stage.WARMING_UP)
    request = GenerationRequest(
        prompt="",
        negative_prompt="",
        num_images_per_prompt=1,
        num_inference_steps=defaults.num_inference_steps,
        guidance_scale=defaults.guidance_scale,
        seed=0,
        width=defaults.width,
        height=defaults.height,
        scheduler=defaults.scheduler,
    )
    widths = tuple(sorted({1, width})) if width else tuple(w for w in WIDTHS if w <= (most or w))
    try:
        measured_width, times = calibrate(denoiser, request, widths=widths)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        hint = "Not even one picture fits into the device's memory; set SD_SPACE_MODEL to a smaller model."
        raise ModelUnavailable(VISITORS_SENTENCE, hint) from error
    return Engine(denoiser, screen, width or measured_width, times)


@dataclass(slots=True, eq=False)
class _Waiter:
    """Where the updates of one request go: a queue on its caller's event loop. `None` ends it without a word."""

    admitted: AdmittedRequest
    loop: asyncio.AbstractEventLoop
    updates: asyncio.Queue[Update | SpaceError] = field(default_factory=asyncio.Queue)


class LocalBackend:
    """Implements `backends.Backend` with one thread; `heartbeat_age_s` tells whether that thread lives."""

    def __init__(self, settings: Settings):
        self._settings = settings
        # A string cancels the request of that id, `None` closes.
        self._inbox: queue.SimpleQueue[_Waiter | str | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()  # guards what follows; held for moments only
        self._stage, self._detail = Stage.STARTING, ""
        self._info: ModelInfo | None = None
        self._error: SpaceError | None = None
        self._waiters: dict[str, _Waiter] = {}
        self._is_closing = False
        self._drain_until_s = float("inf")
        self._unseen = 0  # accepted here, not yet taken up by the thread
        self._counts = (0, 0, 0)  # waiting, running, free places, as the engine last had them
        self._is_screen_healthy = True
        self._lived_s = LivedTime()  # a process that was paused for a minute hangs in no step
        self._beat_s = self._lived_s()
        self._unet_calls: dict[int, tuple[int, float]] = {}
        self._slowest_step_s = 0.0
        self._has_finished_any = False  # since the engine was built

    def prepare(self) -> None:
        """Nothing: importing torch takes seconds, and the page can be up before."""

    def start(self) -> None:
        """Starts the thread that loads the model; returns at once."""
        self._thread = threading.Thread(target=self._own_the_engine, name="engine", daemon=True)
        self._lived_s.start()
        self._beat_s = self._lived_s()
        self._thread.start()

    @property
    def heartbeat_age_s(self) -> float:
        """Seconds since the thread last came round, without those in which this process was paused; loading the model
        counts as one beat."""
        return self._lived_s() - self._beat_s

    def status(self) -> BackendStatus:
        """Cheap and callable from anywhere. Ready only while the thread lives and beats."""
        with self._lock:
            stage, detail, error = self._stage, self._detail, self._error
            waiting, running, free = self._counts
            waiting += max(0, self._unseen - free)
            running += min(self._unseen, free)
            unet_calls = self._unet_calls
        reason = str(error) if error else ""
        if self._is_lost():
            stage, reason = Stage.FAILED, BROKEN
        elif stage is Stage.READY and not self._is_screen_healthy:
            stage, reason = Stage.FAILED, "The safety checker does not answer, so no pictures are shown."
        return BackendStatus(stage, self._info, reason, waiting, running, detail, unet_calls=unet_calls)

    def _is_lost(self) -> bool:
        """Whether the engine's thread, once ready, has ended without a word, or hangs in a step."""
        if self._stage is not Stage.READY:
            return False
        is_dead = self._thread is None or not self._thread.is_alive()
        return is_dead or self.heartbeat_age_s > max(STUCK_AFTER_S, 10 * self._slowest_step_s)

    async def generate(self, admitted: AdmittedRequest) -> AsyncIterator[Update]:
        """See `Backend.generate`. Closing the iterator cancels the request."""
        waiter = _Waiter(admitted, asyncio.get_running_loop())
        self._enlist(waiter)
        try:
            while True:
                try:
                    update = await asyncio.wait_for(waiter.updates.get(), BEAT_S)
                except TimeoutError:
                    if self._is_lost():
                        raise EngineFailed(BROKEN) from None
                    continue
                if isinstance(update, SpaceError):
                    raise update
                yield update
                if isinstance(update, GenerationResult | RequestFailed):
                    return
        finally:
            self.cancel(admitted.request_id)

    def cancel(self, request_id: str) -> None:
        """Frees the request's rows at the next step; finished and unknown ones are left alone."""
        with self._lock:
            is_known = request_id in self._waiters
        if is_known:
            self._inbox.put(request_id)

    def close(self, timeout_s: float) -> None:
        """Refuses new requests, lets running ones finish for `timeout_s`, cancels the rest and joins the thread.

        A model that is still loading is not waited for. A second call may shorten the first one's time.
        """
        until_s = time.monotonic() + timeout_s
        with self._lock:
            self._is_closing = True
            self._drain_until_s = min(self._drain_until_s, until_s)
            is_serving = self._stage is Stage.READY
        if self._thread is None:
            return
        self._lived_s.stop()
        self._inbox.put(None)
        if not is_serving:
            self._end(Stage.STOPPED, EngineFailed(STOPPED))
        self._thread.join((timeout_s if is_serving else 0.0) + BEAT_S)
        if self._thread.is_alive():  # it hangs in a step, or in a library that it imports
            self._end(Stage.STOPPED, EngineFailed(STOPPED))

    def _enlist(self, waiter: _Waiter) -> None:
        with self._lock:
            if self._is_closing:
                raise EngineFailed(STOPPED)
            if self._error is not None:
                raise self._error
            if self._is_lost():
                raise EngineFailed(BROKEN)
            waiting, _, free = self._counts
            waiting += max(0, self._unseen - free)
            if waiting >= self._settings.max_queue and self._unseen >= free:
                raise QueueFull(f"{waiting} requests are waiting already; please come back in a few minutes.")
            self._waiters[waiter.admitted.request_id] = waiter
            self._unseen += 1
        self._inbox.put(waiter)

    # What follows runs in the engine's thread.

    def _own_the_engine(self) -> None:
        try:
            engine = self._load()
            while True:
                try:
                    while self._take_messages(engine):
                        self._step(engine)
                    break
                except Exception as error:
                    engine = self._rebuilt(error)
            self._end(Stage.STOPPED, EngineFailed(STOPPED))
        except SpaceError as error:
            if self._is_closing:
                self._end(Stage.STOPPED, EngineFailed(STOPPED))
                return
            logger.error("no pictures can be made: %s", getattr(error, "operator_hint", error))
            self._end(Stage.FAILED, error)
        except Exception as error:
            logger.error("the engine's thread ended:\n%s", described(error))
            self._end(Stage.FAILED, ModelUnavailable(BROKEN))

    def _load(self) -> "Engine":
        loaded = load(self._settings, self._set_stage, self._set_detail)
        engine = build_engine(loaded, self._settings, self._set_stage)
        self._stop_if_closing()
        logger.info("%s is ready on %s, %d pictures a call", loaded.info.model, loaded.info.device, engine.width)
        with self._lock:
            self._info, self._stage, self._detail = self._placed(loaded), Stage.READY, ""
            self._counts = engine.counts()
            self._slowest_step_s = engine.times.slowest_s
        self._loaded = loaded
        return engine

    def _rebuilt(self, error: Exception) -> "Engine":
        """A fresh engine over the same model, after a step that failed as a whole; its visitors are told.

        Raises `error` where that is no use: the device is lost, or no picture was finished since the last time.
        """
        if is_device_lost(error) or not self._has_finished_any:
            raise error
        logger.error("the engine failed and is built anew:\n%s", described(error))
        self._has_finished_any = False
        with self._lock:
            request_ids = list(self._waiters)
        for request_id in request_ids:
            self._deliver(request_id, EngineFailed(FAILED), is_last=True)
        engine = build_engine(self._loaded, self._settings)
        with self._lock:
            self._counts = engine.counts()
        return engine

    @staticmethod
    def _placed(loaded: "LoadedPipeline") -> ModelInfo:
        """What is known of the model, with the memory profile that is in force now."""
        return replace(loaded.info, memory_profile=loaded.placement.profile.name)

    def _take_messages(self, engine: "Engine") -> bool:
        """Hands the inbox to the engine, waiting a beat if there is nothing else to do. False: the thread is to end."""
        while True:
            self._beat_s = self._lived_s()
            try:
                message = self._inbox.get(timeout=BEAT_S) if engine.is_idle else self._inbox.get_nowait()
            except queue.Empty:
                if engine.is_idle:
                    continue
                return True
            match message:
                case _Waiter(admitted=admitted):
                    with self._lock:
                        is_waiting = admitted.request_id in self._waiters
                    if is_waiting:
                        engine.add_request(admitted)
                    with self._lock:
                        self._unseen -= 1
                        self._counts = engine.counts()
                case str(request_id):
                    engine.cancel(request_id)
                case None:
                    while not engine.is_idle and time.monotonic() < self._drain_until_s:
                        self._step(engine)
                    return False

    def _step(self, engine: "Engine") -> None:
        began_s = self._lived_s()
        updates = engine.step()
        self._beat_s = self._lived_s()
        if self._beat_s - began_s < STUCK_AFTER_S:  # one that hung says nothing of the next
            self._slowest_step_s = max(self._slowest_step_s, self._beat_s - began_s)
        with self._lock:
            self._counts = engine.counts()
            self._unet_calls = dict(engine.unet_calls)
            self._is_screen_healthy = engine.is_healthy
            if self._info.memory_profile != self._loaded.placement.profile.name:
                self._info = self._placed(self._loaded)
        for update in updates:
            self._has_finished_any |= isinstance(update, GenerationResult)
            self._deliver(update.request_id, update, isinstance(update, GenerationResult | RequestFailed))

    def _deliver(self, request_id: str, update: Update | SpaceError, is_last: bool) -> None:
        with self._lock:
            waiter = self._waiters.pop(request_id, None) if is_last else self._waiters.get(request_id)
        if waiter is None:
            return
        try:
            waiter.loop.call_soon_threadsafe(waiter.updates.put_nowait, update)
        except RuntimeError:  # the caller's event loop is closed: nobody will ever read this
            self.cancel(request_id)

    def _set_stage(self, stage: Stage) -> None:
        self._stop_if_closing()
        logger.info("%s", stage)
        with self._lock:
            self._stage, self._detail = stage, ""
            waiters = list(self._waiters.values())
        self._beat_s = self._lived_s()
        for place, waiter in enumerate(waiters, start=1):
            request = waiter.admitted.request
            steps, pictures = request.num_inference_steps, request.num_images_per_prompt
            progress = Progress(waiter.admitted.request_id, place, 0, steps, 0, pictures)
            self._deliver(waiter.admitted.request_id, progress, is_last=False)

    def _set_detail(self, detail: str) -> None:
        self._stop_if_closing()
        with self._lock:
            self._detail = detail
        self._beat_s = self._lived_s()

    def _stop_if_closing(self) -> None:
        if self._is_closing:
            raise EngineFailed(STOPPED)

    def _end(self, stage: Stage, error: SpaceError) -> None:
        """Nobody is left waiting for a thread that is gone."""
        with self._lock:
            self._stage, self._error, self._unseen = stage, error, 0
            self._counts = (0, 0, 0)
            request_ids = list(self._waiters)
        for request_id in request_ids:
            self._deliver(request_id, error, is_last=True)
