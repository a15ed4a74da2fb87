"""Loads the model that a `PipelineSpec` names, once, and places it on its device.

Each failure has two sentences, one for visitors and one for the operator.
"""

import logging
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import diffusers
import huggingface_hub
import torch
import transformers
from diffusers import StableDiffusionPipeline

from sd_space.errors import ModelUnavailable, SafetyCheckFailed, SpaceError
from sd_space.languages import Phrase
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
from sd_space.model.hub_errors import operator_hint, unavailable
from sd_space.model.location import local_path
from sd_space.model.memory import GIB, fallback_order
from sd_space.model.model_info import describe
from sd_space.model.openvino_unet import OpenVinoUNet
from sd_space.model.placement import Placement, footprint_of
from sd_space.model.spec import TINY_FOLDER, PipelineSpec
from sd_space.model.unet_runner import CannotRun, UNetRunner
from sd_space.process_memory import tune_malloc
from sd_space.schema import PromptTokenizer
from sd_space.served_model import ModelInfo
from sd_space.settings import V1_4, V1_4_REVISION, WIDTHS

logger = logging.getLogger(__name__)

_LOADING = {
    "text_encoder": Phrase("loading the text encoder"),
    "vae": Phrase("loading the vae"),
    "unet": Phrase("loading the unet"),
}


@dataclass(frozen=True, slots=True, eq=False)
class LoadedPipeline:
    """The stock pipeline with its weights on the device; `missing_checker_tensors` are for `SafetyScreen`.

    `info` has the memory profile at the start; `placement` has the current one, which changes when memory runs out.
    """

    pipeline: StableDiffusionPipeline
    info: ModelInfo
    placement: Placement
    missing_checker_tensors: tuple[str, ...] = ()

    @property
    def current_info(self) -> ModelInfo:
        """`info` with the memory profile that is in force now."""
        return replace(self.info, memory_profile=self.placement.profile.name)

    def prompt_tokenizer(self) -> PromptTokenizer:
        """The tokenizer for a process without the model."""
        tokenizer = self.pipeline.tokenizer
        max_tokens = tokenizer.model_max_length - tokenizer.num_special_tokens_to_add()
        return PromptTokenizer(tokenizer.backend_tokenizer.to_str(), max_tokens)


_loading = threading.Lock()
_loaded: dict[PipelineSpec, LoadedPipeline] = {}


def load_pipeline(spec: PipelineSpec, on_progress: Callable[[str], None] = lambda text: None) -> LoadedPipeline:
    """Loads the model of `spec`, once for equal specs, from any thread; `on_progress` gets what is being done.

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
        reason = Phrase("{model} could not be loaded, so a small model stands in for it.", model=spec.model)
        return replace(loaded, info=replace(loaded.info, fallback_reason=reason))


def _load(spec: PipelineSpec, on_progress: Callable[[str], None]) -> LoadedPipeline:
    path = local_path(spec.model)
    checkpoint = path if path is not None and path.is_file() else None
    try:
        if checkpoint is not None:
            snapshot = _companions_of(checkpoint, spec, on_progress)
        elif path is not None:
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
        raise unavailable(error.sentence(spec.model)) from error
    except Exception as error:  # of any type: four libraries raise here
        raise unavailable(operator_hint(error, spec.model, spec.revision, spec.variant)) from error


def _companions_of(checkpoint: Path, spec: PipelineSpec, on_progress: Callable[[str], None]) -> Snapshot:
    """The folder with what a single file lacks: configuration, tokenizer and safety checker.

    The checkpoint's own folder if that is a model folder, else v1-4's, of which only these files are fetched.
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
        raise unavailable(f"{checkpoint.name} needs the safety checker of {V1_4}. {hint}") from error


def _load_snapshot(
    snapshot: Snapshot, checkpoint: Path | None, spec: PipelineSpec, on_progress: Callable[[str], None]
) -> LoadedPipeline:
    """The pipeline from local files. One part after the other: the libraries patch torch while they load."""
    folder, dtype = snapshot.folder, getattr(torch, spec.dtype)
    examine(folder, spec.variant, ("safety_checker",) if checkpoint else tuple(WEIGHTS))
    if checkpoint is not None:
        examine_checkpoint(checkpoint, folder)
    on_progress(Phrase("loading the safety checker"))
    checker, missing = load_checker(folder, spec.variant)
    extractor = load_feature_extractor(folder)
    if checkpoint is not None:
        on_progress(Phrase("loading {part}", part=checkpoint.name))
        pipeline = load_checkpoint(checkpoint, folder, checker, extractor, dtype)
    else:
        parts = {}
        for name in NETWORKS:
            on_progress(_LOADING[name])
            parts[name] = load_network(folder, name, spec.variant, dtype)
        scheduler, tokenizer = load_scheduler(folder), load_tokenizer(folder)
        with warnings.catch_warnings():
            # It warns of fields in configurations of 2022, and corrects them.
            warnings.simplefilter("ignore", FutureWarning)
            pipeline = StableDiffusionPipeline(
                **parts, tokenizer=tokenizer, scheduler=scheduler, safety_checker=checker, feature_extractor=extractor
            )
    if spec.device != "cpu":
        on_progress(Phrase("moving it to the {device}", device=spec.device))
    else:
        on_progress(Phrase("compiling the unet") if spec.runtime != "torch" else "")
    commit = snapshot.commit if checkpoint is None else None
    return fit_pipeline(pipeline, replace(spec, revision=commit), missing)


