"""Carries a request's updates from the thread that draws it to its caller's event loop."""

import asyncio
from dataclasses import dataclass, field
from typing import Protocol

from sd_space.errors import SpaceError
from sd_space.schema import AdmittedRequest, Update


class Stream(Protocol):
    """Carries a request's updates to whoever has asked for it."""

    @property
    def admitted(self) -> AdmittedRequest: ...

    def send(self, update: Update | SpaceError) -> bool:
        """Without waiting. A SpaceError ends the request without a result. False if no one reads any more."""


@dataclass(slots=True, eq=False)
class UpdateStream:
    """A SpaceError in it ends the request without a result."""

    admitted: AdmittedRequest
    loop: asyncio.AbstractEventLoop
    _updates: asyncio.Queue[Update | SpaceError] = field(default_factory=asyncio.Queue)

    def send(self, update: Update | SpaceError) -> bool:
        """From any thread, without waiting. False if the caller's event loop is closed, so that no one reads it."""
        try:
            self.loop.call_soon_threadsafe(self._updates.put_nowait, update)
        except RuntimeError:
            return False
        return True

    async def receive(self) -> Update:
        """The next update, once it is there. Raises the error that ends the request."""
        update = await self._updates.get()
        if isinstance(update, SpaceError):
            raise update
        return update
