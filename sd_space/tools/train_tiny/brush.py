"""What everything is drawn with: a twice too large canvas, and a pen that draws outlined shapes in a subject's frame.

Coordinates are those of a 256x256 picture. Drawing at twice that size and halving by a box filter is the
anti-aliasing.
"""

import functools

import numpy as np
from PIL import Image, ImageDraw

SIZE = 256
OVERSAMPLING = 2
INK = (28, 22, 34)
WHITE = (250, 250, 248)

Colour = tuple[int, int, int]


def mix(a: Colour, b: Colour, amount: float) -> Colour:
    red, green, blue = (int(x + (y - x) * amount) for x, y in zip(a, b, strict=True))
    return red, green, blue


@functools.cache
def _column(top: Colour, bottom: Colour, y0: float, y1: float) -> Image.Image:
    share = np.clip((np.arange(SIZE * OVERSAMPLING) / OVERSAMPLING - y0) / max(1, y1 - y0), 0, 1)[:, None, None]
    colours = np.array(top) * (1 - share) + np.array(bottom) * share
    return Image.fromarray(colours.astype(np.uint8))


def gradient(top: Colour, bottom: Colour, y0: float = 0, y1: float = SIZE) -> Image.Image:
    """A whole canvas that fades from `top` at y0 to `bottom` at y1."""
    return _column(top, bottom, y0, y1).resize((SIZE * OVERSAMPLING,) * 2, Image.Resampling.NEAREST)


class Brush:
    """`ImageDraw` in the picture's own coordinates."""

    def __init__(self, image: Image.Image) -> None:
        self.image, self.draw = image, ImageDraw.Draw(image)

    def polygon(self, points, fill, outline=None, width=2):
        points = [(x * OVERSAMPLING, y * OVERSAMPLING) for x, y in points]
        self.draw.polygon(points, fill=fill)
        if outline:
            self.draw.line(points + points[:2], fill=outline, width=round(width * OVERSAMPLING), joint="curve")

    def rectangle(self, box, fill, outline=None, width=2):
        x0, y0, x1, y1 = (value * OVERSAMPLING for value in box)
        self.draw.rectangle((x0, y0, x1 - 1, y1 - 1), fill, outline, round(width * OVERSAMPLING))

    def ellipse(self, box, fill, outline=None, width=2):
        self.draw.ellipse([value * OVERSAMPLING for value in box], fill, outline, round(width * OVERSAMPLING))

    def pieslice(self, box, start, end, fill, outline=None, width=2):
        box = [value * OVERSAMPLING for value in box]
        self.draw.pieslice(box, start, end, fill, outline, round(width * OVERSAMPLING))

    def line(self, points, fill, width):
        points = [(x * OVERSAMPLING, y * OVERSAMPLING) for x, y in points]
        self.draw.line(points, fill=fill, width=max(1, round(width * OVERSAMPLING)), joint="curve")

    def disc(self, x, y, radius, fill, outline=None, width=2):
        self.ellipse((x - radius, y - radius, x + radius, y + radius), fill, outline, width)


class Pen:
    """Draws outlined shapes in a subject's own frame: x right, y down, base at y=1, both about -1..1."""

    def __init__(self, brush: Brush, x: float, y: float, scale: float, *, flip: bool, ink: Colour, width: float):
        self.brush, self.x, self.y, self.scale = brush, x, y, scale
        self.sign = -1 if flip else 1
        self.ink, self.width = ink, width

    def at(self, x, y):
        return self.x + self.sign * x * self.scale, self.y + y * self.scale

    def polygon(self, points, fill, width=None):
        width = self.width if width is None else width
        self.brush.polygon([self.at(*p) for p in points], fill, self.ink if width else None, width)

    def ellipse(self, x, y, rx, ry, fill, width=None):
        px, py = self.at(x, y)
        rx, ry = rx * self.scale, ry * self.scale
        width = self.width if width is None else width
        self.brush.ellipse((px - rx, py - ry, px + rx, py + ry), fill, self.ink if width else None, width)

    def rect(self, x0, y0, x1, y1, fill, width=None):
        self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], fill, width)

    def limb(self, points, fill, thick):
        """A thick bent line with an outline on both sides and round ends; `thick` in the subject's frame."""
        points = [self.at(*p) for p in points]
        inner = max(1.5, thick * self.scale)
        for colour, width in ((self.ink, inner + 2 * self.width), (fill, inner)):
            self.brush.line(points, colour, width)
            for x, y in points:
                self.brush.disc(x, y, width / 2, colour)

    def stroke(self, points, colour, width):
        """A line without an outline, `width` in pixels where the subject is large."""
        self.brush.line([self.at(*p) for p in points], colour, max(2, width * min(1, self.scale / 64)))
