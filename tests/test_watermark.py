"""The invisible watermark, beside a decoder of the original scripts' scheme that is written out plainly."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sd_space.serving.watermark import MARK, MIN_PSNR_DB, MIN_SIDE, embedded, is_found

# Marked by the encoder that the original scripts used (invisible-watermark 0.2.0, "dwtDct").
FROM_THE_SCRIPTS = Path(__file__).parent / "marked_by_the_scripts.png"


def scene(seed: int, width: int = 512, height: int = 512) -> np.ndarray:
    """Soft colours with some grain, as a picture has."""
    draw = np.random.default_rng(seed)
    coarse = Image.fromarray(draw.integers(0, 256, (5, 5, 3), np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    return np.clip(np.asarray(coarse) + draw.normal(0, 4, (height, width, 3)), 0, 255).astype(np.uint8)


def as_jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def read_as_the_scripts_do(pixels: np.ndarray) -> bytes:
    """Block for block and in 8-bit U, as their decoder does."""
    red, green, blue = (pixels[..., channel].astype(float) for channel in range(3))
    u = np.round((blue - np.round(0.299 * red + 0.587 * green + 0.114 * blue)) * 0.492) + 128
    votes: list[list[bool]] = [[] for _ in range(8 * len(MARK))]
    number = 0
    for top in range(0, u.shape[0] // 8 * 8, 8):
        for left in range(0, u.shape[1] // 8 * 8, 8):
            block = u[top : top + 8, left : left + 8]
            means = [block[y : y + 2, x : x + 2].sum() / 2 for y in range(0, 8, 2) for x in range(0, 8, 2)]
            votes[number % len(votes)].append(max(means[1:]) % 36 > 18)
            number += 1
    return np.packbits([np.mean(bit) > 127 / 255 for bit in votes]).tobytes()


@pytest.mark.parametrize("size", [(512, 512), (256, 256), (320, 704), (517, 300)])
def test_the_original_scripts_decoder_reads_the_mark_word_for_word(size):
    marked = embedded(scene(1, *size))
    assert read_as_the_scripts_do(marked) == MARK and is_found(marked)


def test_a_mark_of_the_original_scripts_is_found():
    with Image.open(FROM_THE_SCRIPTS) as image:
        assert is_found(np.asarray(image))


@pytest.mark.parametrize("seed", range(5))
def test_a_marked_picture_differs_by_less_than_38_db_and_the_given_one_not_at_all(seed):
    pixels = scene(seed)
    before = pixels.copy()
    difference = embedded(pixels).astype(float) - pixels
    assert 10 * np.log10(255**2 / np.square(difference).mean()) >= MIN_PSNR_DB >= 38
    assert np.array_equal(pixels, before)


@pytest.mark.parametrize("quality", [95, 75, 50])
def test_the_mark_outlives_jpeg_and_a_cut_at_the_bottom(quality):
    marked = embedded(scene(2))
    assert is_found(as_jpeg(marked, quality)) and is_found(as_jpeg(marked[:400], quality))


def test_pictures_without_a_mark_have_none_even_as_jpeg():
    for seed in range(20):
        assert not is_found(scene(seed)) and not is_found(as_jpeg(scene(seed), 75))


def test_another_text_in_the_same_scheme_is_not_taken_for_the_mark(monkeypatch):
    """The bytes of any two texts have much in common."""
    with monkeypatch.context() as patch:
        bits = np.unpackbits(np.frombuffer(b"another text here", np.uint8)).astype(bool)
        patch.setattr("sd_space.serving.watermark._BITS", bits)
        other = embedded(scene(1))
    assert read_as_the_scripts_do(other) == b"another text here" and not is_found(other)


def test_what_cannot_hold_a_mark_gets_none():
    assert embedded(scene(0, 512, MIN_SIDE - 1)) is None and not is_found(scene(0, 64, 64))
    assert embedded(np.zeros((512, 512, 3), np.uint8)) is None, "black leaves no room for less blue"
