"""The page's HTML: banner, progress, summary and recipe of a run, use restrictions. Pure functions, without gradio."""

import re
from collections.abc import Sequence
from html import escape
from itertools import groupby

from sd_space.card import LICENCE_URL, ModelCard
from sd_space.errors import Cancelled, InvalidRequest, SpaceError
from sd_space.recorded import RecordedExample
from sd_space.request import REQUEST_FIELDS, GenerationRequest
from sd_space.schema import BackendStatus, Outcome, Preview, Progress, Stage
from sd_space.served_model import ModelInfo
from sd_space.serving.gate import USE_RESTRICTIONS
from sd_space.serving.images import preview_uri
from sd_space.serving.recipe import recipe_query
from sd_space.serving.results import SavedPicture
from sd_space.serving.runs import Run
from sd_space.settings import V1_4
from sd_space.ui.changing_views import origin

TITLE = "Stable Diffusion v1-4"
DESCRIPTION = "Type what you want to see. Every picture is checked before it is shown."
V1_4_URL = f"https://huggingface.co/{V1_4}"

AGREE = "I have read the licence and accept it"
ACCEPT = "Accept and continue"
STOPPED = "Stopped."
STILL_HERE = "Your earlier pictures are still here."
WITHDRAWING = "This closes the page for you, ends what is being drawn, and clears your prompt and pictures from it."

WITHOUT_STORAGE = (
    '<p id="no-storage" class="note" hidden>Your browser does not let this frame remember anything, so each reload '
    'asks for the licence again: <a target="_blank" rel="noopener">open the page in a tab of its own</a>.</p>'
)
_START = (Stage.STARTING, Stage.IMPORTING, Stage.LOADING, Stage.CHECKING, Stage.WARMING_UP)
_OWNERS_HINT = "<br>Is this your Space? Its log and the doctor say why."

SAFETY_SCOPE = (
    "Every picture is judged by the model's safety checker before anyone sees it. It compares the picture with a fixed "
    "list of mostly sexual concepts; it does not look for violence, hate or false claims, it misses some pictures and "
    "withholds some harmless ones. Previews are mosaics too coarse to show what it would withhold. The picture book, "
    "which stands in where no GPU is, has a checker of its own: it knows one drawn sign, a skull on a yellow triangle."
)


def masthead() -> str:
    return f"<h1>Stable Diffusion <span>v1-4</span></h1><p>{DESCRIPTION}</p>"


def duration(seconds: float) -> str:
    """Seconds for people: 'under a second', '8 s', '3 min 20 s'."""
    if seconds < 1:
        return "under a second"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def setting_duration(seconds: int) -> str:
    """A time that was set, in the largest unit that it is a whole number of: '1 hour', '90 minutes', '2 days'."""
    units = {"day": 86_400, "hour": 3600, "minute": 60, "second": 1}
    unit = next(name for name, length_s in units.items() if seconds % length_s == 0)
    count = seconds // units[unit]
    return f"{count} {unit}{'s' * (count != 1)}"


def time_left(seconds: float) -> str:
    """How long it still takes, no finer than it is known."""
    about = "about " * (seconds >= 1)
    return f"{about}{duration(5 * round(seconds / 5) if seconds >= 10 else seconds)} left"


def deleted(ttl_s: int) -> str:
    """Where the last run was, once it is gone."""
    return note(
        f"Your last pictures are no longer here: the server deletes pictures {setting_duration(ttl_s)} after they were "
        "made, and when it restarts."
    )


def note(text: str, kind: str = "info", field: str = "", more: str = "") -> str:
    """A sentence in the status line. `kind` is info, error or done; errors interrupt a screen reader.

    The page's script speaks the others, puts the focus into `field`, and takes the sentence away once that is changed.
    """
    attributes = ' role="alert"' * (kind == "error") + (f' data-field="{escape(field)}"' if field else "")
    return f'<p class="note {kind}"{attributes}>{escape(text)}{more}</p>'


def refused(error: SpaceError) -> str:
    """The status line of a request that did not become a run."""
    if isinstance(error, Cancelled):
        return note(STOPPED, "done")
    return note(refusal(error), "error", error.field if isinstance(error, InvalidRequest) else "")


def refusal(error: SpaceError) -> str:
    """What the visitor reads of an error: a field of the request goes by its label on the page."""
    sentence = str(error)
    name = error.field if isinstance(error, InvalidRequest) else ""
    if name in REQUEST_FIELDS and sentence.startswith(f"{name} "):
        return REQUEST_FIELDS[name].label + sentence.removeprefix(name)
    return sentence


