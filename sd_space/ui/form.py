"""The form's values: how a size is written, and what the model's own values take the place of."""

import re
from typing import Any

from sd_space.schema import Defaults, Limits

# What the form shows before any model is loaded.
CARD_DEFAULTS = Defaults()
CARD_LIMITS = Limits(min_size=256, max_size=768)


def size_value(width: int, height: int) -> str:
    return f"{width}x{height}"


def sides(size: str) -> dict[str, int | str]:
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


def models_own(values: dict[str, Any], own: Defaults, linked: dict[str, Any]) -> dict[str, Any]:
    """The model's own values in place of those that are still the card's and not a link's."""
    card, pairs = CARD_DEFAULTS, (("num_inference_steps",), ("guidance_scale",), ("scheduler",), ("width", "height"))
    return {
        name: getattr(own, name)
        for names in pairs
        if not all(name in linked for name in names) and all(values[name] == getattr(card, name) for name in names)
        for name in names
    }
