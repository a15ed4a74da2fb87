"""What a loaded model says about itself to the page and the API: its names, limits and defaults."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffusers import StableDiffusionPipeline

from sd_space.errors import InvalidRequest
from sd_space.model.hub_errors import unavailable
from sd_space.model.noise_schedulers import fitting_schedulers
from sd_space.model.spec import PipelineSpec
from sd_space.request import GenerationRequest
from sd_space.served_model import Defaults, Limits, ModelInfo
from sd_space.settings import V1_4


def describe(pipeline: StableDiffusionPipeline, memory_profile: str, spec: PipelineSpec) -> ModelInfo:
    description = _self_description(Path(spec.model))
    is_local = Path(spec.model).exists()
    name = description.get("name") or (Path(spec.model).name if is_local else spec.model)
    default_size = _down(pipeline.unet.config.sample_size * pipeline.vae_scale_factor)
    # Of what a latent stands for there is no half. In JAX each size takes compiling, so there are few; the model's own
    # is one of them.
    step = math.gcd(64, default_size) if spec.runtime == "jax" else max(8, pipeline.vae_scale_factor)
    is_picture_book = description.get("name") == "picture-book"
    smallest = 64 if is_picture_book else max(64, _down(default_size // 2, step))  # quick, for trying things out
    limits = Limits(smallest, _down(default_size * 3 // 2, step), step, mask_step=pipeline.vae_scale_factor)
    limits = replace(limits, schedulers=fitting_schedulers(pipeline.scheduler.config, limits.max_steps))
    if not limits.schedulers:
        raise unavailable(
            f"{spec.model} cannot be served: no noise scheduler can work with its scheduler/scheduler_config.json; "
            "fetch or copy that again."
        )
    defaults = Defaults(width=default_size, height=default_size)
    if defaults.scheduler not in limits.schedulers:
        defaults = replace(defaults, scheduler=limits.schedulers[0])
    info = ModelInfo(
        model=name,
        title=description.get("title") or ("Stable Diffusion v1-4" if spec.model == V1_4 else name.rpartition("/")[2]),
        revision=spec.revision or description.get("revision"),
        device=spec.device,
        dtype=spec.jax_dtype or spec.dtype,
        memory_profile=memory_profile,
        limits=limits,
        defaults=defaults,
        description=description.get("description", ""),
        licence=description.get("license", "CreativeML OpenRAIL-M" if spec.model.startswith("CompVis/") else ""),
        runtime=spec.runtime,
        turbo=spec.turbo,
        is_picture_book=is_picture_book,
    )
    return _with_own_defaults(info, description.get("defaults", {}), spec)


def _with_own_defaults(info: ModelInfo, own: dict[str, Any], spec: PipelineSpec) -> ModelInfo:
    """`info` with the defaults of the model's description. Raises ModelUnavailable if no request could have them."""
    try:
        GenerationRequest.parse({"prompt": "a picture"} | own, info, random_seed=0)
        return replace(info, defaults=replace(info.defaults, **own))
    except (InvalidRequest, TypeError) as error:
        fault = str(error).rstrip(".") if isinstance(error, InvalidRequest) else "they name what no request has"
        raise unavailable(f"sd_space.json of {spec.model} has wrong defaults: {fault}; mend that file.") from error


def _down(pixels: int, step: int = 8) -> int:
    return pixels // step * step


def _self_description(folder: Path) -> dict[str, Any]:
    """What a folder says about itself in `sd_space.json`: name, title, description, license, revision, defaults."""
    path = folder / "sd_space.json"
    if not path.is_file():
        return {}
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise unavailable(f"{path} is not a JSON file that can be read; mend it, or take it away.") from error
    is_valid = isinstance(description, dict) and isinstance(description.get("defaults", {}), dict)
    if not is_valid or not all(
        isinstance(description.get(key, ""), str) for key in ("name", "title", "description", "license", "revision")
    ):
        raise unavailable(
            f"{path} must be a JSON object of texts, with an object as defaults; mend it, or take it away."
        )
    return description
