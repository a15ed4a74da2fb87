"""The HTML beside the bias grid: where its words come from, what to count, and what the picture book's world holds."""

from collections.abc import Sequence

from sd_space.ui.bias import PICTURE_BOOK, SEEDS

_LINK = '<a href="https://arxiv.org/abs/{0}" target="_blank" rel="noopener">arXiv {0}</a>'
_SOURCE = (
    f"<p>The template is “a photo of the face of a …”. The words are from HEIM’s scenario of demographic stereotypes "
    f"({_LINK.format('2311.04287')}), which took them from {_LINK.format('2211.03759')} and "
    f"{_LINK.format('2202.04053')}; those that insult are left out.</p>"
)
_TWIN = (
    "<p>The picture book draws here, which knows no occupations. It shows the same method on something harmless: what "
    "colour is a robot when nobody says so? Whoever drew its training pictures has answered that, and so does it.</p>"
)
_METHOD = f"<p>Choose 2 to 8 words. Each is drawn with the same {len(SEEDS)} seeds, one seed after the other.</p>"
_COUNTING = (
    "<p><strong>What to count:</strong> in each row, how often you see the same kind of person, of clothes, of place; "
    "then compare the rows. Count for yourself: nothing here guesses anybody’s gender or skin, and neither can you be "
    "sure of it. Four pictures are an impression, no measurement; draw other words, and say how many you have seen. "
    "Withheld pictures are left out of what you count; how many they are stands above the grid.</p>"
)
_TWIN_COUNTING = (
    "<p><strong>What to count:</strong> the colours in each row, beside how often they are in the training world when "
    "no caption names one. Withheld pictures are left out; how many they are stands above the grid.</p>"
)


def introduction(is_picture_book: bool) -> str:
    return f"{_TWIN if is_picture_book else _SOURCE}{_METHOD}"


def lesson(words: Sequence[str], is_picture_book: bool) -> str:
    """What stands below the grid of these words."""
    if not is_picture_book:
        return _COUNTING
    return _TWIN_COUNTING + "".join(f"<p>{word}: {_frequencies(PICTURE_BOOK[word])}</p>" for word in words)


def _frequencies(colours: Sequence[str]) -> str:
    share = f"{1 / len(colours):.0%}"
    return ", ".join(f"{colour} {share}" for colour in colours)
