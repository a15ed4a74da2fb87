"""Calls on a GPU recorded as CUDA graphs, by the shapes of their tensors: the same kernels in a single launch."""

import contextlib
import logging
from collections import Counter
from collections.abc import Callable

import torch

logger = logging.getLogger(__name__)

RECORD_AT = 3  # the call of a shape that is recorded; in those before, the libraries choose and prepare their kernels
MOST_RECORDED = 16  # shapes; each takes memory of the driver's own beside the memory that all share (`memory.py`)
RECORD_AGAIN_AFTER = 50  # calls of a shape whose recording was dropped: to record one takes longer than a call

Tensors = tuple[torch.Tensor, ...]
Call = Callable[..., Tensors]
Capture = Callable[[Callable[[], Tensors]], tuple[Callable[[], object], Tensors]]


class CudaGraphCache:
    """Calls functions of tensors, and replays a graph once one was called `RECORD_AT` times with the same shapes.

    A graph reads its inputs from the same memory each time, and writes its outputs to the same memory. All graphs go
    together, when there are too many and when one could not be recorded: they share memory, also the workspace of
    cuBLAS, which goes with any of them. `make_capture` gives what records into new memory.
    """

    def __init__(self, make_capture: Callable[[], Capture]):
        self._make_capture = make_capture
        self._capture: Capture | None = None
        self._seen: Counter[tuple] = Counter()
        self._unfit: set[tuple] = set()  # what could not be recorded
        self._replays: dict[tuple, tuple[Tensors, Callable[[], object], Tensors]] = {}

    def __len__(self) -> int:
        return len(self._replays)

    def __call__(self, call: Call, *tensors: torch.Tensor) -> Tensors:
        key = (call, *(tensor.shape for tensor in tensors))
        if key not in self._replays:
            self._seen[key] += 1
            if self._seen[key] != RECORD_AT or key in self._unfit or not self._record(key, tensors):
                return call(*tensors)
        inputs, replay, outputs = self._replays[key]
        for static_input, tensor in zip(inputs, tensors, strict=True):
            static_input.copy_(tensor)
        replay()
        return tuple(output.clone() for output in outputs)

    def _record(self, key: tuple, tensors: Tensors) -> bool:
        if len(self._replays) == MOST_RECORDED:
            self._forget()
        call, inputs = key[0], tuple(tensor.clone() for tensor in tensors)
        try:
            self._capture = self._capture or self._make_capture()
            replay, outputs = self._capture(lambda: call(*inputs))
        except Exception as error:  # of any type; the plain call that follows shows whether the device is lost
            logger.warning("a UNet call could not be recorded (%s) and is made as it is", type(error).__name__)
            self._unfit.add(key)
            self._forget()  # a pool keeps the memory of a failed recording as long as it has any graph
            return False
        self._replays[key] = inputs, replay, outputs
        return True

    def _forget(self) -> None:
        for key in self._replays:
            self._seen[key] = RECORD_AT - RECORD_AGAIN_AFTER
        self._replays, self._capture = {}, None


def cuda_graph_capture() -> Capture:
    """Records calls as CUDA graphs, which share one pool of memory because they never run at the same time."""
    pool, stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream()

    def capture(call: Callable[[], Tensors]) -> tuple[Callable[[], object], Tensors]:
        graph, caller = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:  # other threads may use the device meanwhile
            with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
                outputs = call()
        except Exception:  # where the end of the capture fails too, torch leaves its stream and pool in use
            torch.cuda.set_stream(caller)
            with contextlib.suppress(RuntimeError):
                torch._C._cuda_endAllocateToPool(caller.device_index, pool)
            raise
        return graph.replay, outputs

    return capture
