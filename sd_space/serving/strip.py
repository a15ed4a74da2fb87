"""A strip: the same request once for each of several values of one field, its pictures side by side."""

from collections.abc import Mapping
from typing import Any

from sd_space.errors import InvalidRequest
from sd_space.fields import Choice, Kind, Picture, Real, Text, shown
from sd_space.request import REQUEST_FIELDS

MAX_STRIP = 8
SIZE = "size"  # width and height at once, as in 512x768
_PICTURES = "num_images_per_prompt"  # a strip has one for each value
# The fields that a strip may change.
COMPARED = (
    *(name for name, f in REQUEST_FIELDS.items() if name != _PICTURES and not isinstance(f.kind, Picture)),
    SIZE,
)


def strip(values: Mapping[str, object], field: object, text: object) -> list[dict[str, Any]]:
    """The values of each request of a strip, in which `field` has one after the other of the values in `text`.

    They are parted by commas; texts stand in a line each, of which one may be empty. Raises InvalidRequest; that each
    is within the model's limits is for the gate to check.
    """
    if not isinstance(field, str) or field not in COMPARED:
        raise InvalidRequest("field", f"field must be one of {', '.join(COMPARED)}, not {shown(field)}.")
    if not isinstance(text, str):
        raise InvalidRequest("values", f"values must be text, such as 1.5, 2, 3, not {shown(text)}.")
    kind = None if field == SIZE else REQUEST_FIELDS[field].kind
    separator, how = ("\n", "in a line each") if isinstance(kind, Text) else (",", "with commas between them")
    parts = [part.strip() for part in text.split(separator)]
    if not 2 <= len(parts) <= MAX_STRIP:
        raise InvalidRequest("values", f"values must be 2 to {MAX_STRIP} of {field}, {how}, not {len(parts)}.")
    return [{**values, _PICTURES: 1, **_value(field, kind, part)} for part in parts]


def one_picture(prompt: str, seed: int) -> dict[str, Any]:
    """The values of a request for one picture of a prompt, with all else as the model has it."""
    return {"prompt": prompt, "seed": seed, _PICTURES: 1}


def _value(field: str, kind: Kind | None, part: str) -> dict[str, Any]:
    try:
        if kind is None:
            width, height = (int(side) for side in part.split("x"))
            return {"width": width, "height": height}
        if isinstance(kind, Text | Choice):
            return {field: part}
        return {field: float(part) if isinstance(kind, Real) else int(part)}
    except ValueError:
        form = "sizes such as 512x768" if kind is None else "numbers"
        raise InvalidRequest("values", f"values of {field} must be {form}, not {shown(part)}.") from None
