"""Classifies runtime errors (out of memory, device lost), and formats tracebacks without messages.

Messages may contain prompts or paths, which neither visitors nor the log may see.
"""

import traceback
from pathlib import Path

from sd_space.errors import EngineFailed, SpaceError
from sd_space.languages import Phrase

GENERATION_FAILED = Phrase("Something went wrong while your pictures were made; please try again.")
_NEEDS_TOO_MUCH_MEMORY = Phrase(
    "This picture needs more memory than the device has free; please try a smaller size or fewer pictures."
)
# Messages of other errors than `torch.OutOfMemoryError` that mean out of memory: from the driver (kernels and graphs
# load lazily), from cuDNN when no convolution algorithm finds room for its workspace, from cuBLAS, MPS and the CPU.
_OUT_OF_MEMORY = (
    "CUDA error: out of memory",
    "unable to find an engine",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "MPS backend out of memory",
    "can't allocate memory",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device or the machine had no memory left, so that a smaller batch may succeed."""
    if type(error).__name__ == "OutOfMemoryError":  # by name, because the page's process does not import torch
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)


def is_device_lost(error: BaseException) -> bool:
    """Whether every later call on the device in this process fails too: any device error except out of memory."""
    return type(error).__name__ == "AcceleratorError" and not is_out_of_memory(error)


def to_space_error(error: Exception) -> SpaceError:
    """The error for the visitor: a SpaceError as it is, in place of any other a sentence without its message."""
    if isinstance(error, SpaceError):
        return error
    return EngineFailed(_NEEDS_TOO_MUCH_MEMORY if is_out_of_memory(error) else GENERATION_FAILED)


def traceback_without_message(error: BaseException) -> str:
    """The calls that led to the error, outermost first, and its type; then the same for each of its causes."""
    parts = []
    current: BaseException | None = error
    while current is not None:
        parts.append(f"{''.join(traceback.format_tb(current.__traceback__))}{type(current).__name__}")
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return "\ncaused by:\n".join(parts)


def innermost(error: BaseException) -> str:
    """The error's type and where it was raised: 'ValueError in http_server.py, line 31'."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" in {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{where}"
