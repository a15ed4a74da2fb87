"""What a visitor asks for: the one table of a request's fields."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from sd_space.errors import InvalidRequest, SpaceError
from sd_space.fields import Choice, Kind, Picture, Real, RequestField, SourcePicture, Text, Whole, shown
from sd_space.languages import Phrase
from sd_space.served_model import ModelInfo

MAX_SEED = 2**32 - 1
MAX_PROMPT_CHARS = 1000
SEEDS = ("seed", "variation_seed")  # of which -1 draws one at random


def _field(kind: Kind, label: str, help: str, default: object = None, parameter: str = "") -> Any:
    return field(metadata={"field": RequestField(kind, label, help, default, parameter)})


def _optional(kind: Kind, label: str, help: str, default: object, parameter: str, used_with: str) -> Any:
    """A field that not every request has; `used_with` as in `RequestField`."""
    return field(default=default, metadata={"field": RequestField(kind, label, help, default, parameter, used_with)})


_SEED = Whole(
    -1,
    MAX_SEED,
    refusal=Phrase("{name} must be a whole number from {low} to {high} (-1 picks one at random), not {value}."),
)
_SIDE = Whole(
    "min_size",
    "max_size",
    multiple_of="size_step",
    refusal=Phrase("{name} must be a whole number from {low} to {high} pixels, not {value}."),
)
_SIDE_HELP = "in pixels, a multiple of {limits.size_step}; the model's own when left out"


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """What a visitor asks for, valid by construction through `parse`.

    The first picture has `seed`, the next one seed + 1, modulo 2**32.

    Form, API description, checks and all forms of a recipe (`serving/recipe.py`) are made from this table.
    """

    prompt: str = _field(
        Text(MAX_PROMPT_CHARS, may_be_empty=False), Phrase("Prompt"), "what the pictures show, in English"
    )
    negative_prompt: str = _field(Text(MAX_PROMPT_CHARS), Phrase("Negative prompt"), "what they should not show", "")
    num_images_per_prompt: int = _field(
        Whole(1, "max_images"), Phrase("Number of pictures"), "how many pictures, 1 to {limits.max_images}"
    )
    num_inference_steps: int = _field(
        Whole(1, "max_steps"), Phrase("Steps"), "denoising steps, 1 to {limits.max_steps}", parameter="Steps"
    )
    scheduler: str = _field(
        Choice("schedulers"),
        Phrase("Noise scheduler"),
        "the noise scheduler, one of those that the model endpoint lists",
        parameter="Sampler",
    )
    guidance_scale: float = _field(
        Real("min_guidance", "max_guidance"),
        Phrase("Guidance scale"),
        "how closely to follow the prompt, {limits.min_guidance:g} to {limits.max_guidance:g}",
        parameter="CFG scale",
    )
    seed: int = _field(
        _SEED,
        Phrase("Seed"),
        f"the first picture's seed, 0 to {MAX_SEED}, or -1 for a random one; the next one has seed + 1",
        -1,
        parameter="Seed",
    )
    width: int = _field(_SIDE, Phrase("Width"), _SIDE_HELP, parameter="Size")
    height: int = _field(_SIDE, Phrase("Height"), _SIDE_HELP, parameter="Size")
    init_image: SourcePicture | None = _optional(
        Picture(channels=3),
        Phrase("Start picture"),
        "the picture to start from, as a data URI or the address of one of your own results; noise when left out. "
        "width and height are its own when left out, within what the model takes",
        None,
        "Init image hash",
        used_with="init_image",
    )
    mask: SourcePicture | None = _optional(
        Picture(channels=1),
        Phrase("Mask"),
        "what may change of init_image, as a data URI: white is drawn anew, black stays; all of it when left out",
        None,
        "Mask hash",
        used_with="mask",
    )
    strength: float = _optional(
        Real(0.0, 1.0),
        Phrase("How much may change?"),
        "how much of init_image may change, from 0 to 1; of the steps, this share is drawn",
        0.8,
        "Denoising strength",
        used_with="init_image",
    )
    variation_seed: int = _optional(
        _SEED,
        Phrase("Variation seed"),
        "the seed of the first variation, or -1 for a random one; the next picture has variation_seed + 1, and all "
        "have the same seed",
        -1,
        "Variation seed",
        used_with="variation_strength",
    )
    variation_strength: float = _optional(
        Real(0.0, 1.0),
        Phrase("Variation strength"),
        "how far from the seed's noise to that of the variation seed, from 0, which is none, to 1",
        0.0,
        "Variation seed strength",
        used_with="variation_strength",
    )

    @property
    def seeds(self) -> tuple[int, ...]:
        """Variations of one picture have its seed, and only their variation seeds differ, as in other tools."""
        if self.variation_strength:
            return (self.seed,) * self.num_images_per_prompt
        return self._counted(self.seed)

    @property
    def variation_seeds(self) -> tuple[int, ...]:
        """Without a variation they mean nothing."""
        if not self.variation_strength:
            return (self.variation_seed,) * self.num_images_per_prompt
        return self._counted(self.variation_seed)

    def _counted(self, first: int) -> tuple[int, ...]:
        return tuple((first + k) % (MAX_SEED + 1) for k in range(self.num_images_per_prompt))

    @property
    def first_step(self) -> int:
        """Of the schedule's steps, the one that a picture begins with (diffusers' `t_start`): 0 from noise."""
        steps = self.num_inference_steps
        return 0 if self.init_image is None else steps - min(int(steps * self.strength), steps)

    def of_picture(self, index: int) -> "GenerationRequest":
        """The request with the seeds of one of its pictures."""
        return replace(self, seed=self.seeds[index], variation_seed=self.variation_seeds[index])

    def without_pixels(self) -> "GenerationRequest":
        """The request once its pictures are not needed any more, but for their hashes."""
        sources = {name: getattr(self, name) for name in ("init_image", "mask")}
        return replace(self, **{name: replace(source, pixels=b"") for name, source in sources.items() if source})

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
        for name in SEEDS if checked["variation_strength"] else SEEDS[:1]:
            if checked[name] == -1:
                checked[name] = random_seed
                random_seed = (random_seed + checked["num_images_per_prompt"]) % (MAX_SEED + 1)
        request = cls(**checked)
        request._check_pictures(info.limits.mask_step)
        return request

    def _check_pictures(self, cell: int) -> None:
        """What the fields that are about a picture must agree on; a latent is `cell` pixels wide. InvalidRequest."""
        if self.init_image is None:
            if self.mask is not None:
                raise InvalidRequest(
                    "mask",
                    Phrase("{name} needs the picture that it belongs to: send init_image as well.", name="mask"),
                )
            return
        if self.first_step == self.num_inference_steps:
            raise InvalidRequest(
                "strength",
                Phrase(
                    "num_inference_steps x strength must be at least 1, not {steps} x {strength}; raise one of them.",
                    steps=self.num_inference_steps,
                    strength=f"{self.strength:g}",
                ),
            )
        for name in ("init_image", "mask"):
            picture = getattr(self, name)
            if picture is not None and (picture.width, picture.height) != (self.width, self.height):
                raise InvalidRequest(
                    name,
                    Phrase(
                        "{name} must be {width} x {height} pixels, as width and height.",
                        name=name,
                        width=self.width,
                        height=self.height,
                    ),
                )
        if self.mask is not None and self.mask.loses_white(cell):
            raise InvalidRequest(
                "mask",
                Phrase(
                    "{name} must be white over at least {cell} x {cell} pixels in one place; "
                    "what is less cannot be drawn anew by this model.",
                    name="mask",
                    cell=cell,
                ),
            )


REQUEST_FIELDS: Mapping[str, RequestField] = {f.name: f.metadata["field"] for f in fields(GenerationRequest)}


def labelled(error: SpaceError) -> str:
    """What a visitor reads of an error: a field of the request goes by its label on the page."""
    message, name = error.message, error.field if isinstance(error, InvalidRequest) else ""
    if name not in REQUEST_FIELDS:
        return message
    label = REQUEST_FIELDS[name].label
    if isinstance(message, Phrase):
        return Phrase(message.template, **{**message.values, "name": label}) if "name" in message.values else message
    return label + message.removeprefix(name) if message.startswith(f"{name} ") else message
