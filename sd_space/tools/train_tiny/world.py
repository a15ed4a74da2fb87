"""The drawn world: what a picture can hold, how pictures are chosen, which combinations are held out.

A `Scene` is complete (the renderer needs every attribute). A caption names some of them; `NAMED_NONE`
stands for an attribute that a caption leaves open.
"""

import hashlib
import random
from dataclasses import dataclass

SUBJECTS = (
    "utopia", "pikachu", "robot", "insect", "cabin", "rider", "cat", "dog", "horse", "bird", "fish", "dragon",
    "woman", "man", "car", "house", "castle", "boat", "tree", "flower", "emblem",
)  # fmt: skip
PLACES = (
    "rainforest", "paris", "favela", "kitchen", "mountain", "mars", "beach", "meadow", "city", "space", "underwater",
)  # fmt: skip
TIMES = ("day", "sunset", "night")
COLOURS = ("natural", "red", "blue", "green", "yellow", "white", "black", "purple", "orange")
STYLES = ("photo", "storybook", "expressionist")
COUNTS = ("one", "two", "three")
SIZES = ("usual", "small", "big")
NAMED_NONE = "-"

# One class more than the world has values: the caption left it open. "natural" and "usual" have no words.
ATTRIBUTES = {
    "subject": (*SUBJECTS, NAMED_NONE),
    "place": (*PLACES, NAMED_NONE),
    "time": (*TIMES, NAMED_NONE),
    "colour": (*COLOURS[1:], NAMED_NONE),
    "style": (*STYLES, NAMED_NONE),
    "count": (*COUNTS, NAMED_NONE),
    "size": (*SIZES[1:], NAMED_NONE),
    "companion": (*SUBJECTS[:-1], NAMED_NONE),
    "companion_colour": (*COLOURS[1:], NAMED_NONE),
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

CARD_SHARE = 0.25
EMBLEM_SHARE = 0.04
COLOURED_SHARE = 0.25
COMPANION_SHARE = 0.15  # of the pictures that are neither the card's nor the emblem's, as the two below
SEVERAL_SHARE = 0.12
SIZED_SHARE = 0.1
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
    count: str = "one"
    size: str = "usual"
    companion: str = NAMED_NONE  # stands to the right of the subject
    companion_colour: str = "natural"


def _lot(words: str) -> int:
    """0 to 255, the same for the same words."""
    return hashlib.sha256(words.encode()).digest()[0]


def is_held_out(subject: str, place: str, style: str) -> bool:
    """About 5 % of the (subject, place, style) combinations; never one of the card's."""
    for card_subject, card_place, _ in CARD_SCENES.values():
        if (subject, place) == (card_subject, card_place):
            return False
    return _lot(f"{subject}/{place}/{style}") < 14


def is_pair_held_out(subject: str, companion: str) -> bool:
    """About a tenth of the ordered pairs of subjects."""
    return _lot(f"{subject}|{companion}") < 26


def _colour(rng: random.Random, share: float) -> str:
    return rng.choice(COLOURS[1:]) if rng.random() < share else "natural"


def _arrangement(rng: random.Random, subject: str, held_out: bool) -> dict[str, str]:
    """A companion, a count or a size, or none of them."""
    draw = rng.random()
    if draw < COMPANION_SHARE:
        others = [s for s in SUBJECTS[:-1] if s != subject and is_pair_held_out(subject, s) == held_out]
        if others:
            return {"companion": rng.choice(others), "companion_colour": _colour(rng, COLOURED_SHARE)}
    elif draw < COMPANION_SHARE + SEVERAL_SHARE:
        return {"count": rng.choice(COUNTS[1:])}
    elif draw < COMPANION_SHARE + SEVERAL_SHARE + SIZED_SHARE:
        return {"size": rng.choice(SIZES[1:])}
    return {}


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
        is_plain = is_card or subject == "emblem"
        share = COLOURED_SHARE * 0.4 if is_card else COLOURED_SHARE
        return Scene(
            subject=subject,
            place=place,
            time=rng.choices(TIMES, _TIME_WEIGHTS)[0],
            colour="natural" if subject == "emblem" else _colour(rng, share),
            style=style,
            seed=rng.getrandbits(32),
            is_card=is_card,
            **({} if is_plain else _arrangement(rng, subject, held_out)),
        )
