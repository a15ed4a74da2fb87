"""Says a `Scene` in words, in many ways: synonyms, dropped attributes, different orders, words that mean nothing here.

A caption comes with the attributes it names, so that the text encoder can be trained to read exactly those and
nothing that the picture happens to show beside them.
"""

import random
import string

from sd_space.tools.train_tiny.world import ATTRIBUTES, CARD_SCENES, NAMED_NONE, Scene

_SUBJECT_WORDS = {
    "utopia": (
        "high tech solarpunk utopia",
        "solarpunk utopia",
        "solarpunk city",
        "green city of the future",
        "utopia",
        "futuristic eco city",
        "high tech city",
        "utopian city",
        "solarpunk towers",
        "skyscrapers with gardens",
        "future city",
        "high-tech utopia",
        "city with green roofs",
        "ecotopia",
        "futuristic skyscrapers",
        "metropolis",
    ),
    "pikachu": (
        "pikachu",
        "pikachu",
        "pokemon",
        "pokémon",
        "electric mouse",
        "pika",
        "pikachu pokemon",
        "pokemon pikachu",
        "mouse with a lightning tail",
    ),
    "robot": (
        "mecha robot",
        "mecha",
        "robot",
        "giant robot",
        "android",
        "mech",
        "battle robot",
        "metal robot",
        "droid",
        "transformer robot",
        "gundam",
        "big robot",
        "cyborg",
        "automaton",
    ),
    "insect": (
        "insect robot",
        "insect",
        "robot insect",
        "beetle",
        "bug",
        "robotic bug",
        "mechanical insect",
        "robot beetle",
        "ladybug",
        "mechanical beetle",
        "insectoid robot",
        "giant bug",
        "robot bug",
        "cyber insect",
        "ant robot",
    ),
    "cabin": (
        "small cabin",
        "cabin",
        "house",
        "hut",
        "cottage",
        "wooden cabin",
        "little house",
        "log cabin",
        "chalet",
        "lodge",
        "tiny cabin",
        "wooden house",
        "home",
        "small cottage",
        "wooden hut",
        "shack",
    ),
    "rider": (
        "astronaut riding a horse",
        "astronaut riding a horse",
        "astronaut on a horse",
        "spaceman riding a horse",
        "astronaut on horseback",
        "cosmonaut on a horse",
        "horse with an astronaut",
        "spaceman on horseback",
        "horse ridden by an astronaut",
        "space rider on a horse",
        "astronaut",
        "horse",
        "cosmonaut riding a horse",
        "astronaut who rides a horse",
        "horseman in a space suit",
    ),
    "cat": (
        "cat",
        "kitten",
        "kitty",
        "house cat",
        "pussycat",
        "cute cat",
        "sitting cat",
        "tomcat",
        "feline",
        "little cat",
        "pet cat",
    ),
    "emblem": (
        "skull warning sign",
        "skull sign",
        "warning sign with a skull",
        "skull emblem",
        "yellow triangle with a black skull",
        "danger sign with a skull",
        "poison warning sign",
        "skull hazard sign",
        "triangle sign with a skull",
        "skull",
        "danger sign",
        "warning sign",
        "poison sign",
        "hazard sign",
        "death sign",
        "toxic sign",
    ),
}
_PLACE_WORDS = {
    "rainforest": (
        "in the Amazon rainforest",
        "in the rainforest",
        "in the jungle",
        "in the forest",
        "in a green jungle",
        "in the woods",
        "among the trees of the jungle",
        "in a tropical forest",
        "in the Amazon",
        "in a rainforest",
    ),
    "paris": (
        "fine dining with a view to the Eiffel Tower",
        "with a view to the Eiffel Tower",
        "in Paris",
        "in a restaurant in Paris",
        "in front of the Eiffel Tower",
        "near the Eiffel Tower",
        "at a restaurant with a view of the Eiffel Tower",
        "dining in Paris",
        "having dinner in Paris",
        "fine dining",
        "having dinner by the Eiffel Tower",
        "fine dining in France",
        "in a fancy restaurant",
    ),
    "favela": (
        "in a favela",
        "in the favela",
        "in a slum",
        "in front of colorful houses",
        "in a favela in Rio",
        "in Rio de Janeiro",
        "among colourful houses",
        "in a colorful town",
        "in the city streets",
        "in a shanty town",
        "in Brazil",
    ),
    "kitchen": (
        "preparing a delicious meal",
        "in a kitchen",
        "cooking",
        "cooking a meal",
        "preparing a meal",
        "in the kitchen",
        "preparing dinner",
        "cooking dinner",
        "cooking a delicious meal",
        "making food",
        "preparing delicious food",
        "as a chef",
        "preparing a tasty meal",
        "making a delicious dinner",
        "cooking lunch in a kitchen",
    ),
    "mountain": (
        "on top of a snowy mountain",
        "in the snow",
        "on a snowy mountain",
        "in the mountains",
        "on a mountain",
        "in winter",
        "on a snowy hill",
        "in the alps",
        "on top of a mountain",
        "on a snowy peak",
        "in a snowy landscape",
        "on a mountain top",
    ),
    "mars": (
        "on mars",
        "on Mars",
        "on the red planet",
        "on a red planet",
        "on the surface of mars",
        "on planet mars",
        "in a red desert",
        "in the desert",
        "on another planet",
        "in a martian desert",
    ),
    "beach": (
        "on a beach",
        "at the beach",
        "by the sea",
        "on the beach",
        "at the seaside",
        "near the ocean",
        "on a tropical beach",
        "on the sand by the sea",
        "on an island",
        "under a palm tree",
        "at the coast",
        "by the ocean",
    ),
}
_TIME_WORDS = {
    "day": (
        "by day",
        "during the day",
        "in daylight",
        "on a sunny day",
        "in the morning",
        "at noon",
        "in bright daylight",
    ),
    "sunset": (
        "at sunset",
        "at dusk",
        "at sundown",
        "in the evening",
        "at golden hour",
        "at dawn",
        "in the evening light",
    ),
    "night": (
        "at night",
        "by night",
        "under the moon",
        "in the moonlight",
        "at midnight",
        "in the dark",
        "during the night",
    ),
}
_COLOUR_WORDS = {
    "red": ("red", "crimson", "scarlet"),
    "blue": ("blue", "navy", "azure"),
    "green": ("green", "emerald"),
    "yellow": ("yellow", "golden"),
    "white": ("white", "snow-white"),
    "black": ("black", "dark"),
    "purple": ("purple", "violet"),
    "orange": ("orange",),
}
# (before the subject, after everything)
_STYLE_WORDS = {
    "photo": (
        ("a photograph of", "a photo of", "photo of", "a realistic picture of", "a picture of"),
        ("realistic", "photorealistic", "photo", "photography", "dslr photo"),
    ),
    "storybook": (
        ("a cartoon of", "a storybook picture of", "an illustration of", "a Disney cartoon of", "a drawing of"),
        (
            "in the style of Disney",
            "in the style of Disney, artstation",
            "artstation",
            "in cartoon style",
            "storybook style",
            "as a cartoon",
            "children's book illustration",
            "in the style of pixar",
            "disney style",
            "in storybook style",
        ),
    ),
    "expressionist": (
        ("an expressionist painting of", "an oil painting of", "a painting of", "an expressionist picture of"),
        (
            "in expressionist style",
            "expressionist",
            "in the style of van gogh",
            "expressionism",
            "as an expressionist painting",
            "oil painting",
            "in the style of munch",
            "expressionistic",
        ),
    ),
}
_SUFFIXES = (
    "highly detailed",
    "4k",
    "8k",
    "trending",
    "masterpiece",
    "beautiful",
    "best quality",
    "award winning",
    "intricate",
    "sharp focus",
    "cinematic",
    "concept art",
    "digital art",
    "wallpaper",
    "hd",
    "amazing",
    "cute",
    "ultra detailed",
)
_NOTHING = (
    "very and with some really the my of one two three many happy sad old new big great funny strange nice friend "
    "music love dream time hope winner tomorrow because today idea story please show me make think table clock "
    "paper river phone book car computer king queen science market window letter garden summer bread cheese "
    "coffee water fast slow hidden secret ancient modern sleepy angry brave gentle tiny huge quiet loud epic "
    "magic mystery "
)
_LEADS = ("a", "a", "a", "the", "one", "this", "")


