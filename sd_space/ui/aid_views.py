"""The HTML of what helps to ask: lines below the prompt, earlier pictures, settings out of a picture."""

import json
from collections.abc import Sequence
from html import escape

from sd_space.languages import Phrase, translate
from sd_space.schema import BackendStatus, Outcome
from sd_space.serving.prompt_reader import Reading
from sd_space.serving.recipe import recipe_query
from sd_space.serving.runs import Run
from sd_space.ui.views import duration

SHOWN_FROM = 0.8  # of the tokens that are read: below it no count is shown
_QUOTED_WORDS = 4
FOREIGN = Phrase("This model knows English best; words of other languages mean little to it.")
DRAW_AGAIN = Phrase(
    "These pictures are no longer on the server. Their settings are in the form: Generate draws them again."
)
FILLED = Phrase("The settings are in the form: Generate draws with them.")


def reading(reading: Reading | None, is_latin: bool) -> str:
    """How much of the prompt is read, where that is nearly all that can be; and a word about other languages."""
    lines = []
    if reading is not None and reading.ignored:
        words = reading.ignored.split()
        start = " ".join(words[:_QUOTED_WORDS]) + " …" * (len(words) > _QUOTED_WORDS)
        lines.append(_ignored(len(words), start, reading))
    elif reading is not None and reading.num_tokens >= SHOWN_FROM * reading.max_tokens:
        count, most = reading.num_tokens, reading.max_tokens
        lines.append(translate("{count} of the {most} pieces of words that the model reads.", count=count, most=most))
    if not is_latin:
        lines.append(translate(FOREIGN))
    kind = " warning" * (reading is not None and bool(reading.ignored))
    return f'<p class="aid{kind}">{escape(" ".join(lines))}</p>' if lines else ""


def _ignored(count: int, start: str, reading: Reading) -> str:
    one = Phrase(
        "Too long: the model reads {most} pieces of words, this has {tokens}. It will ignore the last word, “{start}”."
    )
    several = Phrase(
        "Too long: the model reads {most} pieces of words, this has {tokens}. It will ignore the last {count} words, "
        "from “{start}” on."
    )
    values = {"most": reading.max_tokens, "tokens": reading.num_tokens, "count": count, "start": start}
    return translate(one if count == 1 else several, **values)


def outlook(status: BackendStatus) -> str:
    """How many wait, and how long pictures would take now; nothing until the model is ready."""
    if status.info is None or not status.is_ready:
        return ""
    waiting = status.waiting
    several = translate("{count} requests are waiting", count=waiting)
    who = {0: translate("Nobody is waiting"), 1: translate("1 request is waiting")}.get(waiting, several)
    when = ""
    if status.outlook_s is not None:
        when = f"; {_takes(status.info.defaults.num_images_per_prompt, duration(_rounded(status.outlook_s)))}"
    return f'<p class="aid">{who}{when}.</p>'


def _takes(count: int, time: str) -> str:
    if count == 1:
        return translate("1 picture with the usual settings takes about {time}", time=time)
    return translate("{count} pictures with the usual settings take about {time}", count=count, time=time)


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
        f'<h2 id="history-heading">{translate("Earlier pictures")}</h2><button type="button" id="forget">'
        f"{translate('Forget them')}</button></div><ul></ul>"
        f"<p>{translate('Small copies, kept in this browser only.')}</p></section>"
    )


def chooser() -> str:
    words = translate(
        "Choose or drop a PNG of this page or of another Stable Diffusion tool. It stays on your computer; only its "
        "settings are read."
    )
    return (
        f'<label id="chooser">{translate("Settings from a picture")} <input type="file" accept="image/png,.png">'
        f"</label><p>{words}</p>"
    )


def offer() -> str:
    """Asks what a pasted text is, once the page's scripts have seen that it could be settings."""
    return (
        '<div id="offer" role="group" aria-labelledby="offer-text" hidden><p id="offer-text">'
        f"{translate('The pasted text looks like the settings of a picture.')}</p>"
        f'<button type="button" id="use-settings">{translate("Use the settings")}</button>'
        f'<button type="button" id="keep-words">{translate("Paste it as words")}</button></div>'
    )


def filled(remarks: Sequence[str]) -> str:
    """What is said of settings that were taken over."""
    return " ".join(translate(sentence) for sentence in (FILLED, *remarks))
