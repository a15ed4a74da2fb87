"""A pretended CUDA device, for all that can be known of the CUDA path without one.

Its tensors (`tensors.py`) compute on the CPU and refuse what CUDA refuses; every wait of the host is noted with its
place (`stalls.py`); graphs are taped and replayed (`graphs.py`); and it has a time of its own (`clock.py`). It says
nothing of kernels, of memory or of speed.
"""

import contextlib
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

from .graphs import Graphs
from .stalls import Stall as Stall
from .stalls import counted as counted
from .tensors import CUDA, CudaTensor, Device, PretendMode

FREE_BYTES, TOTAL_BYTES = 70 * 2**30, 80 * 2**30
NAME = "a pretended device"


class Pretended(Device):
    """The device with its graphs."""

    def __init__(self) -> None:
        super().__init__()
        self.graphs = Graphs(self)


@contextlib.contextmanager
def pretended_cuda() -> Iterator[Pretended]:
    """PyTorch has a CUDA device inside, in all threads that are started there."""
    device = Pretended()
    run = threading.Thread.run

    def run_in_mode(thread: threading.Thread) -> None:
        with PretendMode():
            run(thread)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CudaTensor, "current", device, raising=False)
        patch.setattr(threading.Thread, "run", run_in_mode)
        for name, value in _cuda(device).items():
            patch.setattr(torch.cuda, name, value)
        for name, value in _accelerator(device).items():
            patch.setattr(torch.accelerator, name, value)
        patch.setattr(torch._C, "_cuda_endAllocateToPool", lambda index, pool: None, raising=False)
        with PretendMode():
            yield device


def _cuda(device: Pretended) -> dict[str, object]:
    properties = SimpleNamespace(major=9, minor=0, total_memory=TOTAL_BYTES, name=NAME, multi_processor_count=132)

    @contextlib.contextmanager
    def on_stream(stream) -> Iterator[None]:
        before, device.clock.stream = device.clock.stream, stream or device.clock.stream
        try:
            yield
        finally:
            device.clock.stream = before

    return {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "_lazy_init": lambda: None,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_name": lambda *_: NAME,
        "get_device_properties": lambda *_: properties,
        "get_device_capability": lambda *_: (9, 0),
        "mem_get_info": lambda *_: (FREE_BYTES, TOTAL_BYTES),
        "set_per_process_memory_fraction": lambda *_: None,
        "empty_cache": lambda: None,
        **dict.fromkeys(("memory_allocated", "memory_reserved", "max_memory_allocated"), lambda *_: 0),
        **dict.fromkeys(("max_memory_reserved", "reset_peak_memory_stats"), lambda *_: 0),
        "synchronize": lambda *_: device.wait("synchronize"),
        "set_sync_debug_mode": device.stalls.set_debug_mode,
        "Event": device.Event,
        "Stream": device.clock.Stream,
        "stream": on_stream,
        "current_stream": lambda *_: device.clock.stream,
        "set_stream": lambda stream: setattr(device.clock, "stream", stream),
        "graph_pool_handle": device.graphs.pool_handle,
        "CUDAGraph": device.graphs.CUDAGraph,
        "graph": device.graphs.capture,
    }


def _accelerator(device: Pretended) -> dict[str, object]:
    return {
        "is_available": lambda: True,
        "current_accelerator": lambda *_: torch.device(CUDA.type),
        "current_device_index": lambda: 0,
        "synchronize": lambda *_: device.wait("synchronize"),
    }
