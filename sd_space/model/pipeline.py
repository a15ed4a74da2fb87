"""The model: what to load for these settings on this machine, and loading it once.

What is decided is decided by pure functions (`PipelineSpec.from_settings`, `memory_ladder`); `load_pipeline` carries it
out and tells failures in two sentences, one for visitors and one for whoever runs the Space.
"""

import json
import logging
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import diffusers
import huggingface_hub
import torch
import transformers
from diffusers import StableDiffusionPipeline

from sd_space.errors import InvalidRequest, ModelUnavailable, SafetyCheckFailed, SpaceError
from sd_space.model.components import (
    NETWORKS,
    load_checker,
    load_checkpoint,
    load_feature_extractor,
    load_network,
    load_scheduler,
    load_tokenizer,
)
from sd_space.model.configs import NoChecker, Unfit
from sd_space.model.files import WEIGHTS
from sd_space.model.folder import examine, examine_checkpoint
from sd_space.model.hub import Snapshot, fetch
from sd_space.model.hub_errors import operator_hint
from sd_space.model.memory import GIB, keep_freed_memory, memory_ladder
from sd_space.model.noise_schedulers import fitting_schedulers
from sd_space.model.openvino_unet import OpenVinoUNet
from sd_space.model.placement import Placement, footprint_of
from sd_space.model.unet_calls import UNetCalls
from sd_space.schema import Defaults, GenerationRequest, Limits, ModelInfo
from sd_space.settings import TINY, V1_4, V1_4_REVISION, Settings

logger = logging.getLogger(__name__)

TINY_FOLDER = Path(__file__).parents[1] / "tiny"
VISITORS_SENTENCE = "The model cannot be loaded at the moment, so no pictures can be made; the operator has been told."


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
    openvino: bool = False
    hub_timeout_s: float = 60.0
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
        if settings.openvino and (device != "cpu" or settings.turbo):
            raise _unavailable(f"SD_SPACE_OPENVINO is 1, but not for {device} nor with SD_SPACE_TURBO; leave it empty.")
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
            free_vram_bytes=hardware.free_vram_bytes if device == hardware.device else None,
            max_batch_size=settings.max_batch_size,
            owns_device=settings.backend != "zerogpu",  # whose GPU is lent by the call, after the weights were placed
            turbo=settings.turbo,
            openvino=settings.openvino,
            hub_timeout_s=settings.hub_timeout_s,
            may_fall_back=is_auto and model == V1_4,
        )


@dataclass(frozen=True, slots=True, eq=False)
class LoadedPipeline:
    """The stock pipeline with its weights in place. `missing_checker_tensors` is what `SafetyScreen` must know.

    `info` says how it was placed first; `placement` knows better after it has run out of memory.
    """

    pipeline: StableDiffusionPipeline
    info: ModelInfo
    placement: Placement
    missing_checker_tensors: tuple[str, ...] = ()


_loading = threading.Lock()
_loaded: dict[PipelineSpec, LoadedPipeline] = {}


def load_pipeline(spec: PipelineSpec, on_progress: Callable[[str], None] = lambda text: None) -> LoadedPipeline:
    """Loads the model of `spec`, once for equal specs, from any thread; `on_progress` is told how far it is.

    Raises ModelUnavailable whose hint names the fix, and SafetyCheckFailed for a model without a safety checker.
    """
    with _loading:
        if spec not in _loaded:
            _loaded[spec] = _load_or_fall_back(spec, on_progress)
        return _loaded[spec]


def _load_or_fall_back(spec: PipelineSpec, on_progress: Callable[[str], None]) -> LoadedPipeline:
    # The libraries' warnings quote prompts (diffusers) or draw bars; failures reach the log as our own sentences.
    for library in (diffusers, transformers, huggingface_hub):
        library.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    try:
        return _load(spec, on_progress)
    except ModelUnavailable as error:
        if not spec.may_fall_back:
            raise
        logger.warning("serving the picture book instead of %s: %s", spec.model, error.operator_hint)
        tiny = replace(spec, model=str(TINY_FOLDER), revision=None, variant=None, may_fall_back=False)
        loaded = _load(tiny, on_progress)
        reason = f"{spec.model} could not be loaded, so a small model stands in for it."
        return replace(loaded, info=replace(loaded.info, fallback_reason=reason))


