"""The data that crosses module borders.

Everything here is frozen, slotted and picklable, and imports nothing but the standard library, so that a
request can travel to another thread, a forked ZeroGPU worker or a Ray replica unchanged.
"""

import json
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import Any

from sd_space.errors import InvalidRequest, ModelUnavailable, SpaceError

MAX_SEED = 2**32 - 1
MAX_PROMPT_CHARS = 1000

# Every noise scheduler on offer, in the order in which the page lists them; PNDM is v1-4's own.
SCHEDULERS = ("PNDM", "DDIM", "Euler", "Euler a", "DPM++ 2M Karras", "UniPC", "LCM", "Heun")


def _shown(value: object) -> str:
    """The refused value as an error may repeat it: numbers and short words whole, anything else by its type."""
    if value is None:
        return "nothing"
    if isinstance(value, bool | int | float):
        text = json.dumps(value)
    elif isinstance(value, str):
        text = "'" + "".join(c for c in value if c.isalnum() or c in " +-_.") + "'"
    else:
        text = f"a {type(value).__name__}"
    if len(text) <= 24:
        return text
    return f"a text of {len(value)} characters" if isinstance(value, str) else f"a number of {len(text)} digits"


def _integer(field: str, value: object, low: int, high: int, unit: str = "") -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a JSON client writes 4.0 for 4
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidRequest(field, f"{field} must be a whole number from {low} to {high}{unit}, not {_shown(value)}.")
    return value


def _number(field: str, value: object, low: float, high: float) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not low <= value <= high:  # not a number is in no range
        raise InvalidRequest(field, f"{field} must be a number from {low:g} to {high:g}, not {_shown(value)}.")
    return float(value)


