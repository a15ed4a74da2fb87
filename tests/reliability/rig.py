"""Servers for the scoreboard: the real app in a process of its own, forked from one that has its imports behind it."""

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest import mock

import httpx

from ..server import free_port
from . import inside

# What libraries read when they are imported, which they are in the process that the servers are forked from.
_INHERITED = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
SECRET = "the rig's own secret"
HUB_TOKEN = "hf_marker_of_the_operators_token"
_PREFIXES = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF", b"iVBORw0KGgo", b"data:image/")  # of pictures, raw and in base64


def until(condition: Callable[[], Any], timeout_s: float = 10.0, what: str = "it did not come") -> Any:
    """What `condition` returns once that is true."""
    deadline_s = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline_s, what
        time.sleep(0.02)
    return found


def holds_picture(data: bytes) -> bool:
    return any(prefix in data for prefix in _PREFIXES)


@dataclass
class Rig:
    """A running server and the hand inside it."""

    url: str
    process: BaseProcess
    connection: Connection
    folder: Path  # its temporary folder; results are in it
    log_path: Path
    known_files: set[Path] = field(default_factory=set)
    invited: int = 0  # runs of visitors who have accepted, in an attempt of somebody who has not

    @property
    def results(self) -> Path:
        return self.folder / "results"

    @property
    def log(self) -> str:
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def do(self, function: Callable, *arguments: Any) -> Any:
        """Runs a function of an importable module in the server's process."""
        self.connection.send((function, arguments))
        worked, answer = self.connection.recv()
        assert worked, answer
        return answer

    @contextlib.contextmanager
    def patched(self, target: str, factory: Callable[[Any], Any]) -> Iterator[None]:
        depth = self.do(inside.patch, target, factory)
        try:
            yield
        finally:
            self.do(inside.restore, depth)

    def without(self, target: str, old: str, new: str) -> contextlib.AbstractContextManager[None]:
        """The server with one guard taken out of its source."""
        return self.patched(target, partial(inside.rewritten, old=old, new=new))

    def count(self, name: str) -> int:
        return self.do(_count, name)

    def wait_until_idle(self, timeout_s: float = 60.0) -> None:
        self.wait_for_lines("sd_space_requests_running 0.0", "sd_space_requests_waiting 0.0", timeout_s=timeout_s)

    def wait_for_lines(self, *lines: str, timeout_s: float = 20.0) -> None:
        """Until /metrics says so."""
        until(lambda: {*lines} <= {*httpx.get(f"{self.url}/metrics", timeout=10).text.splitlines()}, timeout_s, lines)

    def new_files(self) -> list[Path]:
        """Files that have come up in its temporary folder since the last call."""
        files = {path for path in self.folder.rglob("*") if path.is_file()}
        new = sorted(files - self.known_files)
        self.known_files = files
        return new

    def wait_for(self, path: str = "/readyz", status: int = 200, timeout_s: float = 60.0) -> httpx.Response:
        def answer() -> httpx.Response | None:
            assert self.process.is_alive(), self.log
            with contextlib.suppress(httpx.TransportError):
                response = httpx.get(self.url + path, timeout=10)
                return response if response.status_code == status else None

        return until(answer, timeout_s, f"{path} did not answer {status}")

    def stop(self, number: int = signal.SIGTERM, timeout_s: float = 20.0) -> int:
        """Sends the signal and returns the exit status; a signal that ends the process by itself is negative."""
        if self.process.is_alive():
            os.kill(self.process.pid, number)
        self.process.join(timeout_s)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
            raise AssertionError(f"the app did not stop within {timeout_s} s\n{self.log}")
        return self.process.exitcode


def _count(name: str) -> int:
    return inside.counts[name]


class Rigs:
    """Starts servers, and ends with them."""

    kind = Rig

    def __init__(self, root: Path, model: Path):
        self._root = root
        self._model = model
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(inside.PRELOADED)
        with mock.patch.dict(os.environ, _INHERITED):
            forkserver.ensure_running()
        self._started: list[Rig] = []

    def start(
        self, *arguments: str, program: str = "app", folder: Path | None = None, is_ready: bool = True, **environ: str
    ) -> Rig:
        """A server on a free port; `folder` is a temporary folder that an earlier one left behind."""
        number = len(self._started)
        folder = folder or self._root / f"server{number}"
        folder.mkdir(exist_ok=True)
        port, log = free_port(), self._root / f"server{number}.log"
        log.touch()
        given = {
            "GRADIO_SERVER_NAME": "127.0.0.1",
            "GRADIO_SERVER_PORT": str(port),
            "HF_TOKEN": HUB_TOKEN,
            "TMPDIR": str(folder),
            "SD_SPACE_MODEL": str(self._model),
            "SD_SPACE_RESULT_DIR": str(folder / "results"),
            "SD_SPACE_RATE_PER_MINUTE": "100000",
            "SD_SPACE_MAX_BATCH_SIZE": "8",  # a busy machine would measure that less pays
            "SD_SPACE_SECRET": SECRET,
        }
        here, there = self._context.Pipe()
        process = self._context.Process(
            target=inside.serve, args=(there, given | environ, list(arguments), log, program), daemon=True
        )
        process.start()
        there.close()
        rig = self.kind(f"http://127.0.0.1:{port}", process, here, folder, log)
        self._started.append(rig)
        if is_ready:
            rig.wait_for(timeout_s=120)
            rig.do(inside.patch, "sd_space.backends.local:LocalBackend.generate", partial(inside.counted, name="asked"))
        return rig

    def close(self) -> None:
        for rig in self._started:
            if rig.process.is_alive():
                rig.process.kill()
            rig.process.join()
            rig.connection.close()
