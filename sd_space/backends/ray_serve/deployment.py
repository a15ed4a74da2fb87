"""The Ray Serve application: how many replicas there are, and what each of them may take."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import ray
from ray import serve
from ray.serve.config import RequestRouterConfig

from sd_space.backends.ray_serve.replica import EngineReplica
from sd_space.backends.ray_serve.router import LeastLoadedRouter
from sd_space.settings import WIDTHS, Settings

APP = "sd_space"
DRAIN_S = 120.0  # how long a replica that is replaced may still work on its requests


def replicas(settings: Settings) -> serve.Application:
    """The deployment that `settings` ask for; Serve keeps its replicas alive and replaces them one by one."""
    gpus = settings.ray_gpus_per_replica
    if gpus is None:
        gpus = 1.0 if ray.cluster_resources().get("GPU") else 0.0
    most = max(settings.ray_max_replicas or 0, settings.ray_replicas)
    return serve.deployment(
        EngineReplica,
        ray_actor_options={"num_cpus": settings.ray_cpus_per_replica, "num_gpus": gpus},  # as many threads as CPUs
        # More than one page lets in for all replicas together: requests wait in the replicas, where turns are fair,
        # and not in Serve's router, which asks a full replica again and again and so made a small model 15 % slower.
        max_ongoing_requests=settings.max_in_flight(most),
        request_router_config=RequestRouterConfig(request_router_class=LeastLoadedRouter),
        graceful_shutdown_timeout_s=DRAIN_S,
        max_constructor_retry_count=3,
        logging_config={"enable_access_log": False},
        **_number_of_replicas(settings, most),
    ).bind(replace(settings, backend="local"))


def _number_of_replicas(settings: Settings, most: int) -> dict[str, Any]:
    if most == settings.ray_replicas:
        return {"num_replicas": settings.ray_replicas}
    return {
        "autoscaling_config": {
            "min_replicas": settings.ray_replicas,
            "max_replicas": most,
            "target_ongoing_requests": settings.max_batch_size or WIDTHS[-1],
        }
    }


def app(environ: Mapping[str, str]) -> serve.Application:
    """For `serve deploy` (examples/serve.yaml): `args` are settings by their variables' names."""
    return replicas(Settings.from_env(environ))
