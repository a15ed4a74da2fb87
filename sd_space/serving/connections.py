"""Connections: as many as there are file handles for, and no longer without a whole head than `HEAD_TIMEOUT_S`.

Somebody who opens hundreds of connections and says half a sentence on each must not keep a visitor out: where room is
needed, the connection that has had nothing under way for the longest time is closed.
"""

import json
import logging
import time
from asyncio import TimerHandle
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

from sd_space.errors import CannotStart

HEAD_TIMEOUT_S = 10.0
MOST_HEAD_BYTES = 64 * 1024  # before anybody has looked at it; the front door takes half of that
MOST_CONNECTIONS = 10_000
MOST_HANDLES = 65_536
RESERVED_HANDLES = 72  # what the app itself has open, model and Hub included, and connections not yet counted
LEAST_HANDLES = 96
_LOG_EVERY_S = 60.0

_LATE = ("408 Request Timeout", f"The head of the request did not arrive within {HEAD_TIMEOUT_S:g} s.")
_FULL = ("429 Too Many Requests", "Too many connections are open already; please try again in a minute.")
_LONG = ("431 Request Header Fields Too Large", f"The head takes more than {MOST_HEAD_BYTES // 1024} KiB.")
_INVALID = ("400 Bad Request", "The request is not valid HTTP.")


def raise_handle_limit() -> int:
    """Raises the soft limit of file handles as far as this process may, and returns what is in force.

    Raises CannotStart where that is too little for a server.
    """
    try:
        import resource
    except ImportError:  # such a system counts handles in another way
        return MOST_HANDLES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    is_endless = resource.RLIM_INFINITY
    for wanted in (MOST_HANDLES, 10_240):  # macOS takes no more than the second, whatever its hard limit says
        wanted = wanted if hard == is_endless else min(wanted, hard)
        if soft == is_endless or soft >= wanted:
            break
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):
            continue
        break
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != is_endless and soft < LEAST_HANDLES:
        raise CannotStart(f"{soft} file handles are too few for a server; call ulimit -n {LEAST_HANDLES}, or more.")
    return MOST_HANDLES if soft == is_endless else soft


def most_connections(handles: int) -> int:
    """Each connection may have a file open beside itself."""
    return max(8, min(MOST_CONNECTIONS, (handles - RESERVED_HANDLES) // 2))


class Connections:
    """All of a server's connections; those that have nothing under way in the order in which they came to that."""

    def __init__(self, most: int):
        self.most = most
        self._open: set[BoundedProtocol] = set()
        self._idle: dict[BoundedProtocol, None] = {}

    def opened(self, connection: "BoundedProtocol") -> None:
        """Takes it in, and makes room for it: another one's, or its own where all the others have something to do."""
        self._open.add(connection)
        self._idle[connection] = None
        if len(self._open) > self.most:
            oldest = next(iter(self._idle))
            self.closed(oldest)
            oldest.turn_away(_FULL if oldest.cycle is None else None)  # who was served before just comes again

    def closed(self, connection: "BoundedProtocol") -> None:
        self._open.discard(connection)
        self._idle.pop(connection, None)

    def busy(self, connection: "BoundedProtocol") -> None:
        self._idle.pop(connection, None)

    def idle(self, connection: "BoundedProtocol") -> None:
        if connection in self._open:
            self._idle[connection] = None


class BoundedProtocol(AutoHTTPProtocol):
    """uvicorn's protocol of one connection, whichever it has, with its time and number bounded."""

    def __init__(self, *args: Any, bounds: Connections, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._bounds = bounds
        self._head_timer: TimerHandle | None = None
        self._head_bytes = 0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._start_head_timer()
        self._bounds.opened(self)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        before = self.cycle
        if self._head_timer is None and (before is None or before.response_complete):
            self._start_head_timer()  # the first byte of the next request
        self._head_bytes += len(data)
        super().data_received(data)
        if self.cycle is not before:
            self._stop_head_timer()
            self._bounds.busy(self)
        elif self._head_timer is not None and self._head_bytes > MOST_HEAD_BYTES:
            self.turn_away(_LONG)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete:  # else the next request was here already
            self._bounds.idle(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        self._bounds.closed(self)
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        self.turn_away(_INVALID)

    def turn_away(self, answer: tuple[str, str] | None) -> None:
        """Ends the connection, with a sentence unless that would come in the middle of an answer."""
        self._stop_head_timer()
        if self.transport.is_closing():
            return
        if answer is not None and (self.cycle is None or self.cycle.response_complete):
            status, sentence = answer
            body = json.dumps({"error": sentence})
            retry = "retry-after: 60\r\n" if status.startswith("429") else ""
            self.transport.write(
                f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n{retry}"
                f"connection: close\r\n\r\n{body}".encode("ascii")
            )
        self.transport.close()

    def _start_head_timer(self) -> None:
        self._head_bytes = 0
        self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self.turn_away, _LATE)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


class QuietFilter(logging.Filter):
    """Lets one line of each kind through a minute that anybody could cause by the thousand, and no traceback."""

    KINDS = (
        "socket.accept() out of system resource",
        "Invalid HTTP request",
        "Unsupported upgrade",
        "No supported WebSo",
    )

    def __init__(self) -> None:
        super().__init__()
        self._last_s: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        kind = next((kind for kind in self.KINDS if str(record.msg).startswith(kind)), None)
        if kind is None:
            return True
        now_s = time.monotonic()
        if now_s - self._last_s.get(kind, -_LOG_EVERY_S) < _LOG_EVERY_S:
            return False
        self._last_s[kind] = now_s
        record.msg, record.args, record.exc_info, record.exc_text = kind, (), None, None
        return True


def quieten_logs() -> None:
    """Never a line for each connection that is refused."""
    for name in ("asyncio", "uvicorn.error"):
        logger = logging.getLogger(name)
        if not any(isinstance(there, QuietFilter) for there in logger.filters):
            logger.addFilter(QuietFilter())
