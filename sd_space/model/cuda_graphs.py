"""Calls on a GPU recorded as CUDA graphs, by the shapes of their tensors: the same kernels in a single launch."""

import contextlib
import logging
from collections import Counter, OrderedDict
from collections.abc import Callable

import torch

logger = logging.getLogger(__name__)

RECORD_AT = 3  # the call of a shape that is recorded; in those before, the libraries choose and prepare their kernels
MOST_RECORDED = 16  # shapes; each takes memory of the driver's own beside the memory that all share (`memory.py`)
RECORD_AGAIN_AFTER = 50  # calls of a shape whose recording was dropped: to record one takes longer than a call

Tensors = tuple[torch.Tensor, ...]
Capture = Callable[[Callable[[], Tensors]], tuple[Callable[[], object], Tensors]]


class CudaGraphCache:
    """Calls a function of tensors, and replays its graph once a combination of shapes was seen `RECORD_AT` times.

    A graph reads its inputs from the same memory each time, and writes its outputs to the same memory. The least
    recently used graph is dropped when there are too many. When one cannot be recorded, all are dropped and `give_up`
    is called, whose caller then calls the function itself.
    """

    def __init__(self, call: Callable[..., Tensors], capture: Capture, give_up: Callable[[], None] = lambda: None):
        self._call = call
        self._capture = capture
        self._give_up = give_up
        self._seen: Counter[tuple] = Counter()
        self._replays: OrderedDict[tuple, tuple[Tensors, Callable[[], object], Tensors]] = OrderedDict()

    def __call__(self, *tensors: torch.Tensor) -> Tensors:
        key = tuple(tensor.shape for tensor in tensors)
        if key not in self._replays:
            self._seen[key] += 1
            if self._seen[key] != RECORD_AT or not self._record(key, tensors):
                return self._call(*tensors)
        self._replays.move_to_end(key)
        inputs, replay, outputs = self._replays[key]
        for static_input, tensor in zip(inputs, tensors, strict=True):
            static_input.copy_(tensor)
        replay()
        return tuple(output.clone() for output in outputs)

    def _record(self, key: tuple, tensors: Tensors) -> bool:
        inputs = tuple(tensor.clone() for tensor in tensors)
        try:
            replay, outputs = self._capture(lambda: self._call(*inputs))
        except Exception as error:  # of any type; the plain call that follows shows whether the device is lost
            kind = type(error).__name__
            logger.warning("a UNet call could not be recorded (%s); from now on they are made as they are", kind)
            self._replays.clear()  # a pool keeps the memory of a failed recording as long as it has any graph
            self._give_up()
            return False
        if len(self._replays) == MOST_RECORDED:
            oldest, _ = self._replays.popitem(last=False)
            self._seen[oldest] = RECORD_AT - RECORD_AGAIN_AFTER
        self._replays[key] = inputs, replay, outputs
        return True


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
