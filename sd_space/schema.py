"""The data that crosses module borders; `GenerationRequest` is the one table of a request's fields.

Everything here is frozen, slotted and picklable, and imports nothing but the standard library, so that a
request can travel to another thread, a forked ZeroGPU worker or a Ray replica unchanged.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import Any

from sd_space.devices import Device
from sd_space.errors import InvalidRequest, ModelUnavailable, SpaceError
from sd_space.fields import Choice, Kind, Real, RequestField, Text, Whole, shown

MAX_SEED = 2**32 - 1
MAX_PROMPT_CHARS = 1000

# Every noise scheduler on offer, in the order in which the page lists them; PNDM is v1-4's own.
SCHEDULERS = ("PNDM", "DDIM", "Euler", "Euler a", "DPM++ 2M Karras", "UniPC", "LCM", "Heun")


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
    runtime: str = "torch"  # what runs the UNet
    turbo: bool = False  # steps reuse features, so pictures are not those of the plain pipeline
    fallback_reason: str = ""  # why MODEL=auto serves the picture book although a GPU is there

    def as_dict(self) -> dict[str, Any]:
        """The JSON of the `/model` endpoint."""
        values = asdict(self)
        values["schedulers"] = list(values["limits"].pop("schedulers"))
        values["default_size"] = [self.defaults.width, self.defaults.height]
        return values


@dataclass(frozen=True, slots=True)
class PromptTokenizer:
    """The served model's tokenizer as the library `tokenizers` reads it, and how many tokens of a prompt count."""

    json: str = field(repr=False)
    max_tokens: int


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
    furthest behind among the running ones; `fraction_done` is of the steps of all pictures together. `seconds_left` is
    `None` until a step was measured on this machine.
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
    fraction_done: float = 0.0


@dataclass(frozen=True, slots=True)
class PictureFinished:
    """Picture `index` of a request, screened; the others may still be on their way."""

    request_id: str
    index: int
    image: ScreenedImage
    device: str = ""  # that drew it, where there are several


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """All pictures of a request, in order. `elapsed_s` is seconds by stage.

    `truncated_prompt` is the part of the prompt beyond the text encoder's 77 tokens, which had no effect. `devices` are
    those that drew the pictures, one for each; none are named where there is only one.
    """

    request_id: str
    images: tuple[ScreenedImage, ...]
    elapsed_s: Mapping[str, float]
    truncated_prompt: str = field(default="", repr=False)
    devices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RequestFailed:
    """The request is over without a result; `error` is what its visitor reads."""

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
    many, and their seconds in all. `restarts` is how often an engine's process was lost and replaced, by reason.
    `devices` are those with an engine; none are listed where they are not this machine's own.
    `outlook_s` is how long a request with the model's default values would take if it came now, where that is known.
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
    restarts: Mapping[str, int] = field(default_factory=dict)
    devices: tuple[Device, ...] = ()
    outlook_s: float | None = None

    @property
    def is_ready(self) -> bool:
        return self.stage is Stage.READY

    @property
    def ready_info(self) -> ModelInfo:
        """The served model. Raises ModelUnavailable if none is loaded yet, or none could be."""
        if self.info is None:
            raise ModelUnavailable(self.reason or "The model is still loading; please try again in a minute.")
        return self.info
