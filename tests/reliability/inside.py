"""What a test does in the processes of a server: functions that are sent there, so that a guard can be taken out or
a fault put in while the app serves, and the product needs no switch for it.
"""

import contextlib
import gc
import inspect
import resource
import sys
import textwrap
from collections import Counter
from collections.abc import Callable
from importlib import import_module
from typing import Any

counts: Counter[str] = Counter()
foreign_hosts: set[str] = set()
_before: list[tuple[object, str, object]] = []  # (owner, name, what it was)


def begin(handles: int | None) -> None:
    """Before the app is there: bounds its file handles, and notices in `foreign_hosts` whom else it calls."""
    if handles:
        resource.setrlimit(resource.RLIMIT_NOFILE, (handles, handles))
    sys.addaudithook(_notice_host)
    with contextlib.suppress(ImportError):  # its calls are not the interpreter's, so that no audit hook hears of them
        import uvloop

        uvloop.Loop = _noticing(uvloop.Loop)


def _noticing(loop: type) -> type:
    class Noticing(loop):
        async def getaddrinfo(self, host, *args, **kwargs):
            _notice_host("socket.getaddrinfo", (host,))
            return await super().getaddrinfo(host, *args, **kwargs)

        async def create_connection(self, protocol_factory, host=None, *args, **kwargs):
            _notice_host("socket.getaddrinfo", (host,))
            return await super().create_connection(protocol_factory, host, *args, **kwargs)

    return Noticing


def _notice_host(event: str, arguments: tuple) -> None:
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
