"""Sends messages through a pipe in a thread of its own: nobody waits for a process that does not read."""

import queue
import threading
from multiprocessing.connection import Connection
from typing import Generic, TypeVar

T = TypeVar("T")


class Outbox(Generic[T]):
    """All methods may be called from any thread."""

    def __init__(self, connection: Connection):
        self._connection = connection
        self._messages: queue.SimpleQueue[T | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._send_all, name="outbox", daemon=True)
        self._thread.start()

    def put(self, message: T) -> None:
        self._messages.put(message)

    def close(self, timeout_s: float = 0.0) -> None:
        """Ends the thread once all before is sent, for which this waits so long."""
        self._messages.put(None)
        self._thread.join(timeout_s)

    def _send_all(self) -> None:
        try:
            while (message := self._messages.get()) is not None:
                self._connection.send(message)
        except OSError:  # nobody reads any more, as whoever receives from there notices
            return
