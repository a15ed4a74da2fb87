"""Carries a request's updates from the thread that draws it to its caller's event loop."""

import asyncio
from dataclasses import dataclass, field
from typing import Protocol, Self

from sd_space.errors import SpaceError
from sd_space.schema import AdmittedRequest, GenerationResult, RequestFailed, Update


class Stream(Protocol):
    """Carries a request's updates to whoever has asked for it."""

    @property
    def admitted(self) -> AdmittedRequest: ...

    def send(self, update: Update | SpaceError) -> bool:
        """Without waiting. A SpaceError ends the request without a result. False if no one reads any more."""


@dataclass(slots=True, eq=False)
class UpdateStream:
    """Iterate over it to receive the updates, to the request's end. Raises the SpaceError that ends it without one."""

    admitted: AdmittedRequest
    loop: asyncio.AbstractEventLoop
    _updates: asyncio.Queue[Update | SpaceError] = field(default_factory=asyncio.Queue)
    _is_over: bool = False

    def send(self, update: Update | SpaceError) -> bool:
        """From any thread, without waiting. False if the caller's event loop is closed, so that no one reads it."""
        try:
            self.loop.call_soon_threadsafe(self._updates.put_nowait, update)
        except RuntimeError:
            return False
        return True

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Update:
        if self._is_over:
            raise StopAsyncIteration
        update = await self._updates.get()
        if isinstance(update, SpaceError):
            raise update
        self._is_over = isinstance(update, GenerationResult | RequestFailed)
        return update
