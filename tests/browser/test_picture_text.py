"""The script that reads settings out of a PNG, run on an empty page: no server is needed."""

import io
import zlib
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sd_space.ui import assets

SCRIPT = (Path(assets.__file__).with_name("page") / "picture_text.js").read_text(encoding="utf-8")
TEXT = "a café\nSteps: 20, Seed: 7"


@pytest.fixture(scope="module")
def read(browser):
    """What the script reads out of a file with these bytes."""
    context = browser.new_context()
    page = context.new_page()
    body = f"async (numbers) => {{ {SCRIPT}; return parametersOf(new Blob([new Uint8Array(numbers)])) }}"
    yield lambda data: page.evaluate(body, list(data))
    context.close()


def png(**chunks) -> bytes:
    info = PngInfo()
    for add, arguments in chunks.items():
        getattr(info, add)(*arguments)
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG", pnginfo=info)
    return file.getvalue()


@pytest.mark.parametrize(
    "chunk",
    [
        {"add_text": ("parameters", TEXT)},
        {"add_text": ("parameters", TEXT, True)},
        {"add_itxt": ("parameters", TEXT)},
        {"add_itxt": ("parameters", TEXT, "de", "Angaben", True)},
    ],
    ids=["tEXt", "zTXt", "iTXt", "compressed iTXt"],
)
def test_settings_are_found_in_every_kind_of_text_chunk(read, chunk):
    assert read(png(**chunk)) == TEXT


def test_utf_8_where_latin_1_is_meant_is_read_too(read):
    assert read(png(add=(b"tEXt", b"parameters\0" + "猫, Steps: 3".encode()))) == "猫, Steps: 3"


def test_other_texts_of_a_picture_are_none_of_its_settings(read):
    assert read(png(add_text=("workflow", TEXT))) == ""


def test_a_text_that_unpacks_without_end_is_cut(read):
    packed = zlib.compress(b"a" * 50_000_000)
    text = read(png(add=(b"zTXt", b"parameters\0\0" + packed)))
    assert 0 < len(text) <= 10_001


@pytest.mark.parametrize("data", [b"", b"\x89PNG", b"GIF89a" * 9, png(add=(b"zTXt", b"parameters\0\0no zlib"))[:90]])
def test_what_is_no_whole_png_has_no_settings(read, data):
    assert read(data) == ""
    whole = png(add_text=("parameters", TEXT))
    assert read(whole[:45]) == ""
