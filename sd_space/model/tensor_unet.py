"""The UNet with nothing but tensors going in and out, for what traces or exports networks."""

import torch
from diffusers import UNet2DConditionModel
from torch import nn


class TensorUNet(nn.Module):
    def __init__(self, unet: UNet2DConditionModel):
        super().__init__()
        self.unet = unet

    def forward(self, sample: torch.Tensor, timesteps: torch.Tensor, embeds: torch.Tensor) -> torch.Tensor:
        """(R, C, h, w), (R,) and (R, L, D) to the predicted noise, (R, C, h, w)."""
        return self.unet(sample, timesteps, encoder_hidden_states=embeds, return_dict=False)[0]
