"""The one thread that owns the engine and the device. Other threads put messages into its inbox.

It imports torch and diffusers, loads the model and then steps while there is work. Updates go to each caller's event
loop through `call_soon_threadsafe`, so neither side ever waits for the other.
"""

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from sd_space.backends import STOPPED
from sd_space.backends.compiling import compile_size
from sd_space.backends.heartbeat import Heartbeat
from sd_space.backends.loading import IdleWork, assemble_engine, device_of, load, make_outlook
from sd_space.backends.update_stream import Stream
from sd_space.devices import Device
from sd_space.errors import EngineFailed, ModelUnavailable, SpaceError
from sd_space.languages import Phrase
from sd_space.runtime_errors import GENERATION_FAILED, is_device_lost, traceback_without_message
from sd_space.schema import (
    AdmittedRequest,
    BackendStatus,
    GenerationResult,
    Progress,
    PromptTokenizer,
    RequestFailed,
    Stage,
)
from sd_space.served_model import ModelInfo
from sd_space.settings import Settings

if TYPE_CHECKING:
    from sd_space.engine.engine import Engine

logger = logging.getLogger(__name__)

HEARTBEAT_S = 1.0  # the longest time between two heartbeats of an idle thread
BROKEN = Phrase("The model stopped working, so no pictures can be made; the operator has been told.")
_DONE = object()
CHECKER_HANGS = Phrase("The safety checker does not answer, so no pictures are shown.")


