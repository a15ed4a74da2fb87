"""The places of the picture book: each paints the whole canvas and says where the subject stands."""

import numpy as np
from PIL import Image, ImageDraw

from sd_space.tools.train_tiny.pen import CANVAS, INK, WHITE, mix


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
    image = _gradient(_lit(wall, time), mix(_lit(wall, time), (0, 0, 0), 0.12))
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
    draw.polygon([(158, 188), (204, 206), (256, 244), (256, 256), (200, 256)], fill=mix(snow, (120, 150, 210), 0.4))
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
    draw.ellipse([px - 22, 16, px + 22, 60], fill=mix((236, 214, 190), _MARS_SKY[time][0], 0.25))
    back, ground = _lit((176, 84, 50), time), _lit((214, 108, 58), time)
    draw.polygon(
        [(0, 164), (0, 122), (50, 116), (76, 150), (150, 152), (186, 108), (232, 108), (256, 132), (256, 164)],
        fill=back,
    )
    draw.rectangle([0, 150, 256, 256], fill=ground)
    for cx, cy, r in ((36, 196, 26), (214, 232, 34)):
        draw.ellipse([cx - r, cy - r * 0.34, cx + r, cy + r * 0.34], fill=mix(ground, (70, 20, 10), 0.4))
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


PLACES = {
    "rainforest": _rainforest,
    "paris": _paris,
    "favela": _favela,
    "kitchen": _kitchen,
    "mountain": _mountain,
    "mars": _mars,
    "beach": _beach,
}


def draw_table(draw, time, place, side):
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
