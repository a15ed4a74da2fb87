"""What differs between two pictures of a request: as a picture, many times as strong, and as one number."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from sd_space.schema import Outcome, ScreenedImage
from sd_space.served_model import ModelInfo
from sd_space.serving.results import ResultStore

ENLARGED = 8  # times
PEAK = 255


@dataclass(frozen=True, slots=True)
class Difference:
    """`psnr_db` is the peak signal-to-noise ratio, infinite where the two are equal."""

    path: Path
    psnr_db: float


def save_difference(
    store: ResultStore, request_id: str, images: Sequence[ScreenedImage], info: ModelInfo
) -> Difference | None:
    """Of the first two images, by their pixels before any mark; `None` where they are not both shown."""
    shown = [image for image in images[:2] if image.outcome is Outcome.OK and image.pixels is not None]
    if len(shown) < 2:
        return None
    one, other = (np.frombuffer(image.pixels or b"", np.uint8).astype(np.int16) for image in shown)
    apart = np.abs(one - other)
    pixels = (apart * ENLARGED).clip(0, PEAK).astype(np.uint8).tobytes()
    picture = Image.frombytes("RGB", (shown[0].width, shown[0].height), pixels)
    path = store.add(request_id, "difference.png", lambda file: store.marks.write_sheet(file, picture, info))
    mean_square = float(np.square(apart, dtype=np.float64).mean())
    return Difference(path, 10 * math.log10(PEAK**2 / mean_square) if mean_square else math.inf)
