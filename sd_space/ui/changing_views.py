"""The HTML with which a picture is changed or varied: the start of the next pictures, and what an opened one offers."""

from sd_space.languages import translate
from sd_space.request import GenerationRequest

_VARIATIONS = ("0.15", "0.4")  # how far from a picture's noise: a little, and much


def actions() -> str:
    """What an opened picture offers."""
    more, strengths = translate("More like this"), zip(_VARIATIONS, _varied(), strict=True)
    buttons = "".join(
        f'<button type="button" class="vary" data-strength="{strength}">{words}</button>'
        for strength, words in strengths
    )
    return (
        '<div id="picture-actions" hidden><button type="button" id="change-it" aria-describedby="change-help">'
        f'{translate("Change it")}</button><span class="group" role="group" aria-label="{more}">'
        f'<span aria-hidden="true">{more}:</span>{buttons}</span><button type="button" id="compare" '
        f'aria-expanded="false" aria-controls="comparison">{translate("Before and after")}</button>'
        f'<button type="button" class="copy-seed">{translate("Copy seed")}</button>'
        f'<button type="button" class="copy-link">{translate("Copy link")}</button>'
        f'<a target="_blank" rel="noopener">{translate("Open")}</a><a download>{translate("Download")}</a></div>'
        f'<span id="change-help" hidden>{translate("The next pictures start from it.")}</span>'
    )


def _varied() -> tuple[str, str]:
    return translate("a little different"), translate("very different")


def start() -> str:
    """The chip that says what the next pictures start from."""
    return (
        f'<div id="start" role="group" aria-label="{translate("What the next pictures start from")}" hidden>'
        f'<span class="thumbnail"><img alt="{translate("The picture that the next ones start from")}">'
        f'<button type="button" id="drop-start" aria-label="{translate("Do not start from this")}">×</button></span>'
        '<p></p><button type="button" id="paint" aria-expanded="false" aria-controls="painter">'
        f"{translate('Paint over the part to change')}</button></div>"
    )


def painter() -> str:
    how = translate("Paint with a finger or the mouse; or move with the arrow keys and paint with the space bar")
    return (
        f'<div id="painter" role="group" aria-label="{translate("Paint over the part to change")}" hidden>'
        f'<div class="easel"><img alt=""><canvas tabindex="0" role="application" aria-label="{how}"></canvas></div>'
        f'<div class="tools"><label>{translate("Brush")} <input type="range" min="3" max="40" value="14"></label>'
        f'<button type="button" id="undo-stroke">{translate("Undo")}</button><button type="button" id="clear-strokes">'
        f'{translate("Clear")}</button><button type="button" id="end-painting">{translate("Done")}</button></div></div>'
    )


def own_picture() -> str:
    aid = translate(
        "Or paste it, or drop it here. Your browser scales it down; it is checked before it is used, and kept nowhere. "
        "The licence forbids to impersonate people without their consent."
    )
    return (
        f'<div id="own-picture"><p>{translate("Start from your own picture")}</p>'
        f'<label>{translate("Choose a picture")} <input type="file" accept="image/*"></label>'
        f'<label class="camera">{translate("Take a photo")} <input type="file" accept="image/*" capture="environment">'
        f'</label><p class="aid">{aid}</p></div>'
    )


def comparison(element_id: str, before: str = "", after: str = "") -> str:
    """Two pictures, one over the other, with a slider; hidden until there are addresses for them."""
    sources = [f' src="{address}"' if address else "" for address in (before, after)]
    first, last, slider = (
        translate("Before"),
        translate("After"),
        translate("How much is seen of the picture before"),
    )
    return (
        f'<figure id="{element_id}" class="comparison"{"" if before else " hidden"}><div><img class="before" '
        f'alt="{first}"{sources[0]}><img class="after" alt="{last}"{sources[1]}></div><label>{first} <input '
        f'type="range" min="0" max="100" value="50" aria-label="{slider}"> {last}</label></figure>'
    )


def origin(request: GenerationRequest) -> dict[str, str]:
    """What the pictures started from where that was not noise alone, as facts by their names."""
    facts = {}
    if (start := request.init_image) is not None:
        seeded = translate("the picture with seed {seed}", seed=start.seed)
        drawn = translate("a picture that was brought") if start.seed is None else seeded
        facts[translate("Started from")] = f"{drawn} (SHA-256 {start.sha256[:12]}…)"
        share = f"{request.strength:.0%}"
        part = translate("{share} of the painted part", share=share)
        facts[translate("May change")] = share if request.mask is None else part
    if request.variation_strength:
        share, seed = f"{request.variation_strength:g}", request.variation_seed
        way = translate("{share} of the way to seed {seed}", share=share, seed=seed)
        facts[translate("Variation")] = way
    return facts
