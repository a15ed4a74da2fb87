"""The page's HTML: banner, status line, the gate and the times that are said. Pure functions, without gradio."""

import re
from collections.abc import Sequence
from html import escape
from itertools import groupby

from sd_space.card import LICENCE_URL, ModelCard
from sd_space.errors import Cancelled, InvalidRequest, SpaceError
from sd_space.languages import ENGLISH, Phrase, current_language, said, translate
from sd_space.recorded import RecordedExample
from sd_space.request import labelled
from sd_space.schema import BackendStatus, Stage
from sd_space.served_model import ModelInfo
from sd_space.serving.gate import USE_RESTRICTIONS
from sd_space.settings import V1_4

TITLE = "Stable Diffusion v1-4"
DESCRIPTION = Phrase("Type what you want to see. Every picture is checked before it is shown.")
V1_4_URL = f"https://huggingface.co/{V1_4}"

AGREE = Phrase("I have read the licence and accept it")
ACCEPT = Phrase("Accept and continue")
STOPPED = Phrase("Stopped.")
STILL_HERE = Phrase("Your earlier pictures are still here.")
WITHDRAWING = Phrase(
    "This closes the page for you, ends what is being drawn, and clears your prompt and pictures from it."
)

_START = {
    Stage.STARTING: Phrase("starting"),
    Stage.IMPORTING: Phrase("importing the libraries"),
    Stage.LOADING: Phrase("loading the model"),
    Stage.CHECKING: Phrase("testing the safety checker"),
    Stage.WARMING_UP: Phrase("measuring the speed of this machine"),
}
# The units in which a time is said, by their seconds, the largest first: one of them, and several.
_UNITS = (
    (86_400, Phrase("1 day"), Phrase("{count} days")),
    (3600, Phrase("1 hour"), Phrase("{count} hours")),
    (60, Phrase("1 minute"), Phrase("{count} minutes")),
    (1, Phrase("1 second"), Phrase("{count} seconds")),
)

SAFETY_SCOPE = Phrase(
    "Every picture is judged by the model's safety checker before anyone sees it. It compares the picture with a fixed "
    "list of mostly sexual concepts; it does not look for violence, hate or false claims, it misses some pictures and "
    "withholds some harmless ones. Previews are mosaics too coarse to show what it would withhold. The picture book, "
    "which stands in where no GPU is, has a checker of its own: it knows one drawn sign, a skull on a yellow triangle."
)


def masthead() -> str:
    return f"<h1>Stable Diffusion <span>v1-4</span></h1><p>{translate(DESCRIPTION)}</p>"


def without_storage() -> str:
    tab = f'<a target="_blank" rel="noopener">{translate("open the page in a tab of its own")}</a>'
    sentence = translate(
        "Your browser does not let this frame remember anything, so each reload asks for the licence again: {tab}.",
        tab=tab,
    )
    return f'<p id="no-storage" class="note" hidden>{sentence}</p>'


def duration(seconds: float) -> str:
    """Seconds for people: 'under a second', '8 s', '3 min 20 s'; no line ends before a unit."""
    if seconds < 1:
        return translate("under a second")
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}\u00a0min {rest:02d}\u00a0s" if minutes else f"{rest}\u00a0s"


def setting_duration(seconds: int) -> str:
    """A time that was set, in the largest unit that it is a whole number of: '1 hour', '90 minutes', '2 days'."""
    unit_s, one, several = next(unit for unit in _UNITS if seconds % unit[0] == 0)
    count = seconds // unit_s
    return translate(one) if count == 1 else translate(several, count=count)


def time_left(seconds: float) -> str:
    """How long it still takes, no finer than it is known."""
    if seconds < 1:
        return translate("under a second left")
    return translate("about {time} left", time=about(seconds))


def about(seconds: float) -> str:
    return duration(5 * round(seconds / 5) if seconds >= 10 else seconds)


def deleted(ttl_s: int) -> str:
    """Where the last run was, once it is gone."""
    return note(
        translate(
            "Your last pictures are no longer here: the server deletes pictures {time} after they were made, and when "
            "it restarts.",
            time=setting_duration(ttl_s),
        )
    )


def note(text: str, kind: str = "info", field: str = "", more: str = "", count: int = 0) -> str:
    """A sentence in the status line. `kind` is info, error or done; errors interrupt a screen reader.

    The page's script speaks the others, puts the focus into `field`, and takes the sentence away once that is changed.
    `count` is how many pictures are ready, which the tab's title says.
    """
    attributes = ' role="alert"' * (kind == "error") + (f' data-field="{escape(field)}"' if field else "")
    attributes += f' data-count="{count}"' if count else ""
    return f'<p class="note {kind}"{attributes}>{escape(text)}{more}</p>'


def refused(error: SpaceError) -> str:
    """The status line of a request that did not become a run."""
    if isinstance(error, Cancelled):
        return note(translate(STOPPED), "done")
    return note(refusal(error), "error", error.field if isinstance(error, InvalidRequest) else "")


def refusal(error: SpaceError) -> str:
    """What the visitor reads of an error."""
    return translate(labelled(error))


