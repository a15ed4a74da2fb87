"""Where the page is served: the address that the operator asked for, or a sentence that says why not.

Gradio would take another port where that one is taken, and knows no IPv6.
"""

import contextlib
import errno
import functools
import ipaddress
import os
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import uvicorn

from sd_space.errors import CannotStart
from sd_space.serving.connections import MAX_HEAD_BYTES, BoundedProtocol, Connections, max_connections
from sd_space.setting_readers import short_repr

NAME, PORT, NUM_PORTS = "GRADIO_SERVER_NAME", "GRADIO_SERVER_PORT", "GRADIO_NUM_PORTS"
DEFAULT_HOST, DEFAULT_PORT, DEFAULT_NUM_PORTS = "127.0.0.1", 7860, 100
BACKLOG = 2048  # connections that the kernel keeps for us
ACCEPTED_AT_ONCE = 16  # before the first of them is looked at: as many handles are taken without being counted
START_TIMEOUT_S = 60.0
_EVERYWHERE = {"0.0.0.0": "localhost", "::": "[::1]"}  # where such a server is reached from here


@dataclass(frozen=True, slots=True)
class Address:
    """Host, without brackets, and the ports to try in turn: only one where it was asked for."""

    host: str
    ports: range
    is_asked: bool

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> "Address":
        """Raises CannotStart for what is no port. An empty name is the default's, an empty port a mistake."""
        host = environ.get(NAME, "").strip()
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        if PORT in environ:
            port = _number(PORT, environ[PORT], 65_535)
            return cls(host or DEFAULT_HOST, range(port, port + 1), True)
        number = _number(NUM_PORTS, environ[NUM_PORTS], 10_000) if environ.get(NUM_PORTS) else DEFAULT_NUM_PORTS
        return cls(host or DEFAULT_HOST, range(DEFAULT_PORT, DEFAULT_PORT + number), False)

    def url(self, port: int) -> str:
        """Where it is reached from this machine."""
        host = _EVERYWHERE.get(self.host) or (f"[{self.host.replace('%', '%25')}]" if ":" in self.host else self.host)
        return f"http://{host}:{port}/"


def _number(name: str, text: str, high: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and 1 <= int(text) <= high):
        raise CannotStart(
            f"{name} must be a whole number from 1 to {high}, not {short_repr(text)}; leave it out for the default."
        )
    return int(text)


def listen(address: Address) -> tuple[int, list[socket.socket]]:
    """The port and its listening sockets. Raises CannotStart."""
    for port in address.ports:
        try:
            return port, _bound(address.host, port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise CannotStart(_why_not(address.host, port, error)) from None
    first, last = address.ports[0], address.ports[-1]
    taken = (
        f"Port {first} of {address.host} is"
        if first == last
        else f"All ports from {first} to {last} of {address.host} are"
    )
    raise CannotStart(f"{taken} taken; end what holds it, or set {PORT} to another.")


def check(address: Address) -> str:
    """Where it could listen now. Raises CannotStart."""
    port, sockets = listen(address)
    for listener in sockets:
        listener.close()
    return f"{address.host}:{port} is free" if ":" not in address.host else f"[{address.host}]:{port} is free"


def _bound(host: str, port: int) -> list[socket.socket]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError):
        raise OSError(errno.EADDRNOTAVAIL, "the name is not known") from None
    sockets: list[socket.socket] = []
    failure: OSError | None = None
    try:
        for family, kind, protocol, _, where in dict.fromkeys(found):
            try:
                _check_is_one_machines(family, where)
                sockets.append(_listener(family, kind, protocol, where))
            except OSError as error:  # `localhost` may stand for an address of a kind that is switched off
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
                failure = error
        if failure is not None and not sockets:
            raise failure
    except OSError:
        for listener in sockets:
            listener.close()
        raise
    return sockets


def _check_is_one_machines(family: int, where: Any) -> None:
    """Systems let a server listen at an address of many machines, where no connection can end. Raises OSError."""
    is_broadcast = False
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(where)  # sends nothing
        except PermissionError:
            is_broadcast = True
    if is_broadcast or ipaddress.ip_address(where[0]).is_multicast:
        raise OSError(errno.EADDRNOTAVAIL, "it stands for many machines")


def _listener(family: int, kind: int, protocol: int, where: Any) -> socket.socket:
    listener = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":  # elsewhere it would let two servers share a port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:  # `::` is everywhere, by IPv4 too
            is_both = where[0] == "::" and socket.has_dualstack_ipv6()
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(not is_both))
        listener.bind(where)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def _why_not(host: str, port: int, error: OSError) -> str:
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"Port {port} of {host} may not be opened by this user; set {PORT} to one from 1024 on."
    return (
        f"{NAME} must be an address of this machine, such as 127.0.0.1, 0.0.0.0 or ::, not {short_repr(host)} "
        f"({error.strerror or type(error).__name__})."
    )


class Server(uvicorn.Server):
    """uvicorn in a thread of its own, with the methods that Gradio calls."""

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket]):
        super().__init__(config)
        self._sockets = sockets
        self._thread = threading.Thread(target=self._own_thread, name="server", daemon=True)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in self._sockets:
            listener.listen(BACKLOG)  # uvicorn has one setting for the backlog and for how many are accepted at once

    def _own_thread(self) -> None:
        with contextlib.suppress(SystemExit):  # uvicorn ends a program that way; this is one thread of ours
            self.run(self._sockets)

    def start(self) -> None:
        """Returns when it answers. Raises CannotStart."""
        self._thread.start()
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not self.started:
            if not self._thread.is_alive() or time.monotonic() > deadline_s:
                for listener in self._sockets:
                    listener.close()
                raise CannotStart("The page's server did not start; the log says why.")
            time.sleep(0.001)

    def close(self) -> None:
        self.should_exit = True
        self._thread.join(timeout=5)


def start_server(address: Address, handles: int, app: Any, *_: Any, **__: Any) -> tuple[str, int, str, Server]:
    """In the place of `gradio.http_server.start_server`, with the same answer: name, port, local address, server."""
    port, sockets = listen(address)
    config = uvicorn.Config(
        app=app,
        host=address.host,
        port=port,
        # uvicorn does nothing with it but call it.
        http=functools.partial(BoundedProtocol, bounds=Connections(max_connections(handles))),  # type: ignore[arg-type]
        ws="none",
        proxy_headers=False,  # the request filter decides which X-Forwarded-For is believed
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        backlog=ACCEPTED_AT_ONCE,
        workers=1,
        log_level="warning",
    )
    server = Server(config, sockets)
    server.start()
    return address.host, port, address.url(port), server
