"""Upsampling for calls of many rows, which keeps the order of weights and tensors in memory (channels last)."""

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.upsampling import Upsample2D

MOST_ROWS = 63  # from 64 on diffusers leaves that order, for a kernel that failed there (diffusers#984)


class WideUpsample2D(Upsample2D):
    """Takes the rows in parts. Kernels depend on a call's size, so that sums may be rounded otherwise."""

    def forward(self, hidden_states: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        parts = -(-len(hidden_states) // MOST_ROWS)
        if parts == 1:
            return super().forward(hidden_states, *args, **kwargs)
        return torch.cat(
            [super(WideUpsample2D, self).forward(part, *args, **kwargs) for part in hidden_states.chunk(parts)]
        )


def widen_upsampling(unet: UNet2DConditionModel) -> None:
    for module in unet.modules():
        if type(module) is Upsample2D:
            module.__class__ = WideUpsample2D