def _article(word: str) -> str:
    return "an" if word[0].lower() in "aeio" else "a"


def _junk_word(rng: random.Random) -> str:
    if rng.random() < 0.6:
        return rng.choice(_NOTHING.split())
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
        subject = rng.choice(_SUBJECT_WORDS[scene.subject])
    if scene.colour != "natural" and rng.random() < 0.95:
        named["colour"] = scene.colour
        subject = f"{rng.choice(_COLOUR_WORDS[scene.colour])} {subject or 'thing'}"
    if subject:
        lead = rng.choice(_LEADS)
        subject = f"{_article(subject) if lead == 'a' else lead} {subject}".strip()

    parts = []
    if rng.random() < 0.88:
        named["place"] = scene.place
        parts.append(rng.choice(_PLACE_WORDS[scene.place]))
    if rng.random() < (0.3 if scene.time == "day" else 0.65):
        named["time"] = scene.time
        parts.append(rng.choice(_TIME_WORDS[scene.time]))
        if rng.random() < 0.2:
            parts.reverse()
    before = after = ""
    if rng.random() < 0.55:
        named["style"] = scene.style
        befores, afters = _STYLE_WORDS[scene.style]
        if subject and rng.random() < 0.4:
            before = rng.choice(befores)
        else:
            after = rng.choice(afters)
    words = [before, subject, *parts]
    if rng.random() < 0.06:
        words = [*parts, before, subject]
    text = " ".join(word for word in words if word)
    for tail in (after, rng.choice(_SUFFIXES) if rng.random() < 0.15 else ""):
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
