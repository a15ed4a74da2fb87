"""Says a `Scene` in words, in many ways: synonyms, dropped attributes, different orders, words that mean nothing here.

A caption comes with the attributes it names, so that the text encoder can be trained to read exactly those and
nothing that the picture happens to show beside them.
"""

import random
import re
import string
from collections import defaultdict

from sd_space.tools.train_tiny import lexicon
from sd_space.tools.train_tiny.world import ATTRIBUTES, CARD_SCENES, NAMED_NONE, Scene

_LEADS = ("a", "a", "a", "the", "this", "")


def _led(words: str, rng: random.Random, leads: tuple[str, ...] = _LEADS) -> str:
    lead = rng.choice(leads)
    if lead == "a" and words[0].lower() in "aeio":
        lead = "an"
    return f"{lead} {words}".strip()


def _junk_word(rng: random.Random) -> str:
    if rng.random() < 0.6:
        return rng.choice(lexicon.NOTHING)
    consonants, vowels = "bcdfghklmnprstvwz", "aeiou"
    return "".join(rng.choice(consonants) + rng.choice(vowels) for _ in range(rng.randint(1, 4)))


def _typo(text: str, rng: random.Random) -> str:
    """Drops, doubles or replaces one letter."""
    place = rng.randrange(len(text))
    return text[:place] + rng.choice(("", text[place] * 2, rng.choice(string.ascii_lowercase))) + text[place + 1 :]


def _card_prompt(scene: Scene) -> tuple[str, dict[str, str]] | None:
    """The card's own words and what they name, where it is one of the card's scenes."""
    for prompt, (subject, place, style) in CARD_SCENES.items():
        style = "storybook" if "Disney" in prompt else style
        is_scene = (scene.subject, scene.place, scene.colour) == (subject, place, "natural")
        if is_scene and style in (None, scene.style):
            named = {"subject": subject, "place": place, "style": style or NAMED_NONE}
            return prompt, dict.fromkeys(ATTRIBUTES, NAMED_NONE) | named
    return None


def _one(subject: str, colour: str, rng: random.Random) -> tuple[str, bool]:
    """One subject with its article, and whether its colour is said."""
    words = rng.choice(lexicon.SUBJECT_WORDS[subject])
    says_colour = colour != "natural" and rng.random() < 0.95
    if says_colour:
        words = f"{rng.choice(lexicon.COLOUR_WORDS[colour])} {words}"
    return _led(words, rng), says_colour


def _pair(scene: Scene, rng: random.Random) -> tuple[str, dict[str, str]]:
    """The subject on the left and its companion on the right, in either order of words."""
    left, says_left = _one(scene.subject, scene.colour, rng)
    right, says_right = _one(scene.companion, scene.companion_colour, rng)
    named = {
        "subject": scene.subject,
        "companion": scene.companion,
        "colour": scene.colour if says_left else NAMED_NONE,
        "companion_colour": scene.companion_colour if says_right else NAMED_NONE,
    }
    if rng.random() < 0.2:
        return f"{right} {rng.choice(lexicon.RIGHT_OF)} {left}", named
    return f"{left} {rng.choice(lexicon.BESIDE)} {right}", named


def _several(scene: Scene, rng: random.Random) -> tuple[str, dict[str, str]]:
    words, named = rng.choice(lexicon.PLURALS[scene.subject]), {"subject": scene.subject, "count": scene.count}
    if scene.colour != "natural" and rng.random() < 0.95:
        words = f"{rng.choice(lexicon.COLOUR_WORDS[scene.colour])} {words}"
        named["colour"] = scene.colour
    return f"{rng.choice(lexicon.COUNT_WORDS[scene.count])} {words}", named


def _single(scene: Scene, rng: random.Random) -> tuple[str, dict[str, str]]:
    """One subject, its size and colour before it; now and then no subject at all, or no more than its colour."""
    named, words = {}, ""
    if rng.random() < 0.96:
        named["subject"] = scene.subject
        words = rng.choice(lexicon.SUBJECT_WORDS[scene.subject])
    if scene.colour != "natural" and rng.random() < 0.95:
        named["colour"] = scene.colour
        words = f"{rng.choice(lexicon.COLOUR_WORDS[scene.colour])} {words or 'thing'}"
    if scene.size != "usual" and words:
        is_small_cabin = (scene.subject, scene.size) == ("cabin", "small")
        sizes = lexicon.SMALL_CABIN if is_small_cabin else lexicon.SIZE_WORDS[scene.size]
        named["size"] = scene.size
        words = f"{rng.choice(sizes)} {words}"
    if words and rng.random() < 0.08:
        named["count"] = "one"
        return _led(words, rng, lexicon.COUNT_WORDS["one"]), named
    return (_led(words, rng) if words else ""), named


