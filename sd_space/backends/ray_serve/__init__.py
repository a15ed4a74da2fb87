"""Draws on several machines: a Ray Serve deployment whose replicas have an engine each."""

from sd_space.backends.ray_serve.cluster import Cluster
from sd_space.backends.ray_serve.deployment import app
from sd_space.backends.replicas import ReplicatedBackend
from sd_space.settings import Settings

__all__ = ["RayServeBackend", "app"]  # `sd_space.backends.ray_serve:app` is what examples/serve.yaml names


class RayServeBackend(ReplicatedBackend):
    """Implements `backends.Backend` on a Ray cluster."""

    def __init__(self, settings: Settings):
        super().__init__(Cluster(settings))
