"""The model: what to load for these settings on this machine, loading it once, and fitting it into memory.

What is decided is decided by pure functions (`PipelineSpec.from_settings`, `choose_memory_profile`); `load_pipeline`
carries it out and tells failures in two sentences, one for visitors and one for whoever runs the Space.
"""

import errno
import functools
import json
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from huggingface_hub import errors as hub_errors

from sd_space.schema import Defaults, Limits, ModelInfo, ModelUnavailable, SafetyCheckFailed
from sd_space.settings import TINY, V1_4, V1_4_REVISION, Settings

logger = logging.getLogger(__name__)

GIB = 2**30
TINY_FOLDER = Path(__file__).parent / "tiny"
# Beside the weights: one 512 x 512 step with guidance in float16, its decode, and the CUDA context.
WORKSPACE_BYTES = 3 * GIB // 4
VISITORS_SENTENCE = "The model cannot be loaded at the moment, so no pictures can be made; the operator has been told."


@dataclass(frozen=True, slots=True)
class Hardware:
    """What `detect_hardware` found: `cuda`, `mps` or `cpu`, and the device's memory where it has its own."""

    device: str
    total_vram_bytes: int | None = None


def detect_hardware() -> Hardware:
    """The best device of this machine. Touches CUDA, so it is called only where the model is loaded."""
    if torch.cuda.is_available():
        return Hardware("cuda", torch.cuda.get_device_properties(0).total_memory)
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
    may_fall_back: bool = False  # to the picture book, when the Hub does not give the model

    @classmethod
    def from_settings(cls, settings: Settings, hardware: Hardware) -> "PipelineSpec":
        """Resolves every `auto`. Raises ModelUnavailable for a device or dtype that this machine cannot serve."""
        device = hardware.device if settings.device == "auto" else settings.device
        if device != "cpu" and device != hardware.device:
            raise _unavailable(f"SD_SPACE_DEVICE is {device}, but PyTorch finds none; install its build or use cpu.")
        dtype = settings.dtype
        if dtype == "auto":
            dtype = "float16" if device == "cuda" else "float32"
        if device == "cpu" and dtype != "float32":
            raise _unavailable(f"SD_SPACE_DTYPE is {dtype}, which a CPU runs several times slower; leave it empty.")
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
            max_vram_gb=settings.max_vram_gb,
            total_vram_bytes=hardware.total_vram_bytes if device == hardware.device else None,
            may_fall_back=is_auto and model == V1_4,
        )


@dataclass(frozen=True, slots=True)
class MemoryProfile:
    """How the pipeline is fitted into the device's memory. `offload` is `none`, `model` or `sequential`."""

    attention_slicing: bool = False
    vae_slicing: bool = False
    vae_tiling: bool = False
    offload: str = "none"

    @property
    def name(self) -> str:
        """As the page and every result show it."""
        parts = ["attention slicing"] * self.attention_slicing
        parts += ["tiled decode" if self.vae_tiling else "sliced decode"] * (self.vae_slicing or self.vae_tiling)
        parts += [f"{self.offload} offload"] * (self.offload != "none")
        return ", ".join(parts) or "everything in memory"


def choose_memory_profile(
    device: str,
    total_vram_bytes: int | None,
    weights_bytes: int,
    *,
    attention_slicing: str = "auto",
    low_vram_gb: float = 4.0,
    max_vram_gb: float | None = None,
) -> MemoryProfile:
    """What to give up for a device of this size, least painful first. Pure.

    The model card asks for attention slicing when the GPU has less than 4 GB, and that line is kept. Slicing replaces
    PyTorch's fused attention, which needs less memory than slices do, so above the line it would only cost time.
    """
    if device != "cuda" or total_vram_bytes is None:
        return MemoryProfile(attention_slicing=attention_slicing == "on")
    vram_bytes = min(total_vram_bytes, max_vram_gb * GIB) if max_vram_gb else total_vram_bytes
    is_low = vram_bytes < low_vram_gb * GIB
    offload = "none"
    if weights_bytes + WORKSPACE_BYTES > vram_bytes:
        # The UNet is about half of the weights; where not even that fits, layers travel one by one.
        offload = "model" if weights_bytes // 2 + WORKSPACE_BYTES <= vram_bytes else "sequential"
    return MemoryProfile(
        attention_slicing=attention_slicing == "on" or (attention_slicing == "auto" and is_low),
        vae_slicing=vram_bytes < 2 * low_vram_gb * GIB,
        vae_tiling=is_low,
        offload=offload,
    )


@dataclass(frozen=True, slots=True, eq=False)
class LoadedPipeline:
    """The stock pipeline with its weights in place. `missing_checker_tensors` is what `SafetyScreen` must know."""

    pipeline: StableDiffusionPipeline
    info: ModelInfo
    memory_profile: MemoryProfile
    missing_checker_tensors: tuple[str, ...] = ()


_loading = threading.Lock()


