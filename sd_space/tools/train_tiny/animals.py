"""Animals, and a dragon.

Each draws itself with a `Pen`: `paint` is its colour, `place` and `night` where it stands, `pose` (0 or 1) how.
"""

from sd_space.tools.train_tiny.brush import INK, WHITE, mix


def _cat(pen, paint, place, pose, night):
    eye = (250, 210, 60) if sum(paint) < 300 else (50, 160, 70)
    tail_y = -0.2 if pose else 0.5
    pen.limb([(0.4, 0.85), (0.9, 0.75), (1.0, tail_y)], paint, 0.17)
    pen.polygon([(-0.3, -0.1), (0.3, -0.1), (0.62, 1.0), (-0.62, 1.0)], paint)
    pen.ellipse(-0.26, 0.96, 0.2, 0.12, paint)
    pen.ellipse(0.26, 0.96, 0.2, 0.12, paint)
    for s in (-1, 1):
        pen.polygon([(s * 0.12, -0.8), (s * 0.54, -1.28), (s * 0.6, -0.55)], paint)
        pen.polygon([(s * 0.3, -0.88), (s * 0.48, -1.1), (s * 0.5, -0.72)], (240, 160, 170), 0)
    pen.ellipse(0, -0.48, 0.62, 0.48, paint)
    for s in (-1, 1):
        pen.ellipse(s * 0.26, -0.54, 0.14, 0.15, eye, 3)
        pen.ellipse(s * 0.26, -0.54, 0.05, 0.12, INK, 0)
        pen.stroke([(s * 0.2, -0.26), (s * 0.8, -0.34)], pen.ink, 3)
        pen.stroke([(s * 0.2, -0.22), (s * 0.78, -0.14)], pen.ink, 3)
    pen.polygon([(-0.09, -0.38), (0.09, -0.38), (0, -0.28)], (240, 120, 140), 2)


def _dog(pen, paint, place, pose, night):
    shade = mix(paint, INK, 0.35) if sum(paint) > 200 else (110, 108, 120)
    pen.limb([(-0.66, 0.12), (-1.0, -0.12), (-1.02, -0.5 if pose else -0.28)], paint, 0.15)
    for x in (-0.42, 0.44):
        pen.limb([(x, 0.4), (x + 0.02, 0.92)], shade, 0.18)
    for x in (-0.64, 0.2):
        pen.limb([(x, 0.4), (x, 0.92)], paint, 0.2)
    pen.ellipse(-0.12, 0.26, 0.7, 0.36, paint)
    pen.polygon([(0.16, 0.3), (0.24, -0.4), (0.76, -0.36), (0.58, 0.42)], paint)
    pen.ellipse(-0.12, 0.26, 0.62, 0.28, paint, 0)
    pen.limb([(0.24, -0.02), (0.64, 0.06)], (220, 40, 50), 0.1)
    pen.ellipse(0.88, -0.14, 0.1, 0.16, (240, 110, 130), 2)
    pen.ellipse(0.54, -0.54, 0.46, 0.42, paint)
    pen.ellipse(0.92, -0.38, 0.32, 0.22, mix(paint, WHITE, 0.5))
    pen.ellipse(1.16, -0.48, 0.11, 0.1, INK, 0)
    pen.ellipse(0.66, -0.68, 0.08, 0.1, INK if sum(paint) > 250 else WHITE, 0)
    pen.ellipse(0.22, -0.44, 0.18, 0.42, shade)


def _horse(pen, paint, place, pose, night):
    mane = mix(paint, INK, 0.6) if sum(paint) > 200 else (150, 150, 150)
    pen.limb([(-0.74, -0.02), (-1.0, 0.2), (-1.04, 0.66)], mane, 0.15)
    legs = ((-0.6, -0.7), (-0.34, -0.26), (0.3, 0.24), (0.5, 0.56 if pose == 0 else 0.86))
    for hip, foot in legs:
        knee = 0.56 if foot < 0.8 else 0.4
        pen.limb([(hip, 0.2), (hip * 0.5 + foot * 0.5, knee), (foot, 0.93 if foot < 0.8 else 0.66)], paint, 0.17)
    pen.polygon([(0.26, 0.1), (0.52, -0.78), (0.88, -0.7), (0.72, 0.3)], paint)
    pen.ellipse(-0.06, 0.12, 0.76, 0.36, paint)
    pen.polygon([(0.34, 0.16), (0.56, -0.6), (0.8, -0.6), (0.6, 0.2)], paint, 0)
    pen.polygon([(0.52, -0.94), (0.88, -0.98), (1.28, -0.48), (1.14, -0.28), (0.78, -0.52)], paint)
    pen.polygon([(0.56, -0.88), (0.66, -1.24), (0.82, -0.94)], paint)
    pen.polygon([(0.56, -0.98), (0.2, -0.12), (0.4, 0.0), (0.68, -0.56)], mane, 2)
    pen.ellipse(0.86, -0.74, 0.06, 0.07, INK if sum(paint) > 250 else WHITE, 0)
    pen.ellipse(1.16, -0.44, 0.04, 0.04, INK if sum(paint) > 250 else WHITE, 0)


