"""The invisible watermark of the original Stable Diffusion scripts: the bits of "StableDiffusionV1" in the blue.

The scripts' scheme (invisible-watermark's "dwtDct"): each block of 8 x 8 pixels holds one bit, block after block. Of
its 4 x 4 means of U (the Haar wavelet's coarse half), the greatest but for the first says it: by which half of an
interval of 36 it lies in. Any decoder of that scheme reads what is written here. How it is written is our own: the
scripts move one mean alone, which JPEG smooths away and which may leave another one the greatest; here a smooth bump is
raised, or all that stands out is lowered, whichever changes the picture less.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

MARK = b"StableDiffusionV1"
MIN_SIDE = 256
WANTED_PSNR_DB, MIN_PSNR_DB = 40.0, 38.2  # with the picture before; the second where only the least margin fits
FOUND_FROM = 0.45  # of the correlation; unmarked pictures stay below, see tools/README.md

_INTERVAL = 36.0
_MARGINS = (6.0, 5.0, 4.0, 3.0, 2.0, 1.5)  # from the ends of a half: the greatest that leaves the picture good enough
_BITS = np.unpackbits(np.frombuffer(MARK, np.uint8)).astype(bool)
_BUMP = np.outer([0.5, 1, 1, 0.5], [0.5, 1, 1, 0.5]).reshape(16)
_GREEN, _BLUE = -0.395, 2.032  # what a step of U is in RGB (BT.601), where Y and V stay

Pixels = NDArray[np.uint8]
Means = NDArray[np.floating[Any]]  # (blocks, 16)


def embedded(pixels: Pixels) -> Pixels | None:
    """A copy of an RGB picture with the watermark; `None` where it is too small or of one saturated colour."""
    height, width = pixels.shape[:2]
    if min(height, width) < MIN_SIDE:
        return None
    means = _means(pixels)
    for margin in _MARGINS:
        change = _change(means, margin) / 2  # a coarse value is twice the mean of its four pixels
        if _psnr_db(change) >= (WANTED_PSNR_DB if margin > _MARGINS[-1] else MIN_PSNR_DB):
            marked = _added(pixels, change)
            return marked if is_found(marked) else None
    return None


def is_found(pixels: Pixels) -> bool:
    """Whether an RGB picture, not resized and not cropped at its left or top, has the watermark."""
    return min(pixels.shape[:2]) >= MIN_SIDE and _correlation(pixels) >= FOUND_FROM


def _means(pixels: Pixels) -> Means:
    """U of each block as the coarse half of its Haar wavelet transform."""
    height, width = (side // 8 * 8 for side in pixels.shape[:2])
    red, green, blue = (pixels[:height, :width, channel].astype(np.float32) for channel in range(3))
    u = np.round((blue - np.round(0.299 * red + 0.587 * green + 0.114 * blue)) * 0.492) + 128
    coarse: Means = (u[0::2, 0::2] + u[0::2, 1::2] + u[1::2, 0::2] + u[1::2, 1::2]) / 2
    return coarse.reshape(height // 8, 4, width // 8, 4).transpose(0, 2, 1, 3).reshape(-1, 16)


def _change(means: Means, margin: float) -> Means:
    """The least change after which each block's greatest mean says its bit, `margin` away from saying the other."""
    greatest = means[:, 1:].max(axis=1)
    start = np.where(np.resize(_BITS, len(means)), _INTERVAL / 2, 0) + margin
    end = start + _INTERVAL / 2 - 2 * margin
    interval = np.floor(greatest / _INTERVAL) * _INTERVAL
    place = greatest - interval
    is_right = (start <= place) & (place <= end)
    above = np.where(is_right, greatest, interval + start + np.where(place > end, _INTERVAL, 0))
    below = np.where(is_right, greatest, interval + end - np.where(place < start, _INTERVAL, 0))
    height = ((above[:, None] - means) / _BUMP)[:, 1:].min(axis=1)
    raised = height[:, None] * _BUMP
    lowered = np.minimum(below[:, None] - means, 0)
    is_raised = np.square(raised).sum(axis=1) <= np.square(lowered).sum(axis=1)
    change: Means = np.where(is_raised[:, None], raised, lowered)
    return change


def _psnr_db(change: Means) -> float:
    mse = (_GREEN**2 + _BLUE**2) / 3 * float(np.square(change).mean())
    return 10 * float(np.log10(255**2 / max(mse, 1e-9)))


def _added(pixels: Pixels, change: Means) -> Pixels:
    rows, columns = (side // 8 for side in pixels.shape[:2])
    u = change.reshape(rows, columns, 4, 4).transpose(0, 2, 1, 3).reshape(rows * 4, columns * 4)
    u = u.repeat(2, axis=0).repeat(2, axis=1)
    marked = pixels.copy()
    inside = marked[: rows * 8, : columns * 8]
    for channel, share in ((1, _GREEN), (2, _BLUE)):
        inside[..., channel] = np.clip(np.round(inside[..., channel] + share * u), 0, 255)
    return marked


def _without_the_common(bits: NDArray[Any]) -> NDArray[Any]:
    """Without what the bytes of any text share, which pictures that repeat every 64 pixels may have by chance."""
    by_byte = bits.reshape(-1, 8)
    return np.asarray(by_byte - by_byte.mean(axis=0)).reshape(-1)


def _correlation(pixels: Pixels) -> float:
    """How well the blocks say the mark's bits: 1 where all of them do, about 0 in a picture without it."""
    phase = _means(pixels)[:, 1:].max(axis=1) * (2 * np.pi / _INTERVAL)
    votes = -np.sin(phase)  # 1 in the middle of the half for a set bit, -1 in that of the other
    which = np.arange(len(votes)) % len(_BITS)
    read = np.bincount(which, votes, len(_BITS)) / np.bincount(which, minlength=len(_BITS))
    read, mark = _without_the_common(read), _without_the_common(_BITS)
    return float((read * mark).sum() / np.sqrt((mark**2).sum() * (read**2).sum() + 1e-9))
