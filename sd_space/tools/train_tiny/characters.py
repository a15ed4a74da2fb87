"""Pikachu, the two robots, people, and the astronaut on a horse.

Each draws itself with a `Pen`: `paint` is its colour, `place` and `night` where it stands, `pose` (0 or 1) how.
"""

from sd_space.tools.train_tiny.brush import INK, WHITE, mix


def _pikachu(pen, paint, place, pose, night):
    tip = INK if sum(paint) > 250 else (200, 200, 200)
    shade = mix(paint, (120, 60, 0), 0.25)
    pen.polygon(
        [(0.5, 0.75), (0.75, 0.4), (0.6, 0.3), (1.05, -0.15), (1.2, 0.15), (0.92, 0.3), (1.05, 0.42), (0.62, 0.9)],
        shade,
    )
    tilt = 0.14 if pose else 0.0
    for s, lean in ((-1, 0.0), (1, tilt)):
        pen.polygon([(s * 0.2, -0.62), (s * (0.62 + lean), -1.4 + lean), (s * 0.56, -0.4)], paint)
        pen.polygon(
            [
                (s * 0.45 + s * lean * 0.7, -1.1 + lean * 0.7),
                (s * (0.62 + lean), -1.4 + lean),
                (s * 0.6 + s * lean * 0.7, -0.98 + lean * 0.7),
            ],
            tip,
            2,
        )
    pen.ellipse(0, 0.55, 0.52, 0.52, paint)
    pen.ellipse(0, -0.2, 0.64, 0.54, paint)
    for s in (-1, 1):
        pen.ellipse(s * 0.26, -0.3, 0.11, 0.13, INK, 0)
        pen.ellipse(s * 0.22, -0.35, 0.045, 0.05, WHITE, 0)
        pen.ellipse(s * 0.44, -0.04, 0.14, 0.13, (230, 50, 40), 0)
        pen.limb([(s * 0.44, 0.4), (s * 0.6, 0.55)], paint, 0.16)
    pen.stroke([(-0.14, -0.02), (-0.05, 0.06), (0, 0.0), (0.05, 0.06), (0.14, -0.02)], INK, 4)
    pen.ellipse(0, -0.14, 0.04, 0.03, INK, 0)


def _robot(pen, paint, place, pose, night):
    steel, glow = (168, 176, 190), (90, 240, 255)
    for s in (-1, 1):
        pen.rect(s * 0.12, 0.4, s * 0.46, 0.82, steel)
        pen.polygon([(s * 0.06, 1.0), (s * 0.14, 0.76), (s * 0.5, 0.76), (s * 0.62, 1.0)], paint)
        hand_y = -0.5 if pose and s == 1 else 0.5
        pen.limb([(s * 0.68, -0.22), (s * 0.86, 0.08 if hand_y > 0 else -0.3), (s * 0.86, hand_y)], steel, 0.18)
        pen.ellipse(s * 0.86, hand_y, 0.17, 0.17, paint)
    pen.polygon([(-0.6, -0.48), (0.6, -0.48), (0.4, 0.48), (-0.4, 0.48)], paint)
    for s in (-1, 1):
        pen.rect(s * 0.48, -0.62, s * 0.94, -0.18, paint)
    pen.ellipse(0, -0.12, 0.19, 0.19, glow)
    pen.rect(-0.3, -1.05, 0.3, -0.5, steel)
    pen.rect(-0.24, -0.9, 0.24, -0.7, glow, 3)
    for s in (-1, 1):
        pen.polygon([(s * 0.22, -1.04), (s * 0.5, -1.38), (s * 0.32, -0.92)], paint)


def _insect(pen, paint, place, pose, night):
    steel, eye = (70, 74, 88), (236, 40, 40)
    for s in (-1, 1):
        pen.polygon([(s * 0.1, -0.1), (s * 1.1, -0.75), (s * 1.2, -0.35), (s * 0.6, 0.25)], (206, 240, 250), 4)
        for y in (0.05, 0.35, 0.65):
            pen.limb([(s * 0.4, y), (s * 0.88, y - 0.16), (s * 1.02, y + 0.26)], steel, 0.09)
        pen.limb([(s * 0.16, -0.8), (s * 0.3, -1.15), (s * (0.6 if pose else 0.46), -1.3)], steel, 0.06)
        pen.ellipse(s * (0.6 if pose else 0.46), -1.3, 0.09, 0.09, paint)
    pen.ellipse(0, 0.4, 0.55, 0.62, paint)
    pen.stroke([(0, -0.1), (0, 1.0)], pen.ink, pen.width + 1)
    for s in (-1, 1):
        pen.ellipse(s * 0.26, 0.3, 0.1, 0.1, steel, 0)
    pen.ellipse(0, -0.5, 0.5, 0.42, paint)
    for s in (-1, 1):
        pen.ellipse(s * 0.32, -0.56, 0.24, 0.27, eye)
        pen.ellipse(s * 0.27, -0.64, 0.07, 0.08, WHITE, 0)
    pen.rect(-0.18, -0.28, 0.18, -0.16, steel, 2)
    if place == "kitchen":  # a cook's hat
        pen.ellipse(-0.16, -1.12, 0.2, 0.2, WHITE)
        pen.ellipse(0.16, -1.12, 0.2, 0.2, WHITE)
        pen.rect(-0.26, -1.12, 0.26, -0.82, WHITE)


