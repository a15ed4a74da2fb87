"""The page's connection to the cluster: one thread starts or joins it, and then watches its replicas."""

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator

import sd_space
from sd_space.backends import STOPPED
from sd_space.backends.ray_serve.deployment import APP, replicas
from sd_space.backends.ray_serve.replica import ReplicaStatus
from sd_space.backends.replicas import ReplicaLost, shortest
from sd_space.backends.totals import UNetCallTotals
from sd_space.lived_time import LivedTime
from sd_space.schema import (
    AdmittedRequest,
    BackendStatus,
    GenerationResult,
    PromptTokenizer,
    RequestFailed,
    Stage,
    Update,
)
from sd_space.served_model import ModelInfo
from sd_space.settings import Settings

logger = logging.getLogger(__name__)

POLL_S = 1.0
FIRST_STATUS_S = 120.0  # how long the first replica may take to answer
UNAVAILABLE = "The machines that draw could not be started, so no pictures can be made; the operator has been told."
NO_REPLICA = "No machine draws at the moment; another is being started."


class Cluster:
    """The replicas as the cluster described them a moment ago, and the handle that sends them requests."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self._address = os.environ.get("RAY_ADDRESS")
        self._thread = threading.Thread(target=self._run, name="cluster", daemon=True)
        self._leaving = threading.Event()
        self._lived_s = LivedTime()  # a page that was paused has not lost its replicas
        self._lock = threading.Lock()  # guards all that follows; held for moments only
        self._stage = Stage.STARTING
        self._reason = ""
        self._info: ModelInfo | None = None
        self._outlook_s: float | None = None
        self._tokenizer: PromptTokenizer | None = None
        self._tokenizer_of: tuple[str, str | None] | None = None  # the model and its revision
        self._handle: DeploymentHandle | None = None
        self._replicas: dict[str, int] = {}  # how many, by state
        self._totals = UNetCallTotals()
        self._ready_s = self._lived_s()  # when a replica was last known to run

    def start(self) -> None:
        """Starts the thread that joins the cluster named by RAY_ADDRESS, or starts one on this machine."""
        self._lived_s.start()
        self._thread.start()

    async def stream(self, admitted: AdmittedRequest) -> AsyncGenerator[Update]:
        """See `Replicas.stream`."""
        while (handle := self._handle) is None:  # until the first replica is ready
            await asyncio.sleep(POLL_S / 10)
        stream = handle.generate.remote(admitted)
        has_ended = False
        try:
            async for update in stream:
                has_ended = isinstance(update, GenerationResult | RequestFailed)
                yield update
        except (RayError, RayServeException) as error:
            has_ended = True
            raise ReplicaLost(type(error).__name__) from None
        finally:
            if not has_ended:  # in another thread: it waits a moment for the router
                asyncio.get_running_loop().run_in_executor(None, _cancel, handle, stream, admitted.request_id)

    def status(self) -> BackendStatus:
        """Ready while at least one replica runs."""
        with self._lock:
            return BackendStatus(
                self._stage,
                self._info,
                self._reason,
                replicas=self._replicas,
                unet_calls=self._totals.total(),
                outlook_s=self._outlook_s,
            )

    def tokenizer(self) -> PromptTokenizer | None:
        """See `Replicas.tokenizer`."""
        return self._tokenizer

    def now_s(self) -> float:
        return self._lived_s()

    def seconds_without_replica(self, since_s: float) -> float:
        """How long no replica has run, counted from `since_s` (a value of `now_s`) at the earliest."""
        return self._lived_s() - max(self._ready_s, since_s)

    def stop(self) -> None:
        """From now on the status is STOPPED."""
        self._set(Stage.STOPPED, STOPPED)

    def leave(self) -> None:
        """Leaves the cluster. One that was started here ends; one that was joined keeps its replicas for others."""
        self._leaving.set()
        self._lived_s.stop()
        if self._thread.is_alive():
            self._thread.join()

    # What follows runs in the cluster's thread.

    def _run(self) -> None:
        """Ray's processes die with the thread that started them, so this thread lives until `leave`."""
        try:
            self._join()
        except Exception:
            logger.exception("the cluster could not be started or joined")
            self._set(Stage.FAILED, UNAVAILABLE)
            self._leaving.wait()
        while not self._leaving.wait(POLL_S if self._handle else POLL_S / 4):
            try:
                self._watch()
            except Exception:  # the cluster's head may be back at the next poll
                if self._reason != NO_REPLICA:
                    logger.exception("the cluster does not answer")
                self._set(Stage.LOADING, NO_REPLICA)
        ray.shutdown()

    def _join(self) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        package = str(Path(sd_space.__file__).parent)
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
        """Reads the replicas' states, and asks the running ones for their status."""
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
            first: ReplicaStatus = handle.status.remote().result(timeout_s=FIRST_STATUS_S)
            self._merge_status([first])
            self._fetch_tokenizer(handle)
            self._handle = handle.options(stream=True)
            logger.info("%s is ready on %d replicas", first.status.ready_info.model, states["running"])
        else:
            with contextlib.suppress(RayError, RayServeException, TimeoutError):  # one may be lost at any moment
                self._merge_status(self._handle.broadcast("status").results(timeout_s=5 * POLL_S))
                self._fetch_tokenizer(serve.get_app_handle(APP))
        self._ready_s = self._lived_s()
        self._set(Stage.READY, "")

    def _merge_status(self, statuses: Sequence[ReplicaStatus]) -> None:
        """Takes over what the replicas report. After a redeployment they may have another model."""
        with self._lock:
            self._outlook_s = shortest(each.status.outlook_s for each in statuses)
            for each in statuses:
                self._info = each.status.info or self._info
                self._totals.update(each.replica_id, each.status.unet_calls)

    def _fetch_tokenizer(self, handle: DeploymentHandle) -> None:
        """From any replica, once for each model that they have."""
        model = (self._info.model, self._info.revision) if self._info else None
        if model != self._tokenizer_of:
            with contextlib.suppress(RayError, RayServeException, TimeoutError):  # pictures can be made without it
                self._tokenizer = handle.tokenizer.remote().result(timeout_s=5 * POLL_S)
            self._tokenizer_of = model

    def _set(self, stage: Stage, reason: str) -> None:
        with self._lock:
            if self._stage is not Stage.STOPPED:
                self._stage, self._reason = stage, reason


def _cancel(handle: DeploymentHandle, stream: DeploymentResponseGenerator, request_id: str) -> None:
    """Ends the stream, and the request: a replica may notice the end of a stream only once it collects garbage."""
    stream.cancel()
    with contextlib.suppress(RayError, RayServeException):
        handle.broadcast("cancel", request_id)
