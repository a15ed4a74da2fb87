"""Runs the real app in a process of its own, as an operator does."""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx

ROOT = Path(__file__).parent.parent


@dataclass
class Server:
    url: str
    process: subprocess.Popen
    results: Path
    log: list[str] = field(default_factory=list)

    def get(self, path: str, **options) -> httpx.Response:
        return httpx.get(self.url + path, timeout=30, **options)

    def wait_for(self, path: str, timeout_s: float) -> httpx.Response:
        """Asks for `path` until it answers 200; fails with the log when the process dies or the time is over."""
        deadline_s = time.monotonic() + timeout_s
        answer = None
        while time.monotonic() < deadline_s:
            if self.process.poll() is not None:
                raise AssertionError("the app stopped:\n" + "".join(self.log))
            with contextlib.suppress(httpx.TransportError):
                answer = self.get(path)
                if answer.status_code == 200:
                    return answer
            time.sleep(0.1)
        raise AssertionError(
            f"{path} did not answer 200 in {timeout_s} s: {answer and answer.text}\n" + "".join(self.log)
        )

    def metric(self, name: str) -> float:
        """What /metrics says under this name, labels included or all of them together."""
        lines = [line for line in self.get("/metrics").text.splitlines() if line.startswith(name)]
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    def wait_for_metric(self, name: str, value: float, timeout_s: float = 10.0) -> None:
        deadline_s = time.monotonic() + timeout_s
        while self.metric(name) != value:
            assert time.monotonic() < deadline_s, f"{name} was not {value} within {timeout_s} s"
            time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def serve(*arguments: str, module: str = "app", **environ: str) -> Iterator[Server]:
    """The app on a free port, with its own folder for results; stopped by SIGTERM at the end."""
    with tempfile.TemporaryDirectory() as results:
        port = free_port()
        settings = {
            "GRADIO_SERVER_NAME": "127.0.0.1",
            "GRADIO_SERVER_PORT": str(port),
            "SD_SPACE_MODEL": "tiny",
            "SD_SPACE_RESULT_DIR": results,
            "SD_SPACE_RATE_PER_MINUTE": "100000",
            "PYTHONUNBUFFERED": "1",
            "HF_HUB_OFFLINE": "1",
        }
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            env=os.environ | settings | environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        server = Server(f"http://127.0.0.1:{port}", process, Path(results))
        reader = threading.Thread(target=lambda: server.log.extend(process.stdout), daemon=True)
        reader.start()
        try:
            yield server
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                raise AssertionError("the app did not stop within 30 s of SIGTERM:\n" + "".join(server.log)) from None
            finally:
                process.wait()
                reader.join(5)
                process.stdout.close()
