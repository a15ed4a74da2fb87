"""Pictures on a CUDA device, resized and prepared for the safety checker there: the very values that Pillow gives."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

BITS = 22  # of the fraction in Pillow's weights (Resample.c)
SUPPORT = 2.0  # of its bicubic filter, in pixels of the smaller picture


class DevicePicture:
    """A picture of three channels, with those methods of Pillow's `Image` that the screen calls."""

    def __init__(self, values: torch.Tensor):
        self.values = values  # (3, H, W) bytes in float64, whose products with Pillow's weights are exact in any order

    @classmethod
    def of(cls, picture: Image.Image, device: torch.device) -> "DevicePicture":
        pixels = torch.from_numpy(np.array(picture)).to(device)
        return cls(pixels.permute(2, 0, 1).double())

    @property
    def size(self) -> tuple[int, int]:
        return self.values.shape[2], self.values.shape[1]

    def crop(self, box: tuple[int, int, int, int]) -> "DevicePicture":
        left, top, right, bottom = box
        return DevicePicture(self.values[:, top:bottom, left:right])

    def resize(self, size: tuple[int, int], resample: int = Image.Resampling.BICUBIC) -> "DevicePicture":
        """Bicubic, first along the rows and then along the columns, with bytes in between."""
        (width, height), device = size, self.values.device
        rows = _bytes(self.values @ _weights(self.values.shape[2], width, device).T)
        return DevicePicture(_bytes(_weights(self.values.shape[1], height, device) @ rows))


def prepared(views: Sequence[DevicePicture], extractor: Any) -> torch.Tensor:
    """What CLIP's feature `extractor` makes of `views`, (views, 3, S, S), by its own configuration."""
    return torch.stack([_prepared(view, extractor) for view in views])


def is_as_by(extractor: Callable[..., Any], device: torch.device) -> bool:
    """Whether `prepared` gives bit for bit what `extractor` itself gives, of a large picture and a small one."""
    noise = np.random.default_rng(0).integers(0, 256, (640, 400, 3), dtype=np.uint8)
    for picture in (Image.fromarray(noise), Image.fromarray(noise[:50, :70])):
        expected = extractor([picture], return_tensors="pt").pixel_values
        try:
            found = prepared([DevicePicture.of(picture, device)], extractor).cpu()
        except (AttributeError, TypeError, ValueError):  # it is configured in another way
            return False
        if not torch.equal(found, expected):
            return False
    return True


def _prepared(view: DevicePicture, extractor: Any) -> torch.Tensor:
    edge, (width, height) = extractor.size["shortest_edge"], view.size
    longest = int(edge * max(view.size) / min(view.size))
    view = view.resize((edge, longest) if width <= height else (longest, edge))
    width, height = view.size
    left, top = (width - extractor.crop_size["width"]) // 2, (height - extractor.crop_size["height"]) // 2
    view = view.crop((left, top, left + extractor.crop_size["width"], top + extractor.crop_size["height"]))
    mean, std = _columns(tuple(extractor.image_mean), tuple(extractor.image_std), view.values.device)
    return ((view.values * extractor.rescale_factor).float() - mean) / std


def _bytes(sums: torch.Tensor) -> torch.Tensor:
    return torch.floor((sums + 2 ** (BITS - 1)) / 2**BITS).clamp(0, 255)


@functools.lru_cache(maxsize=4)
def _columns(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[torch.Tensor, ...]:
    mean_column, std_column = (torch.tensor(values)[:, None, None].to(device) for values in (mean, std))
    return mean_column, std_column


@functools.lru_cache(maxsize=16)
def _weights(old: int, new: int, device: torch.device) -> torch.Tensor:
    """(new, old) whole numbers: of each new pixel, what Pillow takes of the old ones (`precompute_coeffs`)."""
    scale = old / new
    stretch = max(scale, 1.0)
    weights = np.zeros((new, old))
    for k in range(new):
        centre = (k + 0.5) * scale
        first = max(0, int(centre - SUPPORT * stretch + 0.5))
        last = min(old, int(centre + SUPPORT * stretch + 0.5))
        parts = [_bicubic((x - centre + 0.5) * (1.0 / stretch)) for x in range(first, last)]
        total = sum(parts)
        weights[k, first:last] = [math.trunc(part / total * 2**BITS + math.copysign(0.5, part)) for part in parts]
    return torch.from_numpy(weights).to(device)


def _bicubic(x: float) -> float:
    """Keys 1981 with a = -0.5, in the order in which Pillow computes it."""
    x = abs(x)
    if x < 1.0:
        return (1.5 * x - 2.5) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * -0.5 if x < 2.0 else 0.0
