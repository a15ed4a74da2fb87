"""Where the host waits for a pretended device, and what may not happen while a graph is recorded."""

import sys
import threading
import warnings
from collections import Counter
from contextlib import contextmanager
from typing import NamedTuple

import torch

SYNCHRONIZING = ("wait", "copy to host", "copy to device")  # what `torch.cuda.set_sync_debug_mode` knows of


class Stall(NamedTuple):
    """`kind` is `wait` (a value is read), `copy to host`, `copy to device` (both blocking), `pageable copy` (may wait),
    `event`, `spinning event` or `synchronize`; `place` is the innermost line of ours, and what it called."""

    kind: str
    place: str


class Stalls:
    """Notes each, and raises where CUDA would."""

    def __init__(self) -> None:
        self._own = threading.local()
        self._seen: list[Stall] = []
        self._debug_mode, self._has_warned = "default", False

    @property
    def is_capturing(self) -> bool:
        return getattr(self._own, "is_capturing", False)

    @is_capturing.setter
    def is_capturing(self, is_capturing: bool) -> None:
        self._own.is_capturing = is_capturing

    def note(self, kind: str) -> None:
        self._seen.append(Stall(kind, _place()))
        if self.is_capturing:
            raise torch.AcceleratorError(f"CUDA error: operation not permitted when stream is capturing ({kind})")
        if self._debug_mode == "error" and kind in SYNCHRONIZING:
            raise RuntimeError(f"called a synchronizing CUDA operation ({kind}, {_place()})")

    @contextmanager
    def watched(self):
        """The stalls that come inside, as a list that grows."""
        before, self._seen = self._seen, []
        try:
            yield self._seen
        finally:
            self._seen = before

    def set_debug_mode(self, mode: str) -> None:
        """As torch: the mode is set, and then the first call of a process warns."""
        self._debug_mode = mode
        if not self._has_warned:
            self._has_warned = True
            warnings.warn("Synchronization debug mode is a prototype feature", UserWarning, stacklevel=2)


def counted(stalls: list[Stall]) -> dict[str, int]:
    return dict(Counter(stall.kind for stall in stalls))


def _place() -> str:
    frame, library = sys._getframe(2), ""
    while frame is not None:
        name = frame.f_code.co_filename
        line = f"{name.rpartition('/')[2]}:{frame.f_lineno} {frame.f_code.co_name}"
        if "/sd_space/" in name:
            return f"{line} -> {library}" if library else line
        if not library and any(f"/{package}/" in name for package in ("diffusers", "transformers", "accelerate")):
            library = line
        frame = frame.f_back
    return library or "a test"
