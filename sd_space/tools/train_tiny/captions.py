"""Says a `Scene` in words, in many ways: synonyms, dropped attributes, different orders, words that mean nothing here.

A caption comes with the attributes it names, so that the text encoder can be trained to read exactly those and
nothing that the picture happens to show beside them.
"""

import random
import re
import string
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

from sd_space.tools.train_tiny.world import ATTRIBUTES, CARD_SCENES, NAMED_NONE, Scene

_WORDS = Path(__file__).with_name("words.toml")
_LEADS = ("a", "a", "a", "the", "one", "this", "")


@cache
def _words() -> dict[str, dict[str, Any]]:
    return tomllib.loads(_WORDS.read_text(encoding="utf-8"))


def _article(word: str) -> str:
    return "an" if word[0].lower() in "aeio" else "a"


def _junk_word(rng: random.Random) -> str:
    if rng.random() < 0.6:
        return rng.choice(_words()["meaningless"]["words"])
    consonants, vowels = "bcdfghklmnprstvwz", "aeiou"
    return "".join(rng.choice(consonants) + rng.choice(vowels) for _ in range(rng.randint(1, 4)))


def _typo(text: str, rng: random.Random) -> str:
    """Drops, doubles or replaces one letter."""
    place = rng.randrange(len(text))
    return text[:place] + rng.choice(("", text[place] * 2, rng.choice(string.ascii_lowercase))) + text[place + 1 :]


def caption(scene: Scene, rng: random.Random, *, junk: float = 0.2) -> tuple[str, dict[str, str]]:
    """A caption of `scene` and, for each of `ATTRIBUTES`, the value that it names (`NAMED_NONE` where it names none).

    `junk` is the chance of one to three inserted words that mean nothing in this world.
    """
    if scene.is_card and rng.random() < 0.25:
        for prompt, (subject, place, style) in CARD_SCENES.items():
            prompt_style = "storybook" if "Disney" in prompt else style
            is_scene = (scene.subject, scene.place, scene.colour) == (subject, place, "natural")
            if is_scene and prompt_style in (None, scene.style):
                named = dict.fromkeys(ATTRIBUTES, NAMED_NONE)
                named |= {"subject": subject, "place": place, "style": prompt_style or NAMED_NONE}
                return prompt, named

    named = dict.fromkeys(ATTRIBUTES, NAMED_NONE)
    subject = ""
    if rng.random() < 0.96:
        named["subject"] = scene.subject
        subject = rng.choice(_words()["subject"][scene.subject])
    if scene.colour != "natural" and rng.random() < 0.95:
        named["colour"] = scene.colour
        subject = f"{rng.choice(_words()['colour'][scene.colour])} {subject or 'thing'}"
    if subject:
        lead = rng.choice(_LEADS)
        subject = f"{_article(subject) if lead == 'a' else lead} {subject}".strip()

    parts = []
    if rng.random() < 0.88:
        named["place"] = scene.place
        parts.append(rng.choice(_words()["place"][scene.place]))
    if rng.random() < (0.3 if scene.time == "day" else 0.65):
        named["time"] = scene.time
        parts.append(rng.choice(_words()["time"][scene.time]))
        if rng.random() < 0.2:
            parts.reverse()
    before = after = ""
    if rng.random() < 0.55:
        named["style"] = scene.style
        if subject and rng.random() < 0.4:
            before = rng.choice(_words()["style_before"][scene.style])
        else:
            after = rng.choice(_words()["style_after"][scene.style])
    words = [before, subject, *parts]
    if rng.random() < 0.06:
        words = [*parts, before, subject]
    text = " ".join(word for word in words if word)
    for tail in (after, rng.choice(_words()["meaningless"]["suffixes"]) if rng.random() < 0.15 else ""):
        if tail:
            text = f"{text}{rng.choice((', ', ' ', ', '))}{tail}" if text else tail
    if rng.random() < junk:
        pieces = text.split()
        for _ in range(rng.randint(1, 3)):
            pieces.insert(rng.randint(0, len(pieces)), _junk_word(rng))
        text = " ".join(pieces)
    if text and rng.random() < 0.04:
        text = _typo(text, rng)
    return text, named


def named_in(text: str) -> dict[str, str]:
    """The value of each of `ATTRIBUTES` that somebody's own words name; the longest words are read first, and once."""
    phrases = [
        (phrase.lower(), section.partition("_")[0], value)
        for section, values in _words().items()
        if section != "meaningless"
        for value, phrases in values.items()
        for phrase in phrases
    ]
    rest, named = text.lower(), dict.fromkeys(ATTRIBUTES, NAMED_NONE)
    for phrase, name, value in sorted(phrases, key=lambda entry: -len(entry[0])):
        rest, found = re.subn(rf"\b{re.escape(phrase)}\b", "|", rest)
        if found and named[name] == NAMED_NONE:
            named[name] = value
    return named