def _subject(scene: Scene, rng: random.Random) -> tuple[str, dict[str, str]]:
    if scene.companion != NAMED_NONE:
        return _pair(scene, rng)
    if scene.count != "one":
        return _several(scene, rng)
    return _single(scene, rng)


def _style(scene: Scene, rng: random.Random, has_subject: bool) -> tuple[str, str]:
    """Words of the style, to stand in front of the subject or at the end."""
    if has_subject and rng.random() < 0.4:
        return rng.choice(lexicon.STYLES_BEFORE[scene.style]), ""
    return "", rng.choice(lexicon.STYLES_AFTER[scene.style])


def _disturbed(text: str, rng: random.Random, junk: float) -> str:
    """With one to three words that mean nothing, and now and then a slip of the finger."""
    if rng.random() < junk:
        pieces = text.split()
        for _ in range(rng.randint(1, 3)):
            pieces.insert(rng.randint(0, len(pieces)), _junk_word(rng))
        text = " ".join(pieces)
    if text and rng.random() < 0.04:
        text = _typo(text, rng)
    return text


def caption(scene: Scene, rng: random.Random, *, junk: float = 0.2) -> tuple[str, dict[str, str]]:
    """A caption of `scene` and, for each of `ATTRIBUTES`, the value that it names (`NAMED_NONE` where it names none).

    `junk` is the chance of one to three inserted words that mean nothing in this world.
    """
    if scene.is_card and rng.random() < 0.25 and (said := _card_prompt(scene)):
        return said
    subject, subject_named = _subject(scene, rng)
    named = dict.fromkeys(ATTRIBUTES, NAMED_NONE) | subject_named
    parts = []
    if rng.random() < 0.88:
        named["place"] = scene.place
        parts.append(rng.choice(lexicon.PLACE_WORDS[scene.place]))
    if rng.random() < (0.3 if scene.time == "day" else 0.65):
        named["time"] = scene.time
        parts.append(rng.choice(lexicon.TIME_WORDS[scene.time]))
        if rng.random() < 0.2:
            parts.reverse()
    before = after = ""
    if rng.random() < 0.55:
        named["style"] = scene.style
        before, after = _style(scene, rng, bool(subject))
    words = [*parts, before, subject] if rng.random() < 0.06 else [before, subject, *parts]
    text = " ".join(word for word in words if word)
    for tail in (after, rng.choice(lexicon.SUFFIXES) if rng.random() < 0.15 else ""):
        if tail:
            text = f"{text}{rng.choice((', ', ' ', ', '))}{tail}" if text else tail
    return _disturbed(text, rng, junk), named


_SAID_BY = (
    ("subject", lexicon.SUBJECT_WORDS),
    ("subject", lexicon.PLURALS),
    ("place", lexicon.PLACE_WORDS),
    ("time", lexicon.TIME_WORDS),
    ("colour", lexicon.COLOUR_WORDS),
    ("style", lexicon.STYLES_BEFORE),
    ("style", lexicon.STYLES_AFTER),
    ("count", lexicon.COUNT_WORDS),
    ("size", lexicon.SIZE_WORDS),
    ("right of", {"": lexicon.RIGHT_OF}),
)


def _found_in(text: str) -> dict[str, list[tuple[int, str]]]:
    """For each kind of thing (place in the text, value), in order; the longest words are read first, and once."""
    phrases = {(phrase.lower(), name, value) for name, words in _SAID_BY for value in words for phrase in words[value]}
    rest, found = text.lower(), defaultdict[str, list[tuple[int, str]]](list)
    for phrase, name, value in sorted(phrases, key=lambda entry: (-len(entry[0]), entry)):
        for match in list(re.finditer(rf"\b{re.escape(phrase)}\b", rest)):
            found[name].append((match.start(), value))
            rest = rest[: match.start()] + "|" * len(phrase) + rest[match.end() :]
    return {name: sorted(places) for name, places in found.items()}


def named_in(text: str) -> dict[str, str]:
    """The value of each of `ATTRIBUTES` that somebody's own words name.

    Of two subjects the left one is the subject and the other its companion; a colour is of the next subject said.
    """
    found = _found_in(text)
    named = dict.fromkeys(ATTRIBUTES, NAMED_NONE) | {
        name: found[name][0][1]
        for name in ("subject", "place", "time", "colour", "style", "count", "size")
        if name in found
    }
    if len(subjects := found.get("subject", [])) > 1:
        colours = found.get("colour", [])
        (first, left), (second, right) = subjects[:2]
        colour = next((value for place, value in colours if place < first), NAMED_NONE)
        other = next((value for place, value in colours if first < place < second), NAMED_NONE)
        pair = [(left, colour), (right, other)]
        if any(first < place < second for place, _ in found.get("right of", [])):
            pair.reverse()
        (named["subject"], named["colour"]), (named["companion"], named["companion_colour"]) = pair
    return named
