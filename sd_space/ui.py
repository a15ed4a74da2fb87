"""The page and the public endpoints: the only importer of gradio.

The layout reads top to bottom in `_lay_out`, the events in `_wire`. Every event is private; what is public is the three
typed functions of `_add_api`. All of them end in `Gate.admit` and `Runs`: there, and not in the page, the licence is
enforced and pictures are made.
"""

import asyncio
import functools
import inspect
import logging
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import jinja2
from gradio.routes import templates
from gradio.server_messages import ProcessCompletedMessage
from starlette.middleware import Middleware

from sd_space import views
from sd_space.backends import Backend, until_ready
from sd_space.card import ModelCard, Section
from sd_space.faults import described
from sd_space.front import Front, Surface, endpoint_parameters
from sd_space.gallery import ResultStore, recipe_from_query, result_json
from sd_space.gate import Gate
from sd_space.metrics import Metrics
from sd_space.recorded import CONTACT_SHEET, ICON, RecordedExample
from sd_space.runs import Run, Runs
from sd_space.schema import (
    MAX_PROMPT_CHARS,
    MAX_SEED,
    SCHEDULERS,
    Defaults,
    LicenceNotAccepted,
    Limits,
    ModelInfo,
    SpaceError,
    Stage,
)
from sd_space.sessions import Sessions
from sd_space.settings import Settings

logger = logging.getLogger(__name__)

QUEUE_LOOK_S = 0.5  # how often Gradio's queue is looked at
INTERRUPTED = "The server's queue failed and was started again; please try again."
SESSION_CAPACITY = 200  # sessions whose changed components Gradio remembers, about 20 kB each
_GENERATE = "generate"  # the name of both handlers that ask for pictures
TITLE = "Stable Diffusion v1-4"
DESCRIPTION = "Describe a picture; every answer is screened before it is shown."
CSS, JS = (Path(__file__).with_name(name) for name in ("ui.css", "ui.js"))

# Storage is blocked in some frames (huggingface.co with third-party cookies off): then nothing is remembered.
# What is being written belongs to its tab, the acceptance and the last run to the visitor.
_RECALL_JS = """() => { const get = (storage, key) => { try { return window[storage].getItem('sd_space.' + key) || '' }
  catch (error) { return '' } }
  return [get('localStorage', 'token'), get('localStorage', 'run'), get('sessionStorage', 'draft')] }"""
_REMEMBER_JS = "(value) => {{ try {{ {}.setItem('sd_space.{}', value || '') }} catch (error) {{}} return [] }}"

_TEMPLATES = templates.env.loader  # Gradio's own

# What the form shows before any model is loaded.
_CARD_DEFAULTS = Defaults()
_CARD_LIMITS = Limits(min_size=256, max_size=768)

# Which of the card's sections the page shows under which heading.
_CARD_PAGES = {
    "Uses and misuse": ("Direct Use", "Misuse, Malicious Use, and Out-of-Scope Use"),
    "Limitations and bias": ("Limitations", "Bias"),
    "Safety module": ("Safety Module",),
    "Training": ("Model Details", "Training"),
    "Evaluation": ("Evaluation Results",),
    "Environmental impact": ("Environmental Impact",),
}

# Fonts of the visitor's own system: nothing is fetched, and the words look at home.
_FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "sans-serif"]
_THEME = gr.themes.Default(
    primary_hue="indigo",
    neutral_hue="slate",
    radius_size="lg",
    font=_FONTS,
    font_mono=["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"],
).set(
    # Grey that is 4.5 : 1 or better on every background here (WCAG AA), in both themes.
    body_text_color_subdued="*neutral_600",
    body_text_color_subdued_dark="*neutral_300",
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_hover="*primary_800",
    button_primary_background_fill_dark="*primary_600",
    button_primary_text_color="white",
    block_label_text_color="*neutral_700",
    block_title_text_color="*neutral_700",
    block_title_text_color_dark="*neutral_200",
    checkbox_border_color="*neutral_400",
)


