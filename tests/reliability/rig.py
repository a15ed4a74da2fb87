"""Servers for the scoreboard: the real app, forked, with a hand inside."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Client, Connection
from pathlib import Path
from typing import Any

from ..forked import Forked, engine_address
from ..server import Server, address_of, settings_for, until
from . import inside

SECRET = "the rig's own secret"
HUB_TOKEN = "hf_marker_of_the_operators_token"
# The modules that work in the engine's process.
_OF_THE_ENGINE = (
    "sd_space.engine",
    "sd_space.model",
    "sd_space.backends.engine_thread",
    "sd_space.backends.heartbeat",
    "sd_space.lived_time",
    "diffusers",
    "transformers",
)
_PREFIXES = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF", b"iVBORw0KGgo", b"data:image/")  # of pictures, raw and in base64


def holds_picture(data: bytes) -> bool:
    return any(prefix in data for prefix in _PREFIXES)


@dataclass
class Rig(Server):
    """A running server and the hand inside it."""

    known_files: set[Path] = field(default_factory=set)
    invited: int = 0  # runs of visitors who have accepted, in an attempt of somebody who has not

    def do(self, function: Callable, *arguments: Any) -> Any:
        """Runs a function of an importable module in the server's process."""
        self.process.connection.send((function, arguments))
        worked, answer = self.process.connection.recv()
        assert worked, answer
        return answer

    def do_in_engine(self, function: Callable, *arguments: Any) -> Any:
        """The same in the process of its engine; in the next one where it ends meanwhile."""
        with until(self._reach_engine, what="the engine's process cannot be reached") as connection:
            try:
                connection.send((function, arguments))
                worked, answer = connection.recv()
            except (EOFError, ConnectionError):
                return self.do_in_engine(function, *arguments)
        assert worked, answer
        return answer

    def _reach_engine(self) -> Connection | None:
        with contextlib.suppress(OSError):
            return Client(engine_address(self.process.pid), "AF_UNIX")

    def patch(self, target: str, factory: Callable[[Any], Any]) -> Callable[[], None]:
        """Replaces what `target` names in the process that uses it; call the answer to take it back."""
        do = self.do_in_engine if target.startswith(_OF_THE_ENGINE) else self.do
        depth = do(inside.patch, target, factory)
        return lambda: do(inside.restore, depth)

    @contextlib.contextmanager
    def patched(self, target: str, factory: Callable[[Any], Any]) -> Iterator[None]:
        take_back = self.patch(target, factory)
        try:
            yield
        finally:
            take_back()

    def without(self, target: str, old: str, new: str) -> contextlib.AbstractContextManager[None]:
        """The server with one guard taken out of its source."""
        return self.patched(target, partial(inside.rewritten, old=old, new=new))

    def count(self, name: str) -> int:
        return self.do(_count, name)

    def wait_until_idle(self, timeout_s: float = 60.0) -> None:
        self.wait_for_lines("sd_space_requests_running 0.0", "sd_space_requests_waiting 0.0", timeout_s=timeout_s)

    def wait_for_lines(self, *lines: str, timeout_s: float = 20.0) -> None:
        """Until /metrics says so."""
        until(lambda: {*lines} <= {*self.get("/metrics").text.splitlines()}, timeout_s, lines)

    def new_files(self) -> list[Path]:
        """Files that have come up in its temporary folder since the last call."""
        files = {path for path in self.folder.rglob("*") if path.is_file()}
        new = sorted(files - self.known_files)
        self.known_files = files
        return new


def _count(name: str) -> int:
    return inside.counts[name]


class Rigs:
    """Starts servers, and ends with them."""

    kind = Rig

    def __init__(self, root: Path, model: Path):
        self._root = root
        self._model = model
        self._started: list[Rig] = []

    def start(
        self,
        *arguments: str,
        program: str = "app",
        folder: Path | None = None,
        is_ready: bool = True,
        handles: int | None = None,
        **environ: str,
    ) -> Rig:
        """A server on a free port; `folder` is a temporary folder that an earlier one left behind.

        `handles`: so many file handles may it have.
        """
        number = len(self._started)
        folder, log = folder or self._root / f"server{number}", self._root / f"server{number}.log"
        folder.mkdir(exist_ok=True)
        log.touch()
        ours = {
            "HF_TOKEN": HUB_TOKEN,
            "SD_SPACE_MODEL": str(self._model),
            "SD_SPACE_MAX_BATCH_SIZE": "8",  # a busy machine would measure that less pays
            "SD_SPACE_SECRET": SECRET,
        }
        given = settings_for(folder) | ours | environ
        process = Forked(program, arguments, given, log, partial(inside.begin, handles))
        rig = self.kind(address_of(given), process, folder, folder / "results", log)
        self._started.append(rig)
        if is_ready:
            rig.wait_for(timeout_s=120)
            rig.patch("sd_space.backends.replicas:ReplicatedBackend.generate", partial(inside.counted, name="asked"))
        return rig

    def close(self) -> None:
        for rig in self._started:
            rig.process.kill()
            rig.process.wait()
            rig.process.connection.close()
