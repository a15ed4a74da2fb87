"""What to load for these settings on this machine. Decided here, and carried out in `pipeline`."""

import importlib.util
import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from sd_space.model.hub_errors import unavailable
from sd_space.model.memory import GIB
from sd_space.settings import TINY, V1_4, V1_4_REVISION, Settings

logger = logging.getLogger(__name__)

TINY_FOLDER = Path(__file__).parents[1] / "tiny"


@dataclass(frozen=True, slots=True)
class Hardware:
    """What `detect_hardware` found: `cuda`, `mps` or `cpu`, and the device's memory where it has its own.

    `free_vram_bytes` is what others and PyTorch's own context leave of it; all of it when it was not asked.
    """

    device: str
    total_vram_bytes: int | None = None
    free_vram_bytes: int | None = None


def detect_hardware() -> Hardware:
    """The best device of this machine. Touches CUDA, so it is called only where the model is loaded."""
    if torch.cuda.is_available():
        free_bytes, total_bytes = torch.cuda.mem_get_info(0)
        return Hardware("cuda", total_bytes, free_bytes)
    return Hardware("mps" if torch.backends.mps.is_available() else "cpu")


@dataclass(frozen=True, slots=True)
class PipelineSpec:
    """Everything that decides what is loaded and how; equal specs share one loaded pipeline."""

    model: str  # a Hub id, a folder or a .safetensors file
    revision: str | None
    variant: str | None
    device: str
    dtype: str
    attention_slicing: str = "auto"
    low_vram_gb: float = 4.0
    max_vram_gb: float | None = None
    total_vram_bytes: int | None = None
    free_vram_bytes: int | None = None
    max_batch_size: int | None = None
    owns_device: bool = True
    turbo: bool = False
    runtime: str = "torch"
    jax_dtype: str = ""  # of UNet and decoder in JAX, where the other parts are in `dtype`
    runtime_may_fall_back: bool = False  # to torch, when OpenVINO cannot run the model
    compile: bool = False
    hub_timeout_s: float = 60.0
    may_fall_back: bool = False  # to the picture book, when the Hub does not give the model

    @classmethod
    def from_settings(cls, settings: Settings, hardware: Hardware) -> "PipelineSpec":
        """Resolves every `auto`. Raises ModelUnavailable for a device or dtype that this machine cannot serve."""
        in_jax = settings.runtime == "jax"  # which finds its own devices, and leaves the CPU to PyTorch
        device = ("cpu" if in_jax else hardware.device) if settings.device == "auto" else settings.device
        if device != "cpu" and device != hardware.device:
            raise unavailable(f"SD_SPACE_DEVICE is {device}, but PyTorch finds none; install its build or use cpu.")
        dtype = settings.dtype
        if dtype == "auto":
            dtype = "float16" if device == "cuda" and not in_jax else "float32"
        jax_dtype = dtype if in_jax else ""
        if jax_dtype == "float16":
            raise unavailable("SD_SPACE_DTYPE is float16, which SD_SPACE_RUNTIME=jax lacks; set it to bfloat16.")
        dtype = "float32" if in_jax else dtype
        if device == "cpu" and dtype != "float32":
            raise unavailable(f"SD_SPACE_DTYPE is {dtype}, which a CPU runs several times slower; leave it empty.")
        is_auto = settings.model == "auto"
        model = (V1_4 if device == "cuda" else TINY) if is_auto else settings.model
        revision, variant = settings.revision, settings.variant
        if revision == "fp16":  # the model card's way from before variants existed
            logger.warning("SD_SPACE_REVISION=fp16 is read as SD_SPACE_VARIANT=fp16; the branch is no longer used.")
            revision, variant = None, "fp16"
        if model == V1_4:
            revision = revision or V1_4_REVISION
        variant = variant or ("fp16" if dtype == "float16" else None)
        if model == TINY:
            model = str(TINY_FOLDER)
        return cls(
            model=model,
            revision=revision,
            variant=variant,
            device=device,
            dtype=dtype,
            attention_slicing=settings.attention_slicing,
            low_vram_gb=settings.low_vram_gb,
            max_vram_gb=settings.max_vram_gb or _shared_gb(settings.ray_gpus_per_replica, hardware),
            total_vram_bytes=hardware.total_vram_bytes if device == hardware.device else None,
            free_vram_bytes=hardware.free_vram_bytes if device == hardware.device else None,
            max_batch_size=settings.max_batch_size,
            owns_device=settings.backend != "zerogpu",  # whose GPU is lent by the call, after the weights were placed
            turbo=settings.turbo,
            runtime=_runtime(settings, device),
            jax_dtype=jax_dtype,
            runtime_may_fall_back=settings.runtime == "auto",
            compile=_compiles(settings),
            hub_timeout_s=settings.hub_timeout_s,
            may_fall_back=is_auto and model == V1_4,
        )


def _shared_gb(gpus_per_replica: float | None, hardware: Hardware) -> float | None:
    """A replica's part of a GPU that several share: each would take all of its memory."""
    if not gpus_per_replica or gpus_per_replica >= 1 or hardware.total_vram_bytes is None:
        return None
    return gpus_per_replica * hardware.total_vram_bytes / GIB


def _runtime(settings: Settings, device: str) -> str:
    """What runs the UNet. Raises ModelUnavailable for what OpenVINO or JAX cannot do."""
    obstacles = {
        f"on {device}": device != "cpu",
        "in a process that is forked for each call": settings.backend == "zerogpu",
        "with SD_SPACE_TURBO": settings.turbo,
        "with SD_SPACE_COMPILE": settings.compile,
        "with SD_SPACE_ATTENTION_SLICING": settings.attention_slicing == "on",
    }
    obstacle = next((name for name, is_there in obstacles.items() if is_there), None)
    if settings.runtime in ("openvino", "jax") and obstacle:
        raise unavailable(
            f"SD_SPACE_RUNTIME is {settings.runtime}, which does not work {obstacle}; leave SD_SPACE_RUNTIME empty."
        )
    if settings.runtime != "auto":
        return settings.runtime
    is_wanted = not obstacle and not settings.reproducible
    return "openvino" if is_wanted and importlib.util.find_spec("openvino") else "torch"


def _compiles(settings: Settings) -> bool:
    """Whether `torch.compile` makes the UNet faster. Raises ModelUnavailable where that would break a promise."""
    obstacles = {
        "with SD_SPACE_REPRODUCIBLE, whose pixels would change once a size is compiled": settings.reproducible,
        "in a process that is forked for each call": settings.backend == "zerogpu",
    }
    obstacle = next((name for name, is_there in obstacles.items() if is_there), None)
    if settings.compile and obstacle:
        raise unavailable(f"SD_SPACE_COMPILE is 1, which does not work {obstacle}; leave SD_SPACE_COMPILE empty.")
    return settings.compile
