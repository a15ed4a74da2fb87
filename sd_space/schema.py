"""The data that crosses module borders.

Everything here is frozen, slotted and picklable, and imports nothing but the standard library, so that a
request can travel to another thread, a forked ZeroGPU worker or a Ray replica unchanged.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from sd_space.devices import Device
from sd_space.errors import ModelUnavailable, SpaceError
from sd_space.languages import Phrase
from sd_space.request import GenerationRequest
from sd_space.served_model import ModelInfo

MAX_STEPS_SHOWN = 12


@dataclass(frozen=True, slots=True)
class PromptTokenizer:
    """The served model's tokenizer as the library `tokenizers` reads it, and how many tokens of a prompt count."""

    json: str = field(repr=False)
    max_tokens: int


class Inspection(StrEnum):
    """What else is decoded of a request's pictures, and screened as they are, once all of them have passed."""

    STEPS = "steps"  # what some of the steps predicted, of each picture `MAX_STEPS_SHOWN` at most
    AUTOENCODER = "autoencoder"  # each picture once more, after it was encoded

    def most_decodes(self, num_timesteps: int) -> int:
        """How many it takes for a picture, at most; encoding takes no longer than decoding."""
        return min(num_timesteps, MAX_STEPS_SHOWN) if self is Inspection.STEPS else 2


@dataclass(frozen=True, slots=True)
class AdmittedRequest:
    """A request past the gate: made only in `gate.py`, and all that a backend takes.

    `visitor` groups one visitor's requests for fair turns; it is derived from the acceptance token, never an address.
    Those with a lower `priority` are drawn first.
    """

    request_id: str
    request: GenerationRequest
    visitor: str
    accepted_at: float
    priority: int = 0
    inspection: Inspection | None = None


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
    of_step: int | None = None  # of an inspection: the step that it shows, from 1; 0 is the picture once more


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """All pictures of a request, in order, and after them those of its inspection. `elapsed_s` is seconds by stage.

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
            raise ModelUnavailable(self.reason or Phrase("The model is still loading; please try again in a minute."))
        return self.info
