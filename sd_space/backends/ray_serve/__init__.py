"""Draws on several machines: a Ray Serve deployment whose replicas have a local backend each."""

from sd_space.backends.ray_serve.backend import RayServeBackend
from sd_space.backends.ray_serve.deployment import app

__all__ = ["RayServeBackend", "app"]  # `sd_space.backends.ray_serve:app` is what examples/serve.yaml names
