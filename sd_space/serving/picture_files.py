"""Picture files from outside: their formats, and those that keep a decoder busy for long, whatever they show."""

import re
from collections.abc import Iterator
from itertools import islice

FORMATS = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}  # as Pillow calls them -> media type
MAX_PIXELS = 2048 * 2048  # decoded, one takes up to 46 MB for a moment
MAX_SCANS = 100  # of a JPEG: each goes through all pixels, and takes 20 bytes
MAX_PARTS = 5_000  # chunks or segments, each of which readers of metadata keep
_SCAN, _SEGMENT = b"\xff\xda", re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")


def takes_long(data: bytes) -> bool:
    """Whether the file has more scans or parts than any picture needs."""
    if data.startswith(b"\xff\xd8"):
        return data.count(_SCAN) > MAX_SCANS or _are_too_many(_SEGMENT.finditer(data))
    if data.startswith(b"\x89PNG"):
        return _are_too_many(_chunks(data, 8, 0, "big", 12))
    return _are_too_many(_chunks(data, 12, 4, "little", 8))  # RIFF, in which a WebP lies


def _chunks(data: bytes, start: int, length_at: int, order: str, overhead: int) -> Iterator[int]:
    """Where each chunk begins. In RIFF a chunk of odd length is filled up by a byte."""
    while start + 8 <= len(data):
        yield start
        length = int.from_bytes(data[start + length_at : start + length_at + 4], order)  # type: ignore[arg-type]
        start += overhead + length + (length % 2 if order == "little" else 0)


def _are_too_many(parts: Iterator[object]) -> bool:
    return next(islice(parts, MAX_PARTS, None), None) is not None