def _load(spec: PipelineSpec, on_progress: Callable[[str], None]) -> LoadedPipeline:
    path = Path(spec.model).expanduser()
    is_local = path.is_absolute() or spec.model.startswith(("./", "../", "~")) or path.exists()
    if is_local and not path.exists():
        raise _unavailable(f"SD_SPACE_MODEL names {spec.model}, which does not exist.")
    checkpoint = path if path.is_file() or path.suffix == ".safetensors" else None
    if checkpoint is not None and path.suffix != ".safetensors":
        raise _unavailable(f"{spec.model} is no .safetensors file, and nothing else is loaded; convert it first.")
    try:
        if checkpoint is not None:
            snapshot = _surroundings(checkpoint, spec, on_progress)
        elif is_local:
            snapshot = Snapshot(path)
        else:
            snapshot = fetch(spec.model, spec.revision, spec.variant, on_progress, spec.hub_timeout_s)
        return _load_snapshot(snapshot, checkpoint, spec, on_progress)
    except SpaceError:
        raise
    except NoChecker as error:
        sentence = "This model has no safety checker, so no pictures are made with it."
        raise SafetyCheckFailed(sentence, error.sentence(spec.model)) from error
    except Unfit as error:
        raise _unavailable(error.sentence(spec.model)) from error
    except Exception as error:  # whatever four libraries raise: here it becomes a sentence
        raise _unavailable(operator_hint(error, spec.model, spec.revision, spec.variant)) from error


def _surroundings(checkpoint: Path, spec: PipelineSpec, on_progress: Callable[[str], None]) -> Snapshot:
    """The folder with what a single file lacks: configuration, tokenizer and safety checker.

    The one it lies in, where that is a model folder, and else v1-4's, of which only these files are fetched.
    """
    if (checkpoint.parent / "model_index.json").is_file():
        return Snapshot(checkpoint.parent)
    logger.info(
        "%s holds no safety checker and no tokenizer: those of %s are used; without the Hub, put it into a folder "
        "in diffusers' layout that has them.",
        checkpoint.name,
        V1_4,
    )
    try:
        return fetch(V1_4, V1_4_REVISION, None, on_progress, spec.hub_timeout_s, weights_of=("safety_checker",))
    except Exception as error:
        hint = operator_hint(error, V1_4, V1_4_REVISION)
        raise _unavailable(f"{checkpoint.name} needs the safety checker of {V1_4}. {hint}") from error


def _load_snapshot(
    snapshot: Snapshot, checkpoint: Path | None, spec: PipelineSpec, on_progress: Callable[[str], None]
) -> LoadedPipeline:
    """The pipeline from files that are all there. One by one: the libraries patch torch while they load."""
    folder, dtype = snapshot.folder, getattr(torch, spec.dtype)
    examine(folder, spec.variant, ("safety_checker",) if checkpoint else tuple(WEIGHTS))
    if checkpoint is not None:
        examine_checkpoint(checkpoint, folder)
    on_progress("loading the safety checker")
    checker, missing = load_checker(folder, spec.variant)
    extractor = load_feature_extractor(folder)
    if checkpoint is not None:
        on_progress(f"loading {checkpoint.name}")
        pipeline = load_checkpoint(checkpoint, folder, checker, extractor, dtype)
    else:
        parts = {}
        for name in NETWORKS:
            on_progress(f"loading the {name.replace('_', ' ')}")
            parts[name] = load_network(folder, name, spec.variant, dtype)
        scheduler, tokenizer = load_scheduler(folder), load_tokenizer(folder)
        with warnings.catch_warnings():
            # Of fields in configurations of 2022, which it corrects.
            warnings.simplefilter("ignore", FutureWarning)
            pipeline = StableDiffusionPipeline(
                **parts, tokenizer=tokenizer, scheduler=scheduler, safety_checker=checker, feature_extractor=extractor
            )
    on_progress(f"moving it to the {spec.device}" if spec.device != "cpu" else "")
    commit = snapshot.commit if checkpoint is None else None
    return fit_pipeline(pipeline, replace(spec, revision=commit), missing)


