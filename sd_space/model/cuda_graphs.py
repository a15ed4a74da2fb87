"""Calls on a GPU recorded as CUDA graphs, by the shapes of their tensors: the same kernels in a single launch."""

import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

import torch

from sd_space.model.kernels import TRIALS, USUAL, Kernels, StoredKernels, fastest
from sd_space.runtime_errors import is_out_of_memory

logger = logging.getLogger(__name__)

RECORD_AT = 3  # the call of a shape that is recorded; in those before, the libraries choose and prepare their kernels
MOST_RECORDED = 16  # shapes; each takes memory of the driver's own beside the memory that all share (`memory.py`)
RECORD_AGAIN_AFTER = 50  # calls of a shape whose recording was dropped: to record one takes longer than a call
REPLAYS = 3  # of which the fastest is the time of a recording

Tensors = tuple[torch.Tensor, ...]
Call = Callable[..., Tensors]
Capture = Callable[[Callable[[], Tensors]], tuple[Callable[[], object], Tensors]]


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """A graph: it reads `inputs` and writes `outputs`, the same memory each time."""

    inputs: Tensors
    replay: Callable[[], object]
    outputs: Tensors
    kernels: Kernels


class CudaGraphCache:
    """Calls functions of tensors, and replays a graph once one was called `RECORD_AT` times with the same shapes.

    All graphs go together, when there are too many and when one could not be recorded: they share memory, also the
    workspace of cuBLAS, which goes with any of them. `make_capture` gives what records into new memory.
    """

    def __init__(self, make_capture: Callable[[], Capture], stored: StoredKernels | None = None):
        self._make_capture = make_capture
        self._stored = stored
        self._capture: Capture | None = None
        self._seen: Counter[tuple] = Counter()
        self._unfit: set[tuple] = set()  # what could not be recorded
        self._recordings: dict[tuple, Recording] = {}
        self._kernels: dict[tuple, Kernels] = {}  # of shapes that were measured

    def __len__(self) -> int:
        return len(self._recordings)

    def __call__(self, call: Call, *tensors: torch.Tensor) -> Tensors:
        key = (call, *(tensor.shape for tensor in tensors))
        if key not in self._recordings:
            self._seen[key] += 1
            if self._seen[key] != RECORD_AT or key in self._unfit or not self._record(key, tensors):
                return call(*tensors)
        recording = self._recordings[key]
        for static_input, tensor in zip(recording.inputs, tensors, strict=True):
            static_input.copy_(tensor)
        recording.replay()
        return tuple(output.clone() for output in recording.outputs)

    def improve(self) -> Iterator[None]:
        """Records anew with the kernels that pay what was recorded with others. For an idle device: yields in between.

        Which ones pay is measured once for each shape, and stored.
        """
        if self._stored is None:
            return
        while (key := next((key for key in self._recordings if key not in self._kernels), None)) is not None:
            known = self._stored.read(_name_of(key))
            self._kernels[key] = (yield from self._measure(key, self._stored)) if known is None else known
        if any(recording.kernels != self._kernels[key] for key, recording in self._recordings.items()):
            yield from self._record_anew(self._let_go())

    def _measure(self, key: tuple, stored: StoredKernels) -> Generator[None, None, Kernels]:
        """The kernels that pay for a shape; the usual ones where memory ran out, and then nothing is stored."""
        usual, capture, is_full = self._recordings[key], self._make_capture(), False
        trials, seconds = [], {USUAL: _seconds_of(usual)}
        try:
            for kernels in TRIALS:
                yield
                try:
                    trials.append(torch.inference_mode()(_recorded)(capture, key[0], usual.inputs, kernels))
                    seconds[kernels] = _seconds_of(trials[-1])
                except RuntimeError as error:  # there is nothing of that kind for this shape, or no memory
                    is_full = is_full or is_out_of_memory(error)
        finally:  # with what was recorded for the measure all else goes
            calls = self._let_go()
        self._kernels[key] = USUAL if is_full else fastest(seconds)
        if not is_full:
            stored.store(_name_of(key), self._kernels[key])
        yield from self._record_anew(calls)
        return self._kernels[key]

    def _record_anew(self, calls: list[tuple[tuple, Tensors]]) -> Iterator[None]:
        for key, inputs in calls:
            yield
            if key not in self._recordings and key not in self._unfit:
                with torch.inference_mode():
                    self._record(key, inputs, self._kernels.get(key, USUAL))

    def _let_go(self) -> list[tuple[tuple, Tensors]]:
        """Forgets all recordings, which their next calls would record again; returns what they were of."""
        calls = [(key, recording.inputs) for key, recording in self._recordings.items()]
        self._seen.update({key: RECORD_AT - 1 - self._seen[key] for key, _ in calls})
        self._recordings, self._capture = {}, None
        return calls

    def _record(self, key: tuple, tensors: Tensors, kernels: Kernels = USUAL) -> bool:
        if len(self._recordings) == MOST_RECORDED:
            self._forget()
        try:
            self._capture = self._capture or self._make_capture()
            self._recordings[key] = _recorded(self._capture, key[0], tensors, kernels)
        except Exception as error:  # of any type; the plain call that follows shows whether the device is lost
            logger.warning("a UNet call could not be recorded (%s) and is made as it is", type(error).__name__)
            self._unfit.add(key)
            self._forget()  # a pool keeps the memory of a failed recording as long as it has any graph
            return False
        return True

    def _forget(self) -> None:
        for key, _ in self._let_go():
            self._seen[key] = RECORD_AT - RECORD_AGAIN_AFTER


def _recorded(capture: Capture, call: Call, tensors: Tensors, kernels: Kernels) -> Recording:
    inputs = tuple(tensor.clone() for tensor in tensors)
    if kernels == USUAL:
        return Recording(inputs, *capture(lambda: call(*inputs)), kernels)
    with kernels.in_force():
        for _ in range(RECORD_AT - 1):
            call(*inputs)
        return Recording(inputs, *capture(lambda: call(*inputs)), kernels)


@torch.inference_mode()
def _seconds_of(recording: Recording) -> float:
    """Of a replay, in the time of the device."""
    seconds = []
    for _ in range(REPLAYS):
        begun, ended = (torch.cuda.Event(enable_timing=True, blocking=True) for _ in range(2))
        begun.record()
        recording.replay()
        ended.record()
        ended.synchronize()
        seconds.append(begun.elapsed_time(ended) / 1000)
    return min(seconds)


def _name_of(key: tuple) -> str:
    call, *shapes = key
    return ", ".join([getattr(call, "__name__", "call"), *("x".join(map(str, shape)) for shape in shapes)])


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