def loading(stage: Stage, detail: str = "") -> str:
    """Which part of the start is under way, of how many."""
    words = translate(_START.get(stage, stage)) + (f" ({said(detail)})" if detail else "")
    if stage not in _START:
        return translate("Getting ready: {stage}…", stage=words)
    number, count = list(_START).index(stage) + 1, len(_START)
    return translate("Getting ready ({number} of {count}): {stage}…", number=number, count=count, stage=words)


def banner(status: BackendStatus) -> str:
    """Which model draws, or how far its loading is."""
    if status.stage is Stage.FAILED:
        hint = translate("Is this your Space? Its log and the doctor say why.")
        return f'<div class="banner error" role="alert">{escape(translate(status.reason))} <br>{hint}</div>'
    if status.stage is Stage.STOPPED:
        words = translate("The Space is restarting; please reload in a minute.")
        return f'<div class="banner error" role="alert">{words}</div>'
    if status.info is None or not status.is_ready:
        return (
            '<div class="banner loading" role="status"><span class="spinner" aria-hidden="true"></span>'
            f"{escape(loading(status.stage, status.detail))} "
            f"{translate('You can read the licence and write your prompt meanwhile.')}</div>"
        )
    size = status.info.defaults
    return (
        f'<div class="banner" role="status" data-side="{max(size.width, size.height)}">{_who_draws(status.info)}</div>'
    )


def _who_draws(info: ModelInfo) -> str:
    if not info.is_picture_book:
        size = translate("{width} × {height} pixels", width=info.defaults.width, height=info.defaults.height)
        here = translate("{model} draws here", model=f"<strong>{escape(info.title)}</strong>")
        return f"<details><summary>{here}</summary>{escape(f'{made_on(info)}, {size}')}</details>"
    link = f'<a href="{V1_4_URL}" target="_blank" rel="noopener">Stable Diffusion v1-4</a>'
    why = translate("No graphics card here: a tiny stand-in model draws.")
    way = translate("{model} itself draws where this Space has one.", model=link)
    if info.fallback_reason:  # the GPU is there; the reason itself is nothing for the public
        why = escape(translate(info.fallback_reason))
        way = translate("The Space's log says why {model} does not draw.", model=link)
    what = translate("The stand-in, the picture book, draws simple cartoons like the examples.")
    return f"<details><summary>{why}</summary>{what} {way}</details>"


def model_title(info: ModelInfo) -> str:
    return translate("Picture book") if info.is_picture_book else info.title


def made_on(info: ModelInfo) -> str:
    return f"{info.device}, {info.dtype}, {info.runtime}, {translate(info.memory_profile)}{', turbo' * info.turbo}"


LICENCE_IN_ENGLISH = Phrase("The licence’s words stand here in English, in which they are binding.")
CARD_IN_ENGLISH = Phrase("The model card’s words stand here in English.")


def english_note(words: Phrase) -> str:
    """Says so above words that are not ours to translate; nothing where all is English."""
    return "" if current_language() == ENGLISH else f'<p class="english-note">{translate(words)}</p>'


def gate(card: ModelCard) -> str:
    """The card's words about the licence: a heading, paragraphs, and a list of points that begin with their numbers."""
    html = f'<h2 lang="en">{escape(card.gate_heading)}</h2>'
    for is_list, lines in groupby(card.gate_prompt.splitlines(), lambda line: bool(re.match(r"\d+\. ", line))):
        words = [escape(line.strip()) for line in lines if line.strip()]
        if is_list:
            points = "".join(f"<li>{point.partition('. ')[2]}</li>" for point in words)
            html += f'<ol lang="en">{points}</ol>'
        else:
            html += "".join(f'<p lang="en">{line}</p>' for line in words)
    link = f'<a href="{LICENCE_URL}" target="_blank" rel="noopener">{LICENCE_URL}</a>'
    return english_note(LICENCE_IN_ENGLISH) + html.replace(LICENCE_URL, link)


def restrictions() -> str:
    """A short form of the licence's Attachment A, folded, with a link to the binding text."""
    points = "".join(f"<li>{escape(translate(text))}</li>" for text in USE_RESTRICTIONS)
    link = f'<a href="{LICENCE_URL}" target="_blank" rel="noopener">{translate("the licence, Attachment A")}</a>'
    return (
        f"<details><summary>{translate('The licence’s eleven use restrictions, in short')}</summary>"
        f'<ol type="a">{points}</ol><p>{translate("The words that bind are those of {link}.", link=link)}</p></details>'
    )


def recorded_note(recorded: Sequence[RecordedExample]) -> str:
    """When, by which model and on which device the pictures beside the examples were made."""
    made = sorted({(example.recorded_on, example.model, example.device) for example in recorded})
    if not made:
        return ""
    words = "; ".join(
        translate("on {day} by {model} on {device}", day=day, model=escape(translate(model)), device=escape(device))
        for day, model, device in made
    )
    sentence = translate("These pictures were made {words}. Yours will look different.", words=words)
    return f'<p class="recorded-note">{sentence}</p>'


def screened() -> str:
    heading = f'<h2 id="screened" tabindex="-1">{translate("What is screened, and what is not")}</h2>'
    return f'{heading}<p class="scope">{translate(SAFETY_SCOPE)}</p>'


def about_card() -> str:
    words = translate("From its model card, by Robin Rombach and Patrick Esser.")
    return f"<h2>{translate('About {title}', title=TITLE)}</h2><p>{words}</p>{english_note(CARD_IN_ENGLISH)}"
