"""Loads each part of a model from its folder, and checks that it is complete, finite and of the right class."""

import json
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, SchedulerMixin, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from torch.func import functional_call
from transformers import CLIPImageProcessor, CLIPTextModel, CLIPTokenizer

from sd_space.model.configs import AGAIN, Unfit
from sd_space.model.files import INDEX, files_in, variant_of

SMALL = 30_000_000  # parameters, of a network that a CPU runs in less than the 0.3 s of a run on the meta device
NETWORKS = {"text_encoder": CLIPTextModel, "vae": AutoencoderKL, "unet": UNet2DConditionModel}


def load_network(folder: Path, name: str, variant: str | None, dtype: torch.dtype) -> Any:
    """One of NETWORKS. Raises Unfit where a tensor is missing or holds values that are not finite."""
    network, lacking, spare = _load(folder, name, NETWORKS[name], variant, dtype)
    if lacking:
        raise Unfit(f"its {name} lacks {len(lacking)} tensors, {lacking[0]} among them; {AGAIN}.")
    if name == "text_encoder":  # its file may hold the rest of CLIP too
        spare = [key for key in spare if ".layers." in key and "vision" not in key]
    if spare:
        raise _left_out(name, spare)
    for key, tensor in network.state_dict().items():
        # A sum is many times faster than a look at each value, but may itself overflow.
        has_finite_sum = not tensor.is_floating_point() or bool(torch.isfinite(tensor.sum()))
        if not has_finite_sum and not bool(torch.isfinite(tensor).all()):
            raise Unfit(f"its {name} holds values that are no numbers, in {key}; {AGAIN}.")
    _try_shapes(network, name)
    return network


def load_checker(folder: Path, variant: str | None) -> tuple[StableDiffusionSafetyChecker, tuple[str, ...]]:
    """The checker, and the names of the tensors it lacks, which `SafetyScreen` judges. Raises Unfit for spare tensors.

    Always in float32, so that its verdicts do not depend on the pipeline's dtype.
    """
    checker, lacking, spare = _load(folder, "safety_checker", StableDiffusionSafetyChecker, variant, torch.float32)
    if spare:
        raise _left_out("safety_checker", spare)
    return checker, tuple(lacking)


def load_scheduler(folder: Path) -> SchedulerMixin:
    """The noise scheduler that the model's index names. Raises Unfit."""
    name = json.loads((folder / INDEX).read_text(encoding="utf-8"))["scheduler"][1]
    scheduler_class: Any = getattr(diffusers, name, None)
    try:
        if not issubclass(scheduler_class, SchedulerMixin):
            raise TypeError(name)
        return scheduler_class.from_pretrained(folder, subfolder="scheduler")
    except Exception as error:  # no such class, or values in its configuration that it does not accept
        raise Unfit(
            f"{INDEX} and scheduler/scheduler_config.json name no noise scheduler that can be made; {AGAIN}, both."
        ) from error


