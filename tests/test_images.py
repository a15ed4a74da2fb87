from sd_space.schema import Outcome, Preview, ScreenedImage
from sd_space.serving.images import preview_uri, render_image

from .fakes import picture


def test_a_placeholder_has_the_pictures_shape():
    image = ScreenedImage(seed=1, outcome=Outcome.WITHHELD, width=96, height=128, pixels=None)
    width, height = render_image(image).size
    assert width * 128 == height * 96


def test_withheld_and_broken_are_distinguished():
    shown = [render_image(picture(1, outcome)).tobytes() for outcome in (Outcome.WITHHELD, Outcome.BROKEN)]
    assert shown[0] != shown[1]


def test_a_preview_is_one_pixel_a_cell():
    assert preview_uri(Preview(2, 1, bytes(6))).startswith("data:image/png;base64,")
