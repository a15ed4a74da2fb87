"""The eleven places: each paints the whole canvas and says where a subject stands in it.

Their shapes are few, large and without outlines on purpose: what the tiny UNet cannot resolve costs it capacity and
shows as mush, and the outlined subject stands out.
"""

import random
from collections.abc import Callable
from typing import NamedTuple

from sd_space.tools.train_tiny.brush import INK, WHITE, Brush, Colour, gradient, mix

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


class Spot(NamedTuple):
    """Where a subject stands: the middle, the height of its feet, and its usual size, in pixels."""

    x: float
    base: float
    scale: float


def lit(colour: Colour, time: str) -> Colour:
    red, green, blue = (int(c * k) for c, k in zip(colour, _LIGHT[time], strict=True))
    return red, green, blue


def _sun_or_moon(brush: Brush, time: str, x: float, y: float) -> None:
    if time == "night":
        brush.disc(x, y, 17, (244, 240, 210))
        brush.disc(x + 8, y - 6, 16, (20, 24, 68))
    else:
        brush.disc(x, y, 20, (255, 244, 170) if time == "day" else (255, 236, 130))


def _rainforest(rng, time, side):
    brush = Brush(gradient(*_SKY[time], 0, 150))
    _sun_or_moon(brush, time, 128 + side * 62, 36)
    for y, colour, shift in ((112, (70, 148, 86), 0), (150, (44, 122, 62), 30)):
        for k in range(-1, 6):
            x = k * 60 + shift
            brush.ellipse([x - 44, y - 40, x + 44, y + 60], fill=lit(colour, time))
        brush.rectangle([0, y + 14, 256, 256], fill=lit(colour, time))
    brush.rectangle([0, 216, 256, 256], fill=lit((30, 92, 46), time))
    for x in (6, 250):  # a trunk at each edge, under a big crown
        brush.rectangle([x - 13, 40, x + 13, 256], fill=lit((84, 56, 36), time))
        brush.ellipse([x - 54, -36, x + 54, 62], fill=lit((24, 104, 44), time))
    return brush, Spot(128, 230, 90)


def _paris(rng, time, side):
    brush = Brush(gradient(*_SKY[time], 0, 170))
    brush.rectangle([0, 168, 256, 256], fill=lit((120, 168, 96), time))
    x = 128 - side * 66  # the tower stands where the subject does not
    iron = lit((112, 78, 58), time) if time != "night" else (222, 176, 84)
    brush.polygon(
        [(x - 4, 30), (x + 4, 30), (x + 11, 108), (x + 20, 140), (x + 40, 190), (x + 22, 190), (x + 9, 156),
         (x - 9, 156), (x - 22, 190), (x - 40, 190), (x - 20, 140), (x - 11, 108)],
        fill=iron,
    )  # fmt: skip
    brush.rectangle([x - 2, 14, x + 2, 34], fill=iron)
    brush.rectangle([x - 17, 104, x + 17, 111], fill=iron)
    brush.rectangle([x - 27, 138, x + 27, 147], fill=iron)
    curtain = lit((156, 26, 44), "day" if time != "night" else "sunset")
    brush.rectangle([0, 0, 256, 11], fill=curtain)
    brush.polygon([(0, 0), (26, 0), (12, 256), (0, 256)], fill=curtain)
    brush.polygon([(256, 0), (230, 0), (244, 256), (256, 256)], fill=curtain)
    return brush, Spot(128 + side * 34, 206, 76)


_FAVELA = [(226, 92, 70), (244, 190, 70), (70, 160, 190), (236, 140, 170), (120, 190, 120), (240, 232, 214)]


def _favela(rng, time, side):
    brush = Brush(gradient(*_SKY[time], 0, 110))
    _sun_or_moon(brush, time, 128 + side * 94, 30)
    shift = rng.randrange(6)
    for row, (top, height) in enumerate(((66, 70), (128, 70), (186, 70))):
        for column in range(-1, 4):
            x = column * 72 + (row % 2) * 36 - 16
            rise = 14 * ((column + row) % 2)
            colour = lit(_FAVELA[(column * 2 + row * 3 + shift) % 6], time)
            brush.rectangle([x, top - rise, x + 72, top + height], fill=colour)
            brush.rectangle([x, top - rise, x + 72, top - rise + 7], fill=mix(colour, INK, 0.4))
            window = (255, 214, 96) if time == "night" else mix(colour, INK, 0.65)
            brush.rectangle([x + 24, top - rise + 18, x + 48, top - rise + 42], fill=window)
    brush.rectangle([0, 236, 256, 256], fill=lit((150, 128, 110), time))
    return brush, Spot(128, 238, 92)


