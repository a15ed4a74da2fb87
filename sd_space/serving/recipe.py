"""A recipe: the values that make the same pictures again, as a PNG, a link and the API's result carry them.

All of them are made from the table of a request's fields (`schema.GenerationRequest`).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlencode

from sd_space.schema import (
    REQUEST_FIELDS,
    SCHEDULERS,
    GenerationRequest,
    GenerationResult,
    ModelInfo,
    Outcome,
)
from sd_space.serving import infotext

MAX_EXACT = 2**53 - 1  # the greatest whole number that JavaScript tells from its neighbours
# The samplers' names in other tools' "parameters" chunks, where they differ from ours.
SAMPLERS = {"PNDM": "PLMS"}


class FinishedPicture(Protocol):
    """What the result says of a picture, wherever its pixels are."""

    @property
    def seed(self) -> int: ...

    @property
    def outcome(self) -> Outcome: ...

    @property
    def watermark(self) -> bool: ...

    @property
    def credentials(self) -> bool: ...


def parameters_text(request: GenerationRequest, seed: int, info: ModelInfo) -> str:
    """The recipe of the picture with this seed, in the form that other tools read back."""
    request = replace(request, seed=seed)
    values: dict[str, str] = {}
    for name, field in REQUEST_FIELDS.items():
        if field.parameter:
            written = _parameter(getattr(request, name))
            values[field.parameter] = f"{values[field.parameter]}x{written}" if field.parameter in values else written
    values["Model"] = info.model
    if info.revision:
        values["Model hash"] = info.revision[:10]
    if info.turbo:  # without it the same values draw another picture
        values["Turbo"] = "on"
    return infotext.write(request.prompt, request.negative_prompt, values)


def _parameter(value: object) -> str:
    return f"{value:.15g}" if isinstance(value, float) else SAMPLERS.get(str(value), str(value))


def result_json(
    request: GenerationRequest, info: ModelInfo, pictures: Sequence[FinishedPicture], result: GenerationResult
) -> dict[str, Any]:
    """The `result` of the API. `truncated_prompt` holds the words beyond the text encoder's 77 tokens."""
    images = [
        {
            "seed": picture.seed,
            "outcome": str(picture.outcome),
            "watermark": picture.watermark,
            "credentials": picture.credentials,
        }
        for picture in pictures
    ]
    named = [{"device": device} for device in result.devices] or [{}] * len(images)
    return {
        "images": [image | device for image, device in zip(images, named, strict=True)],
        "recipe": asdict(request),
        "model": info.model,
        "revision": info.revision,
        "device": info.device,
        "dtype": info.dtype,
        "runtime": info.runtime,
        "memory_profile": info.memory_profile,
        "turbo": info.turbo,
        "elapsed_s": {stage: round(seconds, 4) for stage, seconds in public_seconds(result).items()},
        "truncated_prompt": result.truncated_prompt,
    }


def public_seconds(result: GenerationResult) -> dict[str, float]:
    """The seconds by stage without those of encoding the prompt, which are left out of the total too.

    Encoded prompts are kept for all visitors: that time tells whether somebody else has used this prompt lately.
    """
    seconds = dict(result.elapsed_s)
    encoding_s = seconds.pop("encode_prompt", 0.0)
    if "total" in seconds:
        seconds["total"] -= encoding_s
    return seconds


def recipe_query(request: GenerationRequest) -> str:
    """The recipe as a query string, for a link that brings it back."""
    values = asdict(request)
    return urlencode({name: value for name, value in values.items() if value != ""})


def recipe_from_query(query: Mapping[str, str]) -> dict[str, Any]:
    """The values of a link that the form can show, numbers as numbers; the rest is left out.

    They are not checked against the model's limits: that happens when the form is sent.
    """
    read = {
        name: _READERS[GenerationRequest.__annotations__[name]](query[name]) for name in REQUEST_FIELDS if name in query
    }
    if read.get("scheduler") not in SCHEDULERS:
        read["scheduler"] = None
    return {name: value for name, value in read.items() if value is not None}


def recipe_from_text(text: object) -> dict[str, Any]:
    """The same for what should be a query string, as `recipe_query` writes it; of anything else nothing."""
    try:
        return recipe_from_query(dict(parse_qsl(text, max_num_fields=100))) if isinstance(text, str) else {}
    except ValueError:
        return {}


def _read_text(text: str) -> str | None:
    """Lone surrogates are no text: nothing can send them to the page."""
    return text if text.encode("utf-8", "replace").decode() == text else None


def _number_reader(of: type, shape: str) -> Callable[[str], Any]:
    """A reader of plain numbers, as `recipe_query` writes them, that a browser holds exactly."""

    def read(text: str) -> Any:
        return of(text) if re.fullmatch(shape, text) and abs(of(text)) <= MAX_EXACT else None

    return read


_READERS: dict[type, Callable[[str], Any]] = {
    str: _read_text,
    int: _number_reader(int, "-?[0-9]{1,16}"),
    float: _number_reader(float, r"-?[0-9]{1,16}(\.[0-9]{1,30})?"),
}