def fit_pipeline(
    pipeline: StableDiffusionPipeline, spec: PipelineSpec, missing_checker_tensors: tuple[str, ...] = ()
) -> LoadedPipeline:
    """Moves a loaded pipeline to the device of `spec`, in the first memory profile that fits."""
    dtype = getattr(torch, spec.dtype)
    # A component in another dtype would be silently slow (float16 on a CPU) or fail at its first step.
    wrong = [name for name in ("unet", "vae", "text_encoder") if getattr(pipeline, name).dtype != dtype]
    if wrong:
        raise unavailable(f"{', '.join(wrong)} of {spec.model} did not load as {spec.dtype}.")
    pipeline.set_progress_bar_config(disable=True)
    profiles = fallback_order(
        spec.device,
        spec.free_vram_bytes or spec.total_vram_bytes,
        footprint_of(pipeline),
        total_bytes=spec.total_vram_bytes,
        attention_slicing=spec.attention_slicing,
        low_vram_gb=spec.low_vram_gb,
        max_vram_gb=spec.max_vram_gb,
        most_pictures=spec.max_batch_size or WIDTHS[-1],
        recorded_steps=spec.owns_device,
    )
    if spec.device == "cpu":
        tune_malloc()
    if spec.device == "cuda" and spec.owns_device and spec.max_vram_gb and spec.total_vram_bytes:
        fraction = min(1.0, spec.max_vram_gb * GIB / spec.total_vram_bytes)
        torch.cuda.set_per_process_memory_fraction(fraction)
    try:
        placement = Placement(pipeline, spec.device, profiles, spec.compile)
    except torch.OutOfMemoryError as error:
        hint = f"{spec.model} does not fit into the device's memory; set SD_SPACE_MAX_VRAM_GB to what is free."
        raise unavailable(hint) from error
    if spec.runtime != "torch" and not _runs_elsewhere(pipeline, placement, spec):
        spec = replace(spec, runtime="torch")
    return LoadedPipeline(
        pipeline, describe(pipeline, placement.profile.name, spec), placement, missing_checker_tensors
    )


def _runs_elsewhere(pipeline: StableDiffusionPipeline, placement: Placement, spec: PipelineSpec) -> bool:
    """Whether another runtime than torch runs the UNet from now on.

    Raises ModelUnavailable where it cannot, and torch may not.
    """
    try:
        if spec.runtime == "jax":
            _run_in_jax(pipeline, placement, spec)
        else:
            placement.unet_runner = UNetRunner(OpenVinoUNet(pipeline.unet))
        return True
    except Exception as error:  # of any type: OpenVINO and JAX raise what they like
        is_missing = isinstance(error, ModuleNotFoundError)
        cause = str(error) if isinstance(error, CannotRun) else type(error).__name__
        fault = "which is not installed" if is_missing else f"which cannot run this model ({cause})"
        if not spec.runtime_may_fall_back:
            fix = f"pip install {spec.runtime}" if is_missing else "set it to torch"
            raise unavailable(f"SD_SPACE_RUNTIME is {spec.runtime}, {fault}; {fix}, or leave it empty.") from error
        logger.warning("torch runs the UNet instead of OpenVINO, %s; SD_SPACE_RUNTIME=torch does not try it.", fault)
        return False


def _run_in_jax(pipeline: StableDiffusionPipeline, placement: Placement, spec: PipelineSpec) -> None:
    """Compiles UNet and decoder for the size with which the form starts; others when they are asked for."""
    from sd_space.model.jax_unet import JaxModel  # which imports JAX

    placement.jax = JaxModel(pipeline, spec.jax_dtype)
    placement.unet_runner = UNetRunner(placement.jax.unet)
    size = describe(pipeline, placement.profile.name, spec).defaults
    placement.jax.compile(size.height, size.width)
