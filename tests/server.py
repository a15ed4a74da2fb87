"""Runs the real app in a process of its own, as an operator does."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from .forked import Forked

ROOT = Path(__file__).parent.parent


def until(condition: Callable[[], Any], timeout_s: float = 10.0, what: Any = "it did not come") -> Any:
    """What `condition` returns once that is true."""
    deadline_s = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline_s, what
        time.sleep(0.02)
    return found


@dataclass
class Server:
    """A running app; `folder` is its temporary folder."""

    url: str
    process: subprocess.Popen | Forked
    folder: Path
    results: Path
    log_path: Path
    printed: str | None = None  # all of it, once the log is gone

    @property
    def log(self) -> str:
        """Everything that it has printed."""
        return self.printed or self.log_path.read_text(encoding="utf-8", errors="replace")

    def get(self, path: str, **options: Any) -> httpx.Response:
        return httpx.get(self.url + path, **{"timeout": 30} | options)

    def wait_for(self, path: str = "/readyz", status: int = 200, timeout_s: float = 60.0) -> httpx.Response:
        """Asks until that is the answer; fails with the log when the process dies or the time is over."""
        last = None

        def answer() -> httpx.Response | None:
            nonlocal last
            assert self.process.poll() is None, f"the app stopped:\n{self.log}"
            with contextlib.suppress(httpx.TransportError):
                last = self.get(path)
            return last if last is not None and last.status_code == status else None

        try:
            return until(answer, timeout_s)
        except AssertionError as error:
            said = f"{path} did not answer {status} in {timeout_s} s: {last and last.text}\n{self.log}"
            raise AssertionError(said) from error

    def metric(self, name: str) -> float:
        """What /metrics says under this name, labels included or all of them together."""
        lines = [line for line in self.get("/metrics").text.splitlines() if line.startswith(name)]
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    def wait_for_metric(self, name: str, value: float, timeout_s: float = 10.0) -> None:
        until(lambda: self.metric(name) == value, timeout_s, f"{name} was not {value} within {timeout_s} s")

    def stop(self, number: int = signal.SIGTERM, timeout_s: float = 20.0) -> int:
        """Sends the signal and returns the exit status; a signal that ends the process by itself is negative."""
        self.process.send_signal(number)
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"the app did not stop within {timeout_s} s\n{self.log}") from None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def address_of(environ: Mapping[str, str]) -> str:
    return f"http://127.0.0.1:{environ['GRADIO_SERVER_PORT']}"


def settings_for(folder: Path) -> dict[str, str]:
    """The environment of an app on a free port of this machine that keeps to the folder."""
    return os.environ | {
        "GRADIO_SERVER_NAME": "127.0.0.1",
        "GRADIO_SERVER_PORT": str(free_port()),
        "GRADIO_NUM_PORTS": "1",
        "SD_SPACE_MODEL": "tiny",
        "SD_SPACE_RUNTIME": "torch",  # for which exact pictures are promised
        "SD_SPACE_RATE_PER_MINUTE": "100000",
        "SD_SPACE_RESULT_DIR": str(folder / "results"),
        "TMPDIR": str(folder),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
    }


@contextlib.contextmanager
def serve(*arguments: str, module: str = "app", is_fresh: bool = False, **environ: str) -> Iterator[Server]:
    """The app on a free port, with a temporary folder of its own; stopped by SIGTERM at the end.

    `is_fresh`: in an interpreter of its own, for what is about its start; others are forked.
    """
    with tempfile.TemporaryDirectory() as root:
        folder, log = Path(root, "tmp"), Path(root, "log")
        folder.mkdir()
        log.touch()
        given = settings_for(folder) | environ
        process = started_fresh(module, arguments, given, log) if is_fresh else Forked(module, arguments, given, log)
        server = Server(address_of(given), process, folder, Path(given["SD_SPACE_RESULT_DIR"]), log)
        try:
            yield server
        finally:
            try:
                server.stop(timeout_s=30)
            finally:
                server.printed = server.log


def started_fresh(module: str, arguments: Sequence[str], environ: Mapping[str, str], log: Path) -> subprocess.Popen:
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments], cwd=ROOT, env=environ, stdout=output, stderr=subprocess.STDOUT
        )


def ended(
    module: str,
    arguments: Sequence[str],
    folder: Path,
    first: Callable[[], None] | None = None,
    timeout_s: float = 120,
    **environ: str,
) -> tuple[int, str]:
    """Runs a command to its end, forked; returns its exit status and all that it printed."""
    log = folder / f"{module}.log"
    log.unlink(missing_ok=True)
    log.touch()
    process = Forked(module, arguments, os.environ | environ, log, first)
    try:
        return process.wait(timeout_s), log.read_text(encoding="utf-8")
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError(log.read_text(encoding="utf-8")) from None
