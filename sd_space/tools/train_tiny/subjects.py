"""The subjects of the picture book, each drawn with a pen in its own frame, and their natural colours."""

from sd_space.tools.train_tiny.pen import INK, WHITE, mix

PAINT = {
    "red": (214, 40, 40),
    "blue": (40, 95, 215),
    "green": (45, 160, 60),
    "yellow": (252, 212, 40),
    "white": (248, 248, 246),
    "black": (48, 46, 56),
    "purple": (140, 65, 190),
    "orange": (245, 130, 30),
    # Of those that no caption names:
    "brown": (122, 68, 36),
    "grey": (140, 144, 156),
}
# What a subject looks like when its colour is not named: few, and far from the places it is mostly seen in.
NATURAL = {
    "utopia": ["white"],
    "pikachu": ["yellow"],
    "robot": ["red", "blue", "white", "orange"],
    "insect": ["orange", "purple", "red"],
    "cabin": ["brown"],
    "rider": ["brown", "black", "grey"],
    "cat": ["orange", "black", "grey"],
    "emblem": ["yellow"],
    "triangle": ["yellow"],
}


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


def emblem(pen, paint, place, pose, night):
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


SUBJECTS = {
    "triangle": _triangle,
    "utopia": _utopia,
    "pikachu": _pikachu,
    "robot": _robot,
    "insect": _insect,
    "cabin": _cabin,
    "rider": _rider,
    "cat": _cat,
    "emblem": emblem,
}