def loading(stage: Stage, detail: str = "") -> str:
    """Which part of the start is under way, of how many."""
    at = f" ({_START.index(stage) + 1} of {len(_START)})" if stage in _START else ""
    return f"Getting ready{at}: {stage}{f' ({detail})' if detail else ''}…"


def banner(status: BackendStatus) -> str:
    """Which model draws, or how far its loading is."""
    if status.stage is Stage.FAILED:
        return f'<div class="banner error" role="alert">{escape(status.reason)} {_OWNERS_HINT}</div>'
    if status.stage is Stage.STOPPED:
        return '<div class="banner error" role="alert">The Space is restarting; please reload in a minute.</div>'
    if status.info is None or not status.is_ready:
        return (
            '<div class="banner loading" role="status"><span class="spinner" aria-hidden="true"></span>'
            f"{escape(loading(status.stage, status.detail))} You can read the licence and write your prompt meanwhile."
            "</div>"
        )
    size = status.info.defaults
    return (
        f'<div class="banner" role="status" data-side="{max(size.width, size.height)}">{_who_draws(status.info)}</div>'
    )


def _who_draws(info: ModelInfo) -> str:
    title = escape(info.title)
    if not info.is_picture_book:
        facts = f"{_made_on(info)}, {info.defaults.width} × {info.defaults.height} pixels"
        return f"<details><summary><strong>{title}</strong> draws here</summary>{escape(facts)}</details>"
    link = f'<a href="{V1_4_URL}" target="_blank" rel="noopener">Stable Diffusion v1-4</a>'
    why, way = "No graphics card here: a tiny stand-in model draws.", f"{link} itself draws where this Space has one."
    if info.fallback_reason:  # the GPU is there; the reason itself is nothing for the public
        why, way = escape(info.fallback_reason), f"The Space's log says why {link} does not draw."
    what = f"The stand-in, the {title[0].lower()}{title[1:]}, draws simple cartoons like the examples."
    return f"<details><summary>{why}</summary>{what} {way}</details>"


def _made_on(info: ModelInfo) -> str:
    return f"{info.device}, {info.dtype}, {info.runtime}, {info.memory_profile}{', turbo' * info.turbo}"


def gate(card: ModelCard) -> str:
    """The card's words about the licence: a heading, paragraphs, and a list of points that begin with their numbers."""
    html = f"<h2>{escape(card.gate_heading)}</h2>"
    for is_list, lines in groupby(card.gate_prompt.splitlines(), lambda line: bool(re.match(r"\d+\. ", line))):
        words = [escape(line.strip()) for line in lines if line.strip()]
        if is_list:
            points = "".join(f"<li>{point.partition('. ')[2]}</li>" for point in words)
            html += f"<ol>{points}</ol>"
        else:
            html += "".join(f"<p>{line}</p>" for line in words)
    link = f'<a href="{LICENCE_URL}" target="_blank" rel="noopener">{LICENCE_URL}</a>'
    return html.replace(LICENCE_URL, link)


def restrictions() -> str:
    """A short form of the licence's Attachment A, folded, with a link to the binding text."""
    points = "".join(f"<li>{escape(text)}</li>" for text in USE_RESTRICTIONS)
    return (
        f'<details><summary>The licence’s eleven use restrictions, in short</summary><ol type="a">{points}</ol>'
        f'<p>The words that bind are those of <a href="{LICENCE_URL}" target="_blank" rel="noopener">the licence, '
        "Attachment A</a>.</p></details>"
    )


def recorded_note(recorded: Sequence[RecordedExample]) -> str:
    """When, by which model and on which device the pictures beside the examples were made."""
    made = sorted({(example.recorded_on, example.model, example.device) for example in recorded})
    words = "; ".join(f"on {day} by {escape(model)} on {escape(device)}" for day, model, device in made)
    return f'<p class="recorded-note">These pictures were made {words}. Yours will look different.</p>' if made else ""


def progress_html(run: Run) -> str:
    """The place in the queue, or step n of m with the time left, and a tile for each picture of the run."""
    progress, num_pictures = run.progress, len(run.pictures)
    previews = progress.previews if progress else ()
    request = run.admitted.request
    tiles = "".join(
        tile(request, f"Picture {k + 1}, seed {request.seeds[k]}", picture, previews[k] if k < len(previews) else None)
        for k, picture in enumerate(run.pictures)
    )
    done = progress.fraction_done if progress else 0.0
    return (
        f'<p class="note" id="progress-text" data-done="{done:.3f}">{escape(_progress_text(run, progress))}</p>'
        f'<progress value="{done:.3f}" max="1" aria-label="Progress of your pictures"></progress>'
        f'<div class="tiles count-{num_pictures}">{tiles}</div>'
    )


