"""The tensors of one picture between its steps, and those of a prompt.

Shapes: C latent channels (4 in v1-4), H x W pixels, f pixels per latent (8 in v1-4), L tokens (77), D features.
"""

from dataclasses import dataclass

import torch
from diffusers import SchedulerMixin


@dataclass(frozen=True, slots=True, eq=False)
class KnownLatents:
    """What stays of a picture of which only a part is drawn anew."""

    latents: torch.Tensor  # (1, C, H/f, W/f)
    noise: torch.Tensor  # (1, C, H/f, W/f)
    mask: torch.Tensor  # (1, 1, H/f, W/f): 1 is drawn anew, 0 stays


@dataclass(frozen=True, slots=True, eq=False)
class PendingMosaic:
    """A preview's colours on their way to the host; `copied` is the device's event after which they are there."""

    values: torch.Tensor  # (C, rows, columns)
    copied: torch.cuda.Event

    def wait(self) -> torch.Tensor:
        self.copied.synchronize()
        return self.values


@dataclass(slots=True, eq=False)
class DenoisingState:
    """One picture's tensors. `model_input` and `noise_pred` are of the last step: a preview is predicted from them."""

    latents: torch.Tensor  # (1, C, H/f, W/f)
    prompt_embeds: torch.Tensor  # (1, L, D)
    negative_prompt_embeds: torch.Tensor | None  # (1, L, D); None: no guidance, one row instead of two
    guidance_scale: float
    scheduler: SchedulerMixin
    generator: torch.Generator  # on the CPU, so that a seed means the same picture on every device
    timesteps: torch.Tensor  # (num_timesteps,), on the CPU
    device_timesteps: torch.Tensor  # (num_timesteps,), float32 on the device
    known: KnownLatents | None = None
    step_index: int = 0
    model_input: torch.Tensor | None = None  # (1, C, H/f, W/f)
    noise_pred: torch.Tensor | None = None  # (1, C, H/f, W/f)
    features: torch.Tensor | None = None  # (rows, F, H/f, W/f) of the last whole UNet call, only with `turbo`
    mosaic: PendingMosaic | None = None  # of the next preview


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """`truncated` is the text beyond the encoder's 77 tokens, which has no effect."""

    prompt_embeds: torch.Tensor  # (1, L, D)
    negative_prompt_embeds: torch.Tensor | None  # (1, L, D)
    truncated: str
