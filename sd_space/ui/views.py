"""The page's HTML: banner, progress, summary and recipe of a run, use restrictions. Pure functions, without gradio."""

from collections.abc import Sequence
from html import escape

from sd_space.card import LICENCE_URL
from sd_space.errors import Cancelled, InvalidRequest, SpaceError
from sd_space.recorded import RecordedExample
from sd_space.schema import REQUEST_FIELDS, BackendStatus, Outcome, Preview, Stage
from sd_space.serving.gate import USE_RESTRICTIONS
from sd_space.serving.images import preview_uri
from sd_space.serving.recipe import recipe_query
from sd_space.serving.results import SavedPicture
from sd_space.serving.runs import Run
from sd_space.settings import V1_4

TITLE = "Stable Diffusion v1-4"
DESCRIPTION = "Describe a picture; every answer is screened before it is shown."
V1_4_URL = f"https://huggingface.co/{V1_4}"

SAFETY_SCOPE = (
    "Every picture is judged by the model's safety checker before anyone sees it. It compares the picture with a fixed "
    "list of mostly sexual concepts; it does not look for violence, hate or false claims, it misses some pictures and "
    "withholds some harmless ones. Previews are mosaics too coarse to show what it would withhold. The picture book, "
    "which stands in where no GPU is, has a checker of its own: it knows one drawn sign, a skull on a yellow triangle."
)


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


def deleted(ttl_s: int) -> str:
    """Where the last run was, once it is gone."""
    return note(
        f"Your last pictures are no longer here: the server deletes pictures {setting_duration(ttl_s)} after they were "
        "made, and when it restarts."
    )


def note(text: str, kind: str = "info") -> str:
    """A sentence in the status line. `kind` is info, error or done; errors interrupt a screen reader."""
    role = "alert" if kind == "error" else "status"
    return f'<p class="note {kind}" role="{role}">{escape(text)}</p>'


def refusal(error: SpaceError) -> str:
    """What the visitor reads of an error: a field of the request goes by its label on the page."""
    sentence = str(error)
    if isinstance(error, InvalidRequest) and sentence.startswith(f"{error.field} "):
        return REQUEST_FIELDS[error.field].label + sentence.removeprefix(error.field)
    return sentence


def banner(status: BackendStatus) -> str:
    """Which model draws, or how far its loading is."""
    if status.stage is Stage.FAILED:
        return f'<div class="banner error" role="alert">{escape(status.reason)}</div>'
    if status.stage is Stage.STOPPED:
        return '<div class="banner error" role="alert">The Space is restarting; please reload in a minute.</div>'
    if status.info is None or not status.is_ready:
        detail = f" ({status.detail})" if status.detail else ""
        return (
            '<div class="banner loading" role="status"><span class="spinner" aria-hidden="true"></span>'
            f"Getting ready: {escape(status.stage)}{escape(detail)}… You can read the licence and write your prompt "
            "meanwhile.</div>"
        )
    info = status.info
    if info.is_picture_book:
        link = f'<a href="{V1_4_URL}" target="_blank" rel="noopener">Stable Diffusion v1-4</a>'
        way = f"{link} itself draws where this Space runs on a CUDA GPU."
        if info.fallback_reason:  # the GPU is there; the reason itself is nothing for the public
            way = f"The Space's log says why {link} does not draw."
        why = f" {escape(info.fallback_reason)}" if info.fallback_reason else ""
        return (
            f'<div class="banner" role="status"><strong>{escape(info.title)}, a tiny stand-in model, is drawing.'
            "</strong>"
            f"{why} It knows a small drawn world: the examples and their mixtures. {way}</div>"
        )
    return (
        f'<div class="banner" role="status"><strong>{escape(info.title)}</strong> on {escape(info.device)}, '
        f"{escape(info.dtype)}, {info.defaults.width} × {info.defaults.height} pixels, "
        f"{escape(info.runtime)}, {escape(info.memory_profile)}{', turbo' * info.turbo}.</div>"
    )


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
    return f'<p class="recorded-note">The pictures were recorded {words}; yours will differ.</p>' if made else ""


def progress_html(run: Run) -> str:
    """The place in the queue, or step n of m with the seconds left, and a tile for each picture of the run."""
    progress = run.progress
    num_pictures = len(run.pictures)
    if progress is None:
        text, done, of = "Asking for a place in the queue…", 0, 1
    elif progress.queue_position:
        text, done, of = f"Place {progress.queue_position} in the queue", 0, 1
    else:
        text, done, of = (
            f"Step {progress.step_index} of {progress.num_timesteps}",
            progress.step_index,
            progress.num_timesteps,
        )
        if progress.pictures_done:
            text = f"{progress.pictures_done} of {num_pictures} pictures done · {text}"
    if progress is not None and progress.seconds_left is not None:
        about = "about " * (progress.seconds_left >= 1)
        text += f" · {about}{duration(progress.seconds_left)} left"
    if progress is not None and progress.note:
        text += f". {progress.note}"
    previews = progress.previews if progress else ()
    tiles = "".join(
        _tile(run, k, picture, previews[k] if k < len(previews) else None) for k, picture in enumerate(run.pictures)
    )
    return (
        f'<p class="note" id="progress-text">{escape(text)}</p>'
        f'<progress value="{done}" max="{of}" aria-label="Progress of your pictures"></progress>'
        f'<div class="tiles count-{num_pictures}">{tiles}</div>'
    )


def _tile(run: Run, index: int, picture: SavedPicture | None, preview: Preview | None) -> str:
    request = run.admitted.request
    ratio = f"aspect-ratio:{request.width}/{request.height}"
    label = f"Picture {index + 1}, seed {request.seeds[index]}"
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
        return note(f"Cancelled; the device is free for the next visitor.{kept}", "done")
    if isinstance(end, SpaceError):
        return note(f"{refusal(end)}{kept}", "error")
    assert end is not None, "the run is over"
    parts = []
    shown = outcomes.count(Outcome.OK)
    if shown:
        parts.append(f"{shown} picture{'s' if shown > 1 else ''} in {duration(end.elapsed_s['total'])}.")
    if withheld := outcomes.count(Outcome.WITHHELD):
        parts.append(f"{withheld} of {len(outcomes)} withheld by the safety checker; try another prompt or seed.")
    if broken := outcomes.count(Outcome.BROKEN):
        parts.append(f"{broken} of {len(outcomes)} failed numerically, which says nothing about it; try another seed.")
    if end.truncated_prompt:
        parts.append(f"The model reads 77 tokens; it did not see: “{end.truncated_prompt}”.")
    return note(" ".join(parts), "done")


def recipe(run: Run) -> str:
    """How these pictures were made, and a link that fills the form with the same values."""
    request, info = run.admitted.request, run.info
    seeds = request.seeds
    facts = {
        "Seeds": f"{seeds[0]} – {seeds[-1]}" if len(seeds) > 1 else str(seeds[0]),
        "Steps": str(request.num_inference_steps),
        "Guidance": f"{request.guidance_scale:g}",
        "Scheduler": request.scheduler,
        "Size": f"{request.width} × {request.height}",
        "Model": info.title,
        "Made on": f"{info.device}, {info.dtype}, {info.runtime}, {info.memory_profile}" + ", turbo" * info.turbo,
    }
    rows = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts.items())
    link = f"?{recipe_query(request)}"
    return f'<dl class="recipe">{rows}</dl><p><a class="again" href="{escape(link)}">Link to this recipe</a></p>'
