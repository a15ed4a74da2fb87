"""A pen that draws outlined shapes in a subject's own frame, and its inks."""

CANVAS = 256
INK = (28, 22, 34)
WHITE = (250, 250, 248)


def mix(a, b, amount):
    return tuple(int(x + (y - x) * amount) for x, y in zip(a, b, strict=True))


class Pen:
    """Draws outlined shapes in a subject's own frame: x right, y down, base at y=1, both about -1..1."""

    def __init__(self, draw, cx, cy, scale, flip, ink, width):
        self.draw, self.cx, self.cy, self.scale = draw, cx, cy, scale
        self.sign = -1 if flip else 1
        self.ink, self.width = ink, width

    def at(self, x, y):
        return self.cx + self.sign * x * self.scale, self.cy + y * self.scale

    def polygon(self, points, fill, width=None):
        points = [self.at(*p) for p in points]
        self.draw.polygon(points, fill=fill)
        width = self.width if width is None else width
        if width:
            self.draw.line(points + points[:2], fill=self.ink, width=width, joint="curve")

    def ellipse(self, x, y, rx, ry, fill, width=None):
        px, py = self.at(x, y)
        rx, ry = rx * self.scale, ry * self.scale
        width = self.width if width is None else width
        self.draw.ellipse(
            [px - rx, py - ry, px + rx, py + ry], fill=fill, outline=self.ink if width else None, width=width
        )

    def rect(self, x0, y0, x1, y1, fill, width=None):
        self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], fill, width)

    def limb(self, points, fill, thick):
        """A thick bent line with an outline on both sides."""
        points = [self.at(*p) for p in points]
        inner = max(2, int(thick * self.scale))
        for colour, width in ((self.ink, inner + 2 * self.width), (fill, inner)):
            self.draw.line(points, fill=colour, width=width, joint="curve")
            for x, y in points:
                self.draw.ellipse([x - width / 2, y - width / 2, x + width / 2, y + width / 2], fill=colour)

    def stroke(self, points, colour, width):
        self.draw.line([self.at(*p) for p in points], fill=colour, width=width, joint="curve")
