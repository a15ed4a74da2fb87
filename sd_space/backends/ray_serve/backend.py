"""The page's backend: streams requests from the replicas, and runs one again if its replica is lost.

The page stays one process. Each request goes to the least busy replica; one whose replica is lost runs again on
another, with the same seeds.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import AsyncGenerator, Awaitable
from dataclasses import dataclass, field, replace
from typing import TypeVar

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from sd_space.backends import STOPPED
from sd_space.backends.ray_serve.cluster import POLL_S, Cluster
from sd_space.errors import Cancelled, EngineFailed, ModelUnavailable, SpaceError
from sd_space.schema import (
    AdmittedRequest,
    BackendStatus,
    GenerationResult,
    PictureFinished,
    Progress,
    RequestFailed,
    ScreenedImage,
    Stage,
    Update,
)
from sd_space.settings import Settings

T = TypeVar("T")

logger = logging.getLogger(__name__)

ATTEMPTS = 4  # times that a request is begun
LOST_S = 120.0  # after so long without any replica, requests fail
AGAIN = "A machine stopped while it was drawing your pictures; they are drawn again on another, with the same seeds."
LOST = "The machines that draw have been lost, and none came back in time; please try again later."


@dataclass(slots=True, eq=False)
class _Call:
    """One unfinished request, and the pictures that its caller has already."""

    admitted: AdmittedRequest
    loop: asyncio.AbstractEventLoop
    began_lived_s: float
    began_s: float = field(default_factory=time.monotonic)
    is_running: bool = False
    delivered: dict[int, ScreenedImage] = field(default_factory=dict)
    is_over: asyncio.Event = field(default_factory=asyncio.Event)
    ended_by: SpaceError | None = None  # set before `is_over`, by a cancel or by `close`

    def end(self, error: SpaceError) -> None:
        """From any thread."""
        self.ended_by = error
        with contextlib.suppress(RuntimeError):  # the caller's event loop is closed, so no one waits
            self.loop.call_soon_threadsafe(self.is_over.set)


class _ReplicaLost(Exception):
    """The replica, or the connection to it, failed during a request."""


class RayServeBackend:
    """Implements `backends.Backend`."""

    def __init__(self, settings: Settings):
        self._cluster = Cluster(settings)
        self._lock = threading.Lock()  # guards all that follows; held for moments only
        self._calls: dict[str, _Call] = {}  # by request_id
        self._reruns = 0
        self._is_closing = False

    def prepare(self) -> None:
        """Does nothing: the page can be served before the cluster is up."""

    def start(self) -> None:
        """See `Cluster.start`."""
        self._cluster.start()

    def status(self) -> BackendStatus:
        """Ready while at least one replica runs, as the cluster said a moment ago."""
        with self._lock:
            running = sum(call.is_running for call in self._calls.values())
            waiting, reruns = len(self._calls) - running, self._reruns
        return replace(self._cluster.status(), waiting=waiting, running=running, reruns=reruns)

    async def generate(self, admitted: AdmittedRequest) -> AsyncGenerator[Update]:
        """See `Backend.generate`. A picture that the caller has already is not sent again when its request reruns."""
        call = _Call(admitted, asyncio.get_running_loop(), self._cluster.now_s())
        with self._lock:
            if self._is_closing:
                raise EngineFailed(STOPPED)
            self._calls[admitted.request_id] = call
        try:
            for attempt in range(ATTEMPTS):
                try:
                    async with contextlib.aclosing(self._attempt(call, AGAIN if attempt else "")) as updates:
                        async for update in updates:
                            yield update
                    return
                except _ReplicaLost as lost:
                    logger.warning("request %s lost its replica: %s", admitted.request_id, lost)
                    if attempt == ATTEMPTS - 1:
                        raise EngineFailed(LOST) from None
                with self._lock:
                    self._reruns += 1
                pictures = admitted.request.num_images_per_prompt
                yield Progress(admitted.request_id, 1, 0, 1, len(call.delivered), pictures, note=AGAIN)
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
        """Refuses new requests, lets running ones finish for `timeout_s`, and leaves the cluster.

        A cluster that was started here ends with it; one that was joined keeps its replicas for the next page.
        """
        deadline_s = time.monotonic() + timeout_s
        with self._lock:
            self._is_closing = True
        while self._calls and time.monotonic() < deadline_s:
            time.sleep(0.05)
        self._cluster.stop()
        with self._lock:
            calls = list(self._calls.values())
        for call in calls:
            call.end(EngineFailed(STOPPED))
        self._cluster.leave()

    async def _attempt(self, call: _Call, note: str) -> AsyncGenerator[Update]:
        """The request on one replica. Raises _ReplicaLost where another replica may succeed, else a SpaceError."""
        while (handle := self._cluster.handle) is None:
            await self._race_with_cancel(call, asyncio.sleep(0.1))
        stream = handle.generate.remote(call.admitted)
        has_ended = False
        try:
            while not has_ended:
                update = _dedupe_update(call, await self._race_with_cancel(call, anext(stream)), note)
                has_ended = isinstance(update, GenerationResult | RequestFailed)
                if update is not None:
                    yield update
        except (RayError, RayServeException, StopAsyncIteration) as error:
            has_ended = True
            raise _ReplicaLost(type(error).__name__) from None
        finally:
            if not has_ended:
                call.loop.run_in_executor(None, stream.cancel)  # waits a moment for the router

    async def _race_with_cancel(self, call: _Call, step: Awaitable[T]) -> T:
        """The result of `step`. Raises a SpaceError if the call ends before, or if there is no replica for too long."""
        done, over = asyncio.ensure_future(step), asyncio.ensure_future(call.is_over.wait())
        done.add_done_callback(lambda future: future.cancelled() or future.exception())  # else asyncio may log it
        try:
            while not done.done() and not over.done():
                await asyncio.wait({done, over}, timeout=POLL_S, return_when=asyncio.FIRST_COMPLETED)
                status = self._cluster.status()
                if status.stage is Stage.FAILED:
                    raise ModelUnavailable(status.reason)
                if self._cluster.seconds_without_replica(call.began_lived_s) > LOST_S:
                    raise EngineFailed(LOST)
            if call.ended_by is not None:
                raise call.ended_by
            return done.result()
        finally:
            done.cancel()
            over.cancel()


def _dedupe_update(call: _Call, update: Update, note: str) -> Update | None:
    """Adds the note about the rerun, and replaces pictures already sent by the copies that the caller has."""
    match update:
        case Progress():
            call.is_running = not update.queue_position
            return replace(update, note=note, pictures_done=max(update.pictures_done, len(call.delivered)))
        case PictureFinished():
            if update.index in call.delivered:
                return None
            call.delivered[update.index] = update.image
        case GenerationResult():
            elapsed_s = {**update.elapsed_s, "total": time.monotonic() - call.began_s}
            images = tuple(call.delivered[index] for index in range(len(update.images)))
            return replace(update, images=images, elapsed_s=elapsed_s)
    return update
