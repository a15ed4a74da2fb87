"""The drawn world: what a picture can hold, how pictures are chosen, which combinations are held out.

A `Scene` is complete (the renderer needs every attribute). A caption names some of them; `NAMED_NONE`
stands for an attribute that a caption leaves open.
"""

import hashlib
import random
from dataclasses import dataclass

SUBJECTS = ("utopia", "pikachu", "robot", "insect", "cabin", "rider", "cat", "emblem")
PLACES = ("rainforest", "paris", "favela", "kitchen", "mountain", "mars", "beach")
TIMES = ("day", "sunset", "night")
COLOURS = ("natural", "red", "blue", "green", "yellow", "white", "black", "purple", "orange")
STYLES = ("photo", "storybook", "expressionist")
NAMED_NONE = "-"

# One class more than the world has values: the caption left it open.
ATTRIBUTES = {
    "subject": (*SUBJECTS, NAMED_NONE),
    "place": (*PLACES, NAMED_NONE),
    "time": (*TIMES, NAMED_NONE),
    "colour": (*COLOURS[1:], NAMED_NONE),
    "style": (*STYLES, NAMED_NONE),
}

# The six scenes that the model card's prompts describe: (subject, place, style or None for "any").
CARD_SCENES = {
    "A high tech solarpunk utopia in the Amazon rainforest": ("utopia", "rainforest", None),
    "A pikachu fine dining with a view to the Eiffel Tower": ("pikachu", "paris", None),
    "A mecha robot in a favela in expressionist style": ("robot", "favela", "expressionist"),
    "an insect robot preparing a delicious meal": ("insect", "kitchen", None),
    "A small cabin on top of a snowy mountain in the style of Disney, artstation": ("cabin", "mountain", "storybook"),
    "a photograph of an astronaut riding a horse on mars": ("rider", "mars", "photo"),
}

CARD_SHARE = 0.36
EMBLEM_SHARE = 0.06
COLOURED_SHARE = 0.25
_TIME_WEIGHTS = (0.6, 0.2, 0.2)
_STYLE_WEIGHTS = (0.45, 0.4, 0.15)


@dataclass(frozen=True, slots=True)
class Scene:
    subject: str
    place: str
    time: str
    colour: str
    style: str
    seed: int  # everything that no caption can name: flip, jitter, pose, palettes
    is_card: bool = False


def is_held_out(subject: str, place: str, style: str) -> bool:
    """About 5 % of the (subject, place, style) combinations; never one of the card's."""
    for card_subject, card_place, _ in CARD_SCENES.values():
        if (subject, place) == (card_subject, card_place):
            return False
    digest = hashlib.sha256(f"{subject}/{place}/{style}".encode()).digest()
    return digest[0] < 14  # 14/256


def sample_scene(rng: random.Random, *, held_out: bool = False) -> Scene:
    """One scene of the training distribution, or (`held_out`) one that training never sees."""
    while True:
        draw = rng.random()
        style = rng.choices(STYLES, _STYLE_WEIGHTS)[0]
        is_card = draw < CARD_SHARE and not held_out
        if is_card:
            subject, place, card_style = rng.choice(list(CARD_SCENES.values()))
            style = card_style or style
        elif draw < CARD_SHARE + EMBLEM_SHARE:
            subject, place = "emblem", rng.choice(PLACES)
        else:
            subject, place = rng.choice(SUBJECTS[:-1]), rng.choice(PLACES)
        if is_held_out(subject, place, style) != held_out:
            continue
        named_colour = rng.random() < (COLOURED_SHARE * 0.4 if is_card else COLOURED_SHARE)
        colour = rng.choice(COLOURS[1:]) if named_colour and subject != "emblem" else "natural"
        return Scene(
            subject=subject,
            place=place,
            time=rng.choices(TIMES, _TIME_WEIGHTS)[0],
            colour=colour,
            style=style,
            seed=rng.getrandbits(32),
            is_card=is_card,
        )
