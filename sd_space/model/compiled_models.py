"""Compiled models, kept in the cache for the next start: the newest few, each with a checksum before it."""

import contextlib
import hashlib

from sd_space.cache_folder import cache_folder, read_cached, write_cached

FOLDER = "compiled"
KEPT = 3
MAX_BYTES = 2**30  # of weights; larger ones (v1-4's) are not kept: the copies would fill memory and disk


def read_compiled(key: str) -> bytes | None:
    """What was stored under `key`; `None` where it is not there, or not whole."""
    data = read_cached(f"{FOLDER}/{key}") or b""
    checksum, compiled = data[:32], data[32:]
    return compiled if hashlib.sha256(compiled).digest() == checksum else None


def store_compiled(key: str, compiled: bytes) -> None:
    """Deletes the oldest ones. Where nothing can be written, the next start compiles again."""
    write_cached(f"{FOLDER}/{key}", hashlib.sha256(compiled).digest() + compiled)
    with contextlib.suppress(OSError):
        stored = sorted((cache_folder() / FOLDER).iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in stored[KEPT:]:
            path.unlink()