def _text(field: str, value: object) -> str:
    """The text without outer blanks. Words beyond CLIP's 77 tokens are allowed: the result names what was cut."""
    if not isinstance(value, str):
        raise InvalidRequest(field, f"{field} must be text, not {_shown(value)}.")
    if len(value) > MAX_PROMPT_CHARS:
        raise InvalidRequest(field, f"{field} must be at most {MAX_PROMPT_CHARS} characters long, not {len(value)}.")
    # Cc: control characters, Cs: lone surrogates, which no tokenizer or PNG can hold.
    if any(unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t\r" for c in value):
        raise InvalidRequest(field, f"{field} must not contain control characters; please type it anew.")
    return " ".join(value.split())


@dataclass(frozen=True, slots=True)
class Limits:
    """What the served model allows. Sizes are pixels and multiples of `size_step`."""

    min_size: int
    max_size: int
    size_step: int = 8
    max_images: int = 4
    max_steps: int = 150
    min_guidance: float = 1.0
    max_guidance: float = 20.0
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
    turbo: bool = False  # steps reuse features, so pictures are not those of the plain pipeline
    fallback_reason: str = ""  # why MODEL=auto serves the picture book although a GPU is there

    def as_dict(self) -> dict[str, Any]:
        """The JSON of the `/model` endpoint."""
        values = asdict(self)
        values["schedulers"] = list(values["limits"].pop("schedulers"))
        values["default_size"] = [self.defaults.width, self.defaults.height]
        return values


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One visitor's wish, valid by construction through `parse`. Picture k has seed + k (modulo 2**32)."""

    prompt: str
    negative_prompt: str
    num_images_per_prompt: int
    num_inference_steps: int
    guidance_scale: float
    seed: int
    width: int
    height: int
    scheduler: str

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple((self.seed + k) % (MAX_SEED + 1) for k in range(self.num_images_per_prompt))

    @classmethod
    def parse(cls, values: Mapping[str, object], info: ModelInfo, random_seed: int) -> "GenerationRequest":
        """Checks untrusted `values` against the model's limits; `None` or a missing one takes the model's default.

        `random_seed` is used where the seed is -1. Raises InvalidRequest, whose sentence names field, value and range.
        """
        limits = info.limits
        unknown = sorted(set(values) - {f.name for f in fields(cls)})
        if unknown:
            raise InvalidRequest(unknown[0], f"{_shown(unknown[0])} is not a field of a request.")
        given = asdict(info.defaults) | {"negative_prompt": "", "seed": -1}
        given |= {name: value for name, value in values.items() if value is not None}
        prompt = _text("prompt", given.get("prompt"))
        if not any(unicodedata.category(c)[0] not in "CZ" for c in prompt):
            raise InvalidRequest("prompt", "prompt must not be empty; describe the picture you want.")
        seed = _integer("seed", given["seed"], -1, MAX_SEED, " (-1 picks one at random)")
        if given["scheduler"] not in limits.schedulers:
            raise InvalidRequest(
                "scheduler",
                f"scheduler must be one of {', '.join(limits.schedulers)}, not {_shown(given['scheduler'])}.",
            )
        sizes = {}
        for name in ("width", "height"):
            sizes[name] = _integer(name, given[name], limits.min_size, limits.max_size, " pixels")
            if sizes[name] % limits.size_step:
                raise InvalidRequest(name, f"{name} must be a multiple of {limits.size_step}, not {sizes[name]}.")
        return cls(
            prompt=prompt,
            negative_prompt=_text("negative_prompt", given["negative_prompt"]),
            num_images_per_prompt=_integer(
                "num_images_per_prompt", given["num_images_per_prompt"], 1, limits.max_images
            ),
            num_inference_steps=_integer("num_inference_steps", given["num_inference_steps"], 1, limits.max_steps),
            guidance_scale=_number("guidance_scale", given["guidance_scale"], limits.min_guidance, limits.max_guidance),
            seed=random_seed if seed == -1 else seed,
            scheduler=str(given["scheduler"]),
            **sizes,
        )


@dataclass(frozen=True, slots=True)
class AdmittedRequest:
    """A request past the gate: made only in `gate.py`, and all that a backend takes.

    `visitor` groups one visitor's requests for fair turns; it is derived from the acceptance token, never an address.
    """

    request_id: str
    request: GenerationRequest
    visitor: str
    accepted_at: float


class Outcome(StrEnum):
    OK = "ok"
    WITHHELD = "withheld"  # the safety checker flagged it, or could not check it
    BROKEN = "broken"  # not a number: nothing was drawn, so nothing was judged


@dataclass(frozen=True, slots=True)
class ScreenedImage:
    """A finished picture after the safety check: made only in `safety.py`.

    `pixels` are height x width x 3 bytes of RGB, row by row; `None` unless the outcome is ok.
    """

    seed: int
    outcome: Outcome
    width: int
    height: int
    pixels: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Preview:
    """A mosaic of at most 16 x 16 cells of an unfinished picture: made only in `safety.py`.

    `pixels` are rows x columns x 3 bytes of RGB: too coarse to show what the checker would withhold.
    """

    columns: int
    rows: int
    pixels: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a request stands. `queue_position` is 0 while it runs, else its place in the queue (1 is next).

    Steps are UNet calls: PNDM takes n + 1 of them for n inference steps. They are those of the picture that is
    furthest behind among the running ones. `seconds_left` is `None` until a step was measured on this machine.
    `note` is a sentence for the visitor, about a delay.
    """

    request_id: str
    queue_position: int
    step_index: int
    num_timesteps: int
    pictures_done: int
    num_pictures: int
    seconds_left: float | None = None
    previews: tuple[Preview | None, ...] = ()
    note: str = ""  # a sentence for the visitor, about a delay


@dataclass(frozen=True, slots=True)
class PictureFinished:
    """Picture `index` of a request, screened; the others may still be on their way."""

    request_id: str
    index: int
    image: ScreenedImage


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """All pictures of a request, in order. `elapsed_s` is seconds by stage.

    `truncated_prompt` is the part of the prompt beyond the text encoder's 77 tokens, which had no effect.
    """

    request_id: str
    images: tuple[ScreenedImage, ...]
    elapsed_s: Mapping[str, float]
    truncated_prompt: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class RequestFailed:
    """The request is over without a result; `error` is what its visitor is told."""

    request_id: str
    error: SpaceError


Update = Progress | PictureFinished | GenerationResult | RequestFailed


class Stage(StrEnum):
    """How far a backend has come."""

    STARTING = "starting"
    IMPORTING = "importing the libraries"
    LOADING = "loading the model"
    CHECKING = "testing the safety checker"
    WARMING_UP = "measuring the speed of this machine"
    READY = "ready"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class BackendStatus:
    """What `/readyz`, the page's banner and `/model` read. `reason` is for visitors, empty when all is well.

    `detail` says how far a stage of loading is, such as "1.20 GB of 2.74 GB fetched".
    Where pictures are made in other processes, `replicas` counts those by state, and `reruns` how often a request
    was run again because its replica was lost. `unet_calls` are since the start, by the pictures that shared them: how
    many, and their seconds in all.
    """

    stage: Stage
    info: ModelInfo | None = None
    reason: str = ""
    waiting: int = 0
    running: int = 0
    detail: str = ""
    replicas: Mapping[str, int] = field(default_factory=dict)
    reruns: int = 0
    unet_calls: Mapping[int, tuple[int, float]] = field(default_factory=dict)

    @property
    def is_ready(self) -> bool:
        return self.stage is Stage.READY

    @property
    def ready_info(self) -> ModelInfo:
        """The served model. Raises ModelUnavailable if none is loaded yet, or none could be."""
        if self.info is None:
            raise ModelUnavailable(self.reason or "The model is still loading; please try again in a minute.")
        return self.info
