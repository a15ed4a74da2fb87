"""A picture file without what describes it, and which way up it is: reading such descriptions can take without end.

A directory of EXIF or of a JPEG's second picture may name the same bytes thousands of times, and Pillow reads one while
it opens a JPEG. So those parts are left out before, and the one value of them that is needed is read here.
"""

import re
import struct
from collections.abc import Iterator
from typing import Literal

from PIL import Image

from sd_space.serving.picture_files import png_chunks, riff_chunks

_TRANSPOSED = {  # TIFF 6.0, tag 274
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION, _SHORT = 0x0112, 3
_XMP = re.compile(rb"""tiff:Orientation(?:=["']|>)([1-8])""")
_XMP_SEGMENT = b"http://ns.adobe.com/xap/1.0/\0"
# Of a JPEG's segments: frames, tables, intervals, JFIF's head, and Adobe's word on colours.
_JPEG_PICTURE = {*range(0xC0, 0xD0), 0xDB, 0xDD, 0xE0, 0xEE} - {0xC8}
_SCAN = 0xDA
_PNG_PICTURE = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"acTL", b"fcTL", b"fdAT"}
_PNG_TEXT = {b"tEXt", b"zTXt", b"iTXt"}


def bare(data: bytes, keeps_text: bool = False) -> bytes:
    """The file with its picture alone; `keeps_text` keeps XMP and a PNG's texts. A WebP stays: opening reads none."""
    if data.startswith(b"\xff\xd8"):
        segments, scans = _jpeg_segments(data)
        kept = (
            segment
            for segment in segments
            if segment[1] in _JPEG_PICTURE or (keeps_text and segment[4:].startswith(_XMP_SEGMENT))
        )
        return b"".join((b"\xff\xd8", *kept, scans))
    if data.startswith(b"\x89PNG"):
        names = _PNG_PICTURE | _PNG_TEXT if keeps_text else _PNG_PICTURE
        starts = (start for start in png_chunks(data) if data[start + 4 : start + 8] in names)
        return data[:8] + b"".join(data[start : start + 12 + _length(data, start, "big")] for start in starts)
    return data


def upright(image: Image.Image, data: bytes) -> Image.Image:
    """The picture of the file `data` as its EXIF, or else its XMP, wants it to be seen."""
    method = _TRANSPOSED.get(_orientation(data))
    return image if method is None else image.transpose(method)


def _orientation(data: bytes) -> int:
    """1, which is upright, where the file does not say."""
    descriptions = list(_descriptions(data))
    for one in descriptions:
        if one[:4] in (b"II*\0", b"MM\0*") and (value := _tag(one)):
            return value
    found = next(filter(None, map(_XMP.search, descriptions)), None)
    return int(found[1]) if found else 1


def _descriptions(data: bytes) -> Iterator[bytes]:
    """The EXIF and XMP in a file, as TIFF and text."""
    if data.startswith(b"\xff\xd8"):
        segments, _ = _jpeg_segments(data)
        yield from (segment[4:].removeprefix(b"Exif\0\0") for segment in segments if segment[1] == 0xE1)
        return
    is_png = data.startswith(b"\x89PNG")
    for start in png_chunks(data) if is_png else riff_chunks(data):
        name, length = (4, _length(data, start, "big")) if is_png else (0, _length(data, start + 4, "little"))
        if data[start + name : start + name + 4] in (b"eXIf", b"iTXt", b"EXIF", b"XMP "):
            yield data[start + 8 : start + 8 + length].removeprefix(b"Exif\0\0")


def _tag(tiff: bytes) -> int:
    """The orientation in the first directory; 0 where it has none."""
    order = "<" if tiff.startswith(b"II") else ">"
    try:
        (first,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, first)
        for entry in range(first + 2, first + 2 + 12 * count, 12):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", tiff, entry)
            if (tag, kind) == (_ORIENTATION, _SHORT):
                return int(value)
    except struct.error:  # it ends before
        pass
    return 0


def _jpeg_segments(data: bytes) -> tuple[list[bytes], bytes]:
    """The segments before the first scan, each with its marker, and all from there on."""
    segments, at = list[bytes](), 2
    while at + 4 <= len(data):
        marker = data[at + 1]
        if data[at] != 0xFF or marker in (0x00, 0xFF):
            at += 1  # what no reader takes for a segment
        elif marker == _SCAN:
            return segments, data[at:]
        elif marker == 0x01 or 0xD0 <= marker <= 0xD9:  # these stand alone
            at += 2
        else:
            end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
            segments.append(data[at:end])
            at = max(end, at + 2)
    return segments, b""


def _length(data: bytes, at: int, order: Literal["big", "little"]) -> int:
    return int.from_bytes(data[at : at + 4], order)
