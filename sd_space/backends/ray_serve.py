"""Draws on several machines: a Ray Serve deployment whose replicas hold a local backend each.

The page stays one process and streams from the replicas through one handle. Each request goes to the least busy
replica; one that is lost in the middle of a request is made up for on another, with the same seeds.
"""

import asyncio
import contextlib
import logging
import os
import random
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.config import RequestRouterConfig
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle
from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from sd_space.backends import until_ready
from sd_space.backends.local import STOPPED, LocalBackend
from sd_space.errors import Cancelled, EngineFailed, ModelUnavailable, QueueFull, SpaceError
from sd_space.lived_time import LivedTime
from sd_space.process_memory import freeze_gc
from sd_space.schema import (
    AdmittedRequest,
    BackendStatus,
    GenerationResult,
    ModelInfo,
    PictureFinished,
    Progress,
    RequestFailed,
    ScreenedImage,
    Stage,
    Update,
)
from sd_space.settings import WIDTHS, Settings

T = TypeVar("T")

logger = logging.getLogger(__name__)

APP = "sd_space"
ATTEMPTS = 4  # times that a request is begun
POLL_S = 1.0
TELL_EVERY_S = 0.5  # a streamed item costs a replica about a millisecond
LOST_S = 120.0  # without a single replica for so long, nobody is kept waiting any more
DRAIN_S = 120.0  # a replica that is replaced finishes its requests for so long
AGAIN = "A machine stopped while it was drawing your pictures; they are drawn again on another, with the same seeds."
FULL = "As many requests as may wait are waiting already; please come back in a few minutes."
LOST = "The machines that draw have been lost, and none came back in time; please try again later."
UNAVAILABLE = "The machines that draw could not be started, so no pictures can be made; the operator has been told."
NO_REPLICA = "No machine draws at the moment; another is being started."


class EngineReplica:
    """One engine on one device, in a process of the cluster. Serve sends it requests once its model is ready."""

    async def __init__(self, settings: Settings):
        self._backend = LocalBackend(settings)
        self._backend.start()
        async for _ in until_ready(self._backend):
            pass
        freeze_gc()

    async def status(self) -> BackendStatus:
        return self._backend.status()

    async def generate(self, admitted: AdmittedRequest) -> AsyncIterator[Update]:
        """See `Backend.generate`. What this raises is the replica's own failure: another one may do better."""
        told_s = float("-inf")
        async for update in self._backend.generate(admitted):
            if isinstance(update, Progress):
                if time.monotonic() - told_s < TELL_EVERY_S * (4 if update.queue_position else 1):
                    continue
                told_s = time.monotonic()
            yield update

    def check_health(self) -> None:
        """Serve replaces a replica whose check raises: its engine's thread is dead or hangs, or its checker does."""
        status = self._backend.status()
        if not status.is_ready:
            raise RuntimeError(status.reason)


class LeastLoadedRouter(RequestRouter):
    """Sends a request to the least busy replica, of eight at random where there are more.

    Those that this page sent are counted as they are sent; a replica's own answer counts other pages' too, but lags
    behind a burst. Serve's router has only the answers: it can send a whole crowd to one replica.
    """

    queue_len_response_deadline_s = 1.0  # a busy replica takes more than Serve's 0.1

    def initialize_state(self) -> None:
        self.replica_queue_len_cache._staleness_timeout_s = 1.0  # Serve's 10 would be blind to other pages
        self._sent_to: dict[str, ReplicaID] = {}  # by request
        self._under_way: Counter[ReplicaID] = Counter()

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest
    ) -> list[list[RunningReplica]]:
        looked_at = random.sample(candidate_replicas, min(8, len(candidate_replicas)))
        told = self.replica_queue_len_cache
        await self._probe_queue_lens([each for each in looked_at if told.get(each.replica_id) is None], 0)
        # No await from here on, so that each of a crowd sees those before it.
        request_id = pending_request.metadata.internal_request_id
        self._forget(request_id)  # where it was refused
        least = min(looked_at, key=lambda each: self._load(each.replica_id))
        self._sent_to[request_id] = least.replica_id
        self._under_way[least.replica_id] += 1
        pending_request.future.add_done_callback(lambda future: future.cancelled() and self._forget(request_id))
        return [[least]]

    def on_send_request(self, replica_id: ReplicaID) -> None:
        """Leaves the answers as they are: Serve would count the page's own questions too, and so call a replica idle
        anew each second that it has not heard of."""

    decrement_queue_len_cache = on_send_request

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        self._forget(internal_request_id)

    def _load(self, replica_id: ReplicaID) -> int:
        return max(self._under_way[replica_id], self.replica_queue_len_cache.get(replica_id) or 0)

    def _forget(self, request_id: str) -> None:
        if request_id in self._sent_to:
            self._under_way[self._sent_to.pop(request_id)] -= 1


