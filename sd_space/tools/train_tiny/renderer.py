"""Draws a `Scene` as a 256x256 picture: a place, one to three big outlined subjects, a style."""

import functools
import random
from typing import cast

import numpy as np
from PIL import Image, ImageChops, ImageEnhance

from sd_space.tools.train_tiny.animals import ANIMALS
from sd_space.tools.train_tiny.brush import INK, OVERSAMPLING, SIZE, Brush, Colour, Pen, mix
from sd_space.tools.train_tiny.buildings import BUILDINGS
from sd_space.tools.train_tiny.characters import CHARACTERS
from sd_space.tools.train_tiny.places import PLACES, Spot, table
from sd_space.tools.train_tiny.things import THINGS
from sd_space.tools.train_tiny.world import NAMED_NONE, Scene

_PAINT = {
    "red": (214, 40, 40),
    "blue": (40, 95, 215),
    "green": (45, 160, 60),
    "yellow": (252, 212, 40),
    "white": (248, 248, 246),
    "black": (48, 46, 56),
    "purple": (140, 65, 190),
    "orange": (245, 130, 30),
    "brown": (122, 68, 36),
    "grey": (140, 144, 156),
    "pink": (240, 130, 180),
    "tan": (206, 150, 92),
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
    "dog": ["tan", "brown", "white"],
    "horse": ["brown", "black", "white"],
    "bird": ["blue", "red", "yellow"],
    "fish": ["orange", "red", "yellow"],
    "dragon": ["green", "purple", "red"],
    "woman": ["red", "purple", "pink"],
    "man": ["blue", "green", "orange"],
    "car": ["red", "blue", "yellow"],
    "house": ["white", "tan"],
    "castle": ["grey"],
    "boat": ["red", "blue"],
    "tree": ["green"],
    "flower": ["red", "pink", "purple"],
    "emblem": ["yellow"],
    "triangle": ["yellow"],
}
_SUBJECTS = CHARACTERS | ANIMALS | BUILDINGS | THINGS
_SIZES = {"usual": 1.0, "small": 0.55, "big": 1.18}
_FIT = {"dragon": 0.88, "castle": 0.92}  # taller or wider than the others
_GROUPS = {1: ((0, 1.0),), 2: ((-60, 0.62), (60, 0.62)), 3: ((-83, 0.44), (0, 0.44), (83, 0.44))}  # dx, scale
_LAID = ("paris", "kitchen")  # the places with a table in front


@functools.cache
def _tint(phase: float) -> tuple[Image.Image, Image.Image]:
    """What the expressionist ground adds to the colours under it, and what it takes: broad diagonal strokes."""
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
    wave = np.tanh(2.5 * np.sin((x * 0.7 + y + 26 * np.sin(x / 44 + phase)) / 15 + phase))
    tint = wave[..., None] * np.array([26, -3, -23], np.float32)
    size = (SIZE * OVERSAMPLING,) * 2
    added, taken = (
        Image.fromarray(part.clip(0, 255).astype(np.uint8)).resize(size, Image.Resampling.BILINEAR)
        for part in (tint, -tint)
    )
    return added, taken


def _strokes(image: Image.Image, phase: float) -> Image.Image:
    added, taken = _tint(phase)
    image = image.point([min(255, max(0, int((v - 128) * 1.25 + 122))) for v in range(256)] * 3)
    return ImageChops.subtract(ImageChops.add(image, added), taken)


@functools.cache
def _sway() -> list:
    """The mesh of a slow horizontal and vertical sway, wavelength about the canvas."""
    side, cells = SIZE * OVERSAMPLING, 8
    step = side // cells

    def at(x, y):
        return (
            min(side - 1.0, max(0.0, x + 14 * np.sin(y / 60))),
            min(side - 1.0, max(0.0, y + 12 * np.sin(x / 72))),
        )

    mesh = []
    for y in range(0, side, step):
        for x in range(0, side, step):
            corners = at(x, y), at(x, y + step), at(x + step, y + step), at(x + step, y)
            mesh.append(((x, y, x + step, y + step), tuple(float(v) for corner in corners for v in corner)))
    return mesh


@functools.cache
def _shade() -> np.ndarray:
    """Light from the upper left, darker corners."""
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32) / SIZE - 0.5
    return (1.08 - 0.22 * (x * 0.4 + y * 0.9) - 0.5 * (x * x + y * y))[..., None]


def _finish(image: Image.Image, style: str) -> Image.Image:
    if style == "storybook":  # pastel
        lift = [*((v * 0.84 + add for v in range(256)) for add in (44, 40, 42))]
        return image.point([min(255, int(v)) for part in lift for v in part])
    if style == "expressionist":  # saturated
        return ImageEnhance.Color(image).enhance(1.35)
    return Image.fromarray(np.minimum(np.asarray(image, np.float32) * _shade(), 255).astype(np.uint8))


