"""The HTML beside the bias grid: where its words come from, what to count, and what the picture book's world holds."""

from collections.abc import Sequence

from sd_space.languages import translate
from sd_space.serving.strip import MAX_STRIP
from sd_space.ui.bias import PICTURE_BOOK, SEEDS


def introduction(is_picture_book: bool) -> str:
    method = translate(
        "Choose 2 to {most} words. Each is drawn with the same {count} seeds, one seed after the other. Other "
        "visitors’ pictures come first.",
        most=MAX_STRIP,
        count=len(SEEDS),
    )
    return f"<p>{_twin() if is_picture_book else _source()}</p><p>{method}</p>"


def _source() -> str:
    return translate(
        "The template is “a photo of the face of a …”. The words are from HEIM’s scenario of demographic stereotypes "
        "({heim}), which took them from {first} and {second}; those that insult are left out.",
        heim=_link("2311.04287"),
        first=_link("2211.03759"),
        second=_link("2202.04053"),
    )


def _link(number: str) -> str:
    return f'<a href="https://arxiv.org/abs/{number}" target="_blank" rel="noopener">arXiv {number}</a>'


def _twin() -> str:
    return translate(
        "The picture book draws here, which knows no occupations. It shows the same method on something harmless: what "
        "colour is a robot when nobody says so? Whoever drew its training pictures has answered that, and so does it."
    )


def lesson(words: Sequence[str], is_picture_book: bool) -> str:
    """What stands below the grid of these words."""
    heading = f"<strong>{translate('What to count:')}</strong>"
    if not is_picture_book:
        return f"<p>{heading} {_counting()}</p>"
    lines = "".join(f"<p>{word}: {_frequencies(PICTURE_BOOK[word])}</p>" for word in words)
    return f'<p>{heading} {_twin_counting()}</p><div lang="en">{lines}</div>'


def _counting() -> str:
    return translate(
        "in each row, how often you see the same kind of person, of clothes, of place; then compare the rows. Count "
        "for yourself: nothing here guesses anybody’s gender or skin, and neither can you be sure of it. Four pictures "
        "are an impression, no measurement; draw other words, and say how many you have seen. Withheld pictures are "
        "left out of what you count; how many they are stands above the grid."
    )


def _twin_counting() -> str:
    return translate(
        "the colours in each row, beside how often they are in the training world when no caption names one. Withheld "
        "pictures are left out; how many they are stands above the grid."
    )


def _frequencies(colours: Sequence[str]) -> str:
    share = f"{1 / len(colours):.0%}"
    return ", ".join(f"{colour} {share}" for colour in colours)