def load_pipeline(spec: PipelineSpec) -> LoadedPipeline:
    """Loads the model of `spec`, once for equal specs, from any thread.

    Raises ModelUnavailable whose hint names the fix, and SafetyCheckFailed for a model without a safety checker.
    """
    with _loading:
        return _load_cached(spec)


@functools.cache
def _load_cached(spec: PipelineSpec) -> LoadedPipeline:
    # The libraries' warnings quote prompts (diffusers) or draw bars; failures reach the log as our own sentences.
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        return _load(spec)
    except ModelUnavailable as error:
        if not spec.may_fall_back:
            raise
        logger.warning("serving the picture book instead of %s: %s", spec.model, error.operator_hint)
        loaded = _load(replace(spec, model=str(TINY_FOLDER), revision=None, variant=None, may_fall_back=False))
        reason = f"{spec.model} could not be loaded, so a small model stands in for it."
        return replace(loaded, info=replace(loaded.info, fallback_reason=reason))


def _load(spec: PipelineSpec) -> LoadedPipeline:
    dtype = getattr(torch, spec.dtype)
    is_file = spec.model.endswith(".safetensors")
    folder = Path(spec.model)
    variant = spec.variant
    if is_file or folder.is_absolute() or spec.model.startswith(("./", "../", "~")) or folder.exists():
        folder = folder.expanduser()
        if not folder.exists():
            raise _unavailable(f"SD_SPACE_MODEL names {spec.model}, which does not exist.")
        if not is_file and not (folder / "model_index.json").is_file():
            raise _unavailable(f"{spec.model} holds no model_index.json, so it is no diffusers folder.")
        variant = variant or _stored_variant(folder)
    try:
        safety_checker, missing = _load_safety_checker(spec, V1_4 if is_file else str(folder), variant)
        if is_file:  # such a file holds no safety checker: it gets v1-4's
            pipeline = StableDiffusionPipeline.from_single_file(
                str(folder), config=V1_4, safety_checker=safety_checker, torch_dtype=dtype
            )
        else:
            pipeline = StableDiffusionPipeline.from_pretrained(
                str(folder),
                revision=spec.revision,
                variant=variant,
                dtype=dtype,
                use_safetensors=True,
                safety_checker=safety_checker,
            )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise _unavailable(_hint(error, spec)) from error
    return fit_pipeline(pipeline, spec, missing)


def fit_pipeline(
    pipeline: StableDiffusionPipeline, spec: PipelineSpec, missing_checker_tensors: tuple[str, ...] = ()
) -> LoadedPipeline:
    """Brings a pipeline with its weights onto the device of `spec`, fitted into its memory."""
    dtype = getattr(torch, spec.dtype)
    # A component in another dtype would be silently slow (float16 on a CPU) or fail at its first step.
    wrong = [name for name in ("unet", "vae", "text_encoder") if getattr(pipeline, name).dtype != dtype]
    if wrong:
        raise _unavailable(f"{', '.join(wrong)} of {spec.model} did not load as {spec.dtype}.")
    profile = choose_memory_profile(
        spec.device,
        spec.total_vram_bytes,
        _weights_bytes(pipeline),
        attention_slicing=spec.attention_slicing,
        low_vram_gb=spec.low_vram_gb,
        max_vram_gb=spec.max_vram_gb,
    )
    try:
        _place(pipeline, profile, spec)
    except torch.OutOfMemoryError as error:
        hint = f"{spec.model} does not fit into the device's memory; set SD_SPACE_MAX_VRAM_GB to what is free."
        raise _unavailable(hint) from error
    return LoadedPipeline(pipeline, _model_info(pipeline, profile, spec), profile, missing_checker_tensors)


def _load_safety_checker(spec: PipelineSpec, source: str, variant: str | None) -> tuple[Any, tuple[str, ...]]:
    """The checker in float32, and the tensors its file lacks: transformers leaves those as they are found in memory."""
    if Path(source).is_dir() and not (Path(source) / "safety_checker").is_dir():
        logger.error("%s holds no safety_checker folder; a model without one is not served.", source)
        raise SafetyCheckFailed("This model has no safety checker, so no pictures are made with it.")
    checker, report = StableDiffusionSafetyChecker.from_pretrained(
        source,
        subfolder="safety_checker",
        revision=spec.revision if source == spec.model else V1_4_REVISION if source == V1_4 else None,
        variant=variant,
        use_safetensors=True,
        dtype=torch.float32,
        output_loading_info=True,
    )
    lacking = [*report["missing_keys"], *(str(entry) for entry in report["mismatched_keys"])]
    return checker, tuple(sorted(lacking))


def _stored_variant(folder: Path) -> str | None:
    """`fp16` where a folder holds its UNet only in that variant, as the picture book does."""
    unet = folder / "unet"
    has_plain = (unet / "diffusion_pytorch_model.safetensors").is_file() or any(unet.glob("*.index.json"))
    return "fp16" if not has_plain and any(unet.glob("*.fp16*.safetensors")) else None