def _progress_text(run: Run, progress: Progress | None) -> str:
    if progress is None:
        return "Joining the line…"
    parts = []
    if progress.pictures_done:
        parts.append(f"{progress.pictures_done} of {len(run.pictures)} ready")
    if not progress.queue_position:
        parts.append(f"Step {progress.step_index} of {progress.num_timesteps}")
    elif progress.fraction_done:
        parts.append("taking turns with other visitors")
    else:
        parts.append(f"You are number {progress.queue_position} in line")
    if progress.seconds_left is not None:
        parts.append(time_left(progress.seconds_left))
    return " · ".join(parts) + (f". {progress.note}" if progress.note else "")


def tile(request: GenerationRequest, label: str, picture: SavedPicture | None, preview: Preview | None) -> str:
    """A picture of the request: finished, as a coarse preview, or still to come."""
    ratio = f"aspect-ratio:{request.width}/{request.height}"
    if picture is not None:
        url = f"gradio_api/file={escape(str(picture.path))}"
        return f'<img class="tile" style="{ratio}" src="{url}" alt="{escape(label)}: {picture.outcome}">'
    if preview is not None:
        uri = preview_uri(preview)
        return f'<img class="tile mosaic" style="{ratio}" src="{uri}" alt="{escape(label)}: coarse preview">'
    return f'<div class="tile empty" style="{ratio}" role="img" aria-label="{escape(label)}: waiting"></div>'


def run_summary(run: Run) -> str:
    """One sentence about a finished run: how many pictures it made, withheld and failed to draw."""
    outcomes = [picture.outcome for picture in run.finished]
    kept = f" {len(outcomes)} of {len(run.pictures)} pictures were finished before and are kept." if outcomes else ""
    end = run.outcome
    if isinstance(end, Cancelled):
        return note(f"{STOPPED}{kept}", "done")
    if isinstance(end, SpaceError):
        return note(f"{refusal(end)}{kept}", "error")
    assert end is not None, "the run is over"
    parts, more = [], ""
    shown = outcomes.count(Outcome.OK)
    if shown:
        parts.append(f"{shown} picture{'s' if shown > 1 else ''} in {duration(end.elapsed_s['total'])}.")
    if withheld := outcomes.count(Outcome.WITHHELD):
        parts.append(f"The safety checker held back {withheld} of {len(outcomes)}; it is sometimes wrong.")
        more += ' <a href="#screened">Why?</a>'
    if broken := outcomes.count(Outcome.BROKEN):
        parts.append(f"{broken} of {len(outcomes)} could not be calculated; that is not a judgement of the picture.")
    if withheld or broken:
        more += ' <button type="button" id="new-seeds">Try new seeds</button>'
    if end.truncated_prompt:
        parts.append(f"Your prompt is too long: the end, from “{_beginning(end.truncated_prompt)}” on, was not read.")
    return note(" ".join(parts), "done", more=more)


def _beginning(words: str) -> str:
    """The first words of what the tokenizer gives back, which puts spaces around commas."""
    return re.sub(r" +(?=[,.;:!?)])", "", " ".join(words.split()[:4])).strip(" ,.;:")


def recipe(run: Run, ttl_s: int) -> str:
    """How these pictures were made, for how long they are kept, and a link that fills the form with the same values.

    The page's script makes of `data-prompt` what is read aloud of each picture.
    """
    request, info = run.admitted.request, run.info
    seeds = request.seeds
    facts = {
        "Seeds": f"{seeds[0]} – {seeds[-1]}" if len(seeds) > 1 else str(seeds[0]),
        "Steps": str(request.num_inference_steps),
        "Guidance": f"{request.guidance_scale:g}",
        "Scheduler": request.scheduler,
        "Size": f"{request.width} × {request.height}",
        **origin(request),
        "Model": info.title,
        "Made on": _made_on(info),
    }
    rows = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts.items())
    link = escape(f"#{recipe_query(request)}")
    return (
        f"<p>Kept here for {setting_duration(ttl_s)}; download what you want to keep.</p>"
        f'<p><a class="again" href="{link}" data-prompt="{escape(request.prompt)}">Copy a link to these settings'
        "</a></p>"
        f'<details><summary>How they were made</summary><dl class="recipe">{rows}</dl></details>'
    )
