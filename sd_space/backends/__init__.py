"""Where pictures are made: the protocol that the page talks to, and the choice of its implementation."""

import asyncio
from collections.abc import AsyncIterator
from typing import Protocol

from sd_space.schema import AdmittedRequest, BackendStatus, ModelUnavailable, Stage, Update
from sd_space.settings import Settings


class Backend(Protocol):
    """Owns the device, or the way to it. Only `generate` hands out pictures, and only screened ones."""

    def start(self) -> None:
        """Begins loading in the background and returns at once."""

    def status(self) -> BackendStatus:
        """The state of loading and of the queue; cheap, callable from any thread."""

    def generate(self, admitted: AdmittedRequest) -> AsyncIterator[Update]:
        """Yields Progress and PictureFinished, and a GenerationResult or RequestFailed last.

        Waits for the model if that is still loading. Closing the iterator, or `cancel`, frees the device at its next
        step. Raises QueueFull at the first `anext` when too many wait, ModelUnavailable when no model could be loaded.
        """

    def cancel(self, request_id: str) -> None:
        """Frees the request's rows at the next step; its iterator ends with RequestFailed(Cancelled)."""

    def close(self, timeout_s: float) -> None:
        """Stops taking requests, lets running ones finish for `timeout_s`, then cancels them and joins the thread."""


def make_backend(settings: Settings) -> Backend:
    """The backend that `settings.backend` names. Imports neither torch nor diffusers before `start`."""
    from sd_space.backends.local import LocalBackend

    return LocalBackend(settings)


async def until_ready(backend: Backend) -> AsyncIterator[Stage]:
    """Yields the stage of loading until pictures can be made; raises ModelUnavailable when they cannot."""
    while not (status := backend.status()).is_ready:
        if status.stage in (Stage.FAILED, Stage.STOPPED):
            raise ModelUnavailable(status.reason or "The Space is restarting; please try again in a minute.")
        yield status.stage
        await asyncio.sleep(0.3)
