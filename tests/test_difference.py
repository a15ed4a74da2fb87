import math

import numpy as np
import pytest
from PIL import Image

from sd_space.schema import Outcome, ScreenedImage
from sd_space.serving.difference import save_difference
from sd_space.serving.results import ResultStore

from .fakes import picture
from .test_schema import INFO, parse


@pytest.fixture
def store(tmp_path):
    store = ResultStore(str(tmp_path), ttl_s=60.0)
    store.start()
    store.save("a", 0, picture(1), parse(), INFO, embed_recipe=False)
    yield store
    store.close()


def noise(seed: int, outcome: Outcome = Outcome.OK) -> ScreenedImage:
    values = np.random.default_rng(seed).integers(0, 256, (16, 8, 3), np.uint8)
    return ScreenedImage(seed, outcome, width=8, height=16, pixels=values.tobytes() if outcome is Outcome.OK else None)


def test_the_ratio_is_that_of_the_mean_square_and_the_picture_eight_times_the_difference(store):
    images = [noise(1), noise(2)]
    one, other = (np.frombuffer(image.pixels, np.uint8).astype(float) for image in images)
    difference = save_difference(store, "a", images, INFO)
    assert difference.psnr_db == pytest.approx(20 * np.log10(255 / np.sqrt(np.mean((one - other) ** 2))))
    with Image.open(difference.path) as saved:
        assert saved.size == (8, 16)
        assert np.array_equal(np.asarray(saved).reshape(-1), np.minimum(255, 8 * np.abs(one - other)))


def test_equal_pictures_have_no_difference(store):
    assert save_difference(store, "a", [noise(1), noise(1)], INFO).psnr_db == math.inf


@pytest.mark.parametrize("images", [[noise(1)], [noise(1), noise(2, Outcome.WITHHELD)], [noise(1, Outcome.BROKEN)]])
def test_a_picture_that_is_not_shown_is_not_compared(store, images):
    assert save_difference(store, "a", images, INFO) is None
