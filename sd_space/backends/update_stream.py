"""Carries a request's updates from the thread that draws it to its caller's event loop."""

import asyncio
from dataclasses import dataclass, field

from sd_space.schema import AdmittedRequest, Update


@dataclass(slots=True, eq=False)
class UpdateStream:
    """The caller reads `queue`. An exception in it ends the request without a result."""

    admitted: AdmittedRequest
    loop: asyncio.AbstractEventLoop
    queue: asyncio.Queue[Update | Exception] = field(default_factory=asyncio.Queue)

    def send(self, update: Update | Exception) -> bool:
        """From any thread, without waiting. False if the caller's event loop is closed, so that no one reads it."""
        try:
            self.loop.call_soon_threadsafe(self.queue.put_nowait, update)
        except RuntimeError:
            return False
        return True
