"""A stand-in for the interface through which `spaces` asks the Hub for a GPU: HTTP on the loopback."""

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


@dataclass
class Device:
    """Lends one GPU to everybody, or answers `/schedule` with `refusal`; `calls` are (path, parameters) in order."""

    url: str
    calls: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    refusal: tuple[int, dict] | None = None
    released: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def parameters(self, path: str) -> list[dict[str, str]]:
        return [parameters for called, parameters in self.calls if called == path]

    def answer(self, path: str) -> tuple[int, dict]:
        if path == "/schedule":
            lent = {"idle": True, "nvidiaIndex": 0, "nvidiaUUID": "MIG-0", "allowToken": f"allow-{len(self.calls)}"}
            return self.refusal or (200, lent)
        return 200, {}


@contextlib.contextmanager
def lend() -> Iterator[Device]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            target = urlsplit(self.path)
            device.calls.append((target.path, {name: value for name, (value,) in parse_qs(target.query).items()}))
            status, body = device.answer(target.path)
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
            if target.path == "/release":
                device.released.release()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        device = Device(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield device
        finally:
            server.shutdown()
            thread.join()
