"""Takes the checkpoint that ships as the start of a state folder, so that another machine improves on it."""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from sd_space.tools.train_tiny import decoder, loop, safety, text, unet, vae

# What two UNets have in common where the weights of one fit the other.
FORM = ("sample_size", "in_channels", "block_out_channels", "cross_attention_dim", "down_block_types")


def adopt(target: Path, folder: Path) -> bool:
    """Fills an empty state `folder` with the text encoder, VAE and safety checker of `target`, as finished stages.

    Captions then mean to the UNet what they meant when its shipped weights were trained. Returns whether it did: not
    where the folder has a text encoder already, or `target` no checkpoint of this layout.
    """
    if (folder / "text.pt").exists() or not has_layout(target):
        return False
    fp16 = {"variant": "fp16", "dtype": torch.float32}
    tokenizer = CLIPTokenizer.from_pretrained(target / "tokenizer")
    tokenizer.save_pretrained(folder / "tokenizer")
    reader = text.Reader(tokenizer)  # its heads are new: they only serve to train the encoder
    reader.encoder = CLIPTextModel.from_pretrained(target / "text_encoder", **fp16)
    autoencoder = vae.unfolded(AutoencoderKL.from_pretrained(target / "vae", **fp16))
    checker = StableDiffusionSafetyChecker.from_pretrained(target / "safety_checker", **fp16)
    finished = {
        "vae": (vae.STEPS, {"average": {"weights": autoencoder.state_dict()}}),
        "decoder": (decoder.STEPS, {"average": {"weights": autoencoder.state_dict()}}),
        "safety": (safety.STEPS, {"checker": checker.state_dict()}),
        "text": (text.STEPS, {"reader": reader.state_dict()}),
    }
    for stage, (steps, parts) in finished.items():
        loop.save_atomically({"parts": parts, "step": steps, "losses": []}, folder / f"{stage}.pt")
    return True


def has_layout(target: Path) -> bool:
    """Whether `target` holds a checkpoint whose UNet and latents have the sizes that are trained now."""
    path = target / "unet" / "config.json"
    if not path.exists():
        return False
    theirs, ours = json.loads(path.read_text()), unet.make_unet().config
    return all(theirs[key] == (list(ours[key]) if isinstance(ours[key], tuple) else ours[key]) for key in FORM)


def unet_weights(target: Path) -> dict[str, Tensor] | None:
    """The weights of the UNet in `target`, or None where there is none of this layout."""
    if not has_layout(target):
        return None
    return UNet2DConditionModel.from_pretrained(target / "unet", variant="fp16", dtype=torch.float32).state_dict()
