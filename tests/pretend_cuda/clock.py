"""The time of a pretended device: a host that launches work, and streams that do it in order while the host goes on."""

import threading
from collections.abc import Callable

import torch

from .stalls import Stalls

Write = Callable[[], object]


class Clock:
    """Passes only with launches and waits, so that every run takes the same time. Calling it gives the host's time.

    A launch takes the host `launch_s`, and its stream `kernel_s`, a matrix product also `item_s` for each value.
    What the device writes into the host's memory arrives when the host has waited for it, and not earlier.
    """

    def __init__(self, stalls: Stalls) -> None:
        self.now_s = 0.0
        self.launch_s, self.kernel_s, self.item_s = 5e-6, 5e-6, 5e-9
        self.Stream = type("Stream", (Stream,), {"clock": self, "stalls": stalls})
        self.default_stream = self.Stream()
        self._own = threading.local()  # the current stream
        self._written: list[tuple[float, Write]] = []

    def __call__(self) -> float:
        return self.now_s

    @property
    def stream(self) -> "Stream":
        return getattr(self._own, "stream", self.default_stream)

    @stream.setter
    def stream(self, stream: "Stream") -> None:
        self._own.stream = stream

    def launch(self) -> None:
        self.now_s += self.launch_s
        self.stream.ends_s = max(self.stream.ends_s, self.now_s)

    def work(self, items: int) -> None:
        self.stream.ends_s += self.kernel_s + items * self.item_s

    def write_later(self, write: Write) -> None:
        self._written.append((self.stream.ends_s, write))

    def wait_until(self, at_s: float) -> None:
        """The host waits, and has what the device wrote until then."""
        self.now_s = max(self.now_s, at_s)
        due = [write for done_s, write in self._written if done_s <= self.now_s]
        self._written = [item for item in self._written if item[0] > self.now_s]
        for write in due:
            write()


class Stream:
    """Work in order; `ends_s` is when all that was launched is done."""

    device_index = 0
    clock: Clock
    stalls: Stalls

    def __init__(self, *_: object, **__: object) -> None:
        self.ends_s = 0.0

    def synchronize(self) -> None:
        self.stalls.note("synchronize")
        self.clock.wait_until(self.ends_s)

    def wait_stream(self, other: "Stream") -> None:
        self.ends_s = max(self.ends_s, other.ends_s)

    def wait_event(self, event: "Event") -> None:
        self.ends_s = max(self.ends_s, event.done_s)


def event_class(clock: Clock, stalls: Stalls) -> type:
    return type("Event", (Event,), {"clock": clock, "stalls": stalls})


class Event:
    """A mark in a stream. A wait for one is noted as `event`: pacing, which is meant."""

    clock: Clock
    stalls: Stalls

    def __init__(self, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False) -> None:
        self.has_timing, self.is_blocking, self.done_s = enable_timing, blocking, 0.0

    def record(self, stream: Stream | None = None) -> None:
        self.done_s = (stream or self.clock.stream).ends_s

    def query(self) -> bool:
        return self.done_s <= self.clock.now_s

    def synchronize(self) -> None:
        self.stalls.note("event" if self.is_blocking else "spinning event")
        self.clock.wait_until(self.done_s)

    def elapsed_time(self, later: "Event") -> float:
        """Milliseconds; as CUDA, only between events with timing that the device has reached."""
        if not (self.has_timing and later.has_timing):
            raise ValueError("Both events must be created with argument 'enable_timing=True'.")
        if not (self.query() and later.query()):
            raise torch.AcceleratorError("CUDA error: device not ready")
        return 1e3 * (later.done_s - self.done_s)
