"""Reads the form: the size field, what its values ask for, and which of them the model's own take the place of."""

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from sd_space.fields import Choice, Real, Whole
from sd_space.schema import REQUEST_FIELDS, Defaults, Limits

# What the form shows before any model is loaded.
CARD_DEFAULTS = Defaults()
CARD_LIMITS = Limits(min_size=256, max_size=768)

MODEL_DEFAULTS = tuple(f.name for f in fields(Defaults))  # the fields for which a model states values of its own
_SIDES = ("width", "height")
# The fields that a visitor chooses with one control: one side alone is no choice of size.
_CHOSEN_TOGETHER = (_SIDES, *((name,) for name in MODEL_DEFAULTS if name not in _SIDES))


def size_value(width: int, height: int) -> str:
    return f"{width}x{height}"


def sides(size: object) -> dict[str, Any]:
    """Width and height of `size_value`; what is none stays as it is, to be refused in a sentence."""
    width, _, height = str(size).partition("x")
    written = {"width": width, "height": height}
    return {name: int(side) if re.fullmatch("[0-9]{1,5}", side) else size for name, side in written.items()}


def size_choices(defaults: Defaults) -> list[tuple[str, str]]:
    """Square, portrait and landscape around the model's own size."""
    long, wide = defaults.width, defaults.height
    short = long * 3 // 4 // 8 * 8
    shapes = {"Square": (long, wide), "Portrait": (short, wide), "Landscape": (long, short)}
    return [(f"{name}, {w} × {h}", size_value(w, h)) for name, (w, h) in shapes.items()]


def bounds(name: str, limits: Limits) -> dict[str, Any]:
    """What the control of a request's field offers within these limits, in the words of Gradio's components."""
    match REQUEST_FIELDS[name].kind:
        case Choice() as kind:
            return {"choices": list(getattr(limits, kind.choices))}
        case Whole() | Real() as kind:
            low, high = kind.range(limits)
            return {"minimum": low, "maximum": high}
    return {}


def request_values(form: Mapping[str, Any]) -> dict[str, Any]:
    """What the form's values (by the names of `Page.form`) say about a request, for the gate to check."""
    values = {name: value for name, value in form.items() if name in REQUEST_FIELDS}
    if form.get("random_seed"):
        values["seed"] = -1
    return values | sides(form["size"])


def models_own(values: Mapping[str, Any], own: Defaults, linked: Mapping[str, Any]) -> dict[str, Any]:
    """The model's own values in place of those that are still the card's and not a link's."""
    return {
        name: getattr(own, name)
        for names in _CHOSEN_TOGETHER
        if not all(name in linked for name in names)
        and all(values.get(name) == getattr(CARD_DEFAULTS, name) for name in names)
        for name in names
    }
