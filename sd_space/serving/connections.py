"""Connections: as many as there are file handles for, and each must send a whole head within `HEAD_TIMEOUT_S`.

A client that opens hundreds of connections and sends half a request on each must not keep visitors out: where room is
needed, the connection that has been idle for the longest time is closed.
"""

import json
import logging
import time
from asyncio import TimerHandle
from typing import Any

import h11
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from sd_space.errors import CannotStart

HEAD_TIMEOUT_S = 10.0
MAX_HEAD_BYTES = 64 * 1024  # of one request; the request filter takes half of that
MAX_CONNECTIONS = 10_000
MAX_HANDLES = 65_536
RESERVED_HANDLES = 72  # what the app itself has open, model and Hub included, and connections not yet counted
MIN_HANDLES = 96
_LOG_EVERY_S = 60.0

_LATE = ("408 Request Timeout", f"The head of the request did not arrive within {HEAD_TIMEOUT_S:g} s.")
_FULL = ("429 Too Many Requests", "Too many connections are open already; please try again in a minute.")
_LONG = ("431 Request Header Fields Too Large", f"The head takes more than {MAX_HEAD_BYTES // 1024} KiB.")
_INVALID = ("400 Bad Request", "The request is not valid HTTP.")


def raise_handle_limit() -> int:
    """Raises the soft limit of file handles as far as this process may, and returns the limit.

    Raises CannotStart where it is too low for a server.
    """
    try:
        import resource
    except ImportError:  # such a system counts handles in another way
        return MAX_HANDLES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    is_endless = resource.RLIM_INFINITY
    for wanted in (MAX_HANDLES, 10_240):  # macOS takes no more than the second, whatever its hard limit says
        wanted = wanted if hard == is_endless else min(wanted, hard)
        if soft == is_endless or soft >= wanted:
            break
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):
            continue
        break
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != is_endless and soft < MIN_HANDLES:
        raise CannotStart(f"{soft} file handles are too few for a server; call ulimit -n {MIN_HANDLES}, or more.")
    return MAX_HANDLES if soft == is_endless else soft


def max_connections(handles: int) -> int:
    """Each connection may have a file open beside itself."""
    return max(8, min(MAX_CONNECTIONS, (handles - RESERVED_HANDLES) // 2))


def max_open_per_address(handles: int) -> int:
    """Requests: enough for a browser, or a school, and never all connections."""
    return max(8, max_connections(handles) // 4)


class Connections:
    """All of a server's connections; the idle ones in the order in which they became idle."""

    def __init__(self, most: int):
        self.most = most
        self._open: set[BoundedProtocol] = set()
        self._idle: dict[BoundedProtocol, None] = {}

    def opened(self, connection: "BoundedProtocol") -> None:
        """Adds it. Where there are too many, the oldest idle one is closed: it itself where all others are busy."""
        self._open.add(connection)
        self._idle[connection] = None
        if len(self._open) > self.most:
            oldest = next(iter(self._idle))
            self.closed(oldest)
            oldest.close_with(_FULL if oldest.cycle is None else None)  # a known client just connects again

    def closed(self, connection: "BoundedProtocol") -> None:
        self._open.discard(connection)
        self._idle.pop(connection, None)

    def busy(self, connection: "BoundedProtocol") -> None:
        self._idle.pop(connection, None)

    def idle(self, connection: "BoundedProtocol") -> None:
        if connection in self._open:
            self._idle[connection] = None


# uvicorn picks the class when it is imported.
class BoundedProtocol(AutoHTTPProtocol):  # type: ignore[valid-type, misc]
    """uvicorn's protocol of one connection (h11 or httptools), bounded in time and number."""

    def __init__(self, *args: Any, bounds: Connections, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._bounds = bounds
        self._head_timer: TimerHandle | None = None
        self._head_bytes = 0  # since the last byte of a body
        self._has_body_to_come = False  # with httptools; h11 knows it itself

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
        self._head_bytes = 0 if self._is_in_body_of_h11() else self._head_bytes + len(data)
        super().data_received(data)
        if self.cycle is not before:
            self._stop_head_timer()
            self._bounds.busy(self)
        elif self._head_bytes > MAX_HEAD_BYTES:
            self.close_with(_LONG)

    def _is_in_body_of_h11(self) -> bool:
        """h11 bounds what stands around the pieces of a body itself, and keeps none of it."""
        conn = getattr(self, "conn", None)
        return conn is not None and conn.their_state is h11.SEND_BODY

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by httptools, for what follows a body in chunks too, which is no header (RFC 9110, 6.5.1)."""
        if not self._has_body_to_come:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Called by httptools."""
        super().on_headers_complete()
        self._has_body_to_come = True
        self._head_bytes = 0

    def on_body(self, body: bytes) -> None:
        """Called by httptools."""
        super().on_body(body)
        self._head_bytes = 0

    def on_message_complete(self) -> None:
        """Called by httptools."""
        super().on_message_complete()
        self._has_body_to_come = False

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete:  # else the next request was here already
            self._bounds.idle(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        self._bounds.closed(self)
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        self.close_with(_INVALID)

    def close_with(self, answer: tuple[str, str] | None) -> None:
        """Ends the connection, with a sentence unless that would come in the middle of an answer."""
        self._stop_head_timer()
        if self.transport.is_closing():
            return
        cycle = self.cycle
        if answer is not None and (cycle is None or cycle.response_complete or not cycle.response_started):
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
        self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self.close_with, _LATE)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


class QuietFilter(logging.Filter):
    """Lets one line of each kind through per minute, without traceback: any caller could cause thousands of them."""

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
    """Keeps the log from growing by a line for each refused connection."""
    for name in ("asyncio", "uvicorn.error"):
        logger = logging.getLogger(name)
        if not any(isinstance(there, QuietFilter) for there in logger.filters):
            logger.addFilter(QuietFilter())