def load_tokenizer(folder: Path) -> CLIPTokenizer:
    """The tokenizer. Raises Unfit where it cannot be made or has tokens that the text encoder does not have."""
    vocab_size = json.loads((folder / "text_encoder" / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer")
        length = tokenizer.model_max_length
        ids = tokenizer("a picture", padding="max_length", max_length=length, truncation=True).input_ids
        is_whole = len(ids) == length and max(*ids, *tokenizer.get_vocab().values()) < vocab_size
        cause = None
    except Exception as error:  # the libraries raise many types
        is_whole, cause = False, error
    if not is_whole:
        fault = "its tokenizer cannot be made from the files in tokenizer, or has words that the text encoder lacks"
        raise Unfit(f"{fault}; {AGAIN}, all of them.") from cause
    return tokenizer


def load_feature_extractor(folder: Path) -> CLIPImageProcessor:
    """The feature extractor, which prepares pictures for the checker. Raises Unfit."""
    try:
        return CLIPImageProcessor.from_pretrained(folder, subfolder="feature_extractor")
    except Exception as error:  # the libraries raise many types
        name = "feature_extractor/preprocessor_config.json"
        raise Unfit(f"no feature extractor can be made from {name}; {AGAIN}.") from error


def load_checkpoint(
    path: Path,
    folder: Path,
    safety_checker: StableDiffusionSafetyChecker,
    feature_extractor: CLIPImageProcessor,
    dtype: torch.dtype,
) -> StableDiffusionPipeline:
    """The pipeline from a checkpoint in one file, with configuration and tokenizer from `folder`. Raises Unfit.

    `from_single_file` cannot make the feature extractor: it does not know the class of 2022 that v1-4's index names.
    """
    try:
        return StableDiffusionPipeline.from_single_file(
            str(path),
            config=str(folder),
            safety_checker=safety_checker,
            feature_extractor=feature_extractor,
            tokenizer=load_tokenizer(folder),
            dtype=dtype,
            local_files_only=True,
        )
    except Unfit:
        raise
    except Exception as error:  # the libraries raise many types
        raise Unfit(f"its tensors do not fit the configuration in {folder.name}; {AGAIN}.") from error


def _try_shapes(network: Any, name: str) -> None:
    """Runs a UNet or VAE once. Raises Unfit where it fails, or its output has another shape.

    A configuration that fits all weights may still describe a network that cannot run. A large network runs on the
    meta device, where tensors have shapes but no values; a small one is sooner done than Python is with that.
    """
    tensors = network.state_dict()
    is_small = network.dtype == torch.float32 and sum(map(torch.numel, tensors.values())) < SMALL
    device = "cpu" if is_small else "meta"
    size, config = 64, network.config
    if name == "unet":
        sample = torch.zeros(2, config.in_channels, config.sample_size, config.sample_size, device=device)
        states = torch.zeros(2, 77, config.cross_attention_dim, device=device)
        inputs: tuple[torch.Tensor, ...] = (sample, torch.zeros(2, device=device), states)
    elif name == "vae":
        inputs = (torch.zeros(1, 3, size, size, device=device),)
    else:
        return
    if not is_small:
        tensors = {key: torch.empty_like(tensor, device=device).float() for key, tensor in tensors.items()}
    try:
        with torch.inference_mode():
            (output,) = functional_call(network, tensors, inputs, {"return_dict": False})
        if output.shape == inputs[0].shape:
            return
        cause: Exception = ValueError(output.shape)
    except Exception as error:  # the libraries raise many types
        cause = error
    raise Unfit(
        f"its {name} cannot work in the way that {name}/config.json describes; {AGAIN}, with its weights."
    ) from cause


def _left_out(name: str, spare: list[str]) -> Unfit:
    """The libraries would build a smaller network from the configuration and ignore the rest of the weights."""
    fault = f"leaves out {len(spare)} tensors of the weights beside it, {spare[0]} among them"
    return Unfit(f"{name}/config.json {fault}; {AGAIN}, both.")


def _load(
    folder: Path, name: str, model_class: type[Any], variant: str | None, dtype: torch.dtype
) -> tuple[Any, list[str], list[str]]:
    """The network, the names of the tensors that its files lack, and of those that it has no use for.

    The libraries would leave the first uninitialised and ignore the second.
    """
    try:
        network, report = model_class.from_pretrained(
            folder,
            subfolder=name,
            variant=variant_of(files_in(folder), name, variant),
            use_safetensors=True,
            dtype=dtype,
            output_loading_info=True,
        )
    except MemoryError as error:
        raise Unfit(f"its {name} does not fit into memory; set SD_SPACE_MODEL to a smaller model.") from error
    except Exception as error:  # the libraries raise many types where configuration and weights differ
        raise Unfit(f"{name}/config.json and the weights beside it do not fit together; {AGAIN}, both.") from error
    lacking = [*report["missing_keys"], *(str(entry) for entry in report["mismatched_keys"])]
    spare = [key for key in report["unexpected_keys"] if not key.endswith("position_ids")]
    return network, sorted(lacking), sorted(spare)
