"""Writes a pipeline as one file with the names of the original code, as v1-4 was first published."""

import re
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file

Tensors = dict[str, torch.Tensor]

RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection",
}  # fmt: skip
UNET = {
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "mid_block.resnets.0": "middle_block.0", "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}  # fmt: skip
VAE = {
    "mid_block.resnets.0": "mid.block_1", "mid_block.resnets.1": "mid.block_2", "mid_block.attentions.0": "mid.attn_1",
    "group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out", "conv_norm_out": "norm_out",
    "conv_shortcut": "nin_shortcut",
}  # fmt: skip


def save_checkpoint(pipeline: StableDiffusionPipeline, path: Path) -> Path:
    """The three networks in one file; a checkpoint never held a safety checker or a tokenizer."""
    layers, levels = pipeline.unet.config.layers_per_block, len(pipeline.vae.config.block_out_channels)
    tensors = {
        **{f"model.diffusion_model.{_unet(k, layers)}": v for k, v in pipeline.unet.state_dict().items()},
        **{f"first_stage_model.{_vae(k, levels)}": _conv(k, v) for k, v in pipeline.vae.state_dict().items()},
        **{
            f"cond_stage_model.transformer.text_model.{k.removeprefix('text_model.')}": v
            for k, v in pipeline.text_encoder.state_dict().items()
        },
    }
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, {"format": "pt"})
    return path


def _renamed(name: str, table: dict[str, str]) -> str:
    for new, old in table.items():
        name = re.sub(rf"(^|\.){re.escape(new)}(?=\.)", rf"\g<1>{old}", name)
    return name


def _unet(name: str, layers: int) -> str:
    """Blocks are numbered through: a level's layers, each a residual block and its attention, then its resampling."""
    per_level = layers + 1
    match = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)", name)
    if match:
        way, level, kind, layer, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
        if kind == "downsamplers":
            return f"input_blocks.{(level + 1) * per_level}.0.op.{rest.removeprefix('conv.')}"
        if kind == "upsamplers":
            return f"output_blocks.{(level + 1) * per_level - 1}.2.{rest}"  # after an attention, as in v1-4's
        block = f"input_blocks.{1 + level * per_level + layer}" if way == "down" else None
        block = block or f"output_blocks.{level * per_level + layer}"
        return f"{block}.0.{_renamed(rest, RESNET)}" if kind == "resnets" else f"{block}.1.{rest}"
    name = _renamed(name, UNET)
    return _renamed(name, RESNET) if re.match(r"middle_block\.[02]\.", name) else name


def _vae(name: str, levels: int) -> str:
    name = re.sub(r"down_blocks\.(\d+)\.resnets\.", r"down.\1.block.", name)
    name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d+)\.resnets\.", lambda m: f"up.{levels - 1 - int(m[1])}.block.", name)
    name = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", name)
    return _renamed(name, VAE)


def _conv(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """The VAE's attention was made of 1 x 1 convolutions."""
    is_attention = "attentions" in name and tensor.dim() == 2
    return tensor[:, :, None, None] if is_attention else tensor