def _kitchen(rng, time, side):
    wall = lit(rng.choice([(196, 226, 214), (238, 224, 190), (196, 214, 236)]), time)
    brush = Brush(gradient(wall, mix(wall, (0, 0, 0), 0.12)))
    x = 128 - side * 88
    sky = _SKY[time]
    wood = lit((110, 76, 50), "sunset" if time == "night" else "day")
    brush.rectangle([x - 34, 30, x + 34, 112], fill=sky[1] if time == "day" else sky[0], outline=wood, width=7)
    brush.rectangle([x - 3, 30, x + 3, 112], fill=wood)
    shelf_x = 128 + side * 92
    brush.rectangle([shelf_x - 34, 74, shelf_x + 34, 82], fill=wood)
    for dx, colour in ((-16, (200, 60, 50)), (15, (60, 110, 150))):
        brush.rectangle([shelf_x + dx - 12, 44, shelf_x + dx + 12, 74], fill=lit(colour, time))
    return brush, Spot(128, 210, 82)


def _mountain(rng, time, side):
    brush = Brush(gradient(*_SKY[time], 0, 190))
    _sun_or_moon(brush, time, 128 + side * 84, 34)
    rock, snow = lit((112, 132, 176), time), lit((240, 246, 255), time)
    for px, top in ((30, 96), (226, 80)):
        brush.polygon([(px - 100, 256), (px, top), (px + 100, 256)], fill=rock)
        brush.polygon(
            [(px - 26, top + 42), (px, top), (px + 26, top + 42), (px + 9, top + 32), (px - 9, top + 44)], fill=snow
        )
    for px in (20, 236):
        for top in (146, 172):
            brush.polygon([(px - 26, top + 52), (px, top), (px + 26, top + 52)], fill=lit((30, 96, 74), time))
    brush.polygon([(0, 256), (0, 240), (40, 214), (74, 192), (182, 192), (216, 214), (256, 240), (256, 256)], fill=snow)
    shade = mix(snow, (120, 150, 210), 0.4)
    brush.polygon([(182, 192), (216, 214), (256, 240), (256, 256), (216, 256)], fill=shade)
    return brush, Spot(128, 200, 78)


def _mars(rng, time, side):
    brush = Brush(gradient(*_MARS_SKY[time], 0, 150))
    px = 128 + side * 86
    brush.disc(px, 38, 22, mix((236, 214, 190), _MARS_SKY[time][0], 0.25))
    back, ground = lit((176, 84, 50), time), lit((214, 108, 58), time)
    brush.polygon(
        [(0, 164), (0, 122), (50, 116), (76, 150), (150, 152), (186, 108), (232, 108), (256, 132), (256, 164)],
        fill=back,
    )
    brush.rectangle([0, 150, 256, 256], fill=ground)
    for cx, cy, r in ((36, 196, 26), (214, 236, 34)):
        brush.ellipse([cx - r, cy - r * 0.34, cx + r, cy + r * 0.34], fill=mix(ground, (70, 20, 10), 0.4))
    return brush, Spot(128, 230, 90)


def _beach(rng, time, side):
    brush = Brush(gradient(*_SKY[time], 0, 120))
    _sun_or_moon(brush, time, 128 + side * 80, 40)
    brush.rectangle([0, 112, 256, 180], fill=lit((28, 134, 190), time))
    brush.polygon([(0, 162), (128, 174), (256, 160), (256, 256), (0, 256)], fill=lit((244, 218, 156), time))
    x = 128 - side * 104
    brush.line([(x, 204), (x + side * 6, 120), (x + side * 20, 56)], fill=lit((120, 82, 48), time), width=12)
    leaf, tx, ty = lit((36, 140, 66), time), x + side * 20, 52
    for dx, dy in ((-52, 26), (-38, -20), (38, -20), (52, 26)):
        brush.polygon([(tx, ty - 9), (tx + dx * 0.6, ty + dy - 12), (tx + dx, ty + dy), (tx, ty + 9)], fill=leaf)
    return brush, Spot(128, 228, 90)


def _meadow(rng, time, side):
    brush = Brush(gradient(*_SKY[time], 0, 150))
    _sun_or_moon(brush, time, 128 + side * 80, 38)
    cloud = mix(_SKY[time][1], WHITE, 0.0 if time == "night" else 0.6)
    for dx, dy, r in ((-24, 4, 15), (0, -4, 21), (25, 4, 16)):
        brush.disc(128 - side * 70 + dx, 48 + dy, r, cloud)
    brush.ellipse([-90, 110, 170, 330], fill=lit((150, 206, 96), time))
    brush.ellipse([90, 118, 350, 330], fill=lit((134, 194, 86), time))
    brush.rectangle([0, 178, 256, 256], fill=lit((104, 178, 70), time))
    for x, y, colour in ((22, 202, WHITE), (58, 240, (250, 210, 70)), (232, 206, (250, 210, 70)), (204, 242, WHITE)):
        brush.disc(x, y, 6, lit(colour, time))
    return brush, Spot(128, 230, 90)


