"""Draws on one of several engines in other processes, and draws again on another where one is lost.

Each request goes to the least busy engine. One whose engine is lost runs again with the same seeds; its caller keeps
the pictures that it has, and reads why it takes longer. A request may be what an engine dies of: one that has lost two
runs again while nothing else does, so that only its own faults can make it be given up.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Iterable
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

from sd_space.backends import STOPPED
from sd_space.errors import Cancelled, EngineFailed, ModelUnavailable, SpaceError
from sd_space.languages import Phrase
from sd_space.schema import (
    AdmittedRequest,
    BackendStatus,
    GenerationResult,
    PictureFinished,
    Progress,
    PromptTokenizer,
    RequestFailed,
    Stage,
    Update,
)

T = TypeVar("T")

logger = logging.getLogger(__name__)

ATTEMPTS = 4  # times that a request is begun
SHARED_ATTEMPTS = 2  # of them, those beside other requests
LOOK_S = 1.0  # how often a request that waits looks whether there is still something to wait for
TURN_LOOK_S = 0.05  # how often one looks whether it may be sent
LOST_S = 120.0  # after so long without any replica, requests fail
AGAIN = Phrase(
    "A machine stopped while it was drawing your pictures; they are drawn again on another, with the same seeds."
)
LOST = Phrase("The machines that draw have been lost, and none came back in time; please try again later.")
GIVEN_UP = Phrase(
    "The machine stopped each time that it drew these pictures; please ask for other ones, or try again later."
)


@dataclass(slots=True, eq=False)
class _Call:
    """One unfinished request, and the pictures that its caller has already."""

    admitted: AdmittedRequest
    loop: asyncio.AbstractEventLoop
    began_lived_s: float
    began_s: float = field(default_factory=time.monotonic)
    attempt: int = 0
    is_sent: bool = False  # to an engine
    is_running: bool = False
    delivered: dict[int, PictureFinished] = field(default_factory=dict)
    is_over: asyncio.Event = field(default_factory=asyncio.Event)
    ended_by: SpaceError | None = None  # set before `is_over`, by a cancel or by `close`

    def end(self, error: SpaceError) -> None:
        """From any thread."""
        self.ended_by = error
        with contextlib.suppress(RuntimeError):  # the caller's event loop is closed, so no one waits
            self.loop.call_soon_threadsafe(self.is_over.set)


class ReplicaLost(EngineFailed):
    """The replica, or the connection to it, failed during a request; another one may succeed."""

    def __init__(self, reason: str):
        super().__init__(LOST)
        self.reason = reason  # for the log


class Replicas(Protocol):
    """The engines behind a page, wherever they are."""

    def start(self) -> None:
        """Begins to start or to join them, and returns at once."""

    def status(self) -> BackendStatus:
        """Ready while at least one of them runs. `running` is what they say of this page's requests, if they do."""

    def tokenizer(self) -> PromptTokenizer | None:
        """See `Backend.tokenizer`."""

    def stream(self, admitted: AdmittedRequest) -> AsyncGenerator[Update]:
        """The request's updates from the least busy one; waits until there is one. Closing it frees the device.

        Raises ReplicaLost, or a SpaceError.
        """

    def now_s(self) -> float:
        """A clock that stands still while this process is paused."""

    def seconds_without_replica(self, since_s: float) -> float:
        """How long none has run, counted from `since_s` (a value of `now_s`) at the earliest."""

    def stop(self) -> None:
        """From now on the status is STOPPED."""

    def leave(self) -> None:
        """Ends those that were started here, and waits for what it has started."""


