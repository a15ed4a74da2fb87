"""Figures from features and scores: adherence, KID, variety, nearest neighbours, and the plot."""

import numpy as np
from PIL import Image, ImageDraw

from sd_space.tools.train_tiny.world import ATTRIBUTES, NAMED_NONE


def adherence(scores: dict[str, np.ndarray], named: list[dict[str, str]]) -> dict[str, float]:
    """For each attribute the share of pictures that show the value their caption names, and the mean of all.

    Attributes that a caption leaves open are not counted; one that no caption names is NaN and not in the mean.
    """
    figures = {}
    for name, values in ATTRIBUTES.items():
        guesses = scores[name].argmax(1)
        hits = [guesses[k] == values.index(n[name]) for k, n in enumerate(named) if n[name] != NAMED_NONE]
        figures[name] = float(np.mean(hits)) if hits else float("nan")
    return {"adherence": float(np.nanmean(list(figures.values()))), **figures}


def composition(scores: dict[str, np.ndarray], named: list[dict[str, str]]) -> dict[str, float]:
    """Of the captions of two subjects: how often both stand where they should, and how often they changed places.

    NaN where no caption names two.
    """
    guesses = {name: scores[name].argmax(1) for name in ("subject", "companion")}
    both, swapped = [], []
    for k, each in enumerate(named):
        if NAMED_NONE not in (each["subject"], each["companion"]):
            seen = tuple(ATTRIBUTES[name][guesses[name][k]] for name in ("subject", "companion"))
            both.append(seen == (each["subject"], each["companion"]))
            swapped.append(seen == (each["companion"], each["subject"]))
    return {"both": float(np.mean(both or np.nan)), "swapped": float(np.mean(swapped or np.nan))}


def sharpness(images: np.ndarray, reference: np.ndarray) -> float:
    """Energy of the gradients of (N, H, W, 3) uint8 pictures, as a share of that of `reference`."""
    return _gradient_energy(images) / _gradient_energy(reference)


def _gradient_energy(images: np.ndarray) -> float:
    """Mean squared difference of neighbouring pixels; picture by picture, because of the memory."""
    total = 0.0
    for image in images:
        pixels = image.astype(np.float32)
        total += sum(float(np.square(np.diff(pixels, axis=axis)).mean()) for axis in (0, 1))
    return total / len(images)


def psnr(images: np.ndarray, reference: np.ndarray) -> float:
    """Peak signal-to-noise ratio of all pictures together, in dB."""
    errors = [
        float(np.square(ours.astype(np.float32) - theirs).mean())
        for ours, theirs in zip(images, reference, strict=True)
    ]
    return float(10 * np.log10(255**2 / max(float(np.mean(errors)), 1e-9)))


def kid(first: np.ndarray, second: np.ndarray) -> float:
    """Kernel inception distance (Binkowski et al., 2018) of two sets of features: unbiased MMD, cubic kernel."""
    width = first.shape[1]
    n, m = len(first), len(second)
    xx, yy, xy = ((a @ b.T / width + 1) ** 3 for a, b in ((first, first), (second, second), (first, second)))
    within = (xx.sum() - np.trace(xx)) / (n * (n - 1)) + (yy.sum() - np.trace(yy)) / (m * (m - 1))
    return float(within - 2 * xy.mean())


def spread(features: np.ndarray) -> float:
    """Mean distance between two of (N, D)."""
    distances = np.linalg.norm(features[:, None] - features[None], axis=2)
    return float(distances.sum() / (len(features) * (len(features) - 1)))


def nearest(features: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(N,): each one's distance to the nearest of `others`."""
    squares = (features**2).sum(1)[:, None] + (others**2).sum(1)[None] - 2 * features @ others.T
    return np.sqrt(squares.clip(0).min(1))


def pareto_plot(
    curves: dict[str, list[tuple[float, float, float]]], across: str, up: str, limit: float | None = None
) -> Image.Image:
    """A 640 x 480 plot of two figures with the guidance scale at each point.

    `curves` maps a name to (the figure that `across` names, the one that `up` names, guidance scale); `limit` is the
    oracle's, a dashed line.
    """
    image = Image.new("RGB", (640, 480), "white")
    draw = ImageDraw.Draw(image)
    points = [point for curve in curves.values() for point in curve]
    left, right = _bounds([point[0] for point in points])
    low, high = _bounds([point[1] for point in points] + ([] if limit is None else [limit]))

    def at(x: float, y: float) -> tuple[float, float]:
        return 70 + 540 * (x - left) / (right - left), 430 - 390 * (y - low) / (high - low)

    draw.line([at(left, high), at(left, low), at(right, low)], fill="black", width=2)
    for k in range(5):
        x, y = left + (right - left) * k / 4, low + (high - low) * k / 4
        draw.text((at(x, low)[0] - 12, 438), f"{x:.3f}", fill="black")
        draw.text((20, at(left, y)[1] - 6), f"{y:.3g}", fill="black")
    draw.text((340, 458), across, fill="black", anchor="ma")
    draw.text((8, 8), up, fill="black")
    if limit is not None:
        for x in range(70, 610, 12):
            draw.line([(x, at(left, limit)[1]), (x + 6, at(left, limit)[1])], fill="grey")
        draw.text((540, at(left, limit)[1] - 14), "ORACLE", fill="grey")
    for row, (colour, (name, curve)) in enumerate(zip(("#c0392b", "#2060c0", "#208040"), curves.items(), strict=False)):
        spots = [at(*point[:2]) for point in curve]
        draw.line(spots, fill=colour, width=2)
        for (x, y), point in zip(spots, curve, strict=True):
            draw.ellipse([x - 4, y - 4, x + 4, y + 4], fill=colour)
            draw.text((x + 6, y - 12), f"{point[2]:g}", fill=colour)
        draw.text((420, 380 + 16 * row), name, fill=colour)
    return image


def _bounds(values: list[float]) -> tuple[float, float]:
    """Least and most of an axis: a tenth wider than what it shows."""
    margin = 0.1 * (max(values) - min(values)) or 0.1
    return min(values) - margin, max(values) + margin