def _bird(pen, paint, place, pose, night):
    shade, beak = mix(paint, INK, 0.3), (245, 150, 30) if paint[2] > 60 or paint[1] < 100 else (230, 70, 40)
    for x in (-0.1, 0.2):
        pen.limb([(x, 0.7), (x, 0.94), (x + 0.2, 0.96)], beak, 0.06)
    pen.polygon([(-0.4, 0.1), (-1.16, 0.0), (-1.2, 0.4), (-0.4, 0.6)], shade)
    pen.ellipse(0.0, 0.2, 0.7, 0.62, paint)
    pen.polygon([(0.66, -0.64), (1.16, -0.42), (0.68, -0.24)], beak)
    pen.ellipse(0.36, -0.46, 0.48, 0.46, paint)
    pen.ellipse(0.2, 0.1, 0.44, 0.5, paint, 0)
    pen.ellipse(0.26, 0.4, 0.34, 0.34, mix(paint, WHITE, 0.75), 0)
    if pose:
        pen.polygon([(-0.5, 0.3), (-0.9, -0.9), (-0.3, -0.6), (0.16, 0.1)], shade)
    else:
        pen.polygon([(0.1, -0.08), (-0.5, -0.06), (-1.0, 0.34), (-0.3, 0.56), (0.1, 0.3)], shade)
    pen.ellipse(0.48, -0.54, 0.14, 0.15, WHITE, 2)
    pen.ellipse(0.52, -0.53, 0.07, 0.08, INK, 0)


def _fish(pen, paint, place, pose, night):
    shade, light = mix(paint, INK, 0.22), mix(paint, WHITE, 0.8)
    lift = -0.16 if pose else 0.0
    pen.polygon([(-0.6, lift), (-1.2, -0.6 + lift), (-1.02, lift), (-1.2, 0.6 + lift)], shade)
    pen.polygon([(-0.4, -0.4 + lift), (0.1, -1.0 + lift), (0.5, -0.4 + lift)], shade)
    pen.polygon([(-0.2, 0.4 + lift), (-0.1, 0.9 + lift), (0.3, 0.44 + lift)], shade)
    pen.ellipse(0.1, lift, 0.92, 0.58, paint)
    pen.polygon([(-0.36, -0.46 + lift), (-0.1, -0.54 + lift), (-0.1, 0.54 + lift), (-0.36, 0.46 + lift)], light, 2)
    pen.polygon([(0.24, -0.55 + lift), (0.46, -0.5 + lift), (0.46, 0.5 + lift), (0.24, 0.55 + lift)], light, 2)
    pen.polygon([(0.06, 0.04 + lift), (-0.34, 0.2 + lift), (0.0, 0.34 + lift)], shade, 2)
    pen.ellipse(0.68, -0.14 + lift, 0.16, 0.17, WHITE, 2)
    pen.ellipse(0.72, -0.13 + lift, 0.08, 0.09, INK, 0)
    pen.stroke([(0.98, 0.16 + lift), (0.8, 0.2 + lift)], INK, 4)


def _dragon(pen, paint, place, pose, night):
    shade, light = mix(paint, INK, 0.35), mix(paint, (255, 236, 150), 0.65)
    pen.limb([(-0.4, 0.66), (-0.86, 0.84), (-1.1, 0.5)], paint, 0.2)
    pen.polygon([(-1.26, 0.56), (-1.14, 0.16), (-0.94, 0.48)], shade)
    tip = -1.24 if pose else -1.0
    pen.polygon(
        [
            (0.02, 0.1),
            (-0.34, tip),
            (-0.66, tip + 0.5),
            (-1.02, tip + 0.34),
            (-0.98, -0.16),
            (-1.24, 0.06),
            (-0.4, 0.4),
        ],
        shade,
    )
    for y, x in ((-0.62, 0.26), (-0.3, 0.12), (0.02, -0.02)):
        pen.polygon([(x - 0.22, y - 0.06), (x + 0.02, y - 0.16), (x + 0.04, y + 0.16)], light, 2)
    pen.limb([(-0.36, 0.7), (-0.42, 0.92)], paint, 0.26)
    pen.limb([(0.24, 0.7), (0.3, 0.92)], paint, 0.26)
    pen.ellipse(-0.06, 0.42, 0.52, 0.5, paint)
    pen.limb([(0.1, 0.2), (0.3, -0.3), (0.46, -0.7)], paint, 0.36)
    pen.ellipse(-0.02, 0.38, 0.42, 0.4, paint, 0)
    pen.ellipse(0.16, 0.5, 0.26, 0.34, light, 2)
    for x in (0.3, 0.48):
        pen.polygon([(x, -0.92), (x - 0.16, -1.32), (x + 0.18, -0.98)], light, 2)
    pen.polygon([(1.0, -0.74), (1.44, -0.98), (1.32, -0.66), (1.5, -0.44), (1.0, -0.54)], (250, 130, 30), 2)
    pen.polygon([(0.24, -0.96), (0.66, -1.04), (1.1, -0.76), (1.06, -0.52), (0.6, -0.46), (0.28, -0.56)], paint)
    pen.ellipse(0.6, -0.82, 0.1, 0.1, (255, 230, 80), 2)
    pen.ellipse(0.63, -0.82, 0.04, 0.07, INK, 0)


ANIMALS = {
    "cat": _cat,
    "dog": _dog,
    "horse": _horse,
    "bird": _bird,
    "fish": _fish,
    "dragon": _dragon,
}
