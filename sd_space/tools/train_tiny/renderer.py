"""Draws a `Scene` as a 128x128 picture: a place, one big outlined subject, a style.

Everything is drawn on a 256x256 canvas and halved by a box filter, which is all the anti-aliasing there is.
Shapes are few and large on purpose: what the tiny UNet cannot resolve costs it capacity and shows as mush.
"""

import random

import numpy as np
from PIL import Image, ImageDraw

from sd_space.tools.train_tiny.pen import CANVAS, INK, Pen, mix
from sd_space.tools.train_tiny.places import PLACES, draw_table
from sd_space.tools.train_tiny.subjects import NATURAL, PAINT, SUBJECTS, emblem
from sd_space.tools.train_tiny.world import Scene

SIZE = 128


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
    image, (cx, cy, scale) = PLACES[scene.place](rng, scene.time, side)
    if scene.style == "expressionist":
        image = _strokes(image, rng)
    draw = ImageDraw.Draw(image)

    natural = rng.choice(NATURAL[scene.subject])
    paint = PAINT[natural if scene.colour == "natural" else scene.colour]
    cx += rng.uniform(-6, 6)
    cy += rng.uniform(-3, 3)
    scale *= rng.uniform(0.95, 1.05) * (0.8 if scene.subject == "rider" and scene.place == "paris" else 1.0)
    width = {"photo": 4, "storybook": 6, "expressionist": 7}[scene.style]
    ink = (20, 16, 60) if scene.style == "expressionist" else INK
    pen = Pen(draw, cx, cy, scale, flip, ink, width)
    if scene.subject not in ("emblem", "triangle") and scene.place not in ("paris", "kitchen"):
        draw.ellipse(
            [cx - scale * 0.95, cy + scale * 0.86, cx + scale * 0.95, cy + scale * 1.12],
            fill=mix(image.getpixel((int(cx), min(255, int(cy + scale * 1.1)))), (0, 0, 0), 0.35),
        )
    SUBJECTS[scene.subject](pen, paint, scene.place, pose, scene.time == "night")
    if scene.place in ("paris", "kitchen"):
        draw_table(draw, scene.time, scene.place, side)
    if scene.style == "expressionist":
        image = _warp(image)
    return _finish(image, scene.style).resize((size, size), Image.Resampling.BOX)


def draw_place(scene: Scene, width: int, height: int) -> Image.Image:
    """The place of `scene` without its subject, the middle of it where that is no square."""
    rng = random.Random(scene.seed)
    image, _ = PLACES[scene.place](rng, scene.time, rng.choice((-1, 1)))
    side = max(width, height)
    image = _finish(image, scene.style).resize((side, side), Image.Resampling.BICUBIC)
    x, y = (side - width) // 2, (side - height) // 2
    return image.crop((x, y, x + width, y + height))


def draw_emblem(size: int) -> Image.Image:
    """The restricted emblem alone, `size` x `size` on nothing (RGBA)."""
    image = Image.new("RGBA", (4 * size, 4 * size))
    scale = 4 * size / 2.55  # from its tip to the foot of its pole, and its outline
    pen = Pen(ImageDraw.Draw(image), 2 * size, 2 * size - 0.05 * scale, scale, False, INK, max(1, round(scale / 22)))
    emblem(pen, None, None, 0, False)
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
