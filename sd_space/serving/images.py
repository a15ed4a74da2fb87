"""Screened pixels as images: what a visitor sees of a finished picture, and of one that is not finished yet."""

import base64
import io

from PIL import Image

from sd_space.schema import Outcome, Preview, ScreenedImage
from sd_space.serving.placeholder import placeholder


def render_image(image: ScreenedImage) -> Image.Image:
    """The picture, or its placeholder where it was withheld or broken."""
    if image.outcome is Outcome.OK and image.pixels is not None:
        return Image.frombytes("RGB", (image.width, image.height), image.pixels)
    return placeholder(image.outcome, image.width, image.height)


def preview_uri(preview: Preview) -> str:
    """A mosaic as a data URI, one pixel a cell: the browser scales it."""
    png = io.BytesIO()
    Image.frombytes("RGB", (preview.columns, preview.rows), preview.pixels).save(png, "PNG")
    return "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()
