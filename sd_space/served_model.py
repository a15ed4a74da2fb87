"""The served model as its visitors may know it: what it is called, what it allows, what it starts with."""

from dataclasses import asdict, dataclass
from typing import Any

# Every noise scheduler on offer, in the order in which the page lists them; PNDM is v1-4's own.
SCHEDULERS = ("PNDM", "DDIM", "Euler", "Euler a", "DPM++ 2M Karras", "UniPC", "LCM", "Heun")


@dataclass(frozen=True, slots=True)
class Limits:
    """What the served model allows. Sizes are pixels and multiples of `size_step`.

    Squares of `mask_step` pixels are drawn anew or kept as a whole: what one latent stands for.
    """

    min_size: int
    max_size: int
    size_step: int = 8
    max_images: int = 4
    max_steps: int = 150
    min_guidance: float = 1.0
    max_guidance: float = 20.0
    mask_step: int = 8
    schedulers: tuple[str, ...] = SCHEDULERS


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a form shows first: the card's values (50 PLMS steps, 7.5) unless the model states its own."""

    num_inference_steps: int = 50
    guidance_scale: float = 7.5
    scheduler: str = "PNDM"
    width: int = 512
    height: int = 512
    num_images_per_prompt: int = 4


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The loaded model as visitors and API clients may know it: no path, no token."""

    model: str
    title: str
    revision: str | None
    device: str
    dtype: str
    memory_profile: str
    limits: Limits
    defaults: Defaults
    description: str = ""
    licence: str = ""
    is_picture_book: bool = False
    runtime: str = "torch"  # what runs the UNet
    turbo: bool = False  # steps reuse features, so pictures are not those of the plain pipeline
    fallback_reason: str = ""  # why MODEL=auto serves the picture book although a GPU is there

    def as_dict(self) -> dict[str, Any]:
        """The JSON of the `/model` endpoint."""
        values = asdict(self)
        values["schedulers"] = list(values["limits"].pop("schedulers"))
        values["default_size"] = [self.defaults.width, self.defaults.height]
        return values
