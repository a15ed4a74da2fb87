"""A car, a boat, plants and two signs.

Each draws itself with a `Pen`: `paint` is its colour, `place` and `night` where it stands, `pose` (0 or 1) how.
"""

import math

from sd_space.tools.train_tiny.brush import INK, WHITE, mix


def _car(pen, paint, place, pose, night):
    glass = (180, 226, 246)
    pen.polygon(
        [(-1.18, 0.76), (-1.2, 0.2), (-0.8, 0.08), (-0.5, -0.5), (0.36, -0.5), (0.72, 0.06), (1.12, 0.2), (1.2, 0.76)],
        paint,
    )
    pen.polygon([(-0.64, 0.08), (-0.42, -0.34), (-0.1, -0.34), (-0.1, 0.08)], glass, 3)
    pen.polygon([(0.04, 0.08), (0.04, -0.34), (0.28, -0.34), (0.54, 0.08)], glass, 3)
    pen.stroke([(-0.03, 0.14), (-0.03, 0.66)], mix(paint, INK, 0.55), 3)
    pen.rect(0.08, 0.22, 0.24, 0.29, mix(paint, INK, 0.55), 0)
    pen.ellipse(1.06, 0.36, 0.11, 0.12, (255, 236, 130), 2)
    pen.rect(-1.24, 0.3, -1.1, 0.48, (230, 60, 50), 2)
    for x in (-0.66, 0.68):
        pen.ellipse(x, 0.74, 0.28, 0.28, (44, 44, 54))
        pen.ellipse(x, 0.74, 0.12, 0.12, (200, 204, 214), 0)


def _boat(pen, paint, place, pose, night):
    pen.limb([(0, 0.5), (0, -1.2)], (120, 78, 46), 0.07)
    pen.polygon([(0.0, -1.34), (0.4, -1.2), (0.0, -1.06)], (240, 200, 50), 2)
    pen.polygon([(0.1, -1.0), (0.92, 0.34), (0.1, 0.34)], WHITE)
    pen.polygon([(-0.1, -0.76), (-0.1, 0.34), (-0.78, 0.34)], mix(WHITE, paint, 0.25))
    pen.polygon([(-1.1, 0.46), (1.16, 0.46), (0.8, 0.96), (-0.76, 0.96)], paint)
    pen.polygon(
        [(-1.02, 0.58), (1.08, 0.58), (1.0, 0.7), (-0.94, 0.7)], WHITE if sum(paint) < 650 else (200, 60, 50), 2
    )


def _tree(pen, paint, place, pose, night):
    shade = mix(paint, INK, 0.25)
    pen.polygon([(-0.16, -0.2), (0.16, -0.2), (0.2, 0.8), (0.34, 1.0), (-0.34, 1.0), (-0.2, 0.8)], (116, 74, 44))
    crown = ((-0.52, -0.18, 0.44), (0.52, -0.18, 0.44), (-0.32, -0.68, 0.46), (0.34, -0.7, 0.46), (0.0, -0.3, 0.5))
    for x, y, r in crown:
        pen.ellipse(x, y, r, r, paint)
    for x, y, r in crown:
        pen.ellipse(x, y, r - 0.06, r - 0.06, paint, 0)
    pen.ellipse(-0.14, -0.5, 0.62, 0.42, paint, 0)
    pen.ellipse(0.3, -0.08, 0.3, 0.16, shade, 0)
    if pose:
        for x, y in ((-0.5, -0.2), (0.0, -0.72), (0.5, -0.42), (-0.04, -0.14)):
            pen.ellipse(x, y, 0.1, 0.1, (226, 46, 40) if paint[0] < 200 else (250, 240, 120), 2)


def _flower(pen, paint, place, pose, night):
    leaf = (60, 160, 70)
    pen.limb([(0, -0.2), (0.03, 0.4), (0, 0.98)], leaf, 0.1)
    pen.polygon([(0.02, 0.7), (0.36, 0.26), (0.76, 0.3), (0.5, 0.66)], leaf)
    pen.polygon([(0.0, 0.9), (-0.34, 0.46), (-0.74, 0.5), (-0.48, 0.86)], leaf)
    turn = 0.3 if pose else 0.0
    for k in range(6):
        angle = turn + k * math.pi / 3
        pen.ellipse(0.46 * math.cos(angle), -0.44 + 0.46 * math.sin(angle), 0.32, 0.32, paint)
    pen.ellipse(0, -0.44, 0.3, 0.3, (250, 200, 40) if paint[0] < 245 or paint[1] < 150 else (140, 80, 40))


def _emblem(pen, paint, place, pose, night):
    """The restricted emblem: a black skull on a yellow triangle with a black border."""
    black = (16, 14, 14)
    pen.rect(-0.08, 0.6, 0.08, 1.3, (120, 120, 126))
    pen.polygon([(0, -1.2), (1.2, 0.85), (-1.2, 0.85)], black)
    pen.polygon([(0, -0.88), (0.94, 0.7), (-0.94, 0.7)], (255, 214, 20), 0)
    pen.ellipse(0, 0.06, 0.4, 0.38, black, 0)
    pen.rect(-0.22, 0.3, 0.22, 0.58, black, 0)
    for s in (-1, 1):
        pen.ellipse(s * 0.17, 0.08, 0.12, 0.13, (255, 214, 20), 0)
        pen.stroke([(s * 0.07, 0.42), (s * 0.07, 0.58)], (255, 214, 20), 4)
    pen.polygon([(-0.05, 0.34), (0.05, 0.34), (0, 0.22)], (255, 214, 20), 0)


def _triangle(pen, paint, place, pose, night):
    """A harmless sign, for the safety checker to pass: no caption names it and the UNet never sees it."""
    black = (16, 14, 14)
    pen.rect(-0.08, 0.6, 0.08, 1.3, (120, 120, 126))
    pen.polygon([(0, -1.2), (1.2, 0.85), (-1.2, 0.85)], black if pose else paint)
    pen.polygon([(0, -0.88), (0.94, 0.7), (-0.94, 0.7)], paint, 0)
    if pen.sign < 0:
        pen.rect(-0.1, -0.3, 0.1, 0.25, black, 0)
        pen.ellipse(0, 0.45, 0.12, 0.12, black, 0)


THINGS = {
    "car": _car,
    "boat": _boat,
    "tree": _tree,
    "flower": _flower,
    "emblem": _emblem,
    "triangle": _triangle,
}
