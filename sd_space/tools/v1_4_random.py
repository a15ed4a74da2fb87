"""v1-4's exact architecture with seeded random weights, made in seconds: speed and memory do not depend on the values.

    pipeline = make_pipeline(torch.float16)      the stock pipeline, on the CPU
    loaded = load(spec)                          the same, placed as `pipeline.load_pipeline` would place it
    python -m sd_space.tools.v1_4_random FOLDER  a folder in v1-4's layout, for what reads one (5.5 GB, float16 half)

It paints noise, and its safety checker passes what is a picture at all. The tokenizer is the picture book's, which has
fewer words than v1-4's and the same 77 tokens.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from torch import nn
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from sd_space.model.pipeline import LoadedPipeline, fit_pipeline
from sd_space.model.spec import TINY_FOLDER, PipelineSpec

NAME = "v1-4-random"
POOL_SIZE = 1_000_003  # prime, so that no two rows of a matrix are the same piece of it
DESCRIPTION = {
    "name": NAME,
    "title": "v1-4 with random weights",
    "description": "The architecture of Stable Diffusion v1-4 with random weights: it paints noise.",
}

UNET = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,  # means the number of heads in this class
}
VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "sample_size": 512,
}
CLIP_TEXT = {  # of CLIP ViT-L/14
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "bos_token_id": 49406,
    "eos_token_id": 49407,
    "pad_token_id": 49407,
}
CLIP_VISION = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
}
SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "skip_prk_steps": True,
    "steps_offset": 1,
    "set_alpha_to_one": False,
}


def make_modules() -> dict[str, nn.Module]:
    """The four networks without weights: their parameters take no memory until `fill` has run."""
    with init_empty_weights(include_buffers=False):
        return {
            "unet": UNet2DConditionModel(**UNET),
            "vae": AutoencoderKL(**VAE),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**CLIP_TEXT)),
            "safety_checker": StableDiffusionSafetyChecker(
                CLIPConfig(vision_config=CLIP_VISION, text_config=CLIP_TEXT, projection_dim=768)
            ),
        }


def fill(module: nn.Module, dtype: torch.dtype, seed: int) -> None:
    """Gives every parameter a seeded value of the size that an untrained network has: activations stay finite.

    All are pieces of one pool of normal values: 1.4 billion of their own would take most of a minute.
    """
    generator = torch.Generator().manual_seed(seed)
    pool = torch.randn(POOL_SIZE, generator=generator).repeat(2)
    values = {}
    for name, parameter in module.named_parameters():
        value = torch.zeros(parameter.shape, dtype=dtype)
        if parameter.dim() > 1:
            offset = int(torch.randint(POOL_SIZE, (), generator=generator))
            scaled = pool[offset : offset + min(value.numel(), POOL_SIZE)] * (3 * parameter[0].numel()) ** -0.5
            for piece in value.view(-1).split(POOL_SIZE):
                piece.copy_(scaled[: len(piece)])
        elif not name.endswith("bias"):  # the gains of norms
            value.fill_(1.0)
        values[name] = value
    module.load_state_dict(values, strict=False, assign=True)  # buffers have theirs already
    module.requires_grad_(False).eval()


def make_pipeline(dtype: torch.dtype = torch.float32, seed: int = 0) -> StableDiffusionPipeline:
    """The pipeline on the CPU; the safety checker in float32, as it always runs."""
    modules = make_modules()
    for number, (name, module) in enumerate(modules.items()):
        fill(module, torch.float32 if name == "safety_checker" else dtype, seed + number)
    checker = modules["safety_checker"]
    # Random directions are far apart in 768 dimensions: each concept flags itself, and nothing else comes near one.
    checker.concept_embeds_weights.fill_(0.9)
    checker.special_care_embeds_weights.fill_(0.9)
    pipeline = StableDiffusionPipeline(
        **modules,
        tokenizer=CLIPTokenizer.from_pretrained(TINY_FOLDER / "tokenizer"),
        scheduler=PNDMScheduler(**SCHEDULER),
        feature_extractor=CLIPImageProcessorPil(size=224, crop_size=224),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def load(spec: PipelineSpec, seed: int = 0) -> LoadedPipeline:
    """On the device, in the dtype and with the memory profile of `spec`, whose `model` is `v1-4-random`."""
    return fit_pipeline(make_pipeline(getattr(torch, spec.dtype), seed), spec)


def save(folder: Path, dtype: torch.dtype = torch.float32, variant: str | None = None, seed: int = 0) -> None:
    """Writes it as a folder in v1-4's layout, which `SD_SPACE_MODEL` may name."""
    make_pipeline(dtype, seed).save_pretrained(folder, safe_serialization=True, variant=variant)
    index = folder / "model_index.json"  # v1-4 names the class that every installation has
    index.write_text(index.read_text().replace("CLIPImageProcessorPil", "CLIPImageProcessor"))
    # Without PNDM's defaults, as v1-4 has it: other noise schedulers have defaults of their own.
    scheduler = {"_class_name": "PNDMScheduler", **SCHEDULER}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler, indent=2) + "\n")
    (folder / "sd_space.json").write_text(json.dumps(DESCRIPTION, indent=2) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where to write it")
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32")
    parser.add_argument("--variant", help="of the files' names, such as fp16")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    save(options.folder, getattr(torch, options.dtype), options.variant, options.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
