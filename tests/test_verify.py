"""What is said of a picture that somebody brings, whoever made it and whatever happened to it since."""

import base64
import http.server
import io
import random
import struct
import threading
import time
import zlib

import pytest
from PIL import Image, PngImagePlugin

from sd_space.errors import InvalidRequest
from sd_space.serving.certificate import own_key
from sd_space.serving.credentials import Claim
from sd_space.serving.marks import Marks
from sd_space.serving.verify import MAX_PICTURE_BYTES, Verification, picture_of, verify
from sd_space.settings import Settings

from .test_certificate import NOW
from .test_marks import screened
from .test_results import REQUEST
from .test_schema import INFO


@pytest.fixture(scope="module")
def marks() -> Marks:
    return Marks.from_settings(Settings(watermark="on"))


@pytest.fixture(scope="module")
def png(marks) -> bytes:
    file = io.BytesIO()
    marks.write(file, screened(3, 256), REQUEST, INFO, embed_recipe=True)
    return file.getvalue()


def saved(image: Image.Image, form: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def test_our_own_picture_is_known_with_its_recipe(marks, png):
    found = verify(png, marks.signer.key)
    assert found.credentials.is_valid and found.credentials.is_ours and found.credentials.is_intact
    assert found.credentials.model == INFO.model and found.credentials.software == "sd_space"
    assert found.has_watermark and found.says_model
    assert found.recipe == {
        "prompt": "a cabin, snow", "negative_prompt": "people", "num_inference_steps": 20, "scheduler": "PNDM",
        "guidance_scale": 2.5, "seed": 3, "width": 128, "height": 128,
    }  # fmt: skip
    assert any("nobody else vouches" in sentence for sentence in found.sentences)


def test_a_change_is_found_and_the_change_alone(marks, png):
    broken = bytearray(png)
    broken[-60] ^= 1
    found = verify(bytes(broken), marks.signer.key)
    assert not found.credentials.is_intact and not found.credentials.is_valid
    assert any("was changed since" in sentence for sentence in found.sentences)


def test_another_makers_picture_is_valid_and_not_ours(png, tmp_path):
    found = verify(png, own_key(tmp_path, NOW))
    assert found.credentials.is_valid and not found.credentials.is_ours
    assert any("Another maker" in sentence for sentence in found.sentences)


def test_names_that_others_wrote_stand_short_and_in_quotation_marks(png, marks):
    model = "v1-4.”\n\nThis Space\u202e signed it.\0“" + "x" * 100_000
    found = verify(marks.signer.signed(png, Claim(model, None, NOW, None)), marks.signer.key)
    (said,) = (sentence for sentence in found.sentences if "a model made it:" in sentence)
    assert said.startswith("They say that a model made it: “v1-4. This Space signed it. xxx") and said.endswith("x…”.")
    assert len(found.credentials.model) == 80


def test_as_a_jpeg_the_watermark_alone_is_left(marks, png):
    found = verify(saved(Image.open(io.BytesIO(png)), "JPEG", quality=75), marks.signer.key)
    assert found.credentials is None and found.has_watermark and found.recipe is None


def test_nothing_found_is_said_to_prove_nothing(marks):
    found = verify(saved(Image.new("RGB", (300, 300), "teal"), "WEBP"), marks.signer.key)
    assert found == Verification(None, False, False, None, found.sentences)
    assert "proves nothing" in found.sentences[-1]
    assert verify(saved(Image.new("RGB", (64, 64))), None).has_watermark is None, "too small to look"


def test_two_hundred_damaged_files_are_answered_or_refused_in_a_sentence(marks, png):
    chance, answered = random.Random(0), 0
    for number in range(200):
        data = bytearray(png)
        if number % 3 == 0:
            del data[chance.randrange(8, len(data)) :]
        elif number % 3 == 1:
            start = chance.randrange(8, len(data))
            data[start : start + 64] = chance.randbytes(64)
        else:
            for _ in range(20):  # where the credentials are
                data[chance.randrange(8, 4000)] = chance.randrange(256)
        try:
            found = verify(bytes(data), marks.signer.key)
        except InvalidRequest as refused:
            assert "must be a PNG, JPEG or WebP" in str(refused)
        else:
            answered += 1
            assert found.credentials is None or not found.credentials.is_valid
    assert answered > 50


def test_a_picture_that_names_credentials_elsewhere_has_nothing_fetched():
    asked = threading.Event()

    class Elsewhere(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.set()

    with http.server.HTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        chunks = PngImagePlugin.PngInfo()
        address = f"http://127.0.0.1:{server.server_port}/picture.c2pa"
        chunks.add_itxt(
            "XML:com.adobe.xmp",
            '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
            '<rdf:Description rdf:about="" xmlns:dcterms="http://purl.org/dc/terms/" '
            f'dcterms:provenance="{address}"/></rdf:RDF></x:xmpmeta>',
        )
        assert verify(saved(Image.new("RGB", (64, 64)), pnginfo=chunks), None).credentials is None
        server.shutdown()
    assert not asked.is_set()


@pytest.mark.parametrize("given", [
    "", 7, None, "https://example.org/a.png", "data:text/html;base64,AAAA", "data:image/png;base64,*",
    "data:image/png;base64," + "A" * (MAX_PICTURE_BYTES * 4 // 3 + 100),
])  # fmt: skip
def test_what_is_no_picture_is_refused_with_what_would_be_one(given):
    with pytest.raises(InvalidRequest, match="must be a PNG, JPEG or WebP as a data URI"):
        verify(picture_of(given), None)


def test_a_data_uri_is_read_whole(png):
    assert picture_of("data:image/png;base64," + base64.b64encode(png).decode()) == png


def test_a_huge_picture_in_a_small_file_is_not_unpacked(marks):
    found = verify(saved(Image.new("1", (9000, 9000))), marks.signer.key)
    assert found.has_watermark is None


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def in_front_of_the_end(png: bytes, more: bytes) -> bytes:
    return png[:-12] + more + png[-12:]


PNG = saved(Image.new("RGB", (64, 64)))
JPEG = saved(Image.linear_gradient("L"), "JPEG", progressive=True)
WEBP = saved(Image.new("RGB", (64, 64)), "WEBP")


@pytest.mark.parametrize(
    "endless",
    [
        in_front_of_the_end(PNG, 10_000 * chunk(b"abCd")),
        JPEG[:-2] + 200 * JPEG[JPEG.rindex(b"\xff\xda") : -2] + JPEG[-2:],
        JPEG[:2] + 10_000 * b"\xff\xe5\x00\x02" + JPEG[2:],
        WEBP[:4] + struct.pack("<I", len(WEBP) - 8 + 80_000) + WEBP[8:] + 10_000 * (b"abcd" + bytes(4)),
    ],
    ids=["PNG chunks", "JPEG scans", "JPEG segments", "WebP chunks"],
)
def test_a_file_of_more_parts_than_a_picture_needs_is_refused_unread(endless):
    for data in (PNG, JPEG, WEBP):
        verify(data, None)
    with pytest.raises(InvalidRequest, match="so many parts"):
        verify(endless, None)


@pytest.mark.parametrize("picture", [PNG, JPEG, WEBP], ids=["PNG", "JPEG", "WebP"])
def test_what_follows_a_picture_in_its_file_is_no_part_of_it(picture):
    verify(picture + bytes(400_000), None)


@pytest.mark.parametrize("blanks", ["\n" * 1_000_000, "\n" * 15_000 + " " * 33_000, "Steps: 1," + " " * 9_900 + "x"])
def test_blanks_without_end_hold_nobody_up(blanks):
    text = chunk(b"zTXt", b"parameters\0\0" + zlib.compress(blanks.encode()))
    began_s = time.process_time()
    assert verify(in_front_of_the_end(PNG, text), None).recipe is None
    assert time.process_time() - began_s < 0.5


@pytest.mark.parametrize(
    "text",
    [
        "Steps: \u0663, Size: 9x9",
        "a cat\nSteps: x",
        "Steps: 5, Seed: 1",
        'Steps: 5, Prompt as written: "\\ud800"',
    ],
)
def test_a_text_that_draws_no_picture_is_no_recipe(text):
    chunks = PngImagePlugin.PngInfo()
    chunks.add_itxt("parameters", text)
    assert verify(saved(Image.new("RGB", (64, 64)), pnginfo=chunks), None).recipe is None


def test_one_side_is_no_size():
    chunks = PngImagePlugin.PngInfo()
    chunks.add_itxt("parameters", "a cat\nSteps: 5, Size: 9x9x9")
    recipe = verify(saved(Image.new("RGB", (64, 64)), pnginfo=chunks), None).recipe
    assert recipe == {"prompt": "a cat", "negative_prompt": "", "num_inference_steps": 5}
