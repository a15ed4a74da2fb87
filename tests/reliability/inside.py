"""What runs in the server's process: the real app, and a thread through which a test puts a hand inside.

A test sends functions; they run here, so that a guard can be taken out or a fault put in while the app serves, and the
product needs no switch for it.
"""

import gc
import inspect
import os
import sys
import tempfile
import textwrap
import threading
from collections import Counter
from collections.abc import Callable
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

# What a server's start would spend its seconds on; loaded once, and every server is forked from there.
PRELOADED = ["app", "sd_space.ui", "sd_space.recorded", "sd_space.engine", "sd_space.pipeline", __name__]

counts: Counter[str] = Counter()
foreign_hosts: set[str] = set()
_before: list[tuple[object, str, object]] = []  # (owner, name, what it was)


def serve(connection: Connection, environ: dict[str, str], arguments: list[str], log: Path, program: str) -> None:
    """Runs `program`, a module with a `main`, until it ends; its exit status is the process's."""
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.update(environ)
    tempfile.tempdir = environ["TMPDIR"]
    from gradio import http_server

    http_server.INITIAL_PORT_VALUE, http_server.TRY_NUM_PORTS = int(environ["GRADIO_SERVER_PORT"]), 1  # read at import
    sys.addaudithook(_notice_hosts)
    threading.Thread(target=_obey, args=(connection,), daemon=True).start()
    sys.exit(import_module(program).main(arguments))


def _obey(connection: Connection) -> None:
    while True:
        try:
            function, arguments = connection.recv()
        except EOFError:
            return
        try:
            connection.send((True, function(*arguments)))
        except Exception as error:
            connection.send((False, f"{type(error).__name__}: {error}"))


def _notice_hosts(event: str, arguments: tuple) -> None:
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    elif event == "socket.getaddrinfo":
        host = arguments[0]
    else:
        return
    if host not in (None, "127.0.0.1", "localhost", "::1", "0.0.0.0"):
        foreign_hosts.add(str(host))


def patch(target: str, factory: Callable[[Any], Any]) -> int:
    """Replaces `module:Class.name` by what `factory` makes of it; returns what `restore` takes it back with."""
    module, _, path = target.partition(":")
    *owners, name = path.split(".")
    owner: Any = import_module(module)
    for part in owners:
        owner = getattr(owner, part)
    original = inspect.getattr_static(owner, name)
    _before.append((owner, name, original))
    setattr(owner, name, factory(original))
    return len(_before) - 1


def restore(depth: int) -> None:
    while len(_before) > depth:
        setattr(*_before.pop())


def rewritten(original: Callable, old: str, new: str) -> Callable:
    """The same function with one piece of its source replaced; the piece must be there exactly once."""
    source = textwrap.dedent(inspect.getsource(original))
    if source.count(old) != 1:
        raise LookupError(f"{old!r} occurs {source.count(old)} times in {original.__qualname__}")
    made: dict[str, Any] = {}
    namespace = inspect.unwrap(original).__globals__
    exec(compile(source.replace(old, new), inspect.getsourcefile(original) or "", "exec"), namespace, made)
    return made[original.__name__]


def counted(original: Callable, name: str) -> Callable:
    def counting(*args, **kwargs):
        counts[name] += 1
        return original(*args, **kwargs)

    return counting


def live(type_name: str) -> Any:
    """The one living instance of a class that is named `type_name`."""
    return _only(lambda kind: kind.__name__ == type_name)


def gradio_queue() -> Any:
    """Gradio's queue of the page."""
    return _only(lambda kind: (kind.__module__, kind.__qualname__) == ("gradio.queueing", "Queue"))


def _only(is_it: Callable[[type], bool]) -> Any:
    gc.unfreeze()  # what the start has left is out of the collector's sight
    (found,) = [thing for thing in gc.get_objects() if is_it(type(thing))]
    return found