@dataclass(frozen=True, slots=True)
class Page:
    """The components that events read and write; the page's own order is that of `_lay_out`."""

    banner: gr.HTML
    gate: gr.Column
    agree: gr.Checkbox
    accept: gr.Button
    studio: gr.Column
    prompt: gr.Textbox
    generate: gr.Button
    cancel: gr.Button
    status: gr.HTML
    waiting: gr.HTML
    results: gr.Column
    gallery: gr.Gallery
    recipe: gr.HTML
    download_all: gr.DownloadButton
    examples: tuple[gr.Button, ...]
    negative_prompt: gr.Textbox
    num_images: gr.Slider
    steps: gr.Slider
    guidance: gr.Slider
    random_seed: gr.Checkbox
    seed: gr.Number
    size: gr.Radio
    scheduler: gr.Dropdown
    embed_recipe: gr.Checkbox
    withdraw: gr.Button
    clock: gr.Timer
    token: gr.Textbox
    run_id: gr.Textbox


def build_demo(
    settings: Settings,
    card: ModelCard,
    gate: Gate,
    backend: Backend,
    store: ResultStore,
    metrics: Metrics,
    recorded: Sequence[RecordedExample],
) -> gr.Blocks:
    """The page and its endpoints; `recorded` are shown with the examples. Starts nothing."""
    gr.set_static_paths(served_files(store, recorded))
    runs = Runs(
        backend,
        store,
        settings.result_ttl_s,
        settings.max_per_visitor,
        max_per_address=max(settings.max_per_visitor, settings.max_queue // 2),
        on_done=lambda run: metrics.count([picture.outcome for picture in run.finished], run.result, run.error),
    )
    with gr.Blocks(title=TITLE, analytics_enabled=False) as demo:
        page = _lay_out(card, recorded)
        _add_api(gate, backend, runs)  # first: Gradio would rename a public endpoint after a page's event
        _wire(page, Handlers(page, settings, gate, backend, store, runs), card)
    # The engine owns the order of service and the bound on who waits; Gradio's own queue must not serialise before it.
    demo.queue(api_open=False, max_size=_most_events(settings), default_concurrency_limit=None)
    # Gradio keeps the messages of 2,000 sessions, first in first out: more visitors than that would stop its queue.
    # `Sessions` forgets those that are over.
    demo._queue.pending_messages_per_session.max_size = 10**7
    # It would also keep the last 10,000 events, and count them anew after each, for a console that is not served.
    demo._queue.ANALYTICS_MAX_EVENTS, demo._queue.ANAYLTICS_CACHE_FREQUENCY = 1, 10**18
    return demo


def _most_events(settings: Settings) -> int:
    """Room in Gradio for everybody who may wait here, for several pages each, and for what answers at once."""
    return settings.max_queue * 4 + 40


def served_files(store: ResultStore, recorded: Sequence[RecordedExample]) -> list[Path]:
    """Everything that visitors may fetch as a file."""
    return [store.root, CONTACT_SHEET, *(example.path for example in recorded)]


def launch(
    demo: gr.Blocks, settings: Settings, backend: Backend, metrics: Metrics, files: Sequence[Path], **options: Any
) -> str:
    """Serves `demo` in the background and returns its local address. `options` are those of `gr.Blocks.launch`."""
    queue, sessions = demo._queue, Sessions(demo._queue)
    surface = Surface(
        endpoints=endpoint_parameters(demo.get_api_info()),
        num_inputs={index: len(event.inputs) for index, event in demo.fns.items() if event.fn is not None},
        files=files,
        session_of=sessions.of,
        sweep=sessions.sweep,
        is_queue_alive=lambda: not queue.stopped,
        draws={_GENERATE, *(index for index, event in demo.fns.items() if event.name == _GENERATE)},
        num_drawing=lambda: sum(event.fn.name == _GENERATE for event in queue.event_ids_to_events.values()),
    )
    _introduce()
    demo.extra_startup_events.append(functools.partial(_start_queue_watch, demo))
    front = Middleware(Front, settings=settings, status=backend.status, metrics=metrics, surface=surface)
    _, url, _ = demo.launch(
        prevent_thread_lock=True,
        quiet=True,
        show_error=False,
        run_history=False,
        enable_monitoring=False,
        mcp_server=True,
        ssr_mode=False,
        max_threads=_most_events(settings),
        state_session_capacity=SESSION_CAPACITY,
        pwa=False,
        favicon_path=ICON,
        strict_cors=True,
        footer_links=["api"],
        theme=_THEME,
        css=CSS.read_text(encoding="utf-8"),
        js=JS.read_text(encoding="utf-8"),
        app_kwargs={"middleware": [front], "openapi_url": None},
        **options,
    )
    _give_pictures_to_mcp(demo)
    return url


def _introduce() -> None:
    """What other windows show of a link, and a tab while the page loads: Gradio's templates speak of Gradio there."""
    tags = {
        "og:type": "website",
        "og:title": TITLE,
        "og:description": DESCRIPTION,
        "og:image": f"{{{{ config['root'] }}}}/gradio_api/file={CONTACT_SHEET}",
        "twitter:card": "summary_large_image",
    }
    metas = "".join(f'<meta property="{name}" content="{content}">' for name, content in tags.items())
    end = f"<title>{TITLE}</title>{metas}</head>"

    def load(name: str) -> str:
        template, *_ = _TEMPLATES.get_source(templates.env, name)
        return re.sub(r'<meta\s+(property="og:|name="twitter:)[^>]*>', "", template).replace("</head>", end)

    templates.env.loader = jinja2.FunctionLoader(load)


async def _start_queue_watch(demo: gr.Blocks) -> None:
    """Gradio's queue serves nobody once its loop has failed, and says so to nobody: it is started again."""

    async def watch() -> None:
        while demo.is_running:
            await asyncio.sleep(QUEUE_LOOK_S)
            if demo._queue.stopped and demo.is_running:
                logger.error("Gradio's queue had stopped and is started again")
                _revive(demo._queue)

    demo._queue_watch = asyncio.get_running_loop().create_task(watch())  # the loop itself holds tasks weakly


def _revive(queue: Any) -> None:
    """Starts the queue; who waits in it is served, and who was being served is told that this has ended."""
    waiting = {event._id for line in queue.event_queue_per_concurrency_id.values() for event in line.queue}
    queue.stopped = False
    queue.start()
    for line in queue.event_queue_per_concurrency_id.values():
        line.current_concurrency = 0
    for session, event_ids in queue.pending_event_ids_session.items():
        messages = queue.pending_messages_per_session.get(session)
        for event_id in event_ids - waiting if messages else ():
            output = {"error": INTERRUPTED}
            messages.put_nowait(ProcessCompletedMessage(event_id=event_id, output=output, success=False))


def wait_until_told(demo: gr.Blocks, deadline_s: float) -> None:
    """Returns when nobody's event runs any more and all who listen have read how theirs ended, or at the deadline."""
    queue = demo._queue
    while any(queue.active_jobs) and time.monotonic() < deadline_s:
        time.sleep(0.02)
    deadline_s = min(deadline_s, time.monotonic() + 1.0)  # some listen to nothing, and never will
    while any(queue.pending_event_ids_session.values()) and time.monotonic() < deadline_s:
        time.sleep(0.02)


def _lay_out(card: ModelCard, recorded: Sequence[RecordedExample]) -> Page:
    """One column: what this is, the gate or the prompt, the pictures, the options, and the model card."""
    names: dict[str, Any] = {}
    gr.HTML(
        f"<h1>Stable Diffusion <span>v1-4</span></h1><p>{DESCRIPTION}</p>",
        elem_id="masthead",
        padding=False,
    )
    names["banner"] = gr.HTML(elem_id="banner", padding=False)
    with gr.Column(visible=False, elem_id="gate") as names["gate"]:
        gr.Markdown(f"## {card.gate_heading}\n\n{card.gate_prompt}")
        gr.HTML(views.restrictions(), padding=False)
        names["agree"] = gr.Checkbox(False, label="I have read the licence and accept it", elem_id="agree")
        names["accept"] = gr.Button("Accept and continue", variant="primary", interactive=False, elem_id="accept")

    with gr.Column(visible=False, elem_id="studio") as names["studio"]:
        with gr.Row(elem_id="ask"):
            names["prompt"] = gr.Textbox(
                label="Prompt",
                placeholder="a photo of an astronaut riding a horse on mars",
                lines=1,
                max_lines=4,
                max_length=MAX_PROMPT_CHARS,
                scale=5,
                elem_id="prompt",
            )
            names["generate"] = gr.Button("Generate", variant="primary", scale=1, min_width=120, elem_id="generate")
            names["cancel"] = gr.Button(
                "Cancel", variant="stop", scale=1, min_width=120, visible=False, elem_id="cancel"
            )
        names["status"] = gr.HTML(elem_id="status", padding=False)
        names["waiting"] = gr.HTML(visible=False, elem_id="waiting", padding=False)
        with gr.Column(visible=False, elem_id="results") as names["results"]:
            names["gallery"] = gr.Gallery(
                label="Your pictures",
                show_label=False,
                columns=2,
                object_fit="contain",
                height="auto",
                buttons=["download", "fullscreen"],
                interactive=False,
                elem_id="gallery",
            )
            names["download_all"] = gr.DownloadButton("Download all (zip)", size="sm", elem_id="download-all")
            names["recipe"] = gr.HTML(elem_id="recipe", padding=False)

        with gr.Accordion("More options", open=False, elem_id="options"):
            names["negative_prompt"] = gr.Textbox(
                label="Negative prompt", info="What the pictures should not show", max_length=MAX_PROMPT_CHARS
            )
            with gr.Row():
                names["num_images"] = gr.Slider(1, 4, 4, step=1, precision=0, label="Number of pictures")
                names["steps"] = gr.Slider(
                    1,
                    _CARD_LIMITS.max_steps,
                    _CARD_DEFAULTS.num_inference_steps,
                    step=1,
                    precision=0,
                    label="Steps",
                    info="More steps take longer and draw finer",
                )
            with gr.Row():
                names["guidance"] = gr.Slider(
                    _CARD_LIMITS.min_guidance,
                    _CARD_LIMITS.max_guidance,
                    _CARD_DEFAULTS.guidance_scale,
                    step=0.5,
                    label="Guidance scale",
                    info="Higher follows the prompt more closely and varies less",
                )
                names["scheduler"] = gr.Dropdown(
                    list(SCHEDULERS), value=_CARD_DEFAULTS.scheduler, label="Noise scheduler"
                )
            names["size"] = gr.Radio(
                _size_choices(_CARD_DEFAULTS), value=_size(_CARD_DEFAULTS.width, _CARD_DEFAULTS.height), label="Size"
            )
            with gr.Row():
                names["seed"] = gr.Number(
                    0, label="Seed", info="Picture k has seed + k", minimum=0, maximum=MAX_SEED, precision=0
                )
                names["random_seed"] = gr.Checkbox(True, label="New seed each time")
            names["embed_recipe"] = gr.Checkbox(
                True, label="Write prompt and settings into the PNG files, so that other tools can read them"
            )

        gr.HTML("<h2>Try one of these</h2>", elem_id="examples-heading", padding=False)
        names["examples"] = _example_cards(card, recorded)
        gr.HTML(views.recorded_note(recorded), padding=False)

    with gr.Column(elem_id="about"):
        gr.HTML(f'<h2>What is screened, and what is not</h2><p class="scope">{views.SAFETY_SCOPE}</p>', padding=False)
        gr.Markdown("## About Stable Diffusion v1-4\n\nFrom its model card, by Robin Rombach and Patrick Esser.")
        gr.Markdown(card.introduction)
        for title, parts in _CARD_PAGES.items():
            with gr.Accordion(title, open=False):
                gr.Markdown(_as_markdown([card.section(part) for part in parts]))
        with gr.Accordion("Citation", open=False):
            gr.Textbox(card.citation, label="BibTeX", lines=9, buttons=["copy"], interactive=False, elem_id="citation")
        names["withdraw"] = gr.Button(
            "Withdraw my acceptance of the licence", size="sm", variant="secondary", visible=False, elem_id="withdraw"
        )

    names["clock"] = gr.Timer(1.0, active=False)
    names["token"] = gr.Textbox(visible="hidden")
    names["run_id"] = gr.Textbox(visible="hidden")
    return Page(**names)


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


def _size(width: int, height: int) -> str:
    return f"{width}x{height}"


def _sides(size: str) -> dict[str, int | str]:
    """Width and height of `_size`; what is none stays as it is, to be refused in a sentence."""
    width, _, height = str(size).partition("x")
    return {"width": int(width) if width.isdigit() else size, "height": int(height) if height.isdigit() else size}


def _size_choices(defaults: Defaults) -> list[tuple[str, str]]:
    """Square, portrait and landscape around the model's own size."""
    long, wide = defaults.width, defaults.height
    short = long * 3 // 4 // 8 * 8
    shapes = {"Square": (long, wide), "Portrait": (short, wide), "Landscape": (long, short)}
    return [(f"{name}, {w} × {h}", _size(w, h)) for name, (w, h) in shapes.items()]


def _models_own(values: dict[str, Any], own: Defaults, linked: dict[str, Any]) -> dict[str, Any]:
    """The model's own values in place of those that are still the card's and not a link's."""
    card, pairs = _CARD_DEFAULTS, (("num_inference_steps",), ("guidance_scale",), ("scheduler",), ("width", "height"))
    return {
        name: getattr(own, name)
        for names in pairs
        if not all(name in linked for name in names) and all(values[name] == getattr(card, name) for name in names)
        for name in names
    }


class Handlers:
    """What happens on each event. Async, because they wait for the engine; they run on the server's event loop."""

    def __init__(self, page: Page, settings: Settings, gate: Gate, backend: Backend, store: ResultStore, runs: Runs):
        self.page = page
        self.settings = settings
        self.gate = gate
        self.backend = backend
        self.store = store
        self.runs = runs

    def _is_accepted(self, token: str) -> bool:
        try:
            self.gate.verify_token(token)
        except LicenceNotAccepted:
            return False
        return True

    def _doors(self, is_open: bool) -> dict:
        page = self.page
        return {
            page.gate: gr.update(visible=not is_open),
            page.studio: gr.update(visible=is_open),
            page.withdraw: gr.update(visible=is_open),
        }

    def open_page(self, token: str, request: gr.Request) -> dict:
        """On loading: opens the gate to a remembered acceptance and fills the form from a link's recipe."""
        page = self.page
        untouched = _CARD_DEFAULTS
        size = _size(untouched.width, untouched.height)
        updates = self._doors(self._is_accepted(token)) | self.tick(
            untouched.num_inference_steps, untouched.guidance_scale, untouched.scheduler, size, request
        )
        updates.setdefault(page.clock, gr.update(active=True))  # while the model loads
        linked = recipe_from_query(request.query_params)
        info = self.backend.status().info
        for name, component in self._fields().items():
            if name in linked:
                updates[component] = gr.update(value=linked[name])
        if "seed" in linked:
            updates[page.random_seed] = False
        if "width" in linked and "height" in linked:
            updates[page.size] = self._size_update(linked["width"], linked["height"], info)
        return updates

    def _size_update(self, width: int, height: int, info: ModelInfo | None) -> dict:
        size, choices = _size(width, height), _size_choices(info.defaults if info else _CARD_DEFAULTS)
        if size not in [value for _, value in choices]:
            choices.append((size.replace("x", " × "), size))
        return gr.update(choices=choices, value=size)

    def _fields(self) -> dict[str, gr.components.Component]:
        page = self.page
        return {
            "prompt": page.prompt,
            "negative_prompt": page.negative_prompt,
            "num_images_per_prompt": page.num_images,
            "num_inference_steps": page.steps,
            "guidance_scale": page.guidance,
            "seed": page.seed,
            "scheduler": page.scheduler,
        }

    def tick(self, steps: int, guidance: float, scheduler: str, size: str, request: gr.Request) -> dict:
        """Each second until the model is there: the banner; then what nobody touched becomes the model's own.

        What a link asks for stays, also where it is the card's default.
        """
        page, status = self.page, self.backend.status()
        updates = {page.banner: views.banner(status)}
        if status.stage is Stage.FAILED:
            updates[page.clock] = gr.update(active=False)
        if not status.is_ready:
            return updates
        defaults, limits = status.info.defaults, status.info.limits
        values = {"num_inference_steps": steps, "guidance_scale": guidance, "scheduler": scheduler} | _sides(size)
        own = _models_own(values, defaults, recipe_from_query(request.query_params))

        def kept(name: str) -> dict:
            return {"value": own[name]} if name in own else {}

        size_kept = {"value": _size(own["width"], own["height"])} if "width" in own else {}
        return updates | {
            page.clock: gr.update(active=False),
            page.steps: gr.update(maximum=limits.max_steps, **kept("num_inference_steps")),
            page.guidance: gr.update(**kept("guidance_scale")),
            page.scheduler: gr.update(choices=list(limits.schedulers), **kept("scheduler")),
            page.size: gr.update(choices=_size_choices(defaults), **size_kept),
        }

    def accept(self, agree: bool) -> dict:
        try:
            token = self.gate.issue_token(agree)
        except LicenceNotAccepted as error:
            gr.Warning(str(error))
            return {self.page.token: ""}
        return self._doors(True) | {self.page.token: token}

    def withdraw(self, run_id: str) -> dict:
        page = self.page
        self.runs.cancel(run_id)  # nothing more is drawn for whom it has no acceptance
        return self._doors(False) | {page.token: "", page.agree: False, page.accept: gr.update(interactive=False)}

    async def generate(
        self,
        token: str,
        prompt: str,
        negative_prompt: str,
        num_images: int,
        steps: int,
        guidance: float,
        seed: int,
        scheduler: str,
        random_seed: bool,
        size: str,
        embed_recipe: bool,
        request: gr.Request,
    ) -> AsyncIterator[dict]:
        """Admits the form's values and follows the run to its end."""
        page = self.page
        values = {
            "prompt": prompt,
            "negative_prompt": negative_prompt,
            "num_images_per_prompt": num_images,
            "num_inference_steps": steps,
            "guidance_scale": guidance,
            "seed": -1 if random_seed else seed,
            "scheduler": scheduler,
        } | _sides(size)
        try:
            self.gate.verify_token(token)
            is_early = not self.backend.status().is_ready
            async for stage in until_ready(self.backend):
                yield {page.status: views.note(f"Getting ready: {stage}… Your pictures come next.")}
            info = self.backend.status().info
            if is_early:  # asked before the model had said what it draws: what nobody touched is the model's own
                values |= _models_own(values, info.defaults, recipe_from_query(request.query_params))
            admitted = self.gate.admit(token, values, info)
            run = self.runs.start(admitted, info, embed_recipe is True, _address(request))
        except LicenceNotAccepted as error:
            yield self._doors(False) | {page.status: views.note(str(error), "error")}
        except SpaceError as error:
            yield {page.status: views.note(str(error), "error")}
        else:
            async for updates in self._follow(run):
                yield updates

    async def resume(self, token: str, run_id: str, prompt: str, request: gr.Request) -> AsyncIterator[dict]:
        """After a reload: shows the last run, finished or still going. The form becomes the run's own, unless a link
        has filled it; words that were being written stay."""
        run = self.runs.get(run_id) if self._is_accepted(token) else None
        if run is None:
            yield {self.page.status: ""}
            return
        is_linked = bool(recipe_from_query(request.query_params))
        if not is_linked:
            asked = run.admitted.request
            form = {component: getattr(asked, name) for name, component in self._fields().items()}
            form[self.page.size] = self._size_update(asked.width, asked.height, run.info)
            yield form | ({self.page.prompt: prompt} if prompt else {})
        async for updates in self._follow(run):
            if is_linked:
                updates.pop(self.page.seed, None)
            yield updates

    async def _follow(self, run: Run) -> AsyncIterator[dict]:
        page = self.page
        yield {
            page.run_id: run.request_id,
            page.seed: run.admitted.request.seed,
            page.generate: gr.update(visible=False),
            page.cancel: gr.update(visible=True, interactive=True, value="Cancel"),
            page.status: "",
            page.waiting: gr.update(value=views.waiting(run), visible=True),
            page.results: gr.update(visible=False),
        }
        async for _ in self.runs.watch(run, grace_s=self.settings.reconnect_s):
            if not run.is_done:
                yield {page.waiting: views.waiting(run)}
        pictures = [(str(picture.path), picture.caption) for picture in run.finished]
        verdict, archive = views.verdict(run), None
        try:
            archive = await asyncio.to_thread(self.store.zip, run.request_id, run.finished)
        except SpaceError as error:  # the pictures are there, and the form must come back
            verdict += views.note(str(error), "error")
        yield {
            page.generate: gr.update(visible=True),
            page.cancel: gr.update(visible=False),
            page.status: verdict,
            page.waiting: gr.update(value="", visible=False),
            page.results: gr.update(visible=bool(pictures)),
            page.gallery: gr.update(value=pictures, selected_index=None),
            page.recipe: views.recipe(run) if pictures else "",
            page.download_all: gr.update(value=str(archive) if archive else None, visible=archive is not None),
        }

    def cancel(self, run_id: str) -> dict:
        self.runs.cancel(run_id)
        return {self.page.cancel: gr.update(interactive=False, value="Cancelling…")}


def _wire(page: Page, on: Handlers, card: ModelCard) -> None:
    """Which event calls which handler. `quiet` events answer at once and show no spinner."""
    # What comes in is checked by us, not by the components: they let half of it through, and log the rest.
    private = {"api_visibility": "private", "show_progress": "hidden", "preprocess": False}
    quiet, queued = private | {"queue": False}, private | {"concurrency_limit": None}
    doors = [page.gate, page.studio, page.withdraw]
    model_defaults = [page.banner, page.clock, page.steps, page.guidance, page.scheduler, page.size]
    run_view = [
        page.run_id, page.seed, page.generate, page.cancel, page.status, page.waiting, page.results, page.gallery,
        page.recipe, page.download_all,
    ]  # fmt: skip
    form = [*on._fields().values(), page.random_seed, page.size]
    blocks = gr.context.Context.root_block

    blocks.load(None, None, [page.token, page.run_id, page.prompt], js=_RECALL_JS, **quiet).then(
        _careful(on.open_page), page.token, list(dict.fromkeys([*doors, *model_defaults, *form])), **quiet
    ).then(
        _careful(on.resume), [page.token, page.run_id, page.prompt], list(dict.fromkeys([*run_view, *form])), **queued
    )
    page.prompt.change(None, page.prompt, None, js=_REMEMBER_JS.format("sessionStorage", "draft"), **quiet)
    page.clock.tick(_careful(on.tick), [page.steps, page.guidance, page.scheduler, page.size], model_defaults, **quiet)
    page.token.change(None, page.token, None, js=_REMEMBER_JS.format("localStorage", "token"), **quiet)
    page.run_id.change(None, page.run_id, None, js=_REMEMBER_JS.format("localStorage", "run"), **quiet)

    enable_js = "(agree) => ({__type__: 'update', interactive: agree})"
    page.agree.change(None, page.agree, page.accept, js=enable_js, **quiet)
    page.accept.click(_careful(on.accept), page.agree, [*doors, page.token], **quiet)
    page.withdraw.click(_careful(on.withdraw), page.run_id, [*doors, page.token, page.agree, page.accept], **quiet)

    gr.on(
        [page.prompt.submit, page.generate.click],
        _careful(on.generate),
        [page.token, *form, page.embed_recipe],
        [*run_view, *doors],
        **queued,
    )
    page.cancel.click(_careful(on.cancel), page.run_id, page.cancel, **quiet)
    for button, example in zip(page.examples, card.examples, strict=True):
        js = f"() => {{ document.querySelector('#prompt textarea').focus(); return {example.text!r} }}"
        button.click(None, None, page.prompt, js=js, **quiet)


def _add_api(gate: Gate, backend: Backend, runs: Runs) -> None:
    """The public endpoints. Gradio derives their documentation from the signatures and docstrings."""

    def accept_license(agree: bool) -> str:
        """Accepts the CreativeML OpenRAIL-M licence of Stable Diffusion v1-4 and returns an acceptance token.

        Read https://huggingface.co/spaces/CompVis/stable-diffusion-license first: you may not deliberately produce or
        share illegal or harmful content, and you answer for how you use the pictures.

        Args:
            agree: true if you have read the licence and accept it
        """
        with _refusals():
            return gate.issue_token(agree)

    async def generate(
        prompt: str,
        negative_prompt: str = "",
        num_images_per_prompt: int = 4,
        num_inference_steps: int = 50,
        guidance_scale: float = 7.5,
        seed: int = -1,
        width: int | None = None,
        height: int | None = None,
        scheduler: str = "PNDM",
        acceptance_token: str = "",
        request: gr.Request = None,
    ) -> tuple[list[gr.FileData], dict]:
        """Draws pictures of a prompt with Stable Diffusion and returns those that the safety checker has passed.

        Needs the token of accept_license. A picture that was withheld or failed is a placeholder, as `outcome` says.
        Prohibited: illegal or harmful content, harassment, disinformation, sexual content involving minors, and the
        other uses that the licence's Attachment A names.

        Args:
            prompt: what the pictures show, in English
            negative_prompt: what they should not show
            num_images_per_prompt: how many pictures, 1 to 4
            num_inference_steps: denoising steps, 1 to 150
            guidance_scale: how closely to follow the prompt, 1 to 20
            seed: the first picture's seed, 0 to 4294967295, or -1 for a random one; picture k has seed + k
            width: in pixels, a multiple of 8; the model's own when left out
            height: in pixels, a multiple of 8; the model's own when left out
            scheduler: the noise scheduler, one of those that the model endpoint lists
            acceptance_token: what accept_license returned; may also travel in the header X-License-Token
        """
        values = {
            "prompt": prompt,
            "negative_prompt": negative_prompt,
            "num_images_per_prompt": num_images_per_prompt,
            "num_inference_steps": num_inference_steps,
            "guidance_scale": guidance_scale,
            "seed": seed,
            "width": width,
            "height": height,
            "scheduler": scheduler,
        }
        token = acceptance_token or (request.headers.get("x-license-token", "") if request else "")
        with _refusals():
            gate.verify_token(token)
            async for stage in until_ready(backend):
                yield [], {"progress": {"stage": stage}}
            info = backend.status().info
            run = runs.start(gate.admit(token, values, info), info, embed_recipe=True, address=_address(request))
            async for _ in runs.watch(run, grace_s=0):
                if not run.is_done:
                    yield [], {"progress": _progress_json(run)}
            if run.error is not None:
                raise run.error
            files = [
                gr.FileData(
                    path=str(picture.path),
                    url=f"/gradio_api/file={picture.path}",
                    orig_name=picture.path.name,
                    mime_type="image/png",
                )
                for picture in run.finished
            ]
            yield files, result_json(run.admitted.request, run.info, run.result)

    def model() -> dict:
        """Describes the served model: id, revision, device, dtype, memory profile, schedulers, limits, default size."""
        status = backend.status()
        described = {"ready": status.is_ready, "stage": str(status.stage), "waiting": status.waiting}
        if status.reason:
            described["reason"] = status.reason
        return described | (status.info.as_dict() if status.info else {})

    for endpoint in (accept_license, generate, model):
        gr.api(endpoint, api_name=endpoint.__name__, concurrency_limit=None)


def _address(request: gr.Request | None) -> str | None:
    """As the front door has written it down."""
    return request.client.host if request and request.client else None


def _progress_json(run: Run) -> dict:
    progress = run.progress
    if progress is None:
        return {"stage": "queued"}
    return {
        "queue_position": progress.queue_position,
        "step": progress.step_index,
        "steps": progress.num_timesteps,
        "pictures_done": progress.pictures_done,
        "seconds_left": progress.seconds_left,
    } | ({"note": progress.note} if progress.note else {})


@contextmanager
def _refusals() -> Iterator[None]:
    """Turns what visitors may read into Gradio's errors; of anything else the log gets type and place only."""
    try:
        yield
    except SpaceError as error:
        raise gr.Error(str(error), print_exception=False) from None
    except Exception as error:
        logger.error("an event failed:\n%s", described(error))
        raise gr.Error("Something broke on the server; please try again.", print_exception=False) from None


def _careful(handler: Callable) -> Callable:
    """The handler of an event, with its failures told as `_refusals` tells them: Gradio would log what came in."""
    if inspect.isasyncgenfunction(handler):

        @functools.wraps(handler)
        async def careful(*args, **kwargs):
            with _refusals():
                async with aclosing(handler(*args, **kwargs)) as updates:
                    async for update in updates:
                        yield update
    else:

        @functools.wraps(handler)
        def careful(*args, **kwargs):
            with _refusals():
                return handler(*args, **kwargs)

    return careful


def _give_pictures_to_mcp(demo: gr.Blocks) -> None:
    """Makes MCP clients see pictures: Gradio's server turns a list of files into the text of their server paths."""
    server = demo.mcp_server_obj
    as_content = server.postprocess_output_data

    def flattened(value: object) -> Iterator[object]:
        if isinstance(value, list | tuple):
            for part in value:
                yield from flattened(part)
        else:
            yield value

    server.postprocess_output_data = lambda data, root_url: as_content(list(flattened(data)), root_url)