def replicas(settings: Settings) -> serve.Application:
    """The deployment that `settings` ask for; Serve keeps its replicas alive and replaces them one by one."""
    # Requests wait in the replicas, where turns are fair, and not in Serve's router: it asks a full replica again and
    # again whether it has room, which cost a small model 15 %.
    ongoing = settings.most_under_way()
    gpus = settings.ray_gpus_per_replica
    if gpus is None:
        gpus = 1.0 if ray.cluster_resources().get("GPU") else 0.0
    most = settings.ray_max_replicas or settings.ray_replicas
    number: dict = {"num_replicas": settings.ray_replicas}
    if most > settings.ray_replicas:
        number = {
            "autoscaling_config": {
                "min_replicas": settings.ray_replicas,
                "max_replicas": most,
                "target_ongoing_requests": settings.max_batch_size or WIDTHS[-1],
            }
        }
    return serve.deployment(
        EngineReplica,
        ray_actor_options={"num_cpus": settings.ray_cpus_per_replica, "num_gpus": gpus},  # as many threads as CPUs
        max_ongoing_requests=ongoing,
        request_router_config=RequestRouterConfig(request_router_class=LeastLoadedRouter),
        graceful_shutdown_timeout_s=DRAIN_S,
        max_constructor_retry_count=3,
        logging_config={"enable_access_log": False},
        **number,
    ).bind(replace(settings, backend="local", max_queue=ongoing))


def app(environ: Mapping[str, str]) -> serve.Application:
    """For `serve deploy` (examples/serve.yaml): `args` are settings by their variables' names."""
    return replicas(Settings.from_env(environ))


@dataclass(slots=True, eq=False)
class _Call:
    """One request on its way, and what became of it so far."""

    admitted: AdmittedRequest
    loop: asyncio.AbstractEventLoop
    ended_by: SpaceError | None = None  # set before `is_over`, by a cancel or the end of the service
    is_over: asyncio.Event = field(default_factory=asyncio.Event)
    is_drawn: bool = False
    delivered: dict[int, ScreenedImage] = field(default_factory=dict)
    began_s: float = field(default_factory=time.monotonic)
    enlisted_s: float = 0.0  # in lived time

    def end(self, error: SpaceError) -> None:
        """From any thread."""
        self.ended_by = error
        with contextlib.suppress(RuntimeError):  # the caller's event loop is closed: nobody is waiting
            self.loop.call_soon_threadsafe(self.is_over.set)


class _ReplicaLost(Exception):
    """The replica, or the way to it, broke off in the middle of a request."""


