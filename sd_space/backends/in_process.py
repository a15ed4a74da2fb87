"""Draws in this process, with a thread that owns the engine and the device, as each replica of a cluster does."""

import asyncio
from collections.abc import AsyncGenerator

from sd_space.backends.engine_thread import BROKEN, HEARTBEAT_S, EngineThread
from sd_space.backends.update_stream import UpdateStream
from sd_space.errors import EngineFailed
from sd_space.schema import AdmittedRequest, BackendStatus, PromptTokenizer, Update
from sd_space.settings import Settings


class InProcessBackend:
    """Implements `backends.Backend`."""

    def __init__(self, settings: Settings):
        self._engine_thread = EngineThread(settings)

    def start(self) -> None:
        """Starts the thread that loads the model; returns at once."""
        self._engine_thread.start()

    def status(self) -> BackendStatus:
        """Ready only while the engine's thread lives and its heartbeat is recent."""
        return self._engine_thread.status()

    def tokenizer(self) -> PromptTokenizer | None:
        """See `Backend.tokenizer`."""
        return self._engine_thread.tokenizer()

    async def generate(self, admitted: AdmittedRequest) -> AsyncGenerator[Update]:
        """See `Backend.generate`. Closing the iterator cancels the request."""
        stream = UpdateStream(admitted, asyncio.get_running_loop())
        self._engine_thread.submit(stream)
        try:
            while True:
                try:
                    update = await asyncio.wait_for(anext(stream), HEARTBEAT_S)
                except TimeoutError:
                    if self._engine_thread.is_lost():
                        raise EngineFailed(BROKEN) from None
                except StopAsyncIteration:
                    return
                else:
                    yield update
        finally:
            self.cancel(admitted.request_id)

    def cancel(self, request_id: str) -> None:
        """Frees the request's rows at the next step; ignores finished and unknown requests."""
        self._engine_thread.cancel(request_id)

    def close(self, timeout_s: float) -> None:
        """See `EngineThread.close`."""
        self._engine_thread.close(timeout_s)
