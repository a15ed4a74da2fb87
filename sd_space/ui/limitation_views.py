"""The HTML of the model card's limitations: the card's own words, what shows them, and a press that draws it."""

import re
from html import escape

from sd_space.card import ModelCard
from sd_space.languages import Phrase, translate
from sd_space.ui.limitations import LIMITATIONS, Limitation, card_words
from sd_space.ui.views import CARD_IN_ENGLISH, english_note

LOADING = Phrase("What is offered here depends on the model, which is still loading.")
_PICTURE_BOOK = Phrase(
    "The picture book draws here. Its world has no letters and no photographs that could go wrong, and its people are "
    "simple drawings, so that only those of the card’s limitations are offered that mean something in it, with "
    "prompts of its own. The others stand in the card, below “About the model”."
)


def limitations(card: ModelCard, is_picture_book: bool) -> str:
    """A card for each limitation that can be shown, or at least explained, with the served model."""
    words = card_words(card)
    offered = [one for one in LIMITATIONS if one.picture_book or not is_picture_book]
    cards = "".join(_card(one, words[one.name], bool(one.prompts_for(is_picture_book))) for one in offered)
    note = f"<p>{translate(_PICTURE_BOOK)}</p>" if is_picture_book else ""
    return f'{note}{english_note(CARD_IN_ENGLISH)}<div class="limitations">{cards}</div>'


def lesson(look_at: str, why: str) -> str:
    """What stands below the pictures."""
    return (
        f"<p><strong>{translate('What to look at:')}</strong> {translate(look_at)}</p>"
        f"<p><strong>{translate('Why:')}</strong> {translate(why)}</p>"
    )


def loading() -> str:
    return f"<p>{translate(LOADING)}</p>"


def _card(limitation: Limitation, words: str, can_be_drawn: bool) -> str:
    title, show = translate(limitation.title), translate("Show it")
    button = (
        f'<button type="button" class="draws" data-limitation="{limitation.name}" '
        f'aria-label="{show}: {escape(title)}">{show}</button>'
    )
    return (
        f'<section><h3>{escape(title)}</h3><blockquote lang="en">{linked(words)}</blockquote>'
        f"{lesson(limitation.look_at, limitation.why)}"
        f"{button if can_be_drawn else ''}</section>"
    )


def linked(markdown: str) -> str:
    """A sentence of the card as HTML: its links are all that it has of Markdown."""
    return re.sub(
        r"\[([^\]]+)\]\((https://[^)\s]+)\)", r'<a href="\2" target="_blank" rel="noopener">\1</a>', escape(markdown)
    )
