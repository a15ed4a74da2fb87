"""The page's components, from top to bottom: the gate, the tabs below it, and the way to withdraw."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from sd_space.card import ModelCard, Section
from sd_space.fields import Whole
from sd_space.languages import Phrase, translate
from sd_space.recorded import RecordedExample
from sd_space.request import MAX_PROMPT_CHARS, MAX_SEED, REQUEST_FIELDS
from sd_space.ui import aids, card_text, changing, changing_views, checking, experiments, programs, views
from sd_space.ui.form import CARD_DEFAULTS, CARD_LIMITS, MODEL_DEFAULTS, bounds, size_choices, size_value
from sd_space.ui.translation import html

# Which of the card's sections the page shows under which heading.
_CARD_PAGES = {
    Phrase("Uses and misuse"): ("Direct Use", "Misuse, Malicious Use, and Out-of-Scope Use"),
    Phrase("Limitations and bias"): ("Limitations", "Bias"),
    Phrase("Safety module"): ("Safety Module",),
    Phrase("Training"): ("Model Details", "Training"),
    Phrase("Evaluation"): ("Evaluation Results",),
    Phrase("Environmental impact"): ("Environmental Impact",),
    Phrase("Running it yourself"): ("PyTorch", "JAX/Flax"),
}

# The tabs, by the names under which one of them is selected.
DRAW, ABOUT = "draw", "about"


@dataclass(frozen=True, slots=True)
class Page:
    """The components that events read and write."""

    banner: gr.HTML
    gate: gr.Column
    agree: gr.Checkbox
    accept: gr.Button
    tabs: gr.Tabs
    workspace: gr.Tab
    generate: gr.Button
    cancel: gr.Button
    status: gr.HTML
    progress: gr.HTML
    results: gr.Column
    gallery: gr.Gallery
    recipe: gr.HTML
    download_all: gr.DownloadButton
    examples: tuple[gr.Button, ...]
    prompt: gr.Textbox
    controls: Mapping[str, gr.components.Component]  # by the field of a request that each of them sets
    random_seed: gr.Checkbox
    new_seeds: gr.Button
    size: gr.Radio
    embed_recipe: gr.Checkbox
    leave: gr.Button
    confirm: gr.Column
    withdraw: gr.Button
    stay: gr.Button
    aids: aids.Aids
    changing: changing.Changing
    checking: checking.Checking
    programs: programs.Programs
    experiments: experiments.Experiments
    clock: gr.Timer
    token: gr.Textbox
    run_id: gr.Textbox
    shown_id: gr.Textbox
    link: gr.Textbox

    @property
    def licensed_tabs(self) -> tuple[gr.Tab, ...]:
        """Those that only visitors see who have accepted the licence; the first is shown to them at once."""
        return (self.workspace, self.experiments.tab)

    @property
    def model_controls(self) -> dict[str, gr.blocks.Block]:
        """The controls of the fields for which the model has defaults of its own."""
        return {name: control for name, control in self.controls.items() if name in MODEL_DEFAULTS}

    @property
    def form(self) -> dict[str, gr.blocks.Block]:
        """What Generate reads, by the names under which its handler is given the values."""
        others = {"random_seed": self.random_seed, "size": self.size, "embed_recipe": self.embed_recipe}
        return {**self.controls, **others}


def lay_out(card: ModelCard, recorded: Sequence[RecordedExample], has_history: bool = True) -> Page:
    """Adds all components to the current Blocks."""
    html(views.masthead, elem_id="masthead")
    html(views.without_storage)
    parts = _gate(card)
    parts["banner"] = gr.HTML(elem_id="banner", padding=False)  # below the gate, which it must not move when it comes
    with gr.Tabs(selected=ABOUT, elem_id="tabs") as parts["tabs"]:
        parts |= _workspace(card, recorded, has_history)
        experimenting = experiments.lay_out(card)
        _about(card)
    parts |= _withdrawal()
    # What nobody sees lies in no part that comes and goes: Gradio shows whatever is in one that comes a second time.
    buttons, about_start = changing.lay_out_unseen()
    controls = parts["controls"] | about_start
    parts["controls"] = {name: controls[name] for name in REQUEST_FIELDS if name in controls}
    return Page(
        aids=aids.Aids(**parts.pop("lines"), **aids.lay_out_unseen()),
        changing=buttons,
        checking=checking.lay_out_unseen(parts.pop("found")),
        experiments=experiments.Experiments(**experimenting, **experiments.lay_out_unseen()),
        **parts,
        new_seeds=gr.Button(visible="hidden", elem_id="random-seeds"),
        clock=gr.Timer(1.0, active=False),
        token=gr.Textbox(visible="hidden"),
        run_id=gr.Textbox(visible="hidden"),
        shown_id=gr.Textbox(visible="hidden"),
        link=gr.Textbox(visible="hidden"),
    )


def _gate(card: ModelCard) -> dict[str, Any]:
    with gr.Column(elem_id="gate") as gate:
        html(lambda: views.gate(card) + views.restrictions())  # Markdown's script would keep it waiting
        agree = gr.Checkbox(False, label=views.AGREE, elem_id="agree")
        accept = gr.Button(views.ACCEPT, variant="primary", interactive=False, elem_id="accept")
    return {"gate": gate, "agree": agree, "accept": accept}


def _workspace(card: ModelCard, recorded: Sequence[RecordedExample], has_history: bool) -> dict[str, Any]:
    """What a visitor sees who has accepted the licence: the prompt, the pictures, the options and the examples."""
    with gr.Tab(Phrase("Draw"), id=DRAW, visible=False, elem_id="workspace") as workspace:
        parts = _prompt_row()
        strength = changing.lay_out()
        parts["lines"] = aids.lay_out_lines()
        parts["status"] = gr.HTML(elem_id="status", padding=False)
        parts["progress"] = gr.HTML(visible=False, elem_id="waiting", padding=False)
        parts |= _results()
        if has_history:
            aids.lay_out_history()
        parts |= _options({"prompt": parts["prompt"], "strength": strength})
        html(lambda: f"<h2>{translate('Try one of these')}</h2>", elem_id="examples-heading")
        parts["examples"] = _example_cards(card, recorded)
        html(lambda: views.recorded_note(recorded))
        parts["found"] = checking.lay_out()
        parts["programs"] = programs.lay_out()
    return parts | {"workspace": workspace}


def _prompt_row() -> dict[str, Any]:
    with gr.Row(elem_id="ask"):
        prompt = gr.Textbox(
            label=_label("prompt"),
            placeholder="a photo of an astronaut riding a horse on mars",
            lines=1,
            max_lines=4,
            max_length=MAX_PROMPT_CHARS,
            scale=5,
            elem_id="prompt",
            elem_classes="field-prompt",
        )
        generate = gr.Button(Phrase("Generate"), variant="primary", scale=1, min_width=120, elem_id="generate")
        cancel = gr.Button(Phrase("Cancel"), variant="stop", scale=1, min_width=120, visible=False, elem_id="cancel")
    return {"prompt": prompt, "generate": generate, "cancel": cancel}


def _results() -> dict[str, Any]:
    with gr.Column(visible=False, elem_id="results") as results:
        gallery = gr.Gallery(
            label=Phrase("Your pictures"),
            show_label=False,
            visible=False,  # its scripts are most of the page's, and come with the first run
            columns=2,
            object_fit="contain",
            height="auto",
            buttons=["download", "fullscreen"],
            interactive=False,
            elem_id="gallery",
        )
        html(lambda: changing_views.actions() + changing_views.comparison("comparison"))
        download_all = gr.DownloadButton(Phrase("Download all (zip)"), size="sm", elem_id="download-all")
        recipe = gr.HTML(elem_id="recipe", padding=False)
    return {"results": results, "gallery": gallery, "download_all": download_all, "recipe": recipe}


def _options(controls: dict[str, gr.components.Component]) -> dict[str, Any]:
    """The controls of a request's fields, and what else decides about a run; `controls` are those outside the fold."""
    with gr.Accordion(Phrase("More options"), open=False, elem_id="options"):
        controls["negative_prompt"] = gr.Textbox(
            label=_label("negative_prompt"),
            info=Phrase("What the pictures should not show"),
            max_length=MAX_PROMPT_CHARS,
            elem_classes="field-negative_prompt",
        )
        with gr.Row():
            controls["num_images_per_prompt"] = _slider("num_images_per_prompt")
            controls["num_inference_steps"] = _slider(
                "num_inference_steps", info=Phrase("More steps take longer and show finer detail")
            )
        with gr.Row():
            controls["guidance_scale"] = _slider(
                "guidance_scale", step=0.5, info=Phrase("Higher follows the prompt more closely and varies less")
            )
            controls["scheduler"] = gr.Dropdown(
                **bounds("scheduler", CARD_LIMITS),
                value=CARD_DEFAULTS.scheduler,
                label=_label("scheduler"),
                info=Phrase("How the picture is cleaned up step by step; changes look and speed"),
                elem_classes="field-scheduler",
            )
        size = gr.Radio(
            size_choices(CARD_DEFAULTS),
            value=size_value(CARD_DEFAULTS.width, CARD_DEFAULTS.height),
            label=Phrase("Size"),
            elem_classes=["field-width", "field-height"],
        )
        with gr.Row():
            controls["seed"] = gr.Number(
                0,
                label=_label("seed"),
                info=Phrase("The first picture uses this number, the others the next ones"),
                elem_classes="field-seed",
                minimum=0,
                maximum=MAX_SEED,
                precision=0,
            )
            random_seed = gr.Checkbox(True, label=Phrase("Surprise me (new seed each time)"))
        gr.Checkbox(False, label=Phrase("Play a sound when my pictures are ready"), elem_id="chime")
        embed_recipe = gr.Checkbox(True, label=Phrase("Save prompt and settings inside the PNG"))
        html(changing_views.own_picture)
        aids.lay_out_chooser()
    ordered = {name: controls[name] for name in REQUEST_FIELDS if name in controls}
    others = {"size": size, "random_seed": random_seed, "embed_recipe": embed_recipe}
    return {"controls": ordered, **others}