def _rider(pen, paint, place, pose, night):
    suit, mane = (250, 250, 250), mix(paint, INK, 0.6) if sum(paint) > 200 else (150, 150, 150)
    gold = (250, 180, 60)
    pen.limb([(-0.74, 0.12), (-1.0, 0.3), (-1.02, 0.7)], mane, 0.12)
    legs = (
        ((-0.56, -0.66), (-0.36, -0.3), (0.36, 0.34), (0.54, 0.72))
        if pose == 0
        else ((-0.6, -0.86), (-0.38, -0.24), (0.36, 0.3), (0.56, 0.94))
    )
    for hip, foot in legs:
        pen.limb([(hip, 0.3), (hip * 0.5 + foot * 0.5, 0.66), (foot, 0.94)], paint, 0.15)
    pen.polygon([(0.4, 0.1), (0.66, -0.66), (0.92, -0.6), (0.78, 0.34)], paint)
    pen.ellipse(0, 0.22, 0.76, 0.3, paint)
    pen.polygon([(0.62, -0.78), (0.94, -0.76), (1.26, -0.38), (1.14, -0.22), (0.8, -0.4)], paint)
    pen.polygon([(0.66, -0.7), (0.74, -1.0), (0.86, -0.74)], paint)
    pen.polygon([(0.64, -0.76), (0.34, -0.1), (0.5, 0.0), (0.72, -0.4)], mane, 2)
    pen.ellipse(0.92, -0.58, 0.05, 0.05, INK if sum(paint) > 250 else WHITE, 0)
    pen.rect(-0.5, -0.68, -0.2, -0.16, (150, 160, 176))
    pen.polygon([(-0.3, 0.1), (-0.3, -0.62), (0.18, -0.62), (0.24, 0.1)], suit)
    pen.limb([(-0.02, 0.06), (0.14, 0.36), (0.1, 0.6)], suit, 0.2)
    pen.limb([(0.06, -0.46), (0.32, -0.24), (0.52, -0.28)], suit, 0.16)
    pen.ellipse(-0.04, -0.94, 0.38, 0.36, suit)
    pen.ellipse(0.08, -0.92, 0.24, 0.22, (40, 50, 90))
    pen.ellipse(0.14, -1.0, 0.08, 0.06, gold, 0)


def _skin(pose):
    return ((238, 188, 150), (110, 66, 40)) if pose else ((150, 96, 64), (38, 30, 36))  # with the hair's colour


def _face(pen, y):
    for s in (-1, 1):
        pen.ellipse(s * 0.14, y, 0.05, 0.07, INK, 0)
    pen.stroke([(-0.12, y + 0.17), (0, y + 0.22), (0.12, y + 0.17)], (170, 40, 50), 3)


def _woman(pen, paint, place, pose, night):
    skin, hair = _skin(pose)
    pen.ellipse(0, -0.74, 0.5, 0.48, hair)
    pen.polygon([(-0.5, -0.76), (0.5, -0.76), (0.56, 0.02), (-0.56, 0.02)], hair)
    for s in (-1, 1):
        pen.limb([(s * 0.18, 0.6), (s * 0.18, 0.9)], skin, 0.16)
        pen.ellipse(s * 0.22, 0.95, 0.17, 0.08, mix(paint, INK, 0.5), 2)
        pen.limb(
            [(s * 0.26, -0.2), (s * 0.56, 0.12), (s * (0.84 if s > 0 else 0.6), -0.12 if s > 0 else 0.4)], skin, 0.14
        )
    pen.polygon([(-0.3, -0.32), (0.3, -0.32), (0.28, 0.06), (0.72, 0.74), (-0.72, 0.74), (-0.28, 0.06)], paint)
    pen.limb([(-0.24, 0.06), (0.24, 0.06)], mix(paint, INK, 0.45), 0.08)
    pen.rect(-0.1, -0.46, 0.1, -0.28, skin, 0)
    pen.ellipse(0, -0.7, 0.36, 0.37, skin)
    pen.polygon(
        [(-0.4, -0.66), (-0.36, -0.98), (0, -1.16), (0.36, -0.98), (0.4, -0.66), (0.2, -0.9), (-0.1, -0.96)], hair, 2
    )
    _face(pen, -0.68)


def _man(pen, paint, place, pose, night):
    skin, hair = _skin(pose)
    for s in (-1, 1):
        pen.limb([(s * 0.17, 0.4), (s * 0.2, 0.88)], (60, 70, 110), 0.24)
        pen.ellipse(s * 0.26, 0.95, 0.2, 0.09, (50, 36, 30), 2)
        hand = (0.8, 0.3) if s < 0 else (0.86, -0.56)
        pen.limb([(s * 0.36, -0.2), (s * 0.62, 0.06), (s * hand[0], hand[1])], paint, 0.18)
        pen.ellipse(s * hand[0], hand[1], 0.12, 0.12, skin)
    pen.polygon([(-0.46, -0.34), (0.46, -0.34), (0.38, 0.48), (-0.38, 0.48)], paint)
    pen.rect(-0.12, -0.46, 0.12, -0.3, skin, 0)
    pen.ellipse(0, -0.7, 0.36, 0.37, skin)
    pen.polygon(
        [
            (-0.4, -0.7),
            (-0.4, -0.98),
            (-0.16, -1.16),
            (0.2, -1.14),
            (0.42, -0.94),
            (0.4, -0.7),
            (0.28, -0.9),
            (-0.26, -0.9),
        ],
        hair,
        2,
    )
    _face(pen, -0.68)
    pen.limb([(-0.36, 0.46), (0.36, 0.46)], (60, 44, 34), 0.08)


CHARACTERS = {
    "pikachu": _pikachu,
    "robot": _robot,
    "insect": _insect,
    "rider": _rider,
    "woman": _woman,
    "man": _man,
}
