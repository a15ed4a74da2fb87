"""What a visitor asks for: the one table of a request's fields."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from sd_space.errors import InvalidRequest
from sd_space.fields import Choice, Kind, Real, RequestField, Text, Whole, shown
from sd_space.served_model import ModelInfo

MAX_SEED = 2**32 - 1
MAX_PROMPT_CHARS = 1000


def _field(kind: Kind, label: str, help: str, default: object = None, parameter: str = "") -> Any:
    return field(metadata={"field": RequestField(kind, label, help, default, parameter)})


_SEED = Whole(-1, MAX_SEED, unit=" (-1 picks one at random)")
_SIDE = Whole("min_size", "max_size", multiple_of="size_step", unit=" pixels")
_SIDE_HELP = "in pixels, a multiple of {limits.size_step}; the model's own when left out"


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """What a visitor asks for, valid by construction through `parse`.

    The first picture has `seed`, the next one seed + 1, modulo 2**32.

    Form, API description, checks and all forms of a recipe (`serving/recipe.py`) are made from this table.
    """

    prompt: str = _field(Text(MAX_PROMPT_CHARS, may_be_empty=False), "Prompt", "what the pictures show, in English")
    negative_prompt: str = _field(Text(MAX_PROMPT_CHARS), "Negative prompt", "what they should not show", "")
    num_images_per_prompt: int = _field(
        Whole(1, "max_images"), "Number of pictures", "how many pictures, 1 to {limits.max_images}"
    )
    num_inference_steps: int = _field(
        Whole(1, "max_steps"), "Steps", "denoising steps, 1 to {limits.max_steps}", parameter="Steps"
    )
    scheduler: str = _field(
        Choice("schedulers"),
        "Noise scheduler",
        "the noise scheduler, one of those that the model endpoint lists",
        parameter="Sampler",
    )
    guidance_scale: float = _field(
        Real("min_guidance", "max_guidance"),
        "Guidance scale",
        "how closely to follow the prompt, {limits.min_guidance:g} to {limits.max_guidance:g}",
        parameter="CFG scale",
    )
    seed: int = _field(
        _SEED,
        "Seed",
        f"the first picture's seed, 0 to {MAX_SEED}, or -1 for a random one; the next one has seed + 1",
        -1,
        parameter="Seed",
    )
    width: int = _field(_SIDE, "Width", _SIDE_HELP, parameter="Size")
    height: int = _field(_SIDE, "Height", _SIDE_HELP, parameter="Size")

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple((self.seed + k) % (MAX_SEED + 1) for k in range(self.num_images_per_prompt))

    @classmethod
    def parse(cls, values: Mapping[str, object], info: ModelInfo, random_seed: int) -> "GenerationRequest":
        """Checks untrusted `values` against the model's limits; `None` or a missing one takes the model's default.

        `random_seed` is used where the seed is -1. Raises InvalidRequest, whose sentence names field, value and range.
        """
        if unknown := sorted(set(values) - REQUEST_FIELDS.keys()):
            raise InvalidRequest(unknown[0], f"{shown(unknown[0])} is not a field of a request.")
        given: dict[str, Any] = {name: f.default for name, f in REQUEST_FIELDS.items()} | asdict(info.defaults)
        given |= {name: value for name, value in values.items() if value is not None}
        checked = {name: f.kind.check(name, given[name], info.limits) for name, f in REQUEST_FIELDS.items()}
        if checked["seed"] == -1:
            checked["seed"] = random_seed
        return cls(**checked)


REQUEST_FIELDS: Mapping[str, RequestField] = {f.name: f.metadata["field"] for f in fields(GenerationRequest)}
