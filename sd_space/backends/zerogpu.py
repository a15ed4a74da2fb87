"""Draws on GPUs that the Hub lends by the call: one `@spaces.GPU` call runs the engine for one request.

`spaces` must be imported before torch, which it patches to hold weights for a GPU that is not there yet. A call forks
this process; the child has the weights on a real GPU, and what it yields is pickled: screened pictures and
mosaics, never raw pixels. Outside of a ZeroGPU Space `spaces` changes nothing, and the function runs in this process.
"""

import asyncio
import contextlib
import contextvars
import logging
import math
import re
import threading
import time
from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import spaces

from sd_space.backends import STOPPED
from sd_space.backends.loading import build_engine, load
from sd_space.backends.update_stream import UpdateStream
from sd_space.engine.batcher import BatchKey
from sd_space.engine.step_times import StepTimes
from sd_space.errors import Cancelled, EngineFailed, InvalidRequest, QueueFull, SafetyCheckFailed, SpaceError
from sd_space.languages import Phrase
from sd_space.request import GenerationRequest
from sd_space.schema import (
    AdmittedRequest,
    BackendStatus,
    Inspection,
    PromptTokenizer,
    RequestFailed,
    Stage,
    Update,
)
from sd_space.served_model import ModelInfo
from sd_space.settings import Settings

if TYPE_CHECKING:
    from sd_space.engine.engine import Engine
    from sd_space.model.pipeline import LoadedPipeline

logger = logging.getLogger(__name__)

START_S = 8.0  # an estimate: a new child moves 3 GB of weights to the GPU and tests the safety checker
MARGIN = 1.5  # on the expected time: a call that takes longer may be ended, and the visitor's quota is charged anyway
WIDTH = 4  # a call draws one request, so its pictures share every UNet call

# A child inherits these by the fork. Where calls fork, the parent never holds `_device`.
_served: "tuple[LoadedPipeline, Settings]"  # from `start` on
_engine: "Engine | None" = None
_device = threading.Lock()


@spaces.GPU(duration=lambda admitted, duration_s: duration_s)
def _draw(admitted: AdmittedRequest, duration_s: int) -> Generator[tuple[list[Update], StepTimes | None]]:
    """Yields the updates of each step, even if there are none: between two yields `spaces` looks for a cancel.

    The last item has the measured times. Whatever ends this, the engine is idle afterwards.
    """
    global _engine
    with _device:
        try:
            _engine = _engine or build_engine(*_served)
        except SpaceError as error:
            yield [RequestFailed(admitted.request_id, error)], None
            return
        _engine.add_request(admitted)
        try:
            while not _engine.is_idle:
                updates = _engine.step()
                yield updates, _engine.times if _engine.is_idle else None
        finally:
            _engine.cancel(admitted.request_id)
            while not _engine.is_idle:
                _engine.step()


def seconds_to_ask_for(
    request: GenerationRequest,
    num_timesteps: int,
    times: StepTimes | None,
    stated_step_s: float,
    inspection: Inspection | None = None,
) -> int:
    """Whole seconds of GPU time within which `request` is sure to finish; the visitor's quota is charged for them.

    `times` are those of earlier calls; before any, `stated_step_s` is that of one step of one 512 x 512 picture.
    """
    pictures = request.num_images_per_prompt
    key = BatchKey.of(request)
    step_s, finish_s = None, 0.0
    if times is not None:
        step_s, finish_s = times.step_s(key, pictures), times.finish_s(request.height, request.width)
    if step_s is None:
        finish_s = 2 * stated_step_s * request.height * request.width / 512**2
        step_s = pictures * finish_s / 2
    finishes = pictures * (1 + (inspection.most_decodes(num_timesteps) if inspection else 0))
    return math.ceil(START_S + MARGIN * (num_timesteps * step_s + finishes * finish_s))


_QUOTA_UNTIL = Phrase(
    "Your ZeroGPU quota does not cover the {asked_s} s of GPU time asked for; try again in {when}, or ask for fewer "
    "pictures or steps."
)
_QUOTA = Phrase(
    "Your ZeroGPU quota does not cover the {asked_s} s of GPU time asked for; try again later, or ask for fewer "
    "pictures or steps."
)
_TOO_LONG = Phrase(
    "This would take {asked_s} s of GPU time, more than the Hub lends for one call; ask for fewer pictures or steps."
)


def as_refusal(error: Exception, asked_s: int) -> SpaceError:
    """The error that a visitor reads for what `spaces` raised: Gradio errors, which differ by their titles."""
    title, message = getattr(error, "title", ""), str(getattr(error, "message", error))
    if isinstance(error, SpaceError):
        return error
    if title == "ZeroGPU quota exceeded":
        again = re.search(r"Try again in ((?:\d+ days?, )?\d+:\d\d:\d\d)", message)
        values = {"asked_s": asked_s, "when": again[1]} if again else {"asked_s": asked_s}
        return QueueFull(Phrase(_QUOTA_UNTIL if again else _QUOTA, **values))
    if title == "ZeroGPU pending credits exceeded":
        return QueueFull(
            Phrase("Your ZeroGPU quota is taken up by calls that still run; try again when they are done.")
        )
    if title == "ZeroGPU illegal duration":
        return InvalidRequest("num_inference_steps", Phrase(_TOO_LONG, asked_s=asked_s))
    if "proxy token" in message:
        return QueueFull(Phrase("The Hub no longer knows your visit to this page; please reload it."))
    if title in ("ZeroGPU queue timeout", "ZeroGPU client error"):
        return QueueFull(Phrase("No shared GPU became free in time; please try again in a minute."))
    if message.startswith("Connection closed by visitor"):
        return Cancelled("Cancelled; no GPU was used.")
    logger.error("a ZeroGPU call failed with %s: %s", type(error).__name__, title)
    return EngineFailed(Phrase("The shared GPU was taken away before your pictures were finished; please try again."))


