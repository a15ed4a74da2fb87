"""Calls of the UNet compiled by `torch.compile`, shape by shape in the background (`SD_SPACE_COMPILE`)."""

import contextlib
import logging
import os
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch

from sd_space.cache_folder import cache_folder
from sd_space.runtime_errors import is_device_lost, is_out_of_memory

logger = logging.getLogger(__name__)

COMPILE_AT = 20  # the call of a shape at which that begins: it takes minutes, and some shapes never come again
MOST_COMPILED = 16  # shapes
TOLERANCE = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 2e-2}  # of the largest value

Tensors = tuple[torch.Tensor, ...]
Call = Callable[..., Tensors]


class CompiledCalls:
    """What is called in the place of a call: compiled code once that is there, and until then the call itself.

    One shape is compiled at a time, in a thread. Code that cannot be made, or computes something else, is not used.
    """

    def __init__(self, compile_call: Callable[[Call, Tensors], Call] | None = None):
        self._compile_call = compile_call or compiled
        self._seen: Counter[tuple] = Counter()
        self._begun: set[tuple] = set()
        self._ready: dict[tuple, Call] = {}
        self._thread: threading.Thread | None = None

    def __len__(self) -> int:
        return len(self._ready)

    def of(self, call: Call, *tensors: torch.Tensor) -> Call:
        key = (call, *(tensor.shape for tensor in tensors))
        if key in self._ready:
            return self._ready[key]
        self._seen[key] += 1
        is_busy = self._thread is not None and self._thread.is_alive()
        is_wanted = self._seen[key] >= COMPILE_AT and key not in self._begun and len(self._begun) < MOST_COMPILED
        if is_wanted and not is_busy:
            self._begun.add(key)
            inputs = tuple(tensor.clone(memory_format=torch.contiguous_format) for tensor in tensors)
            cloned = torch.cuda.Event() if inputs[0].is_cuda else None
            if cloned is not None:
                cloned.record()
            self._thread = threading.Thread(target=self._make, args=(key, inputs, cloned), name="compiler", daemon=True)
            self._thread.start()
        return call

    @torch.inference_mode()
    def _make(self, key: tuple, inputs: Tensors, cloned: Any) -> None:
        call, stream = key[0], torch.cuda.Stream() if cloned is not None else None
        try:
            with torch.cuda.stream(stream) if stream else contextlib.nullcontext():
                if stream is not None:
                    stream.wait_event(cloned)
                code = self._compile_call(call, inputs)
                for found, expected in zip(code(*inputs), call(*inputs), strict=True):
                    if not (found - expected).abs().max() <= TOLERANCE[expected.dtype] * expected.abs().max():
                        raise ArithmeticError("the compiled UNet gives other noise")
        except Exception as error:  # of any type: compilers raise what they like
            logger.warning("a UNet call could not be compiled (%s) and is made as it is", type(error).__name__)
            return
        self._ready[key] = _Compiled(call, code)
        logger.info("a UNet call is compiled")


class _Compiled:
    """Compiled code that gives way to the call itself when it fails."""

    def __init__(self, call: Call, code: Call):
        self.__name__ = f"compiled{getattr(call, '__name__', '')}"
        self._call = call
        self._code: Call | None = code

    def __call__(self, *tensors: torch.Tensor) -> Tensors:
        if self._code is None:
            return self._call(*tensors)
        try:
            return self._code(*(tensor.contiguous() for tensor in tensors))  # the order that it was compiled for
        except Exception as error:
            if is_out_of_memory(error) or is_device_lost(error):
                raise
            logger.warning("a compiled UNet call failed (%s) and is made as it is", type(error).__name__)
            self._code = None
        return self._call(*tensors)


def compiled(call: Call, inputs: Tensors) -> Call:
    """Code for tensors like `inputs`, made at once; for others it would be made anew."""
    folder = cache_folder() / "inductor"  # by itself torch writes libraries where other users may put theirs
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # more would be processes that outlive this one
    from torch import _dynamo

    with _dynamo.config.patch(recompile_limit=MOST_COMPILED):
        code = torch.compile(call, dynamic=False)
        code(*inputs)
    return code
