"""The HTML of what helps to ask: lines below the prompt, earlier pictures, settings out of a picture."""

import json
from collections.abc import Sequence
from html import escape

from sd_space.schema import BackendStatus, Outcome
from sd_space.serving.prompt_reader import Reading
from sd_space.serving.recipe import recipe_query
from sd_space.serving.runs import Run
from sd_space.ui.views import duration

SHOWN_FROM = 0.8  # of the tokens that are read: below it no count is shown
_QUOTED_WORDS = 4
FOREIGN = "This model knows English best; words of other languages mean little to it."
DRAW_AGAIN = "These pictures are no longer on the server. Their settings are in the form: Generate draws them again."
FILLED = "The settings are in the form: Generate draws with them."


def reading(reading: Reading | None, is_latin: bool) -> str:
    """How much of the prompt is read, where that is nearly all that can be; and a word about other languages."""
    lines = []
    if reading is not None and reading.ignored:
        words = reading.ignored.split()
        start = " ".join(words[:_QUOTED_WORDS]) + " …" * (len(words) > _QUOTED_WORDS)
        count = f"{len(words)} word{'s' * (len(words) > 1)}"
        lines.append(
            f"Too long: the model reads {reading.max_tokens} pieces of words, this has {reading.num_tokens}. It will "
            f"ignore the last {count}, from “{start}” on."
        )
    elif reading is not None and reading.num_tokens >= SHOWN_FROM * reading.max_tokens:
        lines.append(f"{reading.num_tokens} of the {reading.max_tokens} pieces of words that the model reads.")
    if not is_latin:
        lines.append(FOREIGN)
    kind = " warning" * (reading is not None and bool(reading.ignored))
    return f'<p class="aid{kind}">{escape(" ".join(lines))}</p>' if lines else ""


def outlook(status: BackendStatus) -> str:
    """How many wait, and how long pictures would take now; nothing until the model is ready."""
    if status.info is None or not status.is_ready:
        return ""
    waiting = status.waiting
    who = {0: "Nobody is waiting", 1: "1 request is waiting"}.get(waiting, f"{waiting} requests are waiting")
    when = ""
    if status.outlook_s is not None:
        number = status.info.defaults.num_images_per_prompt
        pictures = f"{number} picture{'s' * (number > 1)} with the usual settings take{'s' * (number == 1)}"
        when = f"; {pictures} about {duration(_rounded(status.outlook_s))}"
    return f'<p class="aid">{who}{when}.</p>'


def _rounded(seconds: float) -> float:
    """No finer than such a time can be known."""
    step_s = next(step_s for above_s, step_s in ((120, 30), (60, 10), (20, 5), (1, 1), (0, 1)) if seconds >= above_s)
    return max(1, round(seconds / step_s)) * step_s


def record(run: Run) -> str:
    """What the page's scripts need to keep a finished run: only pictures that may be seen."""
    paths = [str(picture.path) for picture in run.finished if picture.outcome is Outcome.OK]
    recipe, pictures = escape(recipe_query(run.admitted.request)), escape(json.dumps(paths))
    return f'<span data-run="{run.request_id}" data-recipe="{recipe}" data-pictures="{pictures}"></span>'


def history() -> str:
    """The place of the earlier pictures, which the page's scripts fill and show."""
    return (
        '<section id="history" aria-labelledby="history-heading" hidden><div class="heading">'
        '<h2 id="history-heading">Earlier pictures</h2><button type="button" id="forget">Forget them</button></div>'
        "<ul></ul><p>Small copies, kept in this browser only.</p></section>"
    )


def chooser() -> str:
    return (
        '<label id="chooser">Settings from a picture <input type="file" accept="image/png,.png"></label>'
        "<p>Choose or drop a PNG of this page or of another Stable Diffusion tool. It stays on your computer; only its "
        "settings are read.</p>"
    )


def offer() -> str:
    """Asks what a pasted text is, once the page's scripts have seen that it could be settings."""
    return (
        '<div id="offer" role="group" aria-labelledby="offer-text" hidden><p id="offer-text">The pasted text looks '
        'like the settings of a picture.</p><button type="button" id="use-settings">Use the settings</button>'
        '<button type="button" id="keep-words">Paste it as words</button></div>'
    )


def filled(remarks: Sequence[str]) -> str:
    """What is said of settings that were taken over."""
    return " ".join([FILLED, *remarks])
