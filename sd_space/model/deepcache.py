"""Deep features of the UNet, kept from one step and used again at the next ones (`TURBO`).

Ma et al. 2023, DeepCache: deep features change little from step to step, so that three layers of the UNet's first level
are enough for most of them. Shapes as in `unet_runner.py`.
"""

import torch
from diffusers import UNet2DConditionModel


def with_features(
    unet: UNet2DConditionModel, sample: torch.Tensor, timesteps: torch.Tensor, embeds: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The predicted noise, and the features (R, F', h, w) that enter the last but one layer of the way up."""
    features: list[torch.Tensor] = []
    skipped = unet.conv_in.out_channels  # channels of the skip connection, which follow the features

    def keep(module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        features.append(args[0][:, :-skipped].clone())

    hook = unet.up_blocks[-1].resnets[-2].register_forward_pre_hook(keep)
    try:
        (noise_pred,) = unet(sample, timesteps, encoder_hidden_states=embeds, return_dict=False)
    finally:
        hook.remove()
    return noise_pred, features[0]


def from_features(
    unet: UNet2DConditionModel,
    sample: torch.Tensor,
    timesteps: torch.Tensor,
    embeds: torch.Tensor,
    features: torch.Tensor,
) -> tuple[torch.Tensor]:
    """UNet2DConditionModel.forward (diffusers, unet_2d_condition.py) without what made `features`."""
    if hasattr(unet, "_hf_hook"):  # accelerate's, on `forward`: brings the UNet to the device when it was offloaded
        unet._hf_hook.pre_forward(unet)
    emb = unet.time_embedding(unet.get_time_embed(sample=sample, timestep=timesteps))
    down, up = unet.down_blocks[0], unet.up_blocks[-1]

    def layer(block: torch.nn.Module, index: int, hidden: torch.Tensor) -> torch.Tensor:
        hidden = block.resnets[index](hidden, emb)
        if getattr(block, "attentions", None) is None:
            return hidden
        return block.attentions[index](hidden, encoder_hidden_states=embeds, return_dict=False)[0]

    first = unet.conv_in(sample)
    hidden = layer(up, -2, torch.cat([features, layer(down, 0, first)], dim=1))
    hidden = layer(up, -1, torch.cat([hidden, first], dim=1))
    return (unet.conv_out(unet.conv_act(unet.conv_norm_out(hidden))),)
