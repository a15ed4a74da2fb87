"""A strip: the same request once for each of several values of one field, its pictures side by side."""

from collections.abc import Mapping
from typing import Any

from sd_space.errors import InvalidRequest
from sd_space.fields import Choice, Kind, Picture, Real, Text, shown
from sd_space.languages import Phrase
from sd_space.request import REQUEST_FIELDS

MAX_STRIP = 8
EVALUATION = "1.5, 2, 3, 4, 5, 6, 7, 8"  # the guidance scales of the model card's evaluation
_IN_LINES = Phrase("values must be 2 to {most} of {field}, in a line each, not {count}.")
_WITH_COMMAS = Phrase("values must be 2 to {most} of {field}, with commas between them, not {count}.")
_NO_SIZE = Phrase("values of {field} must be sizes such as 512x768, not {value}.")
_NO_NUMBER = Phrase("values of {field} must be numbers, not {value}.")
_NOT_WHOLE = Phrase("values of {field} must be whole numbers, not {value}.")
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
        raise InvalidRequest(
            "field",
            Phrase(
                "{name} must be one of {choices}, not {value}.",
                name="field",
                choices=", ".join(COMPARED),
                value=shown(field),
            ),
        )
    if not isinstance(text, str):
        raise InvalidRequest(
            "values", Phrase("values must be text, such as 1.5, 2, 3, not {value}.", value=shown(text))
        )
    kind = None if field == SIZE else REQUEST_FIELDS[field].kind
    is_text = isinstance(kind, Text)
    separator = "\n" if is_text else ","
    parts = [part.strip() for part in text.split(separator)]
    if not 2 <= len(parts) <= MAX_STRIP:
        raise InvalidRequest(
            "values", Phrase(_IN_LINES if is_text else _WITH_COMMAS, most=MAX_STRIP, field=field, count=len(parts))
        )
    return [{**values, _PICTURES: 1, **_value(field, kind, part)} for part in parts]


def one_picture(prompt: str, seed: int) -> dict[str, Any]:
    """The values of a request for one picture of a prompt, with all else as the model has it."""
    return {"prompt": prompt, "seed": seed, _PICTURES: 1}


def _value(field: str, kind: Kind | None, part: str) -> dict[str, Any]:
    try:
        if isinstance(kind, Text | Choice):
            return {field: part}
        if "_" in part or not part.isascii():
            raise ValueError("Python reads 1_0 and the digits of other scripts, of which no visitor thinks")
        if kind is None:
            width, height = (int(side) for side in part.split("x"))
            return {"width": width, "height": height}
        return {field: float(part) if isinstance(kind, Real) else _whole(part)}
    except ValueError:
        what = _NO_SIZE if kind is None else _NO_NUMBER if isinstance(kind, Real) else _NOT_WHOLE
        raise InvalidRequest("values", Phrase(what, field=field, value=shown(part))) from None


def _whole(text: str) -> int:
    """Also from 64.0 or 1e1, as a request's own fields take them."""
    try:
        return int(text)
    except ValueError:
        number = float(text)
    if not number.is_integer():
        raise ValueError(text)
    return int(number)
