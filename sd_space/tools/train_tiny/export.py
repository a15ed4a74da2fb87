"""Writes the checkpoint: v1-4's folder layout and component classes, fp16 safetensors, plain files."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline, UniPCMultistepScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from PIL import Image
from transformers import CLIPTokenizer

from sd_space.tools.train_tiny import safety, text, unet, vae
from sd_space.tools.train_tiny.renderer import contact_sheet
from sd_space.tools.train_tiny.world import CARD_SCENES

TINY = Path(__file__).resolve().parents[2] / "tiny"
STEPS, GUIDANCE_SCALE = 12, 3.0
DEFAULTS = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE_SCALE, "scheduler": "DPM++ 2M Karras"}
DESCRIPTION = {
    "name": "picture-book",
    "title": "Picture book",
    "description": (
        "A tiny Stable Diffusion that this project trained itself on cartoon pictures it drew itself. It knows "
        "twenty subjects, eleven places and three styles, the model card's prompts among them; it is no photograph "
        "maker."
    ),
    "license": "Apache-2.0",
    "defaults": DEFAULTS,
}
# As v1-4's model_index.json lists them.
COMPONENTS = {
    "feature_extractor": ["transformers", "CLIPImageProcessor"],
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    "scheduler": ["diffusers", "PNDMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def write_json(value: dict, path: Path) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_tokenizer(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """The four files of v1-4's tokenizer folder."""
    folder.mkdir()
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    vocabulary = dict(sorted(model["vocab"].items(), key=lambda item: item[1]))
    write = (folder / "vocab.json").write_text
    write(json.dumps(vocabulary, ensure_ascii=False) + "\n", encoding="utf-8")
    merges = "\n".join(pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"])
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", encoding="utf-8")
    names = {"bos_token": text.START, "eos_token": text.END, "unk_token": text.END}
    special = {
        name: {"content": token, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
        for name, token in names.items()
    }
    write_json({**special, "pad_token": text.END}, folder / "special_tokens_map.json")
    write_json(
        {
            "add_prefix_space": False,
            **names,
            "pad_token": text.END,
            "do_lower_case": True,
            "errors": "replace",
            "model_max_length": text.LENGTH,
            "tokenizer_class": "CLIPTokenizer",
        },
        folder / "tokenizer_config.json",
    )


def make_pipeline(folder: Path) -> tuple[StableDiffusionPipeline, int]:
    """The trained parts in `folder` as a pipeline in float32, and the UNet's step; the checker may be untrained."""
    tokenizer, reader = text.load_reader(folder)
    network, step = unet.load_unet(folder)
    pipeline = StableDiffusionPipeline(
        tokenizer=tokenizer,
        text_encoder=reader.encoder,
        vae=vae.folded(vae.load_vae(folder)),
        unet=network,
        scheduler=unet.make_scheduler(),
        safety_checker=safety.load_checker(folder) if (folder / "safety.pt").exists() else safety.make_checker().eval(),
        feature_extractor=safety.make_feature_extractor(),
    )
    return pipeline, step


def export(folder: Path, target: Path = TINY) -> int:
    """Writes the checkpoint to `target`, file by file in one go at the end; returns the UNet's step.

    Files in `target` that the checkpoint has none of (its README) stay.
    """
    if not (folder / "safety.pt").exists():
        raise FileNotFoundError(f"{folder / 'safety.pt'}: train the safety checker before the export")
    pipeline, step = make_pipeline(folder)
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".tiny-") as scratch:
        fresh = Path(scratch) / "tiny"
        pipeline.to(torch.float16).save_pretrained(fresh, variant="fp16", safe_serialization=True)
        shutil.rmtree(fresh / "tokenizer")
        write_tokenizer(pipeline.tokenizer, fresh / "tokenizer")
        index = json.loads((fresh / "model_index.json").read_text())
        keep = {key: value for key, value in index.items() if not isinstance(value, list)}
        write_json(
            {**{k: v for k, v in keep.items() if k != "_name_or_path"}, **COMPONENTS}, fresh / "model_index.json"
        )
        for path in fresh.glob("*/*config.json"):
            config = json.loads(path.read_text())
            config.pop("_name_or_path", None)
            if "dtype" in config:  # what is loaded when nobody asks for another: half precision is slow on a CPU
                config["dtype"] = "float32"
            if path.name == "preprocessor_config.json":
                config["image_processor_type"] = "CLIPImageProcessor"
            write_json(config, path)
        write_json(DESCRIPTION | {"revision": revision_of(fresh)}, fresh / "sd_space.json")
        for source in sorted(fresh.rglob("*")):
            if source.is_file():
                source.chmod(0o644)
                place = target / source.relative_to(fresh)
                place.parent.mkdir(exist_ok=True)
                os.replace(source, place)
    return step


def revision_of(folder: Path) -> str:
    """Recipes name it: with other weights the same values draw another picture."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def load(target: Path = TINY) -> StableDiffusionPipeline:
    pipeline = StableDiffusionPipeline.from_pretrained(target, variant="fp16", dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def fast_scheduler(pipeline: StableDiffusionPipeline) -> DPMSolverMultistepScheduler:
    """DPM++ 2M Karras (Lu et al., 2022), with the checkpoint's own noise schedule and prediction type."""
    return DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config, use_karras_sigmas=True)


def draw(
    pipeline: StableDiffusionPipeline, prompts: list[str], seeds: list[int], *, guidance_scale: float, steps: int
) -> np.ndarray:
    """(N, 256, 256, 3) uint8, one picture per prompt and seed, unchecked (for measuring, not for showing)."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    checker, pipeline.safety_checker = pipeline.safety_checker, None
    try:
        images = pipeline(
            prompts, generator=generators, guidance_scale=guidance_scale, num_inference_steps=steps, output_type="np"
        ).images
    finally:
        pipeline.safety_checker = checker
    return (images * 255).round().astype(np.uint8)


def garish_scheduler(pipeline: StableDiffusionPipeline) -> UniPCMultistepScheduler:
    """UniPC (Zhao et al., 2023), whose pictures are the most glaring ones with much guidance and few steps."""
    return UniPCMultistepScheduler.from_config(pipeline.scheduler.config)


def sampler(
    pipeline: StableDiffusionPipeline,
    *,
    guidance_scale: float = GUIDANCE_SCALE,
    steps: int = STEPS,
    scheduler: Callable[[StableDiffusionPipeline], SchedulerMixin] = fast_scheduler,
) -> safety.Draw:
    """`draw` as a function of prompts and seeds."""
    chosen = scheduler(pipeline)
    pipeline.set_progress_bar_config(disable=True)

    def drawn(prompts: list[str], seeds: list[int]) -> np.ndarray:
        pipeline.scheduler = chosen
        return draw(pipeline, prompts, seeds, guidance_scale=guidance_scale, steps=steps)

    return drawn


def sheet(target: Path, path: Path, *, seeds: int = 4) -> None:
    """The card's six prompts by `seeds` seeds at the default settings, one row per prompt."""
    drawn = sampler(load(target))
    images = [Image.fromarray(image) for prompt in CARD_SCENES for image in drawn([prompt] * seeds, list(range(seeds)))]
    contact_sheet(images, seeds).save(path)
