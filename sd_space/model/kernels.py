"""Which of cuDNN's kernels pay for a shape on this device: known by measuring, and remembered for the next start."""

import contextlib
import json
from collections.abc import Iterator
from typing import NamedTuple

import torch

from sd_space.cache_folder import read_cached_json, write_cached

NAME = "kernels.json"
MOST_STORED = 512  # shapes, of all devices and models
PAYS = 0.97  # of the time without it: what gains less is no reason to round otherwise


class Kernels(NamedTuple):
    """What is in force while a call is recorded. Both are off unless they pay: each takes seconds at a new shape."""

    cudnn_attention: bool = False  # plans for each shape, which PyTorch prefers by itself on H100 and H200
    tried_convolutions: bool = False  # `cudnn.benchmark`: each convolution by the fastest of its algorithms

    @contextlib.contextmanager
    def in_force(self) -> Iterator[None]:
        """For the whole process: only while nothing else uses the device."""
        before = torch.backends.cuda.cudnn_sdp_enabled(), torch.backends.cudnn.benchmark
        torch.backends.cuda.enable_cudnn_sdp(self.cudnn_attention)
        torch.backends.cudnn.benchmark = self.tried_convolutions
        try:
            yield
        finally:
            torch.backends.cuda.enable_cudnn_sdp(before[0])
            torch.backends.cudnn.benchmark = before[1]


USUAL = Kernels()
TRIALS = (Kernels(cudnn_attention=True), Kernels(tried_convolutions=True))


def fastest(seconds: dict[Kernels, float]) -> Kernels:
    """Those of which each alone pays beside the usual ones."""
    usual_s = seconds[USUAL]
    attention, convolutions = (seconds.get(trial, usual_s) < PAYS * usual_s for trial in TRIALS)
    return Kernels(attention, convolutions)


class StoredKernels:
    """What was measured on one `device`, which names the model and the versions too."""

    def __init__(self, device: str):
        self._device = device

    def read(self, shape: str) -> Kernels | None:
        stored = read_cached_json(NAME).get(f"{self._device}; {shape}")
        if not isinstance(stored, list) or [type(one) for one in stored] != [bool] * len(TRIALS):
            return None
        return Kernels(*stored)

    def store(self, shape: str, kernels: Kernels) -> None:
        """Where nothing can be written, the next start measures again."""
        stored = list((read_cached_json(NAME) | {f"{self._device}; {shape}": list(kernels)}).items())
        write_cached(NAME, json.dumps(dict(stored[-MOST_STORED:])).encode())
