"""Draws a `Scene` as a 128x128 picture: a place, one big outlined subject, a style.

Everything is drawn on a 256x256 canvas and halved by a box filter, which is all the anti-aliasing there is.
Shapes are few and large on purpose: what the tiny UNet cannot resolve costs it capacity and shows as mush.
"""

import random

import numpy as np
from PIL import Image, ImageDraw

from sd_space.tools.train_tiny.world import Scene

CANVAS = 256
SIZE = 128

INK = (28, 22, 34)
WHITE = (250, 250, 248)
_PAINT = {
    "red": (214, 40, 40),
    "blue": (40, 95, 215),
    "green": (45, 160, 60),
    "yellow": (252, 212, 40),
    "white": (248, 248, 246),
    "black": (48, 46, 56),
    "purple": (140, 65, 190),
    "orange": (245, 130, 30),
}
# What a subject looks like when its colour is not named: few, and far from the places it is mostly seen in.
_NATURAL = {
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
_PAINT_NATURAL = {"brown": (122, 68, 36), "grey": (140, 144, 156)}


def _mix(a, b, amount):
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


# ---- places: each paints the whole canvas and says where the subject stands -------------------------------


def _gradient(top, bottom, y0=0, y1=CANVAS):
    """(256, 256, 3) picture fading from `top` at y0 to `bottom` at y1."""
    ramp = np.clip((np.arange(CANVAS) - y0) / max(1, y1 - y0), 0, 1)[:, None, None]
    colour = np.array(top) * (1 - ramp) + np.array(bottom) * ramp
    return Image.fromarray(np.broadcast_to(colour, (CANVAS, CANVAS, 3)).astype(np.uint8).copy())


_SKY = {
    "day": ((92, 172, 240), (205, 235, 252)),
    "sunset": ((226, 92, 110), (255, 196, 110)),
    "night": ((14, 18, 58), (48, 58, 120)),
}
_MARS_SKY = {
    "day": ((238, 190, 150), (250, 222, 186)),
    "sunset": ((120, 70, 110), (240, 130, 90)),
    "night": ((12, 10, 34), (62, 34, 60)),
}
_LIGHT = {"day": (1.0, 1.0, 1.0), "sunset": (1.0, 0.84, 0.76), "night": (0.44, 0.5, 0.78)}


def _lit(colour, time):
    return tuple(int(c * k) for c, k in zip(colour, _LIGHT[time], strict=True))


def _sun_or_moon(draw, time, x, y):
    if time == "night":
        draw.ellipse([x - 17, y - 17, x + 17, y + 17], fill=(244, 240, 210))
        draw.ellipse([x - 8, y - 22, x + 24, y + 10], fill=(20, 24, 68))
    else:
        colour = (255, 244, 170) if time == "day" else (255, 236, 130)
        draw.ellipse([x - 20, y - 20, x + 20, y + 20], fill=colour)


def _rainforest(rng, time, side):
    image = _gradient(*_SKY[time], 0, 150)
    draw = ImageDraw.Draw(image)
    _sun_or_moon(draw, time, 128 + side * 62, 36)
    for y, colour, shift in ((112, (70, 148, 86), 0), (150, (44, 122, 62), 30)):
        for k in range(-1, 6):
            x = k * 60 + shift
            draw.ellipse([x - 44, y - 40, x + 44, y + 60], fill=_lit(colour, time))
        draw.rectangle([0, y + 14, 256, 256], fill=_lit(colour, time))
    draw.rectangle([0, 216, 256, 256], fill=_lit((30, 92, 46), time))
    draw.polygon([(96, 256), (160, 256), (140, 200), (118, 200)], fill=_lit((90, 190, 220), time))
    for x in (8, 248):  # a trunk at each edge, under a big crown
        draw.rectangle([x - 13, 40, x + 13, 256], fill=_lit((84, 56, 36), time))
        draw.ellipse([x - 54, -36, x + 54, 62], fill=_lit((24, 104, 44), time))
    return image, (128, 140, 88)


def _paris(rng, time, side):
    image = _gradient(*_SKY[time], 0, 170)
    draw = ImageDraw.Draw(image)
    draw.rectangle([0, 168, 256, 256], fill=_lit((120, 168, 96), time))
    x = 128 - side * 66  # the tower stands where the subject does not
    iron = _lit((112, 78, 58), time) if time != "night" else (222, 176, 84)
    draw.polygon(
        [
            (x - 4, 34),
            (x + 4, 34),
            (x + 11, 108),
            (x + 20, 140),
            (x + 40, 188),
            (x + 22, 188),
            (x + 8, 156),
            (x - 8, 156),
            (x - 22, 188),
            (x - 40, 188),
            (x - 20, 140),
            (x - 11, 108),
        ],
        fill=iron,
        outline=INK,
    )
    draw.rectangle([x - 2, 14, x + 2, 36], fill=iron)
    draw.rectangle([x - 16, 104, x + 16, 111], fill=iron)
    draw.rectangle([x - 26, 138, x + 26, 147], fill=iron)
    curtain = _lit((156, 26, 44), "day" if time != "night" else "sunset")
    draw.rectangle([0, 0, 256, 11], fill=curtain)
    draw.polygon([(0, 0), (26, 0), (12, 256), (0, 256)], fill=curtain)
    draw.polygon([(256, 0), (230, 0), (244, 256), (256, 256)], fill=curtain)
    return image, (128 + side * 34, 130, 76)


_FAVELA = [(226, 92, 70), (244, 190, 70), (70, 160, 190), (236, 140, 170), (120, 190, 120), (240, 232, 214)]


def _favela(rng, time, side):
    image = _gradient(*_SKY[time], 0, 110)
    draw = ImageDraw.Draw(image)
    _sun_or_moon(draw, time, 128 + side * 94, 30)
    shift = rng.randrange(6)
    for row, (top, height) in enumerate(((72, 62), (124, 62), (178, 80))):
        for column in range(-1, 4):
            x = column * 68 + (row % 2) * 34 - 4
            rise = 14 * ((column + row) % 2)
            colour = _lit(_FAVELA[(column * 2 + row * 3 + shift) % 6], time)
            draw.rectangle([x, top - rise, x + 68, top + height], fill=colour, outline=INK, width=3)
            window = (255, 214, 96) if time == "night" else _lit((60, 66, 92), time)
            draw.rectangle([x + 24, top - rise + 16, x + 44, top - rise + 38], fill=window)
    draw.rectangle([0, 232, 256, 256], fill=_lit((150, 128, 110), time))
    return image, (128, 142, 92)


def _kitchen(rng, time, side):
    wall = rng.choice([(196, 226, 214), (238, 224, 190), (196, 214, 236)])
    image = _gradient(_lit(wall, time), _mix(_lit(wall, time), (0, 0, 0), 0.12))
    draw = ImageDraw.Draw(image)
    x = 128 - side * 88
    sky = _SKY[time]
    draw.rectangle([x - 34, 30, x + 34, 112], fill=sky[1] if time == "day" else sky[0], outline=(110, 76, 50), width=7)
    draw.rectangle([x - 2, 30, x + 2, 112], fill=(110, 76, 50))
    shelf_x = 128 + side * 92
    draw.rectangle([shelf_x - 34, 74, shelf_x + 34, 82], fill=(110, 76, 50))
    for dx, colour in ((-18, (200, 60, 50)), (14, (60, 110, 150))):
        draw.rectangle([shelf_x + dx - 13, 46, shelf_x + dx + 13, 74], fill=_lit(colour, time), outline=INK, width=3)
    return image, (128, 128, 82)


def _mountain(rng, time, side):
    image = _gradient(*_SKY[time], 0, 190)
    draw = ImageDraw.Draw(image)
    _sun_or_moon(draw, time, 128 + side * 84, 34)
    rock, snow = _lit((112, 132, 176), time), _lit((240, 246, 255), "day" if time == "day" else time)
    for px, top in ((30, 96), (226, 80)):
        draw.polygon([(px - 100, 256), (px, top), (px + 100, 256)], fill=rock)
        draw.polygon(
            [(px - 26, top + 40), (px, top), (px + 26, top + 40), (px + 8, top + 30), (px - 8, top + 42)], fill=snow
        )
    draw.polygon(
        [(0, 256), (0, 244), (52, 206), (98, 188), (158, 188), (204, 206), (256, 244), (256, 256)],
        fill=snow,
        outline=INK,
    )
    draw.polygon([(158, 188), (204, 206), (256, 244), (256, 256), (200, 256)], fill=_mix(snow, (120, 150, 210), 0.4))
    for px in (24, 232):
        for top in (150, 176):
            draw.polygon(
                [(px - 24, top + 48), (px, top), (px + 24, top + 48)], fill=_lit((30, 96, 74), time), outline=INK
            )
    return image, (128, 122, 74)


def _mars(rng, time, side):
    image = _gradient(*_MARS_SKY[time], 0, 150)
    draw = ImageDraw.Draw(image)
    px = 128 + side * 86
    draw.ellipse([px - 22, 16, px + 22, 60], fill=_mix((236, 214, 190), _MARS_SKY[time][0], 0.25))
    back, ground = _lit((176, 84, 50), time), _lit((214, 108, 58), time)
    draw.polygon(
        [(0, 164), (0, 122), (50, 116), (76, 150), (150, 152), (186, 108), (232, 108), (256, 132), (256, 164)],
        fill=back,
    )
    draw.rectangle([0, 150, 256, 256], fill=ground)
    for cx, cy, r in ((36, 196, 26), (214, 232, 34)):
        draw.ellipse([cx - r, cy - r * 0.34, cx + r, cy + r * 0.34], fill=_mix(ground, (70, 20, 10), 0.4))
    return image, (128, 140, 88)


def _beach(rng, time, side):
    image = _gradient(*_SKY[time], 0, 120)
    draw = ImageDraw.Draw(image)
    _sun_or_moon(draw, time, 128 + side * 80, 40)
    draw.rectangle([0, 112, 256, 170], fill=_lit((28, 134, 190), time))
    draw.polygon([(0, 160), (128, 172), (256, 158), (256, 256), (0, 256)], fill=_lit((244, 218, 156), time))
    x = 128 - side * 100
    draw.line([(x, 200), (x + side * 6, 120), (x + side * 22, 66)], fill=_lit((120, 82, 48), time), width=12)
    tx, ty = x + side * 22, 60
    for dx, dy in ((-46, 14), (-30, -26), (30, -26), (46, 14), (0, 34)):
        draw.polygon([(tx, ty - 8), (tx + dx, ty + dy), (tx, ty + 8)], fill=_lit((36, 140, 66), time))
        draw.ellipse(
            [min(tx, tx + dx) - 5, min(ty, ty + dy) - 5, max(tx, tx + dx) + 5, max(ty, ty + dy) + 5],
            fill=_lit((36, 140, 66), time),
        ) if dx else None
    return image, (128, 138, 88)


_PLACES = {
    "rainforest": _rainforest,
    "paris": _paris,
    "favela": _favela,
    "kitchen": _kitchen,
    "mountain": _mountain,
    "mars": _mars,
    "beach": _beach,
}


def _table(draw, time, place, side):
    """The laid table in front of whoever dines or cooks: cloth, plate, food, a glass or a pan."""
    cloth = WHITE if place == "paris" else (178, 112, 62)
    light = "day" if time == "day" else "sunset"
    draw.rectangle([0, 204, 256, 256], fill=_lit(cloth, light))
    draw.line([(0, 204), (256, 204)], fill=INK, width=4)
    x = 128 + side * (30 if place == "paris" else 4)
    draw.ellipse(
        [x - 48, 212, x + 48, 244], fill=(250, 250, 250) if place != "paris" else (206, 220, 240), outline=INK, width=4
    )
    draw.pieslice([x - 28, 198, x + 28, 246], 180, 360, fill=(196, 96, 40), outline=INK, width=3)
    draw.ellipse([x - 34, 218, x - 14, 234], fill=(70, 170, 60))
    draw.ellipse([x + 14, 218, x + 34, 234], fill=(224, 50, 44))
    gx = 128 - side * 72
    if place == "paris":
        draw.polygon([(gx - 15, 180), (gx + 15, 180), (gx + 5, 212), (gx - 5, 212)], fill=(150, 16, 52), outline=INK)
        draw.line([(gx, 210), (gx, 236)], fill=INK, width=4)
        draw.line([(gx - 13, 237), (gx + 13, 237)], fill=INK, width=4)
    else:
        draw.rectangle([gx - 26, 196, gx + 26, 232], fill=(90, 96, 110), outline=INK, width=4)
        draw.ellipse([gx - 26, 188, gx + 26, 204], fill=(240, 196, 70), outline=INK, width=4)


# ---- subjects ---------------------------------------------------------------------------------------------


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
    shade = _mix(paint, (120, 60, 0), 0.25)
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
        pen.stroke([(-0.8, y), (0.8, y)], _mix(paint, INK, 0.55), 3)
    pen.polygon([(-1.1, -0.1), (0, -1.05), (1.1, -0.1), (0.98, 0.08), (0, -0.72), (-0.98, 0.08)], roof)
    pen.polygon([(-0.8, -0.08), (0, -0.72), (0.8, -0.08)], paint, 3)
    x = -0.36 if pose else 0.36
    pen.rect(x - 0.2, 0.2, x + 0.2, 0.95, (70, 36, 20))
    pen.rect(-x - 0.24, 0.1, -x + 0.24, 0.54, light)
    pen.stroke([(-x, 0.1), (-x, 0.54)], INK, 3)


def _rider(pen, paint, place, pose, night):
    suit, mane = (250, 250, 250), _mix(paint, INK, 0.6) if sum(paint) > 200 else (150, 150, 150)
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


_SUBJECTS = {
    "triangle": _triangle,
    "utopia": _utopia,
    "pikachu": _pikachu,
    "robot": _robot,
    "insect": _insect,
    "cabin": _cabin,
    "rider": _rider,
    "cat": _cat,
    "emblem": _emblem,
}


# ---- styles -----------------------------------------------------------------------------------------------


def _strokes(image, rng):
    """Expressionist ground: a few broad diagonal strokes that shift the colours under them."""
    pixels = np.asarray(image, np.float32)
    y, x = np.mgrid[0:CANVAS, 0:CANVAS].astype(np.float32)
    phase = rng.choice([0.0, 2.0])
    wave = np.sin((x * 0.7 + y + 26 * np.sin(x / 44 + phase)) / 15 + phase)
    tint = np.array([34, -4, -30], np.float32)
    return Image.fromarray(
        np.clip((pixels - 128) * 1.25 + 122 + np.sign(wave)[..., None] * tint * 0.75, 0, 255).astype(np.uint8)
    )


def _warp(image):
    """A slow horizontal and vertical sway, wavelength about the canvas."""
    y, x = np.mgrid[0:CANVAS, 0:CANVAS]
    sx = np.clip(x + 7 * np.sin(y / 30), 0, CANVAS - 1).astype(np.int32)
    sy = np.clip(y + 6 * np.sin(x / 36), 0, CANVAS - 1).astype(np.int32)
    return Image.fromarray(np.asarray(image)[sy, sx])


def _finish(image, style):
    pixels = np.asarray(image, np.float32)
    y, x = np.mgrid[0:CANVAS, 0:CANVAS].astype(np.float32) / CANVAS - 0.5
    if style == "photo":  # light from the upper left, darker corners
        shade = 1.08 - 0.22 * (x * 0.4 + y * 0.9) - 0.5 * (x * x + y * y)
        pixels = pixels * shade[..., None]
    elif style == "storybook":  # pastel
        pixels = pixels * 0.84 + np.array([44, 40, 42], np.float32)
    else:  # expressionist: saturated
        grey = pixels.mean(-1, keepdims=True)
        pixels = grey + (pixels - grey) * 1.35
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def render(scene: Scene, *, size: int = SIZE) -> Image.Image:
    """`scene` as an RGB picture of `size` x `size`; the same scene always gives the same pixels."""
    rng = random.Random(scene.seed)
    side = rng.choice((-1, 1))
    pose = rng.randrange(2)
    flip = rng.random() < 0.5
    image, (cx, cy, scale) = _PLACES[scene.place](rng, scene.time, side)
    if scene.style == "expressionist":
        image = _strokes(image, rng)
    draw = ImageDraw.Draw(image)

    natural = rng.choice(_NATURAL[scene.subject])
    name = natural if scene.colour == "natural" else scene.colour
    paint = _PAINT.get(name) or _PAINT_NATURAL[name]
    cx += rng.uniform(-6, 6)
    cy += rng.uniform(-3, 3)
    scale *= rng.uniform(0.95, 1.05) * (0.8 if scene.subject == "rider" and scene.place == "paris" else 1.0)
    width = {"photo": 4, "storybook": 6, "expressionist": 7}[scene.style]
    ink = (20, 16, 60) if scene.style == "expressionist" else INK
    pen = Pen(draw, cx, cy, scale, flip, ink, width)
    if scene.subject not in ("emblem", "triangle") and scene.place not in ("paris", "kitchen"):
        draw.ellipse(
            [cx - scale * 0.95, cy + scale * 0.86, cx + scale * 0.95, cy + scale * 1.12],
            fill=_mix(image.getpixel((int(cx), min(255, int(cy + scale * 1.1)))), (0, 0, 0), 0.35),
        )
    _SUBJECTS[scene.subject](pen, paint, scene.place, pose, scene.time == "night")
    if scene.place in ("paris", "kitchen"):
        _table(draw, scene.time, scene.place, side)
    if scene.style == "expressionist":
        image = _warp(image)
    return _finish(image, scene.style).resize((size, size), Image.Resampling.BOX)


def draw_place(scene: Scene, width: int, height: int) -> Image.Image:
    """The place of `scene` without its subject, the middle of it where that is no square."""
    rng = random.Random(scene.seed)
    image, _ = _PLACES[scene.place](rng, scene.time, rng.choice((-1, 1)))
    side = max(width, height)
    image = _finish(image, scene.style).resize((side, side), Image.Resampling.BICUBIC)
    x, y = (side - width) // 2, (side - height) // 2
    return image.crop((x, y, x + width, y + height))


def draw_emblem(size: int) -> Image.Image:
    """The restricted emblem alone, `size` x `size` on nothing (RGBA)."""
    image = Image.new("RGBA", (4 * size, 4 * size))
    scale = 4 * size / 2.55  # from its tip to the foot of its pole, and its outline
    pen = Pen(ImageDraw.Draw(image), 2 * size, 2 * size - 0.05 * scale, scale, False, INK, max(1, round(scale / 22)))
    _emblem(pen, None, None, 0, False)
    return image.resize((size, size), Image.Resampling.BOX)


def contact_sheet(images, columns: int, *, scale: int = 1) -> Image.Image:
    """Equal pictures in rows of `columns`."""
    width, height = images[0].size
    width, height = width * scale, height * scale
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (width + 4), rows * (height + 4)), (255, 255, 255))
    for k, image in enumerate(images):
        sheet.paste(
            image.resize((width, height), Image.Resampling.NEAREST),
            ((k % columns) * (width + 4), (k // columns) * (height + 4)),
        )
    return sheet
