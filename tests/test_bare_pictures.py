"""A picture file without what describes it: the same picture, the right way up, whatever is in the rest."""

import io
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from sd_space.errors import InvalidRequest
from sd_space.serving.bare_pictures import bare, upright
from sd_space.serving.verify import verify

from .test_source_pictures import read

FORMATS = ("PNG", "JPEG", "WEBP")
MPF = b"MPF\0"


def file_of(format: str, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.arange(96 * 64 * 3, dtype=np.uint8).reshape(96, 64, 3)).save(file, format, **options)
    return file.getvalue()


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("orientation", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
def test_a_picture_is_turned_as_pillow_turns_it(format, orientation):
    exif = Image.Exif()
    exif[0x010E], exif[0x0112] = "a description in front of it", orientation
    data = file_of(format, exif=exif)
    expected = ImageOps.exif_transpose(opened(data)).convert("RGB")
    turned = upright(opened(bare(data)), data).convert("RGB")
    assert turned.size == expected.size and turned.tobytes() == expected.tobytes()
    assert format == "WEBP" or not opened(bare(data)).getexif()


@pytest.mark.parametrize("format", FORMATS)
def test_xmp_says_which_way_up_where_no_exif_does(format):
    xmp = b'<x:xmpmeta xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
    if format == "PNG":
        text = b"iTXt" + b"XML:com.adobe.xmp\0\0\0\0\0" + xmp
        data = with_chunk(text[:4], text[4:])
    else:
        data = file_of(format, xmp=xmp)
    assert upright(opened(bare(data)), data).size == (96, 64)


def directory(entries: int, kind: int, count: int, tags_from: int = 0x8000) -> bytes:
    """A TIFF directory of which each entry is the same `count` values of the type `kind`, at one place."""
    values_at = 8 + 2 + 12 * (entries + 1) + 4
    listed = b"".join(struct.pack("<HHII", tags_from + n, kind, count, values_at) for n in range(entries))
    turned = struct.pack("<HHII", 0x0112, 3, 1, 6)  # for which Pillow writes all the others anew
    size = {1: 1, 5: 8}[kind]
    return b"II*\0\x08\0\0\0" + struct.pack("<H", entries + 1) + turned + listed + bytes(4) + bytes(size * count)


def with_chunk(name: bytes, data: bytes) -> bytes:
    png = file_of("PNG")
    chunk = struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return png[:33] + chunk + png[33:]


def with_segment(marker: int, data: bytes, between: bytes = b"") -> bytes:
    jpeg = file_of("JPEG")
    segment = bytes((0xFF, marker)) + struct.pack(">H", len(data) + 2) + data
    comment = b"\xff\xfe\0\x02"
    return (
        jpeg[:2] + comment + between + segment + jpeg[20:]
    )  # without JFIF's head, so that Pillow asks EXIF for the density


ENDLESS = {
    "bytes in a PNG's EXIF": with_chunk(b"eXIf", directory(3_000, 1, 60_000)),
    "fractions in a PNG's EXIF": with_chunk(b"eXIf", directory(2_000, 5, 25_000)),
    "fractions in a JPEG's EXIF": with_segment(0xE1, b"Exif\0\0" + directory(2_000, 5, 4_500)),
    "fractions in a JPEG's EXIF behind what is no segment": with_segment(
        0xE1, b"Exif\0\0" + directory(2_000, 5, 4_500), b"x\xff\0\xff\xff"
    ),
    "fractions in the directory of a JPEG's second picture": with_segment(
        0xE2, MPF + directory(2_000, 5, 4_500, 0xB000)
    ),
    "texts in a PNG": with_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(900_000))),
}


@pytest.mark.parametrize("data", ENDLESS.values(), ids=list(ENDLESS))
def test_no_description_keeps_a_reader_busy(data):
    began_s = time.process_time()
    source = read(data)
    verify(data, None)
    assert time.process_time() - began_s < 1
    assert source.channels == 3


def test_a_directory_that_ends_early_leaves_a_picture_as_it_is():
    data = with_chunk(b"eXIf", b"II*\0\xff\xff\xff\xff")
    assert upright(opened(bare(data)), data).size == (64, 96)


@pytest.mark.parametrize("length", range(2, 60, 7))
def test_a_file_that_ends_early_is_refused(length):
    for format in FORMATS:
        with pytest.raises(InvalidRequest):
            read(file_of(format)[:length])