class RayServeBackend:
    """Implements `backends.Backend`: one thread starts or joins the cluster and watches it from then on."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self._address = os.environ.get("RAY_ADDRESS")
        self._thread = threading.Thread(target=self._own_the_cluster, name="cluster", daemon=True)
        self._closing = threading.Event()
        self._left = threading.Event()  # nobody needs the cluster any more
        self._lock = threading.Lock()  # guards what follows; held for moments only
        self._stage = Stage.STARTING
        self._reason = ""
        self._info: ModelInfo | None = None
        self._handle: DeploymentHandle | None = None
        self._replicas: dict[str, int] = {}
        self._unet_calls: dict[int, tuple[int, float]] = {}  # those of all replicas
        self._lived_s = LivedTime()  # a page that was paused has lost no replica by that
        self._ready_s = self._lived_s()  # when a replica was last known to run
        self._reruns = 0
        self._calls: dict[str, _Call] = {}

    def prepare(self) -> None:
        """Nothing: the page can be up before the cluster."""

    def start(self) -> None:
        """Starts the thread that joins the cluster named by RAY_ADDRESS, or starts one on this machine."""
        self._lived_s.start()
        self._thread.start()

    def status(self) -> BackendStatus:
        """Ready while at least one replica runs, as the cluster said a moment ago."""
        with self._lock:
            running = sum(call.is_drawn for call in self._calls.values())
            waiting = len(self._calls) - running
            return BackendStatus(
                self._stage,
                self._info,
                self._reason,
                waiting,
                running,
                replicas=self._replicas,
                reruns=self._reruns,
                unet_calls=self._unet_calls,
            )

    async def generate(self, admitted: AdmittedRequest) -> AsyncIterator[Update]:
        """See `Backend.generate`. A picture that is out already is not sent again when its request runs again."""
        call = _Call(admitted, asyncio.get_running_loop())
        self._enlist(call)
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
        """Frees the rows on the replica at its next step; unknown and finished requests are left alone."""
        with self._lock:
            call = self._calls.get(request_id)
        if call is not None:
            call.end(Cancelled("Cancelled; the device is free."))

    def close(self, timeout_s: float) -> None:
        """Refuses new requests, lets running ones finish for `timeout_s`, and leaves the cluster.

        A cluster that was started here ends with it; one that was joined keeps its replicas for the next page.
        """
        deadline_s = time.monotonic() + timeout_s
        self._closing.set()
        while self._calls and time.monotonic() < deadline_s:
            time.sleep(0.05)
        with self._lock:
            self._stage, self._reason = Stage.STOPPED, STOPPED
            calls = list(self._calls.values())
        for call in calls:
            call.end(EngineFailed(STOPPED))
        self._left.set()
        self._lived_s.stop()
        if self._thread.is_alive():
            self._thread.join()

    def _enlist(self, call: _Call) -> None:
        with self._lock:
            if self._closing.is_set():
                raise EngineFailed(STOPPED)
            if len(self._calls) >= self._settings.most_under_way(self._replicas.get("running", 1)):
                raise QueueFull(FULL)
            call.enlisted_s = self._lived_s()
            self._calls[call.admitted.request_id] = call

    async def _attempt(self, call: _Call, note: str) -> AsyncIterator[Update]:
        """The request on one replica. Raises _ReplicaLost for what another may do better, else a SpaceError."""
        while self._handle is None:
            await self._first(call, asyncio.sleep(0.1))
        stream = self._handle.generate.remote(call.admitted)
        has_ended = False
        try:
            while not has_ended:
                update = self._seen(call, await self._first(call, anext(stream)), note)
                has_ended = isinstance(update, GenerationResult | RequestFailed)
                if update is not None:
                    yield update
        except BackPressureError:
            raise QueueFull(FULL) from None
        except (RayError, RayServeException, StopAsyncIteration) as error:
            has_ended = True
            raise _ReplicaLost(type(error).__name__) from None
        finally:
            if not has_ended:
                call.loop.run_in_executor(None, stream.cancel)  # waits a moment for the router

    async def _first(self, call: _Call, step: Awaitable[T]) -> T:
        """What `step` brings. Raises a SpaceError when the call is over first, or when all machines are gone."""
        step, over = asyncio.ensure_future(step), asyncio.ensure_future(call.is_over.wait())
        try:
            while not step.done() and not over.done():
                await asyncio.wait({step, over}, timeout=POLL_S, return_when=asyncio.FIRST_COMPLETED)
                if self._stage is Stage.FAILED:
                    raise ModelUnavailable(self._reason)
                if self._lived_s() - max(self._ready_s, call.enlisted_s) > LOST_S:
                    raise EngineFailed(LOST)
            if call.ended_by is not None:
                raise call.ended_by
            return step.result()
        finally:
            step.cancel()
            over.cancel()

    def _seen(self, call: _Call, update: Update, note: str) -> Update | None:
        """The update as the caller gets it: the delay is told, and what was delivered before stays as it was."""
        match update:
            case Progress():
                call.is_drawn = not update.queue_position
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

    # What follows runs in the cluster's thread.

    def _own_the_cluster(self) -> None:
        """Ray's processes die with the thread that started them, so this one lives until nobody needs them."""
        try:
            self._join()
        except Exception:
            logger.exception("the cluster could not be started or joined")
            self._set(Stage.FAILED, UNAVAILABLE)
            self._left.wait()
        while not self._left.wait(POLL_S if self._handle else POLL_S / 4):
            try:
                self._watch()
            except Exception:  # the cluster's head may be back at the next look
                if self._reason != NO_REPLICA:
                    logger.exception("the cluster does not answer")
                self._set(Stage.LOADING, NO_REPLICA)
        ray.shutdown()

    def _join(self) -> None:
        self._set(Stage.STARTING, "")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        package = str(Path(__file__).parents[1])
        ray.init(
            address=self._address or "local",
            namespace=APP,
            include_dashboard=None if self._address else False,
            runtime_env={"py_modules": [package]} if self._address else None,
            configure_logging=False,
        )
        serve.start(proxy_location="Disabled")
        if APP not in serve.status().applications:
            target = serve.RunTarget(replicas(self._settings), name=APP, route_prefix=None)
            serve.run_many([target], wait_for_applications_running=False)
        else:
            logger.info("the cluster has the application %s already; its replicas are used as they are", APP)
        self._set(Stage.LOADING, "")

    def _watch(self) -> None:
        """Looks at the replicas' states, and asks them how they are."""
        application = serve.status().applications[APP]
        (deployment,) = application.deployments.values()
        states = {state.lower(): count for state, count in deployment.replica_states.items() if count}
        with self._lock:
            self._replicas = states
        if not states.get("running"):
            is_failed = application.status == "DEPLOY_FAILED"
            if is_failed and self._stage is not Stage.FAILED:
                logger.error("no replica could be started: %s", deployment.message)
            self._set(*(Stage.FAILED, UNAVAILABLE) if is_failed else (Stage.LOADING, NO_REPLICA if self._info else ""))
            return
        if self._handle is None:
            handle = serve.get_app_handle(APP)
            self._heed([handle.status.remote().result(timeout_s=LOST_S)])
            self._handle = handle.options(stream=True)
            logger.info("%s is ready on %d replicas", self._info.model, states["running"])
        else:
            with contextlib.suppress(RayError, RayServeException, TimeoutError):  # one may be lost at any moment
                self._heed(self._handle.broadcast("status").results(timeout_s=5 * POLL_S))
        self._ready_s = self._lived_s()
        self._set(Stage.READY, "")

    def _heed(self, statuses: list[BackendStatus]) -> None:
        """What the replicas say of themselves. After a redeployment they may hold another model."""
        calls: Counter[int] = Counter()
        seconds: Counter[int] = Counter()
        for status in statuses:
            for pictures, (number, seconds_in_all) in status.unet_calls.items():
                calls[pictures] += number
                seconds[pictures] += seconds_in_all
        with self._lock:
            self._info = next((status.info for status in statuses if status.info), self._info)
            self._unet_calls = {pictures: (calls[pictures], seconds[pictures]) for pictures in calls}

    def _set(self, stage: Stage, reason: str) -> None:
        with self._lock:
            if self._stage is not Stage.STOPPED:
                self._stage, self._reason = stage, reason