def fit_pipeline(
    pipeline: StableDiffusionPipeline, spec: PipelineSpec, missing_checker_tensors: tuple[str, ...] = ()
) -> LoadedPipeline:
    """Brings a pipeline with its weights onto the device of `spec`, fitted into its memory."""
    dtype = getattr(torch, spec.dtype)
    # A component in another dtype would be silently slow (float16 on a CPU) or fail at its first step.
    wrong = [name for name in ("unet", "vae", "text_encoder") if getattr(pipeline, name).dtype != dtype]
    if wrong:
        raise _unavailable(f"{', '.join(wrong)} of {spec.model} did not load as {spec.dtype}.")
    pipeline.set_progress_bar_config(disable=True)
    ladder = memory_ladder(
        spec.device,
        spec.free_vram_bytes or spec.total_vram_bytes,
        footprint_of(pipeline),
        total_bytes=spec.total_vram_bytes,
        attention_slicing=spec.attention_slicing,
        low_vram_gb=spec.low_vram_gb,
        max_vram_gb=spec.max_vram_gb,
        most_pictures=spec.max_batch_size or 8,
        recorded_steps=spec.owns_device,
    )
    if spec.device == "cpu":
        keep_freed_memory()
    if spec.device == "cuda" and spec.owns_device and spec.max_vram_gb and spec.total_vram_bytes:
        fraction = min(1.0, spec.max_vram_gb * GIB / spec.total_vram_bytes)
        torch.cuda.set_per_process_memory_fraction(fraction)
    try:
        placement = Placement(pipeline, spec.device, ladder)
    except torch.OutOfMemoryError as error:
        hint = f"{spec.model} does not fit into the device's memory; set SD_SPACE_MAX_VRAM_GB to what is free."
        raise _unavailable(hint) from error
    if spec.openvino:
        try:
            placement.unet_calls = UNetCalls(OpenVinoUNet(pipeline.unet))
        except ModuleNotFoundError as error:
            raise _unavailable(
                "SD_SPACE_OPENVINO is 1, which needs openvino: pip install it, or leave it empty."
            ) from error
    return LoadedPipeline(pipeline, _model_info(pipeline, placement, spec), placement, missing_checker_tensors)


def _model_info(pipeline: StableDiffusionPipeline, placement: Placement, spec: PipelineSpec) -> ModelInfo:
    said = _self_description(Path(spec.model))
    is_local = Path(spec.model).exists()
    name = said.get("name") or (Path(spec.model).name if is_local else spec.model)
    default_size = _down(pipeline.unet.config.sample_size * pipeline.vae_scale_factor)
    limits = Limits(min_size=max(64, _down(default_size // 2)), max_size=_down(default_size * 3 // 2))
    limits = replace(limits, schedulers=fitting_schedulers(pipeline.scheduler.config, limits.max_steps))
    if not limits.schedulers:
        raise _unavailable(
            f"{spec.model} cannot be served: no noise scheduler can work with its scheduler/scheduler_config.json; "
            "fetch or copy that again."
        )
    defaults = Defaults(width=default_size, height=default_size)
    if defaults.scheduler not in limits.schedulers:
        defaults = replace(defaults, scheduler=limits.schedulers[0])
    info = ModelInfo(
        model=name,
        title=said.get("title") or ("Stable Diffusion v1-4" if spec.model == V1_4 else name.rpartition("/")[2]),
        revision=spec.revision,
        device=spec.device,
        dtype=spec.dtype,
        memory_profile=placement.profile.name,
        limits=limits,
        defaults=defaults,
        description=said.get("description", ""),
        licence=said.get("license", "CreativeML OpenRAIL-M" if spec.model.startswith("CompVis/") else ""),
        turbo=spec.turbo,
        is_picture_book=said.get("name") == "picture-book",
    )
    return _with_own_defaults(info, said.get("defaults", {}), spec)


def _with_own_defaults(info: ModelInfo, own: dict[str, Any], spec: PipelineSpec) -> ModelInfo:
    """`info` with the values that the model's description proposes, which must be those of a possible request."""
    try:
        GenerationRequest.parse({"prompt": "a picture"} | own, info, random_seed=0)
        return replace(info, defaults=replace(info.defaults, **own))
    except (InvalidRequest, TypeError) as error:
        told = str(error).rstrip(".") if isinstance(error, InvalidRequest) else "they name what no request has"
        raise _unavailable(f"sd_space.json of {spec.model} has wrong defaults: {told}; mend that file.") from error


def _down(pixels: int) -> int:
    return pixels // 8 * 8


def _self_description(folder: Path) -> dict[str, Any]:
    """What a folder says about itself in `sd_space.json`: name, title, description, license, defaults."""
    path = folder / "sd_space.json"
    if not path.is_file():
        return {}
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _unavailable(f"{path} is not a JSON file that can be read; mend it, or take it away.") from error
    is_valid = isinstance(said, dict) and isinstance(said.get("defaults", {}), dict)
    if not is_valid or not all(
        isinstance(said.get(key, ""), str) for key in ("name", "title", "description", "license")
    ):
        raise _unavailable(
            f"{path} must be a JSON object of texts, with an object as defaults; mend it, or take it away."
        )
    return said


def _unavailable(operator_hint: str) -> ModelUnavailable:
    return ModelUnavailable(VISITORS_SENTENCE, operator_hint)
