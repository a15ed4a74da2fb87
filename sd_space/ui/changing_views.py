"""The HTML with which a picture is changed or varied: the start of the next pictures, and what an opened one offers."""

from sd_space.request import GenerationRequest

ACTIONS = (
    '<div id="picture-actions" hidden><button type="button" id="change-it" aria-describedby="change-help">Change it'
    '</button><span class="group" role="group" aria-label="More like this"><span aria-hidden="true">More like this:'
    '</span><button type="button" class="vary" data-strength="0.15">a little different</button><button type="button" '
    'class="vary" data-strength="0.4">very different</button></span><button type="button" id="compare" '
    'aria-expanded="false" aria-controls="comparison">Before and after</button><button type="button" class="copy-seed">'
    'Copy seed</button><button type="button" class="copy-link">Copy link</button><a target="_blank" rel="noopener">Open'
    '</a><a download>Download</a></div><span id="change-help" hidden>The next pictures start from it.</span>'
)
START = (
    '<div id="start" role="group" aria-label="What the next pictures start from" hidden><span class="thumbnail">'
    '<img alt="The picture that the next ones start from"><button type="button" id="drop-start" aria-label="Do not '
    'start from this">×</button></span><p></p><button type="button" id="paint" aria-expanded="false" aria-controls='
    '"painter">Paint over the part to change</button></div>'
)
PAINTER = (
    '<div id="painter" role="group" aria-label="Paint over the part to change" hidden><div class="easel"><img alt="">'
    '<canvas tabindex="0" role="application" aria-label="Paint with a finger or the mouse; or move with the arrow keys '
    'and paint with the space bar"></canvas></div><div class="tools"><label>Brush <input type="range" min="3" max="40" '
    'value="14"></label><button type="button" id="undo-stroke">Undo</button><button type="button" id="clear-strokes">'
    'Clear</button><button type="button" id="end-painting">Done</button></div></div>'
)
OWN_PICTURE = (
    '<div id="own-picture"><p>Start from your own picture</p><label>Choose a picture <input '
    'type="file" accept="image/*"></label><label class="camera">Take a photo <input type="file" accept="image/*" '
    'capture="environment"></label><p class="aid">Or paste it, or drop it here. Your browser scales it down; it is '
    "checked before it is used, and kept nowhere. The licence forbids to impersonate people without their consent.</p>"
    "</div>"
)


def comparison(element_id: str, before: str = "", after: str = "") -> str:
    """Two pictures, one over the other, with a slider; hidden until there are addresses for them."""
    sources = [f' src="{address}"' if address else "" for address in (before, after)]
    return (
        f'<figure id="{element_id}" class="comparison"{"" if before else " hidden"}><div><img class="before" '
        f'alt="Before"{sources[0]}><img class="after" alt="After"{sources[1]}></div><label>Before <input type="range" '
        'min="0" max="100" value="50" aria-label="How much is seen of the picture before"> After</label></figure>'
    )


def origin(request: GenerationRequest) -> dict[str, str]:
    """What the pictures started from where that was not noise alone, as facts by their names."""
    facts = {}
    if (start := request.init_image) is not None:
        drawn = "a picture that was brought" if start.seed is None else f"the picture with seed {start.seed}"
        facts["Started from"] = f"{drawn} (SHA-256 {start.sha256[:12]}…)"
        part = " of the painted part" if request.mask is not None else ""
        facts["May change"] = f"{request.strength:.0%}{part}"
    if request.variation_strength:
        facts["Variation"] = f"{request.variation_strength:g} of the way to seed {request.variation_seed}"
    return facts