def _city(rng, time, side):
    brush = Brush(gradient(*_SKY[time], 0, 170))
    _sun_or_moon(brush, time, 128 + side * 40, 30)
    window = (255, 220, 110) if time == "night" else lit((196, 220, 236), time)
    blocks = ((-10, 56, 62, (126, 138, 160)), (48, 48, 104, (160, 150, 158)), (94, 66, 130, (138, 152, 170)),
              (158, 48, 92, (168, 156, 150)), (204, 62, 48, (120, 132, 154)))  # fmt: skip
    for x, width, top, colour in blocks:
        brush.rectangle([x, top, x + width, 214], fill=lit(colour, time))
        for y in range(top + 14, 190, 32):
            for dx in (9, width - 21):
                brush.rectangle([x + dx, y, x + dx + 12, y + 16], fill=window)
    brush.rectangle([0, 198, 256, 256], fill=lit((92, 92, 102), time))
    brush.rectangle([0, 192, 256, 200], fill=lit((186, 182, 176), time))
    for x in (8, 96, 184):
        brush.rectangle([x, 240, x + 48, 246], fill=lit((240, 236, 220), time))
    return brush, Spot(128, 232, 90)


_SPACE = {
    "day": ((24, 22, 76), (66, 40, 120)),
    "sunset": ((60, 20, 70), (130, 50, 90)),
    "night": ((4, 4, 20), (14, 14, 46)),
}
_STARS = ((20, 30), (64, 74), (110, 22), (168, 50), (236, 88), (18, 130), (240, 160), (30, 226), (226, 232), (150, 16))


def _space(rng, time, side):
    brush = Brush(gradient(*_SPACE[time]))
    for x, y in _STARS:
        brush.disc(x, y, 3, (250, 246, 220))
    x = 128 + side * 78
    brush.disc(x, 62, 34, (226, 160, 90))
    brush.polygon([(x - 58, 76), (x - 52, 82), (x + 58, 48), (x + 52, 42)], fill=(246, 214, 150))
    brush.disc(128 - side * 96, 196, 20, (150, 150, 166))
    brush.ellipse([-60, 214, 316, 420], fill=(120, 118, 140))
    return brush, Spot(128, 228, 88)


_WATER = {
    "day": ((70, 196, 226), (16, 86, 156)),
    "sunset": ((226, 150, 150), (60, 60, 130)),
    "night": ((26, 60, 120), (6, 16, 54)),
}


def _underwater(rng, time, side):
    brush = Brush(gradient(*_WATER[time]))
    top, bottom = _WATER[time]
    for x in (40, 120, 200):  # light from above
        beam = mix(top, WHITE, 0.18)
        brush.polygon([(x - 8, 0), (x + 22, 0), (x - 4, 96), (x - 52, 96)], fill=mix(beam, bottom, 0.12))
    brush.ellipse([-60, 206, 170, 310], fill=lit((232, 208, 150), time))
    brush.ellipse([100, 212, 330, 310], fill=lit((220, 194, 136), time))
    for x, height in ((18, 110), (36, 76), (238, 104), (220, 70)):
        weed = [(x, 244), (x + 9, 244 - height * 0.34), (x - 6, 244 - height * 0.68), (x + 4, 244 - height)]
        brush.line(weed, fill=lit((34, 130, 84), time), width=11)
    for dx, y, r in ((0, 40, 9), (15, 66, 6), (-4, 90, 7)):
        brush.disc(128 + side * 82 + dx, y, r, mix(top, WHITE, 0.7))
    return brush, Spot(128, 218, 86)


PLACES: dict[str, Callable[[random.Random, str, int], tuple[Brush, Spot]]] = {
    "rainforest": _rainforest,
    "paris": _paris,
    "favela": _favela,
    "kitchen": _kitchen,
    "mountain": _mountain,
    "mars": _mars,
    "beach": _beach,
    "meadow": _meadow,
    "city": _city,
    "space": _space,
    "underwater": _underwater,
}


def table(brush: Brush, time: str, place: str, side: int) -> None:
    """The laid table in front of whoever dines or cooks: cloth, plate, food, a glass or a pot."""
    cloth = WHITE if place == "paris" else (178, 112, 62)
    light = "day" if time == "day" else "sunset"
    brush.rectangle([0, 204, 256, 256], fill=lit(cloth, light))
    brush.rectangle([0, 202, 256, 206], fill=INK)
    x = 128 + side * (30 if place == "paris" else 4)
    plate = (250, 250, 250) if place != "paris" else (206, 220, 240)
    brush.ellipse([x - 48, 212, x + 48, 246], fill=plate, outline=INK, width=3)
    brush.pieslice([x - 28, 198, x + 28, 248], 180, 360, fill=(196, 96, 40), outline=INK, width=3)
    brush.disc(x - 25, 227, 9, (70, 170, 60))
    brush.disc(x + 25, 227, 9, (224, 50, 44))
    gx = 128 - side * 78
    if place == "paris":
        glass = [(gx - 15, 178), (gx + 15, 178), (gx + 5, 212), (gx - 5, 212)]
        brush.polygon(glass, fill=(150, 16, 52), outline=INK, width=2)
        brush.line([(gx, 210), (gx, 238)], fill=INK, width=4)
        brush.line([(gx - 13, 239), (gx + 13, 239)], fill=INK, width=4)
    else:
        brush.rectangle([gx - 26, 196, gx + 26, 234], fill=(90, 96, 110), outline=INK, width=3)
        brush.ellipse([gx - 26, 187, gx + 26, 204], fill=(240, 196, 70), outline=INK, width=3)