class ReplicatedBackend:
    """Implements `backends.Backend` on replicas."""

    def __init__(self, replicas: Replicas):
        self._replicas = replicas
        self._lock = threading.Lock()  # guards all that follows; held for moments only
        self._calls: dict[str, _Call] = {}  # by request_id
        self._reruns = 0
        self._is_closing = False
        self._close_at_s = float("inf")

    def start(self) -> None:
        """See `Backend.start`."""
        self._replicas.start()

    def status(self) -> BackendStatus:
        """Ready while at least one replica runs, as was known a moment ago."""
        status = self._replicas.status()
        with self._lock:
            begun = sum(call.is_running for call in self._calls.values())
            running = min(len(self._calls), max(begun, status.running))
            return replace(status, waiting=len(self._calls) - running, running=running, reruns=self._reruns)

    def tokenizer(self) -> PromptTokenizer | None:
        """See `Backend.tokenizer`."""
        return self._replicas.tokenizer()

    async def generate(self, admitted: AdmittedRequest) -> AsyncGenerator[Update]:
        """See `Backend.generate`. A picture that the caller has already is not sent again when its request reruns."""
        call = _Call(admitted, asyncio.get_running_loop(), self._replicas.now_s())
        with self._lock:
            if self._is_closing:
                raise EngineFailed(STOPPED)
            self._calls[admitted.request_id] = call
        try:
            while True:
                try:
                    async with contextlib.aclosing(self._attempt(call)) as updates:
                        async for update in updates:
                            yield update
                    return
                except ReplicaLost as lost:
                    logger.warning("request %s lost its replica: %s", admitted.request_id, lost.reason)
                    self._take_loss(call)
        except Cancelled as error:
            yield RequestFailed(admitted.request_id, error)
        finally:
            with self._lock:
                del self._calls[admitted.request_id]

    def cancel(self, request_id: str) -> None:
        """Frees the rows on the replica at its next step; ignores finished and unknown requests."""
        with self._lock:
            call = self._calls.get(request_id)
        if call is not None:
            call.end(Cancelled("Cancelled; the device is free."))

    def close(self, timeout_s: float) -> None:
        """See `Backend.close`."""
        with self._lock:
            self._is_closing = True
            self._close_at_s = min(self._close_at_s, time.monotonic() + timeout_s)  # a second call may shorten it
        while self._calls and time.monotonic() < self._close_at_s:
            time.sleep(0.05)
        self._replicas.stop()
        with self._lock:
            calls = list(self._calls.values())
        for call in calls:
            call.end(EngineFailed(STOPPED))
        self._replicas.leave()

    def _take_loss(self, call: _Call) -> None:
        """Raises EngineFailed where the request is not run again."""
        with self._lock:
            call.is_sent = call.is_running = False
            call.attempt += 1
            if call.attempt >= ATTEMPTS:
                raise EngineFailed(GIVEN_UP)
            self._reruns += 1

    def _send(self, call: _Call) -> bool:
        """Whether the request may be sent now. One that must run alone goes before all that are not sent yet."""
        with self._lock:
            alone = next((each for each in self._calls.values() if each.attempt >= SHARED_ATTEMPTS), None)
            is_anything_sent = any(each.is_sent for each in self._calls.values())
            call.is_sent = alone is None or (alone is call and not is_anything_sent)
            return call.is_sent

    async def _until_sent(self, call: _Call) -> None:
        while not self._send(call):
            await asyncio.sleep(TURN_LOOK_S)

    async def _attempt(self, call: _Call) -> AsyncGenerator[Update]:
        """The request on one replica. Raises ReplicaLost where another replica may succeed, else a SpaceError."""
        note = AGAIN if call.attempt else ""
        if note or not self._send(call):
            pictures = call.admitted.request.num_images_per_prompt
            yield Progress(call.admitted.request_id, 1, 0, 1, len(call.delivered), pictures, note=note)
            await self._race_with_cancel(call, self._until_sent(call))
        async with contextlib.aclosing(self._replicas.stream(call.admitted)) as stream:
            while True:
                received = await self._race_with_cancel(call, anext(stream, None))
                if received is None:
                    raise ReplicaLost("its updates ended without a result")
                update = _dedupe_update(call, received, note)
                if update is not None:
                    yield update
                if isinstance(received, GenerationResult | RequestFailed):
                    return

    async def _race_with_cancel(self, call: _Call, step: Awaitable[T]) -> T:
        """The result of `step`. Raises a SpaceError if the call ends before, or if there is no replica for too long."""
        done, over = asyncio.ensure_future(step), asyncio.ensure_future(call.is_over.wait())
        done.add_done_callback(lambda future: future.cancelled() or future.exception())  # else asyncio may log it
        try:
            while not done.done() and not over.done():
                await asyncio.wait({done, over}, timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED)
                status = self._replicas.status()
                if status.stage is Stage.FAILED:
                    raise ModelUnavailable(status.reason)
                if self._replicas.seconds_without_replica(call.began_lived_s) > LOST_S:
                    raise EngineFailed(LOST)
            if call.ended_by is not None:
                raise call.ended_by
            return done.result()
        finally:
            over.cancel()
            done.cancel()
            if not done.done():
                await asyncio.wait({done})  # a generator can be closed only once its last step is over


def shortest(outlooks_s: Iterable[float | None]) -> float | None:
    """The outlook of the replica that is done first: a request goes to the least busy one."""
    return min((seconds for seconds in outlooks_s if seconds is not None), default=None)


def _dedupe_update(call: _Call, update: Update, note: str) -> Update | None:
    """Adds the note about the rerun, and replaces pictures already sent by the copies that the caller has."""
    match update:
        case Progress():
            call.is_running = not update.queue_position
            return replace(
                update, note=note or update.note, pictures_done=max(update.pictures_done, len(call.delivered))
            )
        case PictureFinished():
            if update.index in call.delivered:
                return None
            call.delivered[update.index] = update
        case GenerationResult():
            elapsed_s = {**update.elapsed_s, "total": time.monotonic() - call.began_s}
            pictures = [call.delivered[index] for index in range(len(update.images))]
            devices = tuple(picture.device for picture in pictures if picture.device)
            images = tuple(picture.image for picture in pictures)
            return replace(update, images=images, elapsed_s=elapsed_s, devices=devices)
    return update
