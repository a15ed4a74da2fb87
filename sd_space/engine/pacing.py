"""Keeps the host at most one step ahead of its device, and measures steps in the time of the device that runs them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from sd_space.engine.batcher import BatchKey

Call = tuple[BatchKey, int]  # a UNet call: what its rows agree on, and how many pictures share it
Timed = list[tuple[Call, float]]  # with seconds


def synchronize(device: torch.device) -> None:
    """Waits for the work of this thread on the device, on CUDA for its stream alone."""
    if device.type == "cuda":
        torch.cuda.current_stream().synchronize()
    elif device.type != "cpu":
        torch.accelerator.synchronize()


def cuda_event() -> torch.cuda.Event:
    """Recorded now. To wait for one that is not `blocking` would keep a core of the host busy."""
    event = torch.cuda.Event(enable_timing=True, blocking=True)
    event.record()
    return event


class Pacer:
    """`begin` and `end` go around a step; `end` and `finish` return the calls that are seen to have ended.

    This one is for a CPU, where a step is done when it returns, and for accelerators that have no events like CUDA's.
    """

    under_way: Call | None = None  # launched, and not seen to have ended

    def __init__(self, device: torch.device, now_s: Callable[[], float]):
        self._device = device
        self._now_s = now_s

    def begin(self) -> None:
        self._began_s = self._now_s()

    def end(self, call: Call) -> Timed:
        synchronize(self._device)
        return [(call, self._now_s() - self._began_s)]

    def finish(self) -> Timed:
        """Waits until no step is under way."""
        return []


@dataclass(slots=True)
class _Launched:
    """A call between two events of the device."""

    call: Call
    begun: torch.cuda.Event
    ended: torch.cuda.Event

    def timed(self) -> Timed:
        self.ended.synchronize()
        return [(self.call, self.begun.elapsed_time(self.ended) / 1000)]


class CudaPacer(Pacer):
    """The host launches a step while the one before runs. What it does beside that is no part of a step's time."""

    _launched: _Launched | None = None

    def begin(self) -> None:
        self._begun = cuda_event()

    def end(self, call: Call) -> Timed:
        before, self._launched = self._launched, _Launched(call, self._begun, cuda_event())
        self.under_way = call
        return before.timed() if before else []

    def finish(self) -> Timed:
        before, self._launched, self.under_way = self._launched, None, None
        return before.timed() if before else []


def make_pacer(device: torch.device, now_s: Callable[[], float]) -> Pacer:
    return (CudaPacer if device.type == "cuda" else Pacer)(device, now_s)
