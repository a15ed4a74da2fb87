"""Reads the form's values into a request's, and replaces untouched defaults of the card by the model's own."""

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from sd_space.fields import Choice, Real, Whole
from sd_space.languages import Phrase
from sd_space.request import REQUEST_FIELDS
from sd_space.served_model import Defaults, Limits
from sd_space.serving.recipe import recipe_from_query, recipe_from_text

# What the form shows before any model is loaded.
CARD_DEFAULTS = Defaults()
CARD_LIMITS = Limits(min_size=256, max_size=768)

MODEL_DEFAULTS = tuple(f.name for f in fields(Defaults))  # the fields for which a model states values of its own
_SIDES = ("width", "height")
# The fields that a visitor chooses with one control: one side alone is no choice of size.
_CHOSEN_TOGETHER = (_SIDES, *((name,) for name in MODEL_DEFAULTS if name not in _SIDES))


def size_value(width: int, height: int) -> str:
    return f"{width}x{height}"


def parse_size(size: object) -> dict[str, Any]:
    """Width and height from what `size_value` has written; anything else is kept, for the gate to refuse by name."""
    width, _, height = str(size).partition("x")
    written = {"width": width, "height": height}
    return {name: int(side) if re.fullmatch("[0-9]{1,5}", side) else size for name, side in written.items()}


def size_choices(defaults: Defaults, step: int = CARD_LIMITS.size_step) -> list[tuple[str, str]]:
    """Square, portrait and landscape around the model's own size."""
    long, wide = defaults.width, defaults.height
    short = long * 3 // 4 // step * step
    shapes = {
        Phrase("Square, {width} × {height}"): (long, wide),
        Phrase("Portrait, {width} × {height}"): (short, wide),
        Phrase("Landscape, {width} × {height}"): (long, short),
    }
    return [(Phrase(words, width=w, height=h), size_value(w, h)) for words, (w, h) in shapes.items()]


def bounds(name: str, limits: Limits) -> dict[str, Any]:
    """The range or the choices that the control of a request's field offers, as arguments of Gradio's components."""
    match REQUEST_FIELDS[name].kind:
        case Choice() as kind:
            return {"choices": list(getattr(limits, kind.choices))}
        case Whole() | Real() as kind:
            low, high = kind.range(limits)
            return {"minimum": low, "maximum": high}
    return {}


def request_values(form: Mapping[str, Any]) -> dict[str, Any]:
    """The request's values from those of the form, by the names of `Page.form`. The gate checks them."""
    values = {name: value for name, value in form.items() if name in REQUEST_FIELDS}
    if form.get("random_seed"):
        values["seed"] = -1
    if form.get("init_image"):  # the pictures have its size
        return values
    return values | parse_size(form["size"])


def linked_values(link: object, query: Mapping[str, str]) -> dict[str, Any]:
    """The values that the page's address asks for: `link` is what stands behind its #, which browsers send nobody."""
    return recipe_from_query(query) | recipe_from_text(link)


def apply_model_defaults(values: Mapping[str, Any], own: Defaults, linked: Mapping[str, Any]) -> dict[str, Any]:
    """The model's own defaults for those of the request's `values` that are still the card's and in no link."""
    return {
        name: getattr(own, name)
        for names in _CHOSEN_TOGETHER
        if not all(name in linked for name in names)
        and all(values.get(name) == getattr(CARD_DEFAULTS, name) for name in names)
        for name in names
    }
