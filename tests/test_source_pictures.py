"""Pictures that requests bring: what of a file reaches the engine, and which are refused before they are decoded."""

import base64
import hashlib
import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from sd_space.errors import InvalidRequest
from sd_space.schema import Outcome
from sd_space.serving.placeholder import placeholder
from sd_space.serving.results import SavedPicture
from sd_space.serving.source_pictures import MAX_FILE_BYTES, MAX_PIXELS, fitting_size, read_sources

from .test_schema import INFO

RED, BLUE = (200, 10, 20), (10, 20, 200)


def file_of(image: Image.Image, form: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def uri(data: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def read(data: bytes, name: str = "init_image", **values):
    return read_sources({name: uri(data)} | values, INFO)[name]


def pixels(source) -> np.ndarray:
    return np.frombuffer(source.pixels, np.uint8).reshape(source.height, source.width, source.channels)


def refusal_of(value: object, name: str = "init_image", **values) -> str:
    with pytest.raises(InvalidRequest) as refused:
        read_sources({name: value} | values, INFO)
    assert refused.value.field == name and str(refused.value).startswith(name)
    return str(refused.value)


def two_halves(size=(128, 128)) -> Image.Image:
    """Red above blue."""
    image = Image.new("RGB", size, BLUE)
    image.paste(RED, (0, 0, size[0], size[1] // 2))
    return image


def test_a_picture_of_the_models_size_arrives_pixel_by_pixel():
    data = file_of(two_halves())
    source = read(data)
    assert np.array_equal(pixels(source), np.asarray(two_halves()))
    assert source.sha256 == hashlib.sha256(data).hexdigest() and source.seed is None


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("media_type", ["image/png", "IMAGE/JPEG", "", "application/octet-stream"])
def test_three_forms_are_read_whatever_they_are_called(form, media_type):
    source = read_sources({"init_image": uri(file_of(two_halves(), form), media_type)}, INFO)["init_image"]
    assert np.abs(pixels(source)[16].astype(int) - RED).max() < 12


@pytest.mark.parametrize(
    ("image", "colour"),
    [
        (Image.new("RGBA", (64, 64), (200, 10, 20, 0)), (255, 255, 255)),
        (Image.new("LA", (64, 64), (0, 128)), (127, 127, 127)),
        (Image.new("L", (64, 64), 77), (77, 77, 77)),
        (Image.new("1", (64, 64), 1), (255, 255, 255)),
        (Image.new("P", (64, 64), 3), (0, 0, 0)),
        (Image.fromarray(np.full((64, 64), 0x8000, np.uint16)), (128, 128, 128)),
    ],
    ids=["transparent", "half transparent grey", "grey", "black and white", "palette", "16 bits"],
)
def test_every_kind_of_pixel_becomes_opaque_rgb(image, colour):
    if image.mode == "P":
        image.putpalette([0, 0, 0] * 256)
    assert pixels(read(file_of(image)))[5, 5].tolist() == list(colour)


def test_print_colours_become_rgb():
    image = Image.new("CMYK", (64, 64), (0, 255, 255, 0))
    assert np.abs(pixels(read(file_of(image, "JPEG")))[5, 5].astype(int) - (255, 0, 0)).max() < 8


def test_a_phones_picture_is_turned_upright_and_loses_what_the_phone_wrote():
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Maker"  # it is to be turned by a quarter
    source = read(file_of(two_halves((128, 64)), "JPEG", exif=exif, quality=95))
    assert (source.width, source.height) == (64, 128)
    assert np.abs(pixels(source)[64, 8].astype(int) - BLUE).max() < 12
    assert b"Maker" not in source.pixels


def test_of_a_phones_two_pictures_in_one_file_the_first_counts():
    second = Image.new("RGB", (128, 128), BLUE)
    data = file_of(Image.new("RGB", (128, 128), RED), "MPO", save_all=True, append_images=[second])
    assert np.abs(pixels(read(data))[5, 5].astype(int) - RED).max() < 12


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_an_animation_is_refused(form):
    frames = [Image.new("RGB", (64, 64), colour) for colour in (RED, BLUE)]
    data = file_of(frames[0], form, save_all=True, append_images=frames[1:])
    assert "is animated; send a single picture" in refusal_of(uri(data))


def png_that_says(width: int, height: int) -> bytes:
    """A few bytes that unpack to zeros without end."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(10**7), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def webp_that_says(side: int) -> bytes:
    data = bytearray(file_of(Image.new("RGBA", (64, 64), (0, 0, 0, 9)), "WEBP", exif=b"Exif\0\0"))
    assert data[12:16] == b"VP8X"
    data[24:30] = (side - 1).to_bytes(3, "little") * 2
    return bytes(data)


@pytest.mark.parametrize("side", [2049, 9_000, 12_000, 60_000])
def test_a_bomb_is_refused_before_it_is_decoded(side):
    bomb = uri(png_that_says(side, side))
    tracemalloc.start()
    try:
        assert refusal_of(bomb) == "init_image must have at most 4.2 megapixels; scale it down."
        assert tracemalloc.get_traced_memory()[1] < 3 * MAX_FILE_BYTES
    finally:
        tracemalloc.stop()
    assert MAX_PIXELS >= 2048 * 2048


def test_other_bombs_are_refused():
    assert "init_image" in refusal_of(uri(webp_that_says(16_000)))
    scan = b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00"
    jpeg = file_of(two_halves(), "JPEG", progressive=True)
    assert "can be read" in refusal_of(uri(jpeg[:-2] + scan * 200 + b"\xff\xd9"))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("a cat", "must be a picture as a data URI"),
        ("https://example.org/cat.png", "must be a picture as a data URI"),
        ("/etc/passwd", "must be a picture as a data URI"),
        ("/gradio_api/file=/etc/passwd", "must be a picture as a data URI"),
        (5, "must be a picture as a data URI"),
        (True, "must be a picture as a data URI"),
        ("data:image/png,abc", "must be a picture as a data URI"),
        ("data:image/png;base64,", "can be read"),
        ("data:image/png;base64,%%%", "can be read"),
        ("data:image/png;base64,ÄÖ", "can be read"),
        (uri(b"not a picture"), "can be read"),
        (uri(file_of(two_halves())[:-40]), "can be read"),
        (uri(file_of(two_halves(), "GIF")), "can be read"),
        (uri(file_of(two_halves(), "BMP")), "can be read"),
        (uri(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), "can be read"),
        (uri(bytes(MAX_FILE_BYTES + 9)), "at most 1 MB, not 1.00 MB"),
        (uri(file_of(Image.new("RGB", (4, 400)))), "at least 16 pixels on each side, not 4 x 400"),
    ],
)
def test_what_is_no_picture_is_refused_in_a_sentence(value, words):
    assert words in refusal_of(value) and words in refusal_of(value, "mask")


def test_a_mask_is_grey_and_what_is_transparent_in_it_stays():
    painted = Image.new("RGBA", (128, 128), (0, 0, 0, 0))
    painted.paste((255, 255, 255, 255), (0, 0, 64, 128))
    source = read(file_of(painted), "mask")
    assert source.channels == 1
    assert (pixels(source)[5, 5], pixels(source)[5, 100]) == (255, 0)


def test_a_request_takes_the_pictures_size_unless_it_asks_for_another():
    data = file_of(two_halves((150, 100)))
    values = read_sources({"init_image": uri(data)}, INFO)
    assert (values["width"], values["height"]) == (144, 96)
    asked = read_sources({"init_image": uri(data), "mask": uri(data), "width": 64, "height": 128}, INFO)
    assert [(asked[name].width, asked[name].height) for name in ("init_image", "mask")] == [(64, 128)] * 2
    expected = np.asarray(two_halves((150, 100)).resize((64, 128), Image.Resampling.LANCZOS))
    assert np.array_equal(pixels(asked["init_image"]), expected), "scaled as diffusers scales"
    assert "multiple of 8" in refusal_of_size(data, 65) and "from 64 to 192" in refusal_of_size(data, 10**9)


def refusal_of_size(data: bytes, width: int) -> str:
    with pytest.raises(InvalidRequest) as refused:
        read_sources({"init_image": uri(data), "width": width}, INFO)
    assert refused.value.field == "width"
    return str(refused.value)


@pytest.mark.parametrize(
    ("size", "drawn"),
    [((128, 128), (128, 128)), ((2000, 1000), (192, 96)), ((1000, 2000), (96, 192)), ((20, 16), (64, 64)),
     ((2048, 16), (192, 64)), ((199, 70), (192, 64))],
)  # fmt: skip
def test_a_picture_of_any_size_is_drawn_in_one_that_the_model_takes(size, drawn):
    assert fitting_size(size, INFO.limits) == drawn


def test_our_own_picture_is_read_with_its_seed(tmp_path):
    path = tmp_path / "seed-7.png"
    path.write_bytes(file_of(two_halves()))
    source = read_sources({"init_image": SavedPicture(path, 7, Outcome.OK, "")}, INFO)["init_image"]
    assert source.seed == 7 and source.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    path.unlink()
    assert "was deleted" in refusal_of(SavedPicture(path, 7, Outcome.OK, ""))


@pytest.mark.parametrize("outcome", [Outcome.WITHHELD, Outcome.BROKEN])
def test_nothing_starts_from_a_picture_that_we_do_not_show(tmp_path, outcome):
    path = tmp_path / "seed-7-withheld.png"
    path.write_bytes(file_of(two_halves()))
    assert "not shown" in refusal_of(SavedPicture(path, 7, outcome, ""))
    assert "not shown" in refusal_of(uri(file_of(placeholder(outcome, 128, 192)))), "nor from what stands in its place"


def test_a_request_without_pictures_is_left_as_it_is():
    values = {"prompt": "a cat", "init_image": "", "mask": None}
    assert read_sources(values, INFO) is values
