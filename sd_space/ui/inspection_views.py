"""The HTML of how a picture came about: its steps with a slider, or what the autoencoder makes of it."""

import math
from collections.abc import Sequence
from html import escape

from sd_space.errors import SpaceError
from sd_space.languages import Phrase, said, translate
from sd_space.schema import Inspection, Outcome
from sd_space.serving.difference import ENLARGED, PEAK, Difference
from sd_space.serving.grid import Cell
from sd_space.serving.results import SavedPicture
from sd_space.ui import changing_views, limitation_views, run_views

_LOOK_AT = Phrase(
    "Start at the first step. When is it decided where things are, when what they are, and when do details come? Then "
    "compare: what does the picture without guidance have of the prompt?"
)
_WHY = Phrase(
    "A picture begins as noise. At each step the model says how the finished picture might look, and only a little of "
    "the noise is taken away before it is asked again. As long as many pictures are possible, its answer is a blurred "
    "mean of them. Guidance asks twice, with the prompt and without it, and exaggerates what differs: the picture "
    "follows the prompt more, and varies less."
)


def introduction() -> str:
    words = translate(
        "One prompt and one seed, drawn twice: with guidance, and without it. Once a picture has passed the safety "
        "checker, you see what the model expected of it on the way. Each of these steps is checked as well."
    )
    return f"<p>{words}</p>"


def steps_lesson() -> str:
    return limitation_views.lesson(_LOOK_AT, _WHY)


def inspected(cells: Sequence[Cell]) -> str:
    """What the inspection of these pictures shows, below their prompt."""
    admitted = cells[0].run.admitted
    is_steps = admitted.inspection is Inspection.STEPS
    return f"<h3>{escape(admitted.request.prompt)}</h3>{_player(cells) if is_steps else _autoencoded(cells[0])}"


def _player(cells: Sequence[Cell]) -> str:
    """The pictures at one step, side by side, with a slider and a button that go through all of them."""
    steps = sorted({step for cell in cells for step in _by_step(cell)})
    made = max((cell.run.progress.num_timesteps for cell in cells if cell.run.progress), default=0)
    labels = [translate("Step {step} of {steps}", step=step, steps=max(made, steps[-1])) for step in steps]
    labels.append(translate("The finished picture"))
    last = len(steps)
    figures = "".join(_frames(cell, steps, labels) for cell in cells)
    play, pause, slider = translate("Play"), translate("Pause"), translate("Step")
    controls = (
        f'<div class="controls"><button type="button" data-play="{play}" data-pause="{pause}">{play}</button>'
        f'<input type="range" min="0" max="{last}" value="{last}" aria-label="{slider}" aria-valuetext="{labels[-1]}">'
        f"<span>{labels[-1]}</span></div>"
    )
    group = translate("The steps of the pictures")
    return (
        f'<div id="steps-player" role="group" aria-label="{group}"><div class="strip">{figures}</div>'
        f"{controls if steps else ''}</div>{_not_shown(cells)}"
    )


def _frames(cell: Cell, steps: Sequence[int], labels: Sequence[str]) -> str:
    request, by_step = cell.run.admitted.request, _by_step(cell)
    pictures = [*(by_step.get(step) for step in steps), cell.picture]
    frames = "".join(
        f'<span data-frame="{k}" data-label="{label}"{"" if k == len(steps) else " hidden"}>'
        f"{run_views.tile(request, f'{said(cell.label)}, {label}', picture, None)}</span>"
        for k, (label, picture) in enumerate(zip(labels, pictures, strict=True))
    )
    return f"<figure>{frames}<figcaption>{run_views.caption(cell.label, cell.outcome)}</figcaption></figure>"


def _not_shown(cells: Sequence[Cell]) -> str:
    """What is not seen of the steps, and why."""
    outcomes = [picture.outcome for cell in cells for picture in cell.run.inspected.values()]
    sentences = []
    if any(cell.outcome == Outcome.WITHHELD for cell in cells):
        sentences.append(translate("Of a picture that was held back no step is decoded."))
    if withheld := outcomes.count(Outcome.WITHHELD):
        words = Phrase("The safety checker held back {withheld} of {count} steps; a sign stands in place of each.")
        sentences.append(translate(words, withheld=withheld, count=len(outcomes)))
    if any(cell.is_shown and isinstance(cell.run.outcome, SpaceError) for cell in cells):
        sentences.append(translate("It ended before everything was decoded."))
    return f"<p>{' '.join(sentences)}</p>" if sentences else ""


def _autoencoded(cell: Cell) -> str:
    """A picture and what became of it in one slider, their difference, and how large that is."""
    again = next(iter(cell.run.inspected.values()), None)
    tile = f'<div class="strip">{run_views.tile(cell.run.admitted.request, said(cell.label), cell.picture, None)}</div>'
    if again is None or cell.picture is None:
        return f"{tile}{_not_shown([cell])}"
    if again.outcome is not Outcome.OK:
        held_back = translate("What the autoencoder made of it was held back, so that there is nothing to compare.")
        return f"{tile}<p>{held_back}</p>" if again.outcome is Outcome.WITHHELD else tile
    slider = changing_views.comparison("autoencoded", _address(str(cell.picture.path)), _address(str(again.path)))
    words = translate(
        "Before: the picture as it was drawn. After: the same picture, encoded into latents and decoded again. Nothing "
        "else was done to it."
    )
    difference = _difference(cell.run.difference) if cell.run.difference else _not_shown([cell])
    return f"{slider}<p>{words}</p>{difference}"


def _difference(difference: Difference) -> str:
    alt = translate("The difference of the two, {times} times as strong", times=ENLARGED)
    black = translate("where it is black, nothing was lost")
    size = translate("The two are equal to the last bit.")
    if math.isfinite(difference.psnr_db):
        words = Phrase(
            "PSNR {psnr} dB: on average a value of 0 to {peak} is off by {rms} (the square root of the mean square). "
            "More decibels are less difference."
        )
        rms = PEAK / 10 ** (difference.psnr_db / 20)
        size = translate(words, psnr=f"{difference.psnr_db:.1f}", peak=PEAK, rms=f"{rms:.1f}")
    return (
        f'<figure class="difference"><img src="{_address(str(difference.path))}" alt="{alt}"><figcaption>{alt}: '
        f"{black}</figcaption></figure><p>{size}</p>"
    )


def _by_step(cell: Cell) -> dict[int, SavedPicture]:
    return {p.of_step: p for p in cell.run.inspected.values() if p.of_step and p.path.is_file()}


def _address(path: str) -> str:
    return f"gradio_api/file={escape(path)}"