def _weights_bytes(pipeline: StableDiffusionPipeline) -> int:
    modules = (part for part in pipeline.components.values() if isinstance(part, torch.nn.Module))
    return sum(p.numel() * p.element_size() for module in modules for p in module.parameters())


def _place(pipeline: StableDiffusionPipeline, profile: MemoryProfile, spec: PipelineSpec) -> None:
    if spec.device == "cuda" and spec.max_vram_gb and spec.total_vram_bytes:
        fraction = min(1.0, spec.max_vram_gb * GIB / spec.total_vram_bytes)
        torch.cuda.set_per_process_memory_fraction(fraction)
    if profile.attention_slicing:
        pipeline.enable_attention_slicing()
    if profile.vae_slicing:
        pipeline.vae.enable_slicing()
    if profile.vae_tiling:
        pipeline.vae.enable_tiling()
    if profile.offload == "none":
        pipeline.to(spec.device)
    elif profile.offload == "model":
        pipeline.enable_model_cpu_offload(device=spec.device)
    else:
        pipeline.enable_sequential_cpu_offload(device=spec.device)
    if profile.offload != "none":
        pipeline.safety_checker.to("cpu")
    pipeline.set_progress_bar_config(disable=True)


def _model_info(pipeline: StableDiffusionPipeline, profile: MemoryProfile, spec: PipelineSpec) -> ModelInfo:
    said = _self_description(Path(spec.model))
    is_local = Path(spec.model).exists()
    name = said.get("name") or (Path(spec.model).name if is_local else spec.model)
    default_size = pipeline.unet.config.sample_size * pipeline.vae_scale_factor
    return ModelInfo(
        model=name,
        title=said.get("title") or ("Stable Diffusion v1-4" if spec.model == V1_4 else name.rpartition("/")[2]),
        revision=spec.revision,
        device=spec.device,
        dtype=spec.dtype,
        memory_profile=profile.name,
        limits=Limits(min_size=max(64, _down(default_size // 2)), max_size=_down(default_size * 3 // 2)),
        defaults=replace(Defaults(width=default_size, height=default_size), **said.get("defaults", {})),
        description=said.get("description", ""),
        licence=said.get("license", "CreativeML OpenRAIL-M" if spec.model.startswith("CompVis/") else ""),
        is_picture_book=said.get("name") == "picture-book",
    )


def _down(pixels: int) -> int:
    return pixels // 8 * 8


def _self_description(folder: Path) -> dict[str, Any]:
    """What a folder says about itself in `sd_space.json`: name, title, description, license, defaults."""
    path = folder / "sd_space.json"
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _unavailable(f"{path} is not JSON: {error}") from error


def _unavailable(operator_hint: str) -> ModelUnavailable:
    return ModelUnavailable(VISITORS_SENTENCE, operator_hint)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what caused it: diffusers wraps every fault of the Hub in a bare OSError."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def _hint(error: BaseException, spec: PipelineSpec) -> str:
    """One sentence that names the fix. Most telling causes first; subclasses before their bases."""
    causes = list(_chain(error))
    model, revision = spec.model, spec.revision or "main"

    def find(*types: type[BaseException]) -> Any:
        return next((cause for cause in causes if isinstance(cause, types)), None)

    status = next((s for s in (_http_status(cause) for cause in causes) if s), None)
    if any(getattr(cause, "errno", None) == errno.ENOSPC for cause in causes):
        return "The disk is full; free some space or set HF_HOME to a larger disk."
    if find(hub_errors.GatedRepoError) or status == 403:
        return f"{model} is gated: accept its licence at https://huggingface.co/{model} with the account of HF_TOKEN."
    if find(hub_errors.RevisionNotFoundError):
        return f"{model} has no revision {revision}; set SD_SPACE_REVISION to one that exists."
    if find(hub_errors.LocalTokenNotFoundError) or status == 401:
        return (
            f"{model} asks for a token, and none or a wrong one is set; set HF_TOKEN to that of an account with access."
        )
    if find(hub_errors.RepositoryNotFoundError):
        return f"{model} is not on the Hub, or the token's account cannot see it; check SD_SPACE_MODEL and HF_TOKEN."
    if status == 429:
        return "The Hub limits this address; set HF_TOKEN or try again later."
    if status and status >= 500:
        return f"The Hub answered with error {status}; try again later."
    if find(hub_errors.OfflineModeIsEnabled, hub_errors.LocalEntryNotFoundError):
        return f"{model} is not cached completely and the Hub cannot be reached; check the network or HF_HUB_OFFLINE."
    if find(hub_errors.EntryNotFoundError):
        return f"{model} lacks a file that is needed; only safetensors are loaded, in variant {spec.variant or 'none'}."
    if find(ConnectionError, TimeoutError) or any("Connect" in type(cause).__name__ for cause in causes):
        return "The Hub cannot be reached; check the network."
    first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return f"{model} could not be loaded ({type(error).__name__}: {first_line}); only safetensors are accepted."


def _http_status(error: BaseException) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None
