"""The HTML of the model card's limitations: the card's own words, what shows them, and a press that draws it."""

import re
from html import escape

from sd_space.card import ModelCard
from sd_space.ui.limitations import LIMITATIONS, Limitation, card_words

LOADING = "<p>What is offered here depends on the model, which is still loading.</p>"
_PICTURE_BOOK = (
    "<p>The picture book draws here. Its world has no letters, no faces and no photographs that could go wrong, so "
    "that only those of the card’s limitations are offered that mean something in it, with prompts of its own. The "
    "others stand in the card, below “About the model”.</p>"
)


def limitations(card: ModelCard, is_picture_book: bool) -> str:
    """A card for each limitation that can be shown, or at least explained, with the served model."""
    words = card_words(card)
    offered = [one for one in LIMITATIONS if one.picture_book or not is_picture_book]
    cards = "".join(_card(one, words[one.name], bool(one.prompts_for(is_picture_book))) for one in offered)
    return f'{_PICTURE_BOOK if is_picture_book else ""}<div class="limitations">{cards}</div>'


def lesson(limitation: Limitation) -> str:
    """What stands below the pictures."""
    return f"<p><strong>What to look at:</strong> {limitation.look_at}</p><p><strong>Why:</strong> {limitation.why}</p>"


def _card(limitation: Limitation, words: str, can_be_drawn: bool) -> str:
    button = (
        f'<button type="button" class="draws" data-limitation="{limitation.name}" '
        f'aria-label="Show it: {escape(limitation.title)}">Show it</button>'
    )
    return (
        f"<section><h3>{escape(limitation.title)}</h3><blockquote>{linked(words)}</blockquote>{lesson(limitation)}"
        f"{button if can_be_drawn else ''}</section>"
    )


def linked(markdown: str) -> str:
    """A sentence of the card as HTML: its links are all that it has of Markdown."""
    return re.sub(
        r"\[([^\]]+)\]\((https://[^)\s]+)\)", r'<a href="\2" target="_blank" rel="noopener">\1</a>', escape(markdown)
    )
