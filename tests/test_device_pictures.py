"""The safety checker is shown the same values whether Pillow or a CUDA device has prepared them."""

import numpy as np
import pytest
import torch
from PIL import Image

from sd_space.engine.device_pictures import DevicePicture, is_as_by, prepared
from sd_space.engine.safety import _views
from sd_space.schema import Outcome

from .generated import drawn
from .test_engine import results, run
from .tiny_models import admitted, make_engine, make_screen

CPU = torch.device("cpu")


def draw(random) -> Image.Image:
    """A picture of some size: noise, blots, or a few areas of one colour."""
    generator = np.random.default_rng(random.getrandbits(32))
    width, height = (8 * random.randint(8, 96) for _ in range(2))
    if random.random() < 0.4:
        width = height
    grain = random.choice((1, 4, 32, 200))
    small = generator.integers(0, 256, (-(-height // grain), -(-width // grain), 3), dtype=np.uint8)
    how = random.choice((Image.Resampling.NEAREST, Image.Resampling.BICUBIC))
    return Image.fromarray(small).resize((width, height), how)


@drawn(20, nightly=500)
def test_pictures_prepared_on_the_device_get_the_verdicts_of_those_prepared_by_pillow(noise_painter, attempts):
    """With a checker that flags about half of them, and whose verdicts go by all the values that it sees."""
    screen = make_screen(noise_painter)
    checker, extractor = screen._safety_checker, screen._feature_extractor
    with torch.no_grad():
        checker.concept_embeds_weights.fill_(0.32)
    for attempt in attempts:
        with attempt:
            picture = draw(attempt.random)
            attempt.asks(picture.size)
            by_pillow, on_device = _views(picture), _views(DevicePicture.of(picture, CPU))
            values = extractor(by_pillow, return_tensors="pt").pixel_values
            assert torch.equal(prepared(on_device, extractor), values)
            verdict = screen._is_any_flagged(by_pillow)
            assert screen._is_any_flagged(on_device) == verdict
            attempt.came_to(verdict)
    attempts.assert_held(True, False)


def test_an_extractor_of_another_kind_is_left_to_itself(noise_painter):
    extractor = noise_painter.pipeline.feature_extractor
    assert is_as_by(extractor, CPU)
    assert not is_as_by(lambda pictures, **_: extractor(pictures, resample=0, return_tensors="pt"), CPU)


@pytest.mark.parametrize("changes", [{"width": 64}, {"width": 128}], ids=str)
def test_on_cuda_nothing_is_resized_on_the_host(pretended_gpu, monkeypatch, changes):
    engine = make_engine(pretended_gpu.load(), now_s=pretended_gpu.pretended.clock)
    engine.add_request(admitted("a", num_inference_steps=1))
    run(engine)  # compares the two ways
    monkeypatch.setattr(Image.Image, "resize", lambda *_, **__: pytest.fail("resized by Pillow"))
    engine.add_request(admitted("b", num_inference_steps=1, **changes))
    assert [image.outcome for image in results(run(engine))["b"].images] == [Outcome.OK]
