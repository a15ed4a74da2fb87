"""The protocol of the backends, which make the pictures, and the choice of one by the settings."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Protocol

from sd_space.errors import InvalidSetting, ModelUnavailable
from sd_space.languages import Phrase
from sd_space.schema import AdmittedRequest, BackendStatus, PromptTokenizer, Stage, Update
from sd_space.settings import Settings

STOPPED = Phrase("The Space is restarting; please try again in a minute.")
EXTRAS = {"spaces": "spaces", "ray": "ray[serve]"}  # module -> the package to install for it


class Backend(Protocol):
    """Owns the device, or the way to it. Only `generate` hands out pictures, and only screened ones."""

    def start(self) -> None:
        """Begins loading, before the page's own imports. Returns at once, but for ZeroGPU, which loads here: its
        weights must be in place before the page is served. Must be called in the main thread.
        """

    def status(self) -> BackendStatus:
        """The state of loading, and how many requests wait and run; cheap, callable from any thread."""

    def tokenizer(self) -> PromptTokenizer | None:
        """The served model's tokenizer, once it is ready; cheap, callable from any thread."""

    def generate(self, admitted: AdmittedRequest) -> AsyncGenerator[Update]:
        """Yields Progress and PictureFinished, and a GenerationResult or RequestFailed last.

        Takes every request: how many may wait is decided before (`serving/limits.py`). Waits for the model while it
        loads. Closing the iterator, or `cancel`, frees the device at its next step. Raises ModelUnavailable at the
        first `anext` when no model could be loaded.
        """

    def cancel(self, request_id: str) -> None:
        """Frees the request's rows at the next step; its iterator ends with RequestFailed(Cancelled)."""

    def close(self, timeout_s: float) -> None:
        """Stops taking requests, lets running ones finish for `timeout_s`, then cancels them and joins the thread."""


def make_backend(settings: Settings) -> Backend:
    """The backend that `settings.backend` names. A local one imports neither torch nor diffusers before `start`.

    Raises InvalidSetting when the package that the backend stands on is not installed.
    """
    try:
        match settings.backend:
            case "zerogpu":
                from sd_space.backends.zerogpu import ZeroGpuBackend

                return ZeroGpuBackend(settings)
            case "ray":
                from sd_space.backends.ray_serve import RayServeBackend

                return RayServeBackend(settings)
            case _:
                from sd_space.backends.local import LocalBackend

                return LocalBackend(settings)
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        raise InvalidSetting(
            f"SD_SPACE_BACKEND is {settings.backend}, which needs {EXTRAS[error.name]}: pip install it, or use local."
        ) from None


async def until_ready(backend: Backend) -> AsyncIterator[Stage]:
    """Yields the stage of loading until pictures can be made; raises ModelUnavailable when they cannot."""
    while not (status := backend.status()).is_ready:
        if status.stage in (Stage.FAILED, Stage.STOPPED):
            raise ModelUnavailable(status.reason or STOPPED)
        yield status.stage
        await asyncio.sleep(0.3)
