"""The HTML of a run: its progress, its pictures while they are drawn, what came of it, and how it was made."""

import re
from html import escape

from sd_space.errors import Cancelled, SpaceError
from sd_space.languages import Phrase, said, translate
from sd_space.request import GenerationRequest
from sd_space.schema import Outcome, Preview, Progress
from sd_space.serving.images import preview_uri
from sd_space.serving.recipe import recipe_query
from sd_space.serving.results import SavedPicture
from sd_space.serving.runs import Run
from sd_space.ui import views
from sd_space.ui.changing_views import origin

_OUTCOMES = {Outcome.OK: Phrase("ready"), Outcome.WITHHELD: Phrase("withheld"), Outcome.BROKEN: Phrase("failed")}
NOT_SHOWN = {
    "deleted": Phrase("Deleted on the server"),
    "cancelled": Phrase("Stopped"),
    "failed": Phrase("Not drawn"),
}


def progress_html(run: Run) -> str:
    """The place in the queue, or step n of m with the time left, and a tile for each picture of the run."""
    progress, num_pictures = run.progress, len(run.pictures)
    previews = progress.previews if progress else ()
    request = run.admitted.request
    tiles = "".join(
        tile(
            request,
            translate("Picture {number}, seed {seed}", number=k + 1, seed=request.seeds[k]),
            picture,
            previews[k] if k < len(previews) else None,
        )
        for k, picture in enumerate(run.pictures)
    )
    done = progress.fraction_done if progress else 0.0
    return (
        f'<p class="note" id="progress-text" data-done="{done:.3f}"{_spoken(progress)}>'
        f"{escape(_progress_text(run, progress))}</p>"
        f'<progress value="{done:.3f}" max="1" aria-label="{translate("Progress of your pictures")}"></progress>'
        f'<div class="tiles count-{num_pictures}">{tiles}</div>'
    )


def _spoken(progress: Progress | None) -> str:
    """What the page's scripts say of it: the place in line, and in the tab's title the time left."""
    place = progress.queue_position if progress and not progress.fraction_done else 0
    left = progress.seconds_left if progress else None
    return f' data-place="{place}" data-left="{escape(views.about(left)) if left is not None and left >= 1 else ""}"'


def _progress_text(run: Run, progress: Progress | None) -> str:
    if progress is None:
        return translate("Joining the line…")
    parts = []
    if done := progress.pictures_done:
        parts.append(translate("{done} of {count} ready", done=done, count=len(run.pictures)))
    if not progress.queue_position:
        step, steps = progress.step_index, progress.num_timesteps
        parts.append(translate("Step {step} of {steps}", step=step, steps=steps))
    elif progress.fraction_done:
        parts.append(translate("taking turns with other visitors"))
    else:
        parts.append(translate("You are number {place} in line", place=progress.queue_position))
    if progress.seconds_left is not None:
        parts.append(views.time_left(progress.seconds_left))
    return " · ".join(parts) + (f". {translate(progress.note)}" if progress.note else "")


def tile(request: GenerationRequest, label: str, picture: SavedPicture | None, preview: Preview | None) -> str:
    """A picture of the request: finished, as a coarse preview, or still to come."""
    ratio = f"aspect-ratio:{request.width}/{request.height}"
    if picture is not None:
        url = f"gradio_api/file={escape(str(picture.path))}"
        outcome = translate(_OUTCOMES[picture.outcome])
        return f'<img class="tile" style="{ratio}" src="{url}" alt="{escape(label)}: {outcome}">'
    if preview is not None:
        uri, coarse = preview_uri(preview), translate("coarse preview")
        return f'<img class="tile mosaic" style="{ratio}" src="{uri}" alt="{escape(label)}: {coarse}">'
    waiting = translate("waiting")
    return f'<div class="tile empty" style="{ratio}" role="img" aria-label="{escape(label)}: {waiting}"></div>'


def caption(label: str, outcome: str) -> str:
    """What stands below a tile: its label and, where there is no picture, why."""
    words = NOT_SHOWN.get(outcome, "")
    return f"{escape(said(label))}{f': {translate(words)}' if words else ''}"


def run_summary(run: Run) -> str:
    """One sentence about a finished run: how many pictures it made, withheld and failed to draw."""
    outcomes = [picture.outcome for picture in run.finished]
    kept = f" {_kept(len(outcomes), len(run.pictures))}" if outcomes else ""
    end = run.outcome
    if isinstance(end, Cancelled):
        return views.note(f"{translate(views.STOPPED)}{kept}", "done")
    if isinstance(end, SpaceError):
        return views.note(f"{views.refusal(end)}{kept}", "error")
    assert end is not None, "the run is over"
    parts, more = [], ""
    shown, count = outcomes.count(Outcome.OK), len(outcomes)
    if shown:
        parts.append(_drawn(shown, views.duration(end.elapsed_s["total"])))
    if withheld := outcomes.count(Outcome.WITHHELD):
        parts.append(held_back(withheld, count))
        more += why()
    if broken := outcomes.count(Outcome.BROKEN):
        words = Phrase("{broken} of {count} could not be calculated; that is not a judgement of the picture.")
        parts.append(translate(words, broken=broken, count=count))
    if withheld or broken:
        more += f' <button type="button" id="new-seeds">{translate("Try new seeds")}</button>'
    if end.truncated_prompt:
        start = _beginning(end.truncated_prompt)
        parts.append(translate("Your prompt is too long: the end, from “{start}” on, was not read.", start=start))
    return views.note(" ".join(parts), "done", more=more, count=shown)


def _kept(finished: int, count: int) -> str:
    return translate(
        "{finished} of {count} pictures were finished before and are kept.", finished=finished, count=count
    )


def _drawn(count: int, time: str) -> str:
    if count == 1:
        return translate("1 picture in {time}.", time=time)
    return translate("{count} pictures in {time}.", count=count, time=time)


def held_back(withheld: int, count: int) -> str:
    return translate(
        "The safety checker held back {withheld} of {count}; it is sometimes wrong.", withheld=withheld, count=count
    )


def why() -> str:
    return f' <a href="#screened">{translate("Why?")}</a>'


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
        translate("Seeds"): f"{seeds[0]} – {seeds[-1]}" if len(seeds) > 1 else str(seeds[0]),
        translate("Steps"): str(request.num_inference_steps),
        translate("Guidance"): f"{request.guidance_scale:g}",
        translate("Scheduler"): request.scheduler,
        translate("Size"): f"{request.width} × {request.height}",
        **origin(request),
        translate("Model"): views.model_title(info),
        translate("Made on"): views.made_on(info),
    }
    rows = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts.items())
    link = escape(f"#{recipe_query(request)}")
    kept = translate("Kept here for {time}; download what you want to keep.", time=views.setting_duration(ttl_s))
    return (
        f"<p>{kept}</p>"
        f'<p><a class="again" href="{link}" data-prompt="{escape(request.prompt)}">'
        f"{translate('Copy a link to these settings')}</a></p>"
        f'<details><summary>{translate("How they were made")}</summary><dl class="recipe">{rows}</dl></details>'
    )
