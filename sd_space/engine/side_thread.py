"""A thread beside the engine's own: it makes calls one after the other, on the CUDA stream of whoever asks for them."""

import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any

import torch


class Pending:
    """A call that is to be made; `done` is set when it has been."""

    def __init__(self, call: Callable[[], Any]):
        self.done = threading.Event()
        self._call: Callable[[], Any] | None = call
        self._stream = torch.cuda.current_stream() if torch.cuda.is_initialized() else None
        self._result: Any = None
        self._error: Exception | None = None

    def make(self) -> None:
        try:
            with torch.cuda.stream(self._stream) if self._stream else contextlib.nullcontext():
                self._result = self._call() if self._call else None
        except Exception as error:
            self._error = error
        self._call = None  # which holds tensors
        self.done.set()

    def result(self) -> Any:
        """Waits for it; raises what the call has raised."""
        self.done.wait()
        if self._error is not None:
            raise self._error
        return self._result


class SideThread:
    """A daemon, so that a call that never ends does not keep the process from ending."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: queue.SimpleQueue[Pending | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def submit(self, call: Callable[[], Any]) -> Pending:
        if self._thread is None or not self._thread.is_alive():  # also after a fork, which takes no threads along
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()
        pending = Pending(call)
        self._calls.put(pending)
        return pending

    def end(self) -> None:
        """Ends the thread after what it has to do, which frees its per-thread CUDA handles."""
        self._calls.put(None)

    def _work(self) -> None:
        while (pending := self._calls.get()) is not None:
            pending.make()
            del pending  # holds no picture while it waits for the next