@dataclass(slots=True, eq=False)
class _Call:
    """One unfinished request, which a thread of its own follows."""

    stream: UpdateStream
    is_cancelled: threading.Event = field(default_factory=threading.Event)
    has_gpu: bool = False
    thread: threading.Thread = field(init=False)

    @property
    def request_id(self) -> str:
        return self.stream.admitted.request_id

    def send(self, update: Update) -> None:
        if not self.stream.send(update):
            self.is_cancelled.set()

    def fail(self, error: SpaceError) -> None:
        self.send(RequestFailed(self.request_id, error))

    def cancel(self, error: SpaceError) -> None:
        """Ends the caller's iterator at once; the GPU is given back at the next step, or right after it was lent."""
        self.is_cancelled.set()
        self.fail(error)


class ZeroGpuBackend:
    """Implements `backends.Backend`; the Hub decides whose call gets a GPU when."""

    def __init__(self, settings: Settings):
        self._settings = replace(settings, max_batch_size=settings.max_batch_size or WIDTH)
        self._stage = Stage.STARTING
        self._info: ModelInfo | None = None
        self._tokenizer: PromptTokenizer | None = None
        self._error: SpaceError | None = None
        self._times: StepTimes | None = None
        self._lock = threading.Lock()  # guards `_calls`; held for moments only
        self._calls: dict[str, _Call] = {}

    def start(self) -> None:
        """Loads the weights in the main thread: `spaces` packs them for its children when the page launches."""
        global _served
        try:
            loaded = load(self._settings)
            from sd_space.engine.schedules import NoiseSchedules

            self._schedules = NoiseSchedules(loaded.pipeline.scheduler.config)
            self._tokenizer = loaded.prompt_tokenizer()
            _served, self._info, self._stage = (loaded, self._settings), loaded.info, Stage.READY
        except SpaceError as error:
            logger.error("no pictures can be made: %s", getattr(error, "operator_hint", error))
            self._stage, self._error = Stage.FAILED, error

    def status(self) -> BackendStatus:
        """Ready when the weights are loaded; only the Hub knows whether a GPU is free."""
        with self._lock:
            running = sum(call.has_gpu for call in self._calls.values())
            waiting = len(self._calls) - running
        return BackendStatus(self._stage, self._info, str(self._error or ""), waiting, running)

    def tokenizer(self) -> PromptTokenizer | None:
        """See `Backend.tokenizer`."""
        return self._tokenizer

    async def generate(self, admitted: AdmittedRequest) -> AsyncGenerator[Update]:
        """See `Backend.generate`. Closing the iterator cancels the request."""
        call = _Call(UpdateStream(admitted, asyncio.get_running_loop()))
        self._begin(call)
        try:
            async for update in call.stream:
                yield update
        finally:
            call.is_cancelled.set()

    def cancel(self, request_id: str) -> None:
        """Ends the iterator; the GPU is given back at the next step. Ignores finished and unknown requests."""
        with self._lock:
            call = self._calls.get(request_id)
        if call is not None:
            call.cancel(Cancelled("Cancelled; the device is free."))

    def close(self, timeout_s: float) -> None:
        """Refuses new requests, lets running ones finish for `timeout_s` and cancels the rest."""
        deadline_s = time.monotonic() + timeout_s
        with self._lock:
            self._stage, self._error = Stage.STOPPED, EngineFailed(STOPPED)
            calls = list(self._calls.values())
        for call in calls:
            call.thread.join(max(0.0, deadline_s - time.monotonic()))
        for call in calls:
            call.cancel(EngineFailed(STOPPED))

    def _begin(self, call: _Call) -> None:
        # The thread gets the caller's context: in it `spaces` finds the visitor whose quota is charged.
        run = contextvars.copy_context().run
        call.thread = threading.Thread(target=run, args=(self._follow, call), name="zerogpu-call", daemon=True)
        with self._lock:
            if self._error is not None:
                raise self._error
            self._calls[call.request_id] = call
        call.thread.start()

    def _seconds_to_ask_for(self, admitted: AdmittedRequest) -> int:
        request, step_s = admitted.request, self._settings.zerogpu_step_s
        num_timesteps = self._schedules.num_timesteps(request)
        return seconds_to_ask_for(request, num_timesteps, self._times, step_s, admitted.inspection)

    def _follow(self, call: _Call) -> None:
        """Runs in a thread of its own: waits for a GPU, then sends the updates of each step."""
        admitted, asked_s = call.stream.admitted, 0
        try:
            asked_s = self._seconds_to_ask_for(admitted)
            with contextlib.closing(_draw(admitted, asked_s)) as steps:
                for updates, times in steps:
                    call.has_gpu, self._times = True, times or self._times
                    for update in updates:
                        if isinstance(update, RequestFailed) and isinstance(update.error, SafetyCheckFailed):
                            self._stage, self._error = Stage.FAILED, update.error
                        call.send(update)
                    if call.is_cancelled.is_set():
                        break
        except Exception as error:
            call.fail(as_refusal(error, asked_s))
        finally:
            with self._lock:
                del self._calls[call.request_id]
