"""A recipe: the values that make the same pictures again, as a PNG, a link and the API's result carry them.

All of them are made from the table of a request's fields (`request.GenerationRequest`).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlencode

from sd_space.fields import SourcePicture
from sd_space.request import REQUEST_FIELDS, GenerationRequest
from sd_space.schema import GenerationResult, Outcome
from sd_space.served_model import SCHEDULERS, ModelInfo
from sd_space.serving import infotext

INIT_IMAGE_SEED = "init_image_seed"  # of a picture that was drawn here and is the start of others
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


def short_hash(revision: str) -> str:
    """A model's revision as it stands beside a picture."""
    return revision[:10]


def parameters_text(request: GenerationRequest, seed: int, info: ModelInfo) -> str:
    """The recipe of the picture with this seed, in the form that other tools read back."""
    values: dict[str, str] = {}
    for name, value in recipe_values(replace(request, seed=seed)).items():
        if parameter := _parameter_name(name):
            written = _parameter(value)
            values[parameter] = f"{values[parameter]}x{written}" if parameter in values else written
    values["Model"] = info.model
    if info.revision:
        values["Model hash"] = short_hash(info.revision)
    if info.turbo:  # without it the same values draw another picture
        values["Turbo"] = "on"
    return infotext.write(request.prompt, request.negative_prompt, values)


def recipe_values(request: GenerationRequest) -> dict[str, Any]:
    """The values by name, without those that mean nothing in this request.

    Of a picture that it starts from they hold the hash, and the seed if it was drawn here, never the picture itself.
    """
    values = {
        name: getattr(request, name)
        for name, field in REQUEST_FIELDS.items()
        if not field.used_with or getattr(request, field.used_with)
    }
    if request.init_image is not None and request.init_image.seed is not None:
        values[INIT_IMAGE_SEED] = request.init_image.seed
    return {name: str(value) if isinstance(value, SourcePicture) else value for name, value in values.items()}


def _parameter_name(name: str) -> str:
    return REQUEST_FIELDS[name].parameter if name in REQUEST_FIELDS else "Init image seed"


def _parameter(value: object) -> str:
    return f"{value:.15g}" if isinstance(value, float) else SAMPLERS.get(str(value), str(value))


def result_json(
    request: GenerationRequest, info: ModelInfo, pictures: Sequence[FinishedPicture], result: GenerationResult
) -> dict[str, Any]:
    """The `result` of the API. `truncated_prompt` holds the words beyond the text encoder's 77 tokens."""
    images: list[dict[str, Any]] = [
        {
            "seed": picture.seed,
            "outcome": str(picture.outcome),
            "watermark": picture.watermark,
            "credentials": picture.credentials,
        }
        for picture in pictures
    ]
    if request.variation_strength:
        for image, seed in zip(images, request.variation_seeds, strict=False):
            image["variation_seed"] = seed
    for image, device in zip(images, result.devices, strict=False):
        image["device"] = device
    return {
        "images": images,
        "recipe": recipe_values(request),
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
    return urlencode({name: value for name, value in recipe_values(request).items() if value != ""})


def recipe_from_query(query: Mapping[str, str]) -> dict[str, Any]:
    """The values of a link that the form can show, numbers as numbers; the rest is left out.

    No link holds a picture, so that one which names the hash of a source brings back all but the source. The values
    are not checked against the model's limits: that happens when the form is sent.
    """
    read = {
        name: _READERS[kind](query[name])
        for name in REQUEST_FIELDS
        if name in query and (kind := GenerationRequest.__annotations__[name]) in _READERS
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
