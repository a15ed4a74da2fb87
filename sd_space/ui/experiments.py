"""The tab in which the model is tried out: its components, and which of them its events read and write."""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from sd_space.card import ModelCard
from sd_space.languages import Phrase, translate
from sd_space.request import MAX_PROMPT_CHARS, MAX_SEED
from sd_space.serving.strip import EVALUATION, MAX_STRIP
from sd_space.ui import bias, card_text, experiment_views, inspection_views, limitation_views
from sd_space.ui.experiment_presets import CHANGES
from sd_space.ui.translation import html
from sd_space.ui.views import CARD_IN_ENGLISH, english_note

TAB = "experiments"


@dataclass(frozen=True, slots=True)
class Experiments:
    """`ask_limitation` is pressed by the page's scripts alone, which hand over which one.

    `runs` are the ids of the runs whose pictures are shown, with blanks between them.
    """

    tab: gr.Tab
    field: gr.Radio
    values: gr.Textbox
    prompt: gr.Textbox
    seed: gr.Number
    draw_strip: gr.Button
    steps_prompt: gr.Textbox
    draw_steps: gr.Button
    limitations: gr.HTML
    ask_limitation: gr.Button
    about_words: gr.HTML
    words: gr.CheckboxGroup
    draw_words: gr.Button
    stop: gr.Button
    status: gr.HTML
    pictures: gr.HTML
    export: gr.Button
    files: gr.HTML
    runs: gr.Textbox

    @property
    def offers(self) -> list[gr.blocks.Block]:
        """What depends on the served model."""
        return [self.limitations, self.about_words, self.words]

    @property
    def view(self) -> list[gr.blocks.Block]:
        """What shows an experiment."""
        return [self.runs, self.status, self.pictures, self.files]


def lay_out(card: ModelCard) -> dict[str, Any]:
    """The tab. What is drawn stands below all that draws, and CSS shows what fits to it: see page/experiments.css."""
    with gr.Tab(Phrase("Experiments"), id=TAB, visible=False, elem_id=TAB) as tab:
        with gr.Accordion(Phrase("Change one thing"), open=True, elem_id="change-one-thing"):
            parts = _strip_form(card)
        with gr.Accordion(Phrase("How it works"), open=False, elem_id="how-it-works"):
            parts |= _steps_form(card)
        with gr.Accordion(Phrase("Limits that the model card names"), open=False, elem_id="limits-to-try"):
            parts["limitations"] = html(limitation_views.loading, elem_id="limitations")
        with gr.Accordion(Phrase("Bias"), open=False, elem_id="bias-to-try") as fold:
            parts |= _bias_form(card, fold)
        parts["stop"] = gr.Button(Phrase("Stop the experiment"), variant="stop", elem_id="stop-experiment")
        parts["status"] = gr.HTML(elem_id="experiment-status", padding=False)
        parts["export"] = gr.Button(Phrase("Make a sheet and tables"), size="sm", elem_id="export-experiment")
        parts["files"] = gr.HTML(elem_id="experiment-files", padding=False)
        parts["pictures"] = gr.HTML(elem_id="experiment-pictures", padding=False)
    return parts | {"tab": tab}


def lay_out_unseen() -> dict[str, Any]:
    return {
        "ask_limitation": gr.Button(visible="hidden", elem_id="ask-limitation"),
        "runs": gr.Textbox(visible="hidden", elem_id="experiment-runs"),
    }


def _prompt_box(card: ModelCard, label: str, elem_id: str) -> gr.Textbox:
    return gr.Textbox(
        card.examples[-1].text, label=label, lines=1, max_lines=4, max_length=MAX_PROMPT_CHARS, elem_id=elem_id
    )


def _steps_form(card: ModelCard) -> dict[str, Any]:
    html(inspection_views.introduction)
    prompt = _prompt_box(card, Phrase("Prompt of both"), "steps-prompt")
    words = Phrase("Draw it and show its steps")
    draw = gr.Button(words, variant="primary", elem_id="draw-steps", elem_classes="draws")
    return {"steps_prompt": prompt, "draw_steps": draw}


def _bias_form(card: ModelCard, fold: gr.Accordion) -> dict[str, Any]:
    """The words that may be chosen, beside what the card says of bias."""
    about = html(limitation_views.loading, elem_id="bias-introduction")
    words = gr.CheckboxGroup(
        list(bias.WORDS), value=list(bias.CHOSEN), label=Phrase("Words of the grid"), elem_id="bias-words"
    )
    draw = gr.Button(Phrase("Draw the grid"), variant="primary", elem_id="draw-words", elem_classes="draws")
    html(lambda: f"<h3>{translate('What the model card says of bias')}</h3>{english_note(CARD_IN_ENGLISH)}")
    card_text.lay_out(fold, card.section("Bias").markdown, elem_id="card-on-bias")
    return {"about_words": about, "words": words, "draw_words": draw}


def _strip_form(card: ModelCard) -> dict[str, Any]:
    html(experiment_views.introduction)
    parts: dict[str, Any] = {
        "field": gr.Radio(list(CHANGES), value="guidance_scale", label=Phrase("What changes"), elem_id="strip-field"),
        "values": gr.Textbox(
            EVALUATION,
            label=Phrase("Its values"),
            info=Phrase("2 to {most}, with commas between them; prompts in a line each", most=MAX_STRIP),
            lines=1,
            max_lines=MAX_STRIP,
            max_length=MAX_PROMPT_CHARS * MAX_STRIP,
            elem_id="strip-values",
        ),
        "prompt": _prompt_box(card, Phrase("Prompt of all"), "strip-prompt"),
    }
    with gr.Row():
        parts["seed"] = gr.Number(
            1, label=Phrase("Seed of all"), minimum=0, maximum=MAX_SEED, precision=0, elem_id="strip-seed"
        )
        parts["draw_strip"] = gr.Button(
            Phrase("Draw the strip"), variant="primary", elem_id="draw-strip", elem_classes="draws"
        )
    return parts
