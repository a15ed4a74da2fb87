"""What is on the page, whatever happens on it."""

import asyncio
import html
import re

import gradio as gr
import pytest

from sd_space.card import load_card
from sd_space.recorded import load_recorded
from sd_space.request import MAX_PROMPT_CHARS, REQUEST_FIELDS
from sd_space.ui.form import CARD_DEFAULTS, CARD_LIMITS, MODEL_DEFAULTS
from sd_space.ui.layout import ABOUT, lay_out
from sd_space.ui.theme import THEME

CARD, RECORDED = load_card(), load_recorded()
SIDES = {"width", "height"}


@pytest.fixture(scope="module")
def laid_out():
    async def blocks():  # outside of an event loop Gradio would leave one open
        with gr.Blocks(analytics_enabled=False) as demo:
            return demo, lay_out(CARD, RECORDED)

    return asyncio.run(blocks())


@pytest.fixture
def page(laid_out):
    return laid_out[1]


@pytest.fixture
def text(laid_out) -> str:
    """All that is written on the page."""
    values = [getattr(block, "value", None) for block in laid_out[0].blocks.values()]
    return "\n".join(value for value in values if isinstance(value, str))


def test_every_field_of_a_request_has_a_control_with_its_label(page):
    assert page.controls.keys() | SIDES == REQUEST_FIELDS.keys()
    for name, control in page.controls.items():
        assert control.label == REQUEST_FIELDS[name].label


def test_the_seeds_help_counts_pictures_as_their_captions_do(page):
    assert page.controls["seed"].info == "The first picture uses this number, the others the next ones"
    assert "the first picture's seed" in REQUEST_FIELDS["seed"].help and "seed + k" not in REQUEST_FIELDS["seed"].help


def test_the_form_goes_by_the_fields_names_in_their_order(page):
    names = [name for name in REQUEST_FIELDS if name not in SIDES]
    assert list(page.form) == [*names, "random_seed", "size", "embed_recipe"]
    assert page.model_controls.keys() | SIDES == set(MODEL_DEFAULTS)


def test_the_form_shows_the_cards_values_within_the_cards_limits(page):
    steps, guidance = page.controls["num_inference_steps"], page.controls["guidance_scale"]
    assert (steps.minimum, steps.maximum, steps.value) == (1, CARD_LIMITS.max_steps, CARD_DEFAULTS.num_inference_steps)
    assert (guidance.minimum, guidance.maximum, guidance.value) == (1.0, 20.0, CARD_DEFAULTS.guidance_scale)
    assert page.controls["num_images_per_prompt"].maximum == CARD_LIMITS.max_images
    assert page.controls["scheduler"].value == CARD_DEFAULTS.scheduler
    assert page.controls["prompt"].max_length == page.controls["negative_prompt"].max_length == MAX_PROMPT_CHARS


def theme_color(name: str) -> str:
    """A variable of the theme as the browser resolves it."""
    value = getattr(THEME, name)
    return theme_color(value.removeprefix("*")) if value.startswith("*") else {"white": "#ffffff"}.get(value, value)


def luminance(color: str) -> float:
    """Relative luminance of #rrggbb: https://www.w3.org/TR/WCAG22/#dfn-relative-luminance"""
    channels = [int(color[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * channel for weight, channel in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("theme", ["", "_dark"])
@pytest.mark.parametrize("state", ["", "_hover"])
@pytest.mark.parametrize("behind", ["block_background_fill", "checkbox_background_color"])
def test_an_unticked_box_can_be_seen_in_both_themes(theme, state, behind):
    colors = (f"checkbox_border_color{state}{theme}", f"{behind}{theme}")
    dark, light = sorted(luminance(theme_color(name)) for name in colors)
    assert (light + 0.05) / (dark + 0.05) >= 3


def test_nothing_but_the_gate_is_open_before_the_server_has_said_so(page):
    assert page.tabs.selected == ABOUT and not any(tab.visible for tab in page.licensed_tabs)
    assert page.gate.visible and not page.workspace.visible and not page.leave.visible and not page.confirm.visible
    assert page.accept.interactive is False and page.agree.value is False and not page.clock.active


def test_what_nobody_sees_lies_in_no_part_that_comes_and_goes(laid_out):
    """Gradio shows all that is in one that comes a second time."""
    unseen = [block for block in laid_out[0].blocks.values() if getattr(block, "visible", None) == "hidden"]
    assert unseen and all(block.parent is laid_out[0] or block.parent.parent is laid_out[0] for block in unseen)


def test_the_gate_has_the_cards_words_and_the_eleven_restrictions(text):
    words = html.unescape(re.sub(r"<[^>]+>", "", text))
    for line in (CARD.gate_heading, *CARD.gate_prompt.splitlines()):
        assert re.sub(r"^\d+\. ", "", line).strip() in words
    assert text.count("<li>") == 11 + 3


def test_the_cards_examples_are_there_by_their_titles_with_their_pictures(page):
    assert [button.value for button in page.examples] == [example.title for example in CARD.examples]
    assert all(button.icon for button in page.examples)


def test_the_whole_model_card_is_on_the_page(laid_out, text):
    labels = [block.label for block in laid_out[0].blocks.values() if isinstance(block, gr.Accordion)]
    assert labels == [
        "More options", "Check a picture", "Change one thing", "How it works", "Limits that the model card names",
        "Bias", "Introduction", "Uses and misuse", "Limitations and bias", "Safety module", "Training", "Evaluation",
        "Environmental impact", "Running it yourself", "Citation",
    ]  # fmt: skip
    assert "The model cannot render legible text" in text and CARD.introduction in text