class EngineThread:
    """Owns one engine. All methods without an underscore may be called from any thread."""

    def __init__(self, settings: Settings):
        self._settings = settings
        # A string cancels the request of that id, and `None` wakes the thread up.
        self._inbox: queue.SimpleQueue[AdmittedRequest | str | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._heartbeat = Heartbeat()
        self._has_finished_any = False  # since the engine was built
        self._devices: tuple[Device, ...] = ()  # the one, once there is an engine
        self._lock = threading.Lock()  # guards all that follows; held for moments only
        self._stage, self._detail = Stage.STARTING, ""
        self._info: ModelInfo | None = None
        self._tokenizer: PromptTokenizer | None = None
        self._outlook_s: float | None = None
        self._error: SpaceError | None = None
        self._streams: dict[str, Stream] = {}  # of all unfinished requests, by request_id
        self._running = 0  # of them, those that are being drawn
        self._unet_calls: dict[int, tuple[int, float]] = {}
        self._is_screen_healthy = True
        self._is_closing = False
        self._drain_until_s = float("inf")

    def start(self) -> None:
        """Starts the thread; returns at once."""
        self._heartbeat.start()
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def is_lost(self) -> bool:
        """Whether the thread, once ready, has ended without a message, or hangs in a step."""
        if self._stage is not Stage.READY:
            return False
        return not self.is_alive or self._heartbeat.is_overdue

    def status(self) -> BackendStatus:
        """The state of loading, and how many requests wait and run."""
        with self._lock:
            status = BackendStatus(
                self._stage,
                self._info,
                str(self._error or ""),
                max(0, len(self._streams) - self._running),
                self._running,
                self._detail,
                unet_calls=self._unet_calls,
                devices=self._devices,
                outlook_s=self._outlook_s,
            )
        if self.is_lost():
            return replace(status, stage=Stage.FAILED, reason=BROKEN)
        if status.is_ready and not self._is_screen_healthy:
            return replace(status, stage=Stage.FAILED, reason=CHECKER_HANGS)
        return status

    def tokenizer(self) -> PromptTokenizer | None:
        """The model's, once that is loaded."""
        return self._tokenizer

    def submit(self, stream: Stream) -> None:
        """Adds the stream's request; it waits until the model is loaded. Raises a SpaceError if that is impossible."""
        with self._lock:
            if self._is_closing:
                raise EngineFailed(STOPPED)
            if self._error is not None:
                raise self._error
            if self.is_lost():
                raise EngineFailed(BROKEN)
            self._streams[stream.admitted.request_id] = stream
        self._inbox.put(stream.admitted)

    def cancel(self, request_id: str) -> None:
        """Frees the request's rows at the next step; ignores finished and unknown requests."""
        with self._lock:
            is_known = request_id in self._streams
        if is_known:
            self._inbox.put(request_id)

    def close(self, timeout_s: float) -> None:
        """Refuses new requests, lets running ones finish for `timeout_s`, cancels the rest and joins the thread.

        Does not wait for a model that is still loading. A second call may shorten the first one's time.
        """
        until_s = time.monotonic() + timeout_s
        with self._lock:
            self._is_closing = True
            self._drain_until_s = min(self._drain_until_s, until_s)
            is_serving = self._stage is Stage.READY
        if self._thread.ident is None:  # not started
            return
        self._heartbeat.stop()
        self._inbox.put(None)
        if not is_serving:
            self._end(Stage.STOPPED, EngineFailed(STOPPED))
        self._thread.join((timeout_s if is_serving else 0.0) + HEARTBEAT_S)
        if self.is_alive:  # it hangs in a step, or in the import of a library
            self._end(Stage.STOPPED, EngineFailed(STOPPED))

    # What follows runs in the engine's thread.

    def _run(self) -> None:
        failure: SpaceError = EngineFailed(STOPPED)
        try:
            engine = self._load()
            while not self._serve(engine):
                del engine  # frees what it holds of the device before another one needs it
                engine = self._rebuild()
        except SpaceError as error:
            failure = error
            if not self._is_closing:
                logger.error("no pictures can be made: %s", getattr(error, "operator_hint", error))
        except Exception as error:
            failure = ModelUnavailable(BROKEN)
            logger.error("the engine's thread ended:\n%s", traceback_without_message(error))
        if self._is_closing:
            self._end(Stage.STOPPED, EngineFailed(STOPPED))
        else:
            self._end(Stage.FAILED, failure)

    def _load(self) -> "Engine":
        self._loaded = load(self._settings, self._set_stage, self._set_detail)
        engine = self._assemble(self._set_stage)
        self._stop_if_closing()
        info = self._loaded.current_info
        self._heartbeat.expect(engine.times.slowest_s)
        logger.info("%s is ready on %s, %d pictures a call", info.model, info.device, engine.width)
        with self._lock:
            self._info, self._tokenizer = info, self._loaded.prompt_tokenizer()
            self._stage, self._detail = Stage.READY, ""
        return engine

    def _assemble(self, on_stage: Callable[[Stage], None] = lambda stage: None) -> "Engine":
        engine, self._measuring = assemble_engine(self._loaded, self._settings, on_stage)
        self._outlook = make_outlook(self._loaded)
        self._is_measuring = True
        self._devices = (device_of(self._loaded, engine),)
        return engine

    def _serve(self, engine: "Engine") -> bool:
        """Steps until the thread is to end: True. False after a step that failed as a whole, if a new engine may help.

        Raises the step's error if it does not: the device is lost, or no picture was finished since the last time.
        """
        try:
            while not self._is_drained(engine):
                self._read_inbox(engine)
                if not engine.is_idle:
                    self._step(engine)
                    self._is_measuring = True  # what is new may be drawn faster the next time
                elif self._is_measuring:  # a step at a time
                    self._is_measuring = next(self._measuring, _DONE) is not _DONE
            return True
        except Exception as error:
            if is_device_lost(error) or not self._has_finished_any or self._is_closing:
                raise
            logger.error("the engine failed and is built anew:\n%s", traceback_without_message(error))
            return False

    def _is_drained(self, engine: "Engine") -> bool:
        """Whether the thread is to end: it is closed, and its requests are finished or their time is over."""
        if not self._is_closing:
            return False
        return (engine.is_idle and self._inbox.empty()) or time.monotonic() >= self._drain_until_s

    def _rebuild(self) -> "Engine":
        """A new engine over the same model. The requests of the one that failed end with a sentence."""
        self._has_finished_any, self._measuring = False, IdleWork(iter(()), lambda: iter(()))
        self._end_all(EngineFailed(GENERATION_FAILED))
        engine = self._assemble()
        engine.unet_calls = dict(self._unet_calls)  # counters that operators see must not fall
        return engine

    def _read_inbox(self, engine: "Engine") -> None:
        """Hands all messages to the engine; while that has nothing to do, waits for one until the next heartbeat."""
        now_s, profile = self._heartbeat.beat(), self._loaded.placement.profile
        self._devices = (replace(*self._devices, memory_profile=profile.name, width=engine.width),)
        self._outlook_s = self._outlook.seconds(engine.batcher, engine.times, now_s)
        may_wait = engine.is_idle and not self._is_closing and not self._is_measuring
        with contextlib.suppress(queue.Empty):
            message = self._inbox.get(may_wait, HEARTBEAT_S)
            while True:
                self._handle(message, engine)
                message = self._inbox.get_nowait()

    def _handle(self, message: AdmittedRequest | str | None, engine: "Engine") -> None:
        match message:
            case AdmittedRequest():
                with self._lock:
                    stream = self._streams.get(message.request_id)
                if stream is not None:
                    compile_size(self._loaded, stream, self._heartbeat)
                    engine.add_request(message)
            case str(request_id):
                engine.cancel(request_id)
        with self._lock:
            _, self._running = engine.counts()

    def _step(self, engine: "Engine") -> None:
        began_s = self._heartbeat.beat()
        updates = engine.step()
        self._heartbeat.expect(self._heartbeat.beat() - began_s)
        with self._lock:
            streams = [self._streams.get(update.request_id) for update in updates]
            for update in updates:
                if isinstance(update, GenerationResult | RequestFailed):
                    self._streams.pop(update.request_id, None)
                    self._has_finished_any |= isinstance(update, GenerationResult)
            _, self._running = engine.counts()
            self._unet_calls = dict(engine.unet_calls)
            self._is_screen_healthy = engine.is_healthy
            self._info = self._loaded.current_info
        for stream, update in zip(streams, updates, strict=True):
            if stream is not None and not stream.send(update):
                self.cancel(update.request_id)

    def _set_stage(self, stage: Stage) -> None:
        self._stop_if_closing()
        logger.info("%s", stage)
        with self._lock:
            self._stage, self._detail = stage, ""
            streams = list(self._streams.values())
        self._heartbeat.beat()
        for position, stream in enumerate(streams, start=1):
            request = stream.admitted.request
            steps, pictures = request.num_inference_steps, request.num_images_per_prompt
            stream.send(Progress(stream.admitted.request_id, position, 0, steps, 0, pictures))

    def _set_detail(self, detail: str) -> None:
        self._stop_if_closing()
        with self._lock:
            self._detail = detail
        self._heartbeat.beat()

    def _stop_if_closing(self) -> None:
        if self._is_closing:
            raise EngineFailed(STOPPED)

    def _end(self, stage: Stage, error: SpaceError) -> None:
        with self._lock:
            self._stage, self._error = stage, error
        self._end_all(error)

    def _end_all(self, error: SpaceError) -> None:
        """Ends every unfinished request with `error`."""
        with self._lock:
            streams, self._streams, self._running = list(self._streams.values()), {}, 0
        for stream in streams:
            stream.send(error)