def _paint(name: str, colour: str, rng: random.Random) -> Colour:
    natural = rng.choice(NATURAL[name])
    return _PAINT[natural if colour == "natural" else colour]


def _cast(scene: Scene, rng: random.Random, spot: Spot) -> list[tuple[str, Colour, float, float]]:
    """(subject, paint, x, scale) of everyone in the picture, from left to right."""
    paint = _paint(scene.subject, scene.colour, rng)
    x = spot.x + rng.uniform(-6, 6)
    scale = spot.scale * rng.uniform(0.95, 1.05) * _SIZES[scene.size]
    names, paints = [scene.subject], [paint]
    if scene.companion != NAMED_NONE:
        names.append(scene.companion)
        paints.append(_paint(scene.companion, scene.companion_colour, rng))
    elif scene.count != "one":
        names *= {"two": 2, "three": 3}[scene.count]
        paints *= len(names)
    if len(names) > 1:
        x = SIZE / 2 + (x - spot.x)
        scale = 88 * scale / spot.scale
    elif scene.subject == "rider" and scene.place == "paris":
        scale *= 0.8
    return [
        (name, paint, x + dx, scale * share * _FIT.get(name, 1))
        for name, paint, (dx, share) in zip(names, paints, _GROUPS[len(names)], strict=True)
    ]


def render(scene: Scene) -> Image.Image:
    """`scene` as an RGB picture of 256 x 256; the same scene always gives the same pixels."""
    rng = random.Random(scene.seed)
    side = rng.choice((-1, 1))
    pose = rng.randrange(2)
    flip = rng.random() < 0.5
    brush, spot = PLACES[scene.place](rng, scene.time, side)
    if scene.style == "expressionist":
        brush = Brush(_strokes(brush.image, rng.choice((0.0, 2.0))))
    width = {"photo": 3, "storybook": 4, "expressionist": 5}[scene.style]
    ink = (20, 16, 60) if scene.style == "expressionist" else INK
    base = spot.base + rng.uniform(-3, 3) + (8 if scene.size == "big" else 0)
    for name, paint, x, scale in _cast(scene, rng, spot):
        pen = Pen(brush, x, base - scale, scale, flip=flip, ink=ink, width=width if scale > 50 else width - 1)
        if name not in ("emblem", "triangle") and scene.place not in _LAID:
            foot = int(x * OVERSAMPLING), min(SIZE, int(base)) * OVERSAMPLING - 2
            ground = cast(Colour, brush.image.getpixel(foot))
            box = [x - scale * 0.95, base - scale * 0.13, x + scale * 0.95, base + scale * 0.13]
            brush.ellipse(box, fill=mix(ground, (0, 0, 0), 0.3))
        _SUBJECTS[name](pen, paint, scene.place, pose, scene.time == "night")
    if scene.place in _LAID:
        table(brush, scene.time, scene.place, side)
    image = brush.image
    if scene.style == "expressionist":
        image = image.transform(image.size, Image.Transform.MESH, _sway(), Image.Resampling.BILINEAR)
    return _finish(image.reduce(OVERSAMPLING), scene.style)


def draw_place(scene: Scene, width: int, height: int) -> Image.Image:
    """The place of `scene` without its subject, the middle of it where that is no square."""
    rng = random.Random(scene.seed)
    brush, _ = PLACES[scene.place](rng, scene.time, rng.choice((-1, 1)))
    side = max(width, height)
    image = _finish(brush.image.reduce(OVERSAMPLING), scene.style).resize((side, side), Image.Resampling.BICUBIC)
    x, y = (side - width) // 2, (side - height) // 2
    return image.crop((x, y, x + width, y + height))


def draw_emblem(size: int) -> Image.Image:
    """The restricted emblem alone, `size` x `size` on nothing (RGBA)."""
    image = Image.new("RGBA", (4 * size, 4 * size))
    side = 4 * size / OVERSAMPLING
    scale = side / 2.55  # from its tip to the foot of its pole, and its outline
    width = max(1, round(scale / 22))
    pen = Pen(Brush(image), side / 2, side / 2 - 0.05 * scale, scale, flip=False, ink=INK, width=width)
    _SUBJECTS["emblem"](pen, INK, "", 0, False)
    return image.resize((size, size), Image.Resampling.BOX)


def contact_sheet(images, columns: int) -> Image.Image:
    """Equal pictures in rows of `columns`."""
    width, height = images[0].size
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (width + 4), rows * (height + 4)), (255, 255, 255))
    for k, image in enumerate(images):
        sheet.paste(image, ((k % columns) * (width + 4), (k // columns) * (height + 4)))
    return sheet
