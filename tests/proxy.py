"""A reverse proxy as operators put it before the app, with as little set up as they do."""

import contextlib
import select
import socket
import socketserver
import ssl
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Proxy:
    """Forwards to `upstream`. `prefix` is the path below which the page is opened, and which the app does not see;
    without `passes_host` the app sees the upstream's address as the host. No X-Forwarded header is added.
    """

    upstream: str
    port: int = 0  # any, when 0
    prefix: str = ""
    passes_host: bool = False
    certificate: Path | None = None  # with its key; the proxy speaks TLS then

    @contextlib.contextmanager
    def running(self) -> Iterator[str]:
        """The address at which the page is opened."""
        with _Server(self) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
            thread.start()
            try:
                yield f"http{'s' if self.certificate else ''}://localhost:{server.server_address[1]}{self.prefix}/"
            finally:
                server.shutdown()
                thread.join()
                server.drop_connections()

    def rewritten(self, head: str) -> str | None:
        """The head of a request as the app sees it, or `None` for a path that is not the app's."""
        request, *headers = head.split("\r\n")
        method, path, version = request.split(" ")
        if not path.startswith(f"{self.prefix}/"):
            return None
        replaced = ("connection:",) if self.passes_host else ("connection:", "host:")
        kept = [header for header in headers if not header.lower().startswith(replaced)]
        host = [] if self.passes_host else [f"Host: {urlsplit(self.upstream).netloc}"]
        return "\r\n".join([f"{method} {path.removeprefix(self.prefix)} {version}", *kept, *host, "Connection: close"])


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, proxy: Proxy):
        super().__init__(("127.0.0.1", proxy.port), _Handler)
        self.open: set[socket.socket] = set()
        self.proxy = proxy
        self.context = None
        if proxy.certificate is not None:
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.context.load_cert_chain(proxy.certificate)

    def drop_connections(self) -> None:
        for connection in list(self.open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Handler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            client = self.request
            self.server.open.add(client)
            stack.callback(self.server.open.discard, self.request)
            if self.server.context is not None:
                client = stack.enter_context(self.server.context.wrap_socket(client, server_side=True))
            data = b""
            while b"\r\n\r\n" not in data:
                if not (more := client.recv(65536)):
                    return
                data += more
            head, _, rest = data.partition(b"\r\n\r\n")
            rewritten = self.server.proxy.rewritten(head.decode("latin-1"))
            if rewritten is None:
                client.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                return
            parts = urlsplit(self.server.proxy.upstream)
            upstream = stack.enter_context(socket.create_connection((parts.hostname, parts.port)))
            upstream.sendall(rewritten.encode("latin-1") + b"\r\n\r\n" + rest)
            _relay(client, upstream)


def _relay(client: socket.socket, upstream: socket.socket) -> None:
    """Both ways until either end is over, in one thread: a TLS connection must not be read and written by two."""
    other = {client: upstream, upstream: client}
    while True:
        for source in select.select([client, upstream], [], [])[0]:
            if not (data := source.recv(65536)):
                return
            while isinstance(source, ssl.SSLSocket) and source.pending():
                data += source.recv(65536)
            other[source].sendall(data)


def make_certificate(folder: Path) -> Path:
    """A certificate for localhost that nobody vouches for, and its key, in one file."""
    key, certificate, both = folder / "key.pem", folder / "certificate.pem", folder / "both.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost -keyout"
    subprocess.run([*command.split(), key, "-out", certificate], check=True, capture_output=True)
    both.write_bytes(key.read_bytes() + certificate.read_bytes())
    return both
