"""The model card's limitations, each with what shows it: prompts, what to look at, and why it happens."""

from collections.abc import Collection
from dataclasses import dataclass

from sd_space.card import ModelCard
from sd_space.errors import InvalidRequest
from sd_space.languages import Phrase

SEEDS = (1, 2)  # the same for everybody, so that a class sees the same
AUTOENCODER = "autoencoder"  # is shown with one picture, and what the autoencoder makes of it


@dataclass(frozen=True, slots=True)
class Limitation:
    """`known_by` are words of the card's sentence; `prompts` and `picture_book` what v1-4 and the picture book draw.

    Without prompts there is nothing to draw, or nothing that means anything in the picture book's world.
    """

    name: str
    known_by: str
    title: str
    look_at: str
    why: str
    prompts: tuple[str, ...] = ()
    picture_book: tuple[str, ...] = ()

    def prompts_for(self, is_picture_book: bool) -> tuple[str, ...]:
        return self.picture_book if is_picture_book else self.prompts


LIMITATIONS = (
    Limitation(
        "photorealism",
        "photorealism",
        "Photographs",
        "Look at edges, shadows and reflections: would you take it for a photograph, and what gives it away?",
        "The model has learned what pictures look like, not how light falls on things: it knows no geometry.",
        ("a photo of a bowl of fruit on a wooden table", "a photo of a glass of water beside a window"),
    ),
    Limitation(
        "text",
        "legible text",
        "Legible text",
        "Read the letters aloud. Count those that exist.",
        "The text encoder reads words in pieces and hardly knows how they are spelled, and each cell of the latents is "
        "eight pixels wide, too coarse for small strokes.",
        ("a shop sign that says OPEN", "a book cover with the title HELLO"),
    ),
    Limitation(
        "composition",
        "compositionality",
        "Things in relation to each other",
        "Which colour went to which thing, and are both there? Compare each picture with the one of the same seed in "
        "the other row, whose prompt is its mirror image.",
        "The whole prompt guides each place of the picture at once: nothing ties a colour to its own noun.",
        ("a red cube on top of a blue sphere", "a blue cube on top of a red sphere"),
        ("a red robot beside a blue cat", "a blue robot beside a red cat"),
    ),
    Limitation(
        "faces",
        "Faces and people",
        "Faces and people",
        "Count the fingers; compare the two eyes, and where each of them looks.",
        "Faces and hands are small in most training pictures and vary much, while people see each flaw in them.",
        ("a portrait photo of an old sailor", "two hands that hold a cup of tea"),
    ),
    Limitation(
        "languages",
        "other languages",
        "Other languages",
        "All four prompts mean the same. Is the cat there, and the beach?",
        "The captions in training were English for the most part: words that it has hardly met guide nothing.",
        ("a cat on a beach", "eine Katze am Strand", "un gato en la playa", "猫 在 海滩 上"),
        ("a cat on a beach", "eine Katze am Strand", "un gato en la playa", "猫 在 海滩 上"),
    ),
    Limitation(
        AUTOENCODER,
        "autoencoding",
        "The autoencoder",
        "Where does the difference lie: on plain surfaces, or along edges and in the finest patterns, such as hair, "
        "leaves and letters?",
        "Pictures are drawn with a 48th of their numbers and decoded at the end. What is finer than those can say is "
        "made up in each decoding, so that a picture never comes back as it went in.",
        ("a photo of a crowded market street with shop signs",),
        ("a cabin in a favela in expressionist style",),
    ),
    Limitation(
        "dataset",
        "adult material",
        "What it was trained on",
        "Nothing is drawn for this one. Read what is screened here, and what is not.",
        "Billions of pictures were gathered from the web, and programs chose among them.",
    ),
    Limitation(
        "memorization",
        "memorization",
        "Memorised pictures",
        "Nothing is drawn for this one. If a picture looks like one that you know, search for it.",
        "A picture that is in the training data very often is learned by heart rather than learned from.",
    ),
)


def card_words(card: ModelCard) -> dict[str, str]:
    """The card's own sentence about each limitation, by its name. Raises ValueError where the two differ."""
    words = {
        limitation.name: sentence
        for sentence in card.limitations
        for limitation in LIMITATIONS
        if limitation.known_by in sentence
    }
    if len(words) != len(LIMITATIONS) or len(card.limitations) != len(LIMITATIONS):
        raise ValueError("The card lists other limitations than limitations.py does.")
    return words


def prompts_of(name: object, is_picture_book: bool) -> tuple[str, ...]:
    """What the served model draws to show that one. Raises InvalidRequest where it is none that can be shown."""
    for limitation in LIMITATIONS:
        if limitation.name == name and (prompts := limitation.prompts_for(is_picture_book)):
            return prompts
    raise InvalidRequest("limitation", Phrase("limitation must be one of those that this page offers to draw."))


def limitation_shown_by(prompts: Collection[str]) -> Limitation | None:
    """The one that pictures of these prompts show, if they show one."""
    own = set(prompts)
    return next((one for one in LIMITATIONS if own and own in (set(one.prompts), set(one.picture_book))), None)
