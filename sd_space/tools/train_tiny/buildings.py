"""A green city, a cabin, a house and a castle.

Each draws itself with a `Pen`: `paint` is its colour, `place` and `night` where it stands, `pose` (0 or 1) how.
"""

from sd_space.tools.train_tiny.brush import INK, mix


def _utopia(pen, paint, place, pose, night):
    glass = (255, 226, 120) if night else (70, 190, 226)
    green = (70, 186, 70)
    heights = ((-0.66, -0.35), (0.66, -0.55)) if pose == 0 else ((-0.66, -0.6), (0.66, -0.25))
    for x, top in heights:
        pen.rect(x - 0.26, top, x + 0.26, 1.0, paint)
        for y in (top + 0.3, top + 0.72):
            pen.rect(x - 0.26, y, x + 0.26, y + 0.18, glass, 2)
        pen.ellipse(x, top - 0.06, 0.36, 0.2, green)
    pen.polygon([(-0.34, 1.0), (-0.24, -0.8), (0.24, -0.8), (0.34, 1.0)], paint)
    pen.ellipse(0, -0.84, 0.4, 0.24, green)
    pen.polygon([(-0.05, -1.05), (0, -1.4), (0.05, -1.05)], paint)
    for y in (-0.45, 0.0, 0.45):
        pen.rect(-0.27, y, 0.27, y + 0.2, glass, 2)
    pen.ellipse(-0.36, 1.0, 0.3, 0.16, green)
    pen.ellipse(0.36, 1.0, 0.3, 0.16, green)


def _cabin(pen, paint, place, pose, night):
    snowy = place == "mountain"
    roof = (240, 246, 255) if snowy else (150, 50, 40)
    light = (255, 220, 90)
    pen.rect(0.42, -1.1, 0.7, -0.3, (140, 130, 130))
    if snowy:
        pen.rect(0.38, -1.18, 0.74, -1.02, roof)
    pen.rect(-0.8, -0.2, 0.8, 0.95, paint)
    for y in (0.18, 0.56):
        pen.stroke([(-0.8, y), (0.8, y)], mix(paint, INK, 0.55), 3)
    pen.polygon([(-1.1, -0.1), (0, -1.05), (1.1, -0.1), (0.98, 0.08), (0, -0.72), (-0.98, 0.08)], roof)
    pen.polygon([(-0.8, -0.08), (0, -0.72), (0.8, -0.08)], paint, 3)
    x = -0.36 if pose else 0.36
    pen.rect(x - 0.2, 0.2, x + 0.2, 0.95, (70, 36, 20))
    pen.rect(-x - 0.24, 0.1, -x + 0.24, 0.54, light)
    pen.stroke([(-x, 0.1), (-x, 0.54)], INK, 3)


def _house(pen, paint, place, pose, night):
    roof = (190, 66, 50) if paint[1] > 90 or paint[2] > 90 else (80, 84, 104)
    glass = (255, 220, 100) if night else (130, 200, 240)
    pen.rect(0.4, -1.06, 0.64, -0.4, (150, 90, 80))
    pen.rect(-0.76, -0.3, 0.76, 1.0, paint)
    pen.polygon([(-1.02, -0.26), (0, -1.14), (1.02, -0.26)], roof)
    x = 0.0
    pen.rect(x - 0.18, 0.44, x + 0.18, 1.0, (120, 70, 40))
    pen.ellipse(x + 0.09, 0.74, 0.04, 0.04, (250, 220, 90), 0)
    for x, y in ((-0.48, -0.02), (0.48, -0.02), (-0.48, 0.56), (0.48, 0.56)):
        pen.rect(x - 0.17, y - 0.16, x + 0.17, y + 0.18, glass)
        pen.stroke([(x, y - 0.16), (x, y + 0.18)], INK, 3)
    pen.ellipse(0, -0.62, 0.14, 0.14, glass)


def _castle(pen, paint, place, pose, night):
    roof = (60, 90, 180) if paint[2] < 200 or min(paint) > 120 else (190, 60, 60)
    dark, light = (46, 42, 60), (255, 220, 110)
    pen.rect(-0.34, -0.62, 0.34, 0.4, paint)
    pen.polygon([(-0.46, -0.6), (0, -1.24), (0.46, -0.6)], roof)
    pen.polygon([(0, -1.5), (0.3, -1.38), (0, -1.26)], (230, 60, 60), 2)
    pen.stroke([(0, -1.5), (0, -1.2)], INK, 3)
    for s in (-1, 1):
        pen.rect(s * 0.58, -0.3, s * 1.06, 1.0, paint)
        pen.polygon([(s * 0.48, -0.28), (s * 0.82, -0.92), (s * 1.16, -0.28)], roof)
        pen.rect(s * 0.74, 0.0, s * 0.9, 0.28, light if night else dark, 0)
    for x in (-0.5, -0.17, 0.17, 0.5):
        pen.rect(x - 0.1, 0.06, x + 0.1, 0.3, paint)
    pen.rect(-0.6, 0.24, 0.6, 1.0, paint)
    pen.ellipse(0, 0.62, 0.22, 0.2, dark, 0)
    pen.rect(-0.22, 0.62, 0.22, 1.0, dark, 0)
    pen.rect(-0.1, -0.36, 0.1, -0.08, light if night else dark, 0)


BUILDINGS = {
    "utopia": _utopia,
    "cabin": _cabin,
    "house": _house,
    "castle": _castle,
}
