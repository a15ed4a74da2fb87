"""The kinds of fields that a request has: what each of them takes, and the sentence that refuses anything else.

A bound is a number, or the name of one of the served model's limits (`served_model.Limits`).
"""

import json
import unicodedata
from dataclasses import dataclass, field
from typing import Any, Protocol

from sd_space.errors import InvalidRequest
from sd_space.languages import Phrase

Bound = int | float | str


class Kind(Protocol):
    """What a field takes."""

    def check(self, name: str, value: object, limits: object) -> Any:
        """The value as a request holds it. Raises InvalidRequest, whose sentence names field, value and range."""


@dataclass(frozen=True, slots=True)
class RequestField:
    """All that is said about a field: `label` on the page, `help` in the API's description.

    `help` may name the limits, as in "{limits.max_steps}". `default` stands where a request leaves the field out and
    the model has no default of its own. `parameter` is the field's name in the last line of a PNG's "parameters"
    chunk, which other tools read; fields of one name are joined with an x. `used_with` is the field without which this
    one means nothing, so that recipes leave it out.
    """

    kind: Kind
    label: str
    help: str
    default: object = None
    parameter: str = ""
    used_with: str = ""

    def describe(self, limits: object) -> str:
        return self.help.format(limits=limits)


@dataclass(frozen=True, slots=True)
class Text:
    max_chars: int
    may_be_empty: bool = True

    def check(self, name: str, value: object, limits: object) -> str:
        """The text without outer blanks. Words beyond CLIP's 77 tokens are allowed: the result names what was cut."""
        if not isinstance(value, str):
            raise InvalidRequest(name, Phrase("{name} must be text, not {value}.", name=name, value=shown(value)))
        if len(value) > self.max_chars:
            raise InvalidRequest(
                name,
                Phrase(
                    "{name} must be at most {most} characters long, not {length}.",
                    name=name,
                    most=self.max_chars,
                    length=len(value),
                ),
            )
        # Cc: control characters, Cs: lone surrogates, which no tokenizer or PNG can hold.
        if any(unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t\r" for c in value):
            raise InvalidRequest(
                name, Phrase("{name} must not contain control characters; please type it anew.", name=name)
            )
        if not self.may_be_empty and not any(unicodedata.category(c)[0] not in "CZ" for c in value):
            raise InvalidRequest(name, Phrase("{name} must not be empty; describe the picture you want.", name=name))
        return " ".join(value.split())


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number, and what refuses another."""

    low: Bound
    high: Bound
    multiple_of: Bound = 1
    refusal: Phrase = Phrase("{name} must be a whole number from {low} to {high}, not {value}.")

    def range(self, limits: object) -> tuple[Any, Any]:
        return _number(self.low, limits), _number(self.high, limits)

    def check(self, name: str, value: object, limits: object) -> int:
        low, high = self.range(limits)
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # a JSON client writes 4.0 for 4
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            values: dict[str, object] = {"name": name, "low": low, "high": high, "value": shown(value)}
            raise InvalidRequest(name, Phrase(self.refusal, **values))
        if value % (step := _number(self.multiple_of, limits)):
            raise InvalidRequest(
                name, Phrase("{name} must be a multiple of {step}, not {value}.", name=name, step=step, value=value)
            )
        return value


@dataclass(frozen=True, slots=True)
class Real:
    low: Bound
    high: Bound

    def range(self, limits: object) -> tuple[Any, Any]:
        return _number(self.low, limits), _number(self.high, limits)

    def check(self, name: str, value: object, limits: object) -> float:
        low, high = self.range(limits)
        # Not a number, which is a float, is in no range.
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise InvalidRequest(
                name,
                Phrase(
                    "{name} must be a number from {low} to {high}, not {value}.",
                    name=name,
                    low=f"{low:g}",
                    high=f"{high:g}",
                    value=shown(value),
                ),
            )
        return float(value)


WHITE = 128  # of a mask, from here on: diffusers' VaeImageProcessor.binarize rounds to the nearer end


@dataclass(frozen=True, slots=True)
class SourcePicture:
    """A picture that a request brings, decoded, without metadata: `pixels` are height x width x `channels` bytes.

    `sha256` is that of the file it came in. `seed` is its own where it was drawn here.
    """

    width: int
    height: int
    channels: int  # 3 are RGB, 1 is grey
    pixels: bytes = field(repr=False)
    sha256: str
    seed: int | None = None

    def __str__(self) -> str:
        """How recipes name it, which never hold the picture itself."""
        return f"sha256:{self.sha256}"

    def loses_white(self, cell: int) -> bool:
        """Whether a grey picture has white, but in no upper left pixel of a cell: those alone say what a mask opens."""
        corners = (self.pixels[row * self.width : (row + 1) * self.width : cell] for row in range(0, self.height, cell))
        return all(max(row) < WHITE for row in corners) and max(self.pixels) >= WHITE


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture that has been decoded (`serving/source_pictures.py`), or none."""

    channels: int

    def check(self, name: str, value: object, limits: object) -> SourcePicture | None:
        if value is None or value == "":
            return None
        if not isinstance(value, SourcePicture) or value.channels != self.channels:
            raise InvalidRequest(
                name, Phrase("{name} must be a picture as a data URI, not {value}.", name=name, value=shown(value))
            )
        return value


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several words; `choices` is the name of the limit that lists them."""

    choices: str

    def check(self, name: str, value: object, limits: object) -> str:
        choices = getattr(limits, self.choices)
        if not isinstance(value, str) or value not in choices:
            raise InvalidRequest(
                name,
                Phrase(
                    "{name} must be one of {choices}, not {value}.",
                    name=name,
                    choices=", ".join(choices),
                    value=shown(value),
                ),
            )
        return value


def _number(bound: Bound, limits: object) -> Any:
    return getattr(limits, bound) if isinstance(bound, str) else bound


_KINDS: dict[type, Phrase] = {list: Phrase("a list"), dict: Phrase("an object")}


def shown(value: object) -> str:
    """The refused value as an error may repeat it: numbers and short words, anything else by its type.

    Characters that could mean something to whoever reads the error, or cannot be seen, are question marks.
    """
    if value is None:
        return Phrase("nothing")
    if isinstance(value, bool | int | float):
        text = json.dumps(value)
    elif isinstance(value, str):
        text = "'" + "".join(c if c.isalnum() or c in " +-_.," else "?" for c in value) + "'"
    else:
        return _KINDS.get(type(value), Phrase("something else"))
    if len(text) <= 24:
        return text
    if isinstance(value, str):
        return Phrase("a text of {length} characters", length=len(value))
    return Phrase("a number of {length} digits", length=len(text))