def _about(card: ModelCard) -> None:
    """What is screened, and the model card in folded parts."""
    with gr.Tab(Phrase("About the model"), id=ABOUT, elem_id="about"):
        html(views.screened)
        html(views.about_card)
        with gr.Accordion(Phrase("Introduction"), open=False) as fold:
            card_text.lay_out(fold, card.introduction)
        for title, parts in _CARD_PAGES.items():
            with gr.Accordion(title, open=False) as fold:
                card_text.lay_out(fold, _as_markdown([card.section(part) for part in parts]))
        with gr.Accordion(Phrase("Citation"), open=False):
            gr.Textbox(card.citation, label="BibTeX", lines=9, buttons=["copy"], interactive=False, elem_id="citation")


def _withdrawal() -> dict[str, Any]:
    leave = gr.Button(Phrase("Withdraw my acceptance of the licence"), size="sm", visible=False, elem_id="leave")
    with gr.Column(visible=False, elem_id="confirm") as confirm:
        html(lambda: f"<p>{translate(views.WITHDRAWING)}</p>")
        with gr.Row():
            withdraw = gr.Button(Phrase("Withdraw and clear this page"), variant="stop", elem_id="withdraw")
            stay = gr.Button(Phrase("Keep my acceptance"), elem_id="stay")
    return {"leave": leave, "confirm": confirm, "withdraw": withdraw, "stay": stay}


def _label(name: str) -> str:
    return REQUEST_FIELDS[name].label


def _slider(name: str, **options: Any) -> gr.Slider:
    """A control for a number of the request, within the card's limits until the model has stated its own."""
    if isinstance(REQUEST_FIELDS[name].kind, Whole):
        options |= {"step": 1, "precision": 0}
    value = getattr(CARD_DEFAULTS, name)
    options["elem_classes"] = f"field-{name}"
    return gr.Slider(**bounds(name, CARD_LIMITS), value=value, label=_label(name), **options)


def _example_cards(card: ModelCard, recorded: Sequence[RecordedExample]) -> tuple[gr.Button, ...]:
    """A button for each example, with the picture that was recorded of it; pressing one fills the prompt."""
    icons = {example.prompt: example.path for example in recorded}
    with gr.Row(elem_id="examples"):
        return tuple(
            gr.Button(
                example.title,
                icon=icons.get(example.text),
                variant="secondary",
                min_width=150,
                elem_classes="example",
            )
            for example in card.examples
        )


def _as_markdown(sections: list[Section]) -> str:
    if len(sections) == 1:
        return sections[0].markdown
    return "\n\n".join(f"### {section.title}\n\n{section.markdown}" for section in sections)
