"""Processes that are forked from one that has its imports behind it: the app is up in half a second instead of nine."""

import contextlib
import importlib
import multiprocessing
import multiprocessing.context
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from multiprocessing import forkserver
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from typing import Any
from unittest import mock

from sd_space.backends import engine_process, engine_slot

# What a start would spend its seconds on; loaded once, and every process is forked from there.
PRELOADED = [
    "app",
    "sd_space.ui",
    "sd_space.recorded",
    "sd_space.engine.engine",
    "sd_space.model.pipeline",
    "sd_space.tools.doctor",
]
# What libraries read when they are imported, which they are in the process from which the others are forked.
_INHERITED = {"OMP_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "error"}
_READ_AT_IMPORT = ("huggingface_hub.constants", "gradio.http_server")  # settings that differ from process to process


def forking_context() -> multiprocessing.context.ForkServerContext:
    """Starts processes that have their imports behind them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOADED, __name__])
    with mock.patch.dict(os.environ, _INHERITED):
        forkserver.ensure_running()
    return context


class Forked:
    """A process of the fork server, as if it were a `subprocess.Popen`; functions sent to `connection` run in it."""

    def __init__(
        self,
        program: str,
        arguments: Sequence[str],
        environ: Mapping[str, str],
        log: Path,
        first: Callable[[], None] | None = None,
    ):
        """Runs `main(arguments)` of the module `program`, and `first` before it."""
        context = forking_context()
        self.connection, there = context.Pipe()
        server = forkserver._forkserver._forkserver_address
        options = (there, dict(environ), list(arguments), log, program, first, server)
        self._process = context.Process(target=_run, args=options, daemon=True)
        self._process.start()
        there.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _run(
    connection: Connection,
    environ: dict[str, str],
    arguments: list[str],
    log: Path,
    program: str,
    first: Callable[[], None] | None,
    server: str,
) -> None:
    _settle(environ, log)
    multiprocessing.current_process()._config["daemon"] = False  # else it may have no children
    # Its engines are forked from where it was itself: a process of their own imports torch for seconds.
    forkserver._forkserver._forkserver_address, forkserver._forkserver.ensure_running = server, lambda: None
    engine_slot.CONTEXT = multiprocessing.get_context("forkserver")
    engine_process.run = partial(_run_engine, environ, log, engine_address(os.getpid()))
    if first:
        first()
    threading.Thread(target=_obey, args=(connection,), daemon=True).start()
    sys.exit(importlib.import_module(program).main(arguments))


def _settle(environ: dict[str, str], log: Path) -> None:
    """Gives a process that was forked the environment and the output that it would have been started with."""
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.clear()
    os.environ.update(environ)
    tempfile.tempdir = None  # which is the environment's to say
    for module in _READ_AT_IMPORT:
        importlib.reload(importlib.import_module(module))


def engine_address(server_pid: int) -> str:
    """Where functions can be sent to the engine's process of that server, also to one that replaces another."""
    return f"\0sd-space-engine-{server_pid}"


def _run_engine(environ: dict[str, str], log: Path, address: str, *arguments: Any) -> None:
    """`engine_process.run` with an ear for functions that tests send."""
    _settle(environ, log)
    with contextlib.suppress(OSError):  # a second engine of the same server: the first is reached
        listener = Listener(address, "AF_UNIX")
        threading.Thread(target=_welcome, args=(listener,), daemon=True).start()
    engine_process.run(*arguments)


def _welcome(listener: Listener) -> None:
    while True:
        threading.Thread(target=_obey, args=(listener.accept(),), daemon=True).start()


def _obey(connection: Connection) -> None:
    """Runs the functions that are sent, until nobody sends any more."""
    while True:
        try:
            function, arguments = connection.recv()
        except EOFError:
            return
        try:
            connection.send((True, function(*arguments)))
        except Exception as error:
            connection.send((False, f"{type(error).__name__}: {error}"))
