"""Picture files from outside: as data URIs, their formats, and those that keep a decoder busy, whatever they show."""

import base64
import re
from collections.abc import Iterator
from itertools import islice

FORMATS = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}  # as Pillow calls them -> media type
MAX_PIXELS = 2048 * 2048  # decoded, one takes up to 46 MB for a moment
MAX_SCANS = 100  # of a JPEG: each goes through all pixels, and takes 20 bytes
MAX_PARTS = 5_000  # chunks or segments, each of which readers of metadata keep
_DATA_URI = re.compile(r"data:[^,]{0,100};base64,", re.IGNORECASE)
_SCAN, _SEGMENT = b"\xff\xda", re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")


def data_uri_size(uri: object) -> int | None:
    """How many bytes a data URI holds, up to two more; `None` where it is none."""
    if not isinstance(uri, str) or not (start := _DATA_URI.match(uri)):
        return None
    return (len(uri) - start.end()) * 3 // 4


def data_uri_bytes(uri: str) -> bytes:
    """Raises ValueError where its base64 is broken."""
    return base64.b64decode(uri.partition(",")[2], validate=True)


def takes_long(data: bytes) -> bool:
    """Whether the file has more scans or parts than any picture needs. What follows a picture's end costs nothing."""
    if data.startswith(b"\xff\xd8"):
        return data.count(_SCAN) > MAX_SCANS or _are_too_many(_SEGMENT.finditer(data))
    if data.startswith(b"\x89PNG"):
        return _are_too_many(png_chunks(data))
    return _are_too_many(riff_chunks(data))  # in which a WebP lies


def png_chunks(data: bytes) -> Iterator[int]:
    """Where each chunk begins, up to the one that ends the picture (PNG, 5.3)."""
    start = 8
    while start + 8 <= len(data):
        yield start
        if data[start + 4 : start + 8] == b"IEND":
            return
        start += 12 + int.from_bytes(data[start : start + 4], "big")


def riff_chunks(data: bytes) -> Iterator[int]:
    """Where each chunk begins, within the size that the file declares. One of odd length is filled up by a byte."""
    start, end = 12, min(len(data), 8 + int.from_bytes(data[4:8], "little"))
    while start + 8 <= end:
        yield start
        length = int.from_bytes(data[start + 4 : start + 8], "little")
        start += 8 + length + length % 2


def _are_too_many(parts: Iterator[object]) -> bool:
    return next(islice(parts, MAX_PARTS, None), None) is not None
