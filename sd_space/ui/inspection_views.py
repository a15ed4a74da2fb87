"""The HTML of how a picture came about: its steps with a slider, or what the autoencoder makes of it."""

import math
from collections.abc import Sequence
from html import escape

from sd_space.schema import Inspection, Outcome
from sd_space.serving.difference import ENLARGED, PEAK, Difference
from sd_space.serving.grid import Cell
from sd_space.serving.results import SavedPicture
from sd_space.ui import changing_views, views

STEPS_INTRODUCTION = (
    "<p>One prompt and one seed, drawn twice: with guidance, and without it. Once a picture has passed the safety "
    "checker, you see what the model expected of it on the way. Each of these steps is checked as well.</p>"
)
STEPS_LESSON = (
    "<p><strong>What to look at:</strong> Start at the first step. When is it decided where things are, when what they "
    "are, and when do details come? Then compare: what does the picture without guidance have of the prompt?</p>"
    "<p><strong>Why:</strong> A picture begins as noise. At each step the model says how the finished picture might "
    "look, and only a little of the noise is taken away before it is asked again. As long as many pictures are "
    "possible, its answer is a blurred mean of them. Guidance asks twice, with the prompt and without it, and "
    "exaggerates what differs: the picture follows the prompt more, and varies less.</p>"
)
_BOTH = (
    "<p>Before: the picture as it was drawn. After: the same picture, encoded into latents and decoded again. Nothing "
    "else was done to it.</p>"
)


def inspected(cells: Sequence[Cell]) -> str:
    """What the inspection of these pictures shows, below their prompt."""
    admitted = cells[0].run.admitted
    is_steps = admitted.inspection is Inspection.STEPS
    return f"<h3>{escape(admitted.request.prompt)}</h3>{_player(cells) if is_steps else _autoencoded(cells[0])}"


def _player(cells: Sequence[Cell]) -> str:
    """The pictures at one step, side by side, with a slider and a button that go through all of them."""
    steps = sorted({step for cell in cells for step in _by_step(cell)})
    labels = [f"Step {step} of {steps[-1]}" for step in steps] + ["The finished picture"]
    last = len(steps)
    figures = "".join(_frames(cell, steps, labels) for cell in cells)
    controls = (
        '<div class="controls"><button type="button" data-play="Play" data-pause="Pause">Play</button>'
        f'<input type="range" min="0" max="{last}" value="{last}" aria-label="Step" aria-valuetext="{labels[-1]}">'
        f"<span>{labels[-1]}</span></div>"
    )
    return (
        f'<div id="steps-player" role="group" aria-label="The steps of the pictures"><div class="strip">{figures}</div>'
        f"{controls if steps else ''}</div>{_not_shown(cells)}"
    )


def _frames(cell: Cell, steps: Sequence[int], labels: Sequence[str]) -> str:
    request, by_step = cell.run.admitted.request, _by_step(cell)
    pictures = [*(by_step.get(step) for step in steps), cell.picture]
    frames = "".join(
        f'<span data-frame="{k}" data-label="{label}"{"" if k == len(steps) else " hidden"}>'
        f"{views.tile(request, f'{cell.label}, {label[0].lower()}{label[1:]}', picture, None)}</span>"
        for k, (label, picture) in enumerate(zip(labels, pictures, strict=True))
    )
    return f"<figure>{frames}<figcaption>{escape(cell.label)}</figcaption></figure>"


def _not_shown(cells: Sequence[Cell]) -> str:
    """What is not seen of the steps, and why."""
    outcomes = [picture.outcome for cell in cells for picture in cell.run.inspected.values()]
    sentences = []
    if any(cell.outcome == Outcome.WITHHELD for cell in cells):
        sentences.append("Of a picture that was held back no step is decoded.")
    if withheld := outcomes.count(Outcome.WITHHELD):
        sentences.append(
            f"The safety checker held back {withheld} of {len(outcomes)} steps; a sign stands in place of each."
        )
    return f"<p>{' '.join(sentences)}</p>" if sentences else ""


def _autoencoded(cell: Cell) -> str:
    """A picture and what became of it in one slider, their difference, and how large that is."""
    again = next(iter(cell.run.inspected.values()), None)
    tile = f'<div class="strip">{views.tile(cell.run.admitted.request, cell.label, cell.picture, None)}</div>'
    if again is None or cell.picture is None:
        return tile
    if cell.run.difference is None:
        return f"{tile}<p>What the autoencoder made of it was held back, so that there is nothing to compare.</p>"
    slider = changing_views.comparison("autoencoded", _address(str(cell.picture.path)), _address(str(again.path)))
    return f"{slider}{_BOTH}{_difference(cell.run.difference)}"


def _difference(difference: Difference) -> str:
    alt = f"The difference of the two, {ENLARGED} times as strong"
    rms = PEAK / 10 ** (difference.psnr_db / 20)
    size = "The two are equal to the last bit."
    if math.isfinite(difference.psnr_db):
        size = (
            f"PSNR {difference.psnr_db:.1f} dB: on average a value of 0 to {PEAK} is off by {rms:.1f} (the square "
            "root of the mean square). More decibels are less difference."
        )
    return (
        f'<figure class="difference"><img src="{_address(str(difference.path))}" alt="{alt}"><figcaption>{alt}: where '
        f"it is black, nothing was lost</figcaption></figure><p>{size}</p>"
    )


def _by_step(cell: Cell) -> dict[int, SavedPicture]:
    return {p.of_step: p for p in cell.run.inspected.values() if p.of_step and p.path.is_file()}


def _address(path: str) -> str:
    return f"gradio_api/file={escape(path)}"
