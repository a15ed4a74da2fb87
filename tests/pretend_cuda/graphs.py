"""CUDA graphs of a pretended device: what is launched in a capture is taped, and a replay does it again."""

import contextlib
import itertools
import weakref

import torch

from .tensors import Device, _tensors


class Graphs:
    """Makes a device's graphs.

    As on a real one: a capture computes nothing and refuses whatever waits; and a graph that is let go takes memory
    with it that the others of its pool read (the workspace of cuBLAS), so that they must never run again.
    """

    def __init__(self, device: Device):
        self._device = device
        self._pools = itertools.count(1)
        self.alive: weakref.WeakSet = weakref.WeakSet()
        self.captures = self.replays = 0
        self.fails: BaseException | None = None  # raised at the end of each capture
        self.CUDAGraph = type("CUDAGraph", (Graph,), {"graphs": self})

    def pool_handle(self) -> tuple[int, int]:
        return (0, next(self._pools))

    @contextlib.contextmanager
    def capture(self, graph: "Graph", pool=None, stream=None, capture_error_mode: str = "global"):
        device = self._device
        device.wait("synchronize")
        before, device.clock.stream = device.clock.stream, stream or device.clock.stream
        device.tape, device.stalls.is_capturing = [], True
        graph.pool = pool
        self.captures += 1
        try:
            yield
            if self.fails is not None:
                raise self.fails
            graph.keep(device.tape)
            self.alive.add(graph)
        finally:
            device.tape, device.stalls.is_capturing = None, False
            device.clock.stream = before

    def lose_pool(self, pool) -> None:
        for graph in list(self.alive):
            if graph.pool == pool:
                graph.is_broken = True

    def run(self, tape) -> None:
        self.replays += 1
        device = self._device
        device.launch()
        with torch._C.DisableTorchFunction():
            self._again(tape)

    def _again(self, tape) -> None:
        for func, args, kwargs, result, fresh, items in tape:
            self._device.clock.work(items)
            new = func(*args, **kwargs)
            for old, value in zip(_tensors(result), _tensors(new), strict=True):
                if any(old is one for one in fresh):
                    old.copy_(value)


class Graph:
    graphs: Graphs

    def __init__(self, *_: object, **__: object) -> None:
        self.tape: list | None = None
        self.pool, self.is_broken = None, False

    def keep(self, tape: list) -> None:
        self.tape = tape
        with torch._C.DisableTorchFunction():
            for tensor in (tensor for *_, fresh, _ in tape for tensor in fresh):
                if tensor.is_floating_point():
                    tensor.fill_(float("nan"))

    def replay(self) -> None:
        if self.is_broken:
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered (pretended)")
        self.graphs.run(self.tape)

    def reset(self) -> None:
        if self.tape is not None:
            self.tape = None
            self.graphs.alive.discard(self)
            self.graphs.lose_pool(self.pool)

    def __del__(self) -> None:
        self.reset()
