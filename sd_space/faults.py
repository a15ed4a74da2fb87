"""Unexpected errors: two kinds, and what the log says (type and place, never words, which may quote a prompt)."""

import traceback
from pathlib import Path

# How else than by `torch.OutOfMemoryError` the end of memory is told: by the driver (kernels and graphs load lazily),
# by cuDNN when no way to do a convolution found room for its workspace, by cuBLAS, on MPS and on the CPU.
_OUT_OF_MEMORY = (
    "CUDA error: out of memory",
    "unable to find an engine",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "MPS backend out of memory",
    "can't allocate memory",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device (or the machine) had no memory left, so that less work at once may do."""
    if type(error).__name__ == "OutOfMemoryError":  # by name: this module is read before torch is
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)


def is_device_lost(error: BaseException) -> bool:
    """Whether no further call on the device can succeed in this process: any error of its own but want of memory."""
    return type(error).__name__ == "AcceleratorError" and not is_out_of_memory(error)


def described(error: BaseException) -> str:
    """The error's type and the calls that led to it, outermost first, and the same of what caused it."""
    parts = []
    current: BaseException | None = error
    while current is not None:
        parts.append(f"{''.join(traceback.format_tb(current.__traceback__))}{type(current).__name__}")
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return "\ncaused by:\n".join(parts)


def innermost(error: BaseException) -> str:
    """The error's type and the place where it was raised: 'ValueError in http_server.py, line 31'."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" in {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{where}"
