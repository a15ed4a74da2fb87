"""The settings that a picture's text holds, ours or another tool's, as far as the served model can follow them."""

import re
from dataclasses import dataclass
from typing import Any

from sd_space.errors import InvalidRequest
from sd_space.fields import Picture
from sd_space.languages import Phrase
from sd_space.request import REQUEST_FIELDS, labelled
from sd_space.served_model import SCHEDULERS, Limits, ModelInfo
from sd_space.serving import infotext
from sd_space.serving.recipe import SAMPLERS, recipe_from_query, short_hash

MAX_CHARS = 10_000
NONE_FOUND = Phrase("No settings were found; choose a PNG that this page or another Stable Diffusion tool has made.")
_LAST_LINE = re.compile(r"^[ \t]*Steps: *[0-9]", re.MULTILINE)
_SIDES = ("width", "height")
# Pairs of other tools' texts that are no settings, or are read together with another one.
_DESCRIBING = {"Model", "Model hash", "Schedule type", "Version", "Batch size", "Batch pos", "RNG", "VAE", "VAE hash"}
_DESCRIBING |= {"Lora hashes", "TI hashes", "Hashes", "Init image hash", "Init image seed", "Mask hash"}
_SHOWN_NAMES = 4  # of settings that this page does not have
_WEIGHT = re.compile(r"\([^()]{1,200}:[0-9.]{1,6}\)")
_EXTRA_NETWORK = re.compile(r"<(?:lora|lyco|hypernet):[^<>]{1,200}>", re.IGNORECASE)
_FIELD_OF = {name: parameter for name, f in REQUEST_FIELDS.items() if (parameter := f.parameter)}
_SOURCE = Phrase(
    "It was drawn from another picture, which is not inside; choose that as well, under “Start from your own picture”."
)


@dataclass(frozen=True, slots=True)
class PictureSettings:
    """Values for the form, by field, and sentences about what of the text could not be followed."""

    values: dict[str, Any]
    remarks: tuple[str, ...]


def read_settings(text: str, limits: Limits, info: ModelInfo | None) -> PictureSettings | None:
    """`None` where the text holds no settings. `info` is the model's, if one is ready; `limits` hold for it."""
    if (parts := _parts(text)) is None:
        return None
    prompt, negative_prompt, pairs = parts
    written = _written(prompt, negative_prompt, pairs)
    in_form = {name for name in REQUEST_FIELDS if _is_in_form(name, pairs)}
    values, remarks = _checked({name: text for name, text in written.items() if name in in_form}, limits)
    known = _DESCRIBING | {REQUEST_FIELDS[name].parameter for name in in_form}
    if _FIELD_OF["init_image"] in pairs:
        remarks.append(_SOURCE)
    if other := [name for name in pairs if name not in known]:
        names = ", ".join(other[:_SHOWN_NAMES]) + (", …" if len(other) > _SHOWN_NAMES else "")
        remarks.append(Phrase("This page has no setting for: {names}.", names=names))
    if _EXTRA_NETWORK.search(prompt):
        remarks.append(Phrase("Added networks such as <lora:…> are not loaded here; their names are read as words."))
    if _WEIGHT.search(prompt):
        remarks.append(Phrase("Weights such as (word:1.3) are read as words here."))
    if info is not None and (made_with := pairs.get("Model", "")[:60]):
        title = Phrase("Picture book") if info.is_picture_book else info.title
        if made_with != info.model:
            words = Phrase("The picture was made with {model}; {title} draws here, so yours will look different.")
            remarks.append(Phrase(words, model=made_with, title=title))
        elif info.revision and pairs.get("Model hash") != short_hash(info.revision):
            words = Phrase("The picture was made with another version of {title}, so yours will look different.")
            remarks.append(Phrase(words, title=title))
    return PictureSettings(values, tuple(remarks))


def _is_in_form(name: str, pairs: dict[str, str]) -> bool:
    """Whether the form can show the field, which means something beside these pairs."""
    field = REQUEST_FIELDS[name]
    return not isinstance(field.kind, Picture) and (not field.used_with or _FIELD_OF[field.used_with] in pairs)


def recipe_in(text: str) -> dict[str, Any] | None:
    """The values that the text holds, whatever the served model makes of them; `None` where they draw no picture."""
    if (parts := _parts(text)) is None:
        return None
    values = _without_half_sizes(recipe_from_query(_written(*parts)))
    return values if values.get("prompt") and "num_inference_steps" in values else None


def _parts(text: str) -> tuple[str, str, dict[str, str]] | None:
    """Prompt, negative prompt and the pairs after them, up to the end of their line."""
    if len(text) > MAX_CHARS or not (lines := list(_LAST_LINE.finditer(text))):
        return None
    end = text.find("\n", lines[-1].end())
    try:
        return infotext.read(text if end < 0 else text[:end])
    except ValueError:  # a quoted value that is none
        return None


def _written(prompt: str, negative_prompt: str, pairs: dict[str, str]) -> dict[str, str]:
    """The texts of a request's fields, by the fields' names."""
    texts = {name: pairs[parameter] for name, parameter in _FIELD_OF.items() if parameter in pairs}
    if "width" in texts:
        texts["width"], _, texts["height"] = texts["width"].partition("x")
    if "scheduler" in texts:
        texts["scheduler"] = _scheduler(texts["scheduler"], pairs.get("Schedule type", ""))
    return {"prompt": prompt, "negative_prompt": negative_prompt} | texts


def _scheduler(sampler: str, schedule_type: str) -> str:
    """Our name for another tool's sampler, or its own where we have none."""
    ours = {written.lower(): name for name, written in SAMPLERS.items()} | {name.lower(): name for name in SCHEDULERS}
    candidates = (f"{sampler} {schedule_type}", sampler)
    return next((ours[name.lower()] for name in candidates if name.lower() in ours), sampler)


def _checked(texts: dict[str, str], limits: Limits) -> tuple[dict[str, Any], list[str]]:
    """The values that the form may have, and a sentence for each that it may not."""
    read, values, remarks = recipe_from_query(texts), {}, []
    for name, text in texts.items():
        field = REQUEST_FIELDS[name]
        try:
            value = field.kind.check(name, read.get(name, text), limits)
        except InvalidRequest as error:
            if text:  # one that is left out is no fault
                remarks.append(labelled(error))
        else:
            values[name] = value
    return _without_half_sizes(values), remarks


def _without_half_sizes(values: dict[str, Any]) -> dict[str, Any]:
    """One side alone is no size."""
    is_whole = all(side in values for side in _SIDES)
    return {name: value for name, value in values.items() if is_whole or name not in _SIDES}
