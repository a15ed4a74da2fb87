"""The UNet: v-prediction (Salimans and Ho, 2022) on the VAE's latents, beside frozen caption embeddings.

The learning rate stays constant, so training can always go on; `anneal` takes a copy of the state down to a rate of
zero, which is what is shipped.
"""

import random
from pathlib import Path

import numpy as np
import torch
from diffusers import PNDMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn

from sd_space.tools.train_tiny import loop, pictures, text, vae
from sd_space.tools.train_tiny.captions import caption
from sd_space.tools.train_tiny.optimizer import Muon
from sd_space.tools.train_tiny.world import sample_scene

RATE = 5e-3
BATCH = 32
WARM_UP = 40  # steps
ANNEAL_STEPS = 400
AVERAGE_DECAY = 0.998
DROPPED = 0.1  # share of captions replaced by "", for classifier-free guidance (Ho and Salimans, 2022)
LATENT_SIDE = 16


def make_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=LATENT_SIDE,
        in_channels=vae.CHANNELS,
        out_channels=vae.CHANNELS,
        block_out_channels=(64, 64, 128),
        time_embedding_dim=128,
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 3,
        up_block_types=("CrossAttnUpBlock2D",) * 3,
        cross_attention_dim=text.WIDTH,
        attention_head_dim=4,
        norm_num_groups=8,
    )


def make_scheduler() -> PNDMScheduler:
    """v1-4's own noise schedule and sampler, but for what the UNet predicts."""
    return PNDMScheduler.from_config(
        {
            "num_train_timesteps": 1000,
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "beta_schedule": "scaled_linear",
            "skip_prk_steps": True,
            "set_alpha_to_one": False,
            "steps_offset": 1,
            "prediction_type": "v_prediction",
            "clip_sample": False,  # for DDIM in its place, whose own default is for pixels
        }
    )


def v_loss(
    unet: nn.Module, alphas: Tensor, latents: Tensor, noise: Tensor, timesteps: Tensor, states: Tensor
) -> Tensor:
    """Mean squared error of v, (B,) per picture, weighed by min(1, 5 / (SNR + 1)): flat, less where noise is low."""
    alpha = alphas[timesteps][:, None, None, None]
    noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
    target = alpha.sqrt() * noise - (1 - alpha).sqrt() * latents
    noisy = noisy.contiguous(memory_format=torch.channels_last)
    error = (unet(noisy, timesteps, states, return_dict=False)[0].float() - target).square().mean((1, 2, 3))
    snr = alphas[timesteps] / (1 - alphas[timesteps])
    return error * (5 / (snr + 1)).clamp(max=1)


def validation_set(folder: Path, *, seed: int, count: int = 256) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Fresh pictures with fixed noise and timesteps: latents, noise, timesteps, embeddings."""
    rng = random.Random(f"{seed}/validation")
    drawn = [sample_scene(rng) for _ in range(count)]
    latents = pictures.latents(folder, pictures.pixels(drawn))
    tokenizer, reader = text.load_reader(folder)
    states = text.embed(tokenizer, reader.encoder, [caption(scene, rng)[0] for scene in drawn])
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(latents.shape, generator=generator)
    timesteps = ((torch.arange(count) + 0.5) * 1000 / count).long()
    return latents, noise, timesteps, states


@torch.no_grad()
def validate(unet: nn.Module, validation: tuple[Tensor, Tensor, Tensor, Tensor], device: str = "cpu") -> float:
    alphas = make_scheduler().alphas_cumprod.to(device)
    losses = []
    for latents, noise, timesteps, states in zip(*(part.to(device).split(64) for part in validation), strict=True):
        losses.append(v_loss(unet, alphas, latents, noise, timesteps, states))
    return float(torch.cat(losses).mean())


def train(
    folder: Path, *, seed: int, shards: range, steps: int | None = None, minutes: float | None = None,
    anneal: int | None = None, batch: int = BATCH, rate: float = RATE, device: str = "cpu",
    initial: dict[str, Tensor] | None = None,
) -> int:  # fmt: skip
    """Trains on, from `unet.pt` in `folder` where there is one, else from `initial` weights, else from nothing.

    With `anneal` a copy of that state is trained for so many further steps while the learning rate falls to zero, and
    kept as `annealed.pt`; `unet.pt` stays as it is. Returns the step reached.
    """
    torch.manual_seed(seed)
    unet = make_unet()
    if initial is not None:
        unet.load_state_dict(initial)
    unet = unet.to(device, memory_format=torch.channels_last)
    if device == "cpu":  # there the fused attention's backward pass is nine times slower in bfloat16 than in float32
        unet.set_attn_processor(AttnProcessor())
    optimizer = Muon(unet, lr=rate)
    average = loop.Average(unet, AVERAGE_DECAY)
    pairs = pictures.Pairs(folder, shards, device)
    tokenizer, reader = text.load_reader(folder)
    nothing = text.embed(tokenizer, reader.encoder, [""])[0].to(device)
    generator = torch.Generator(device)
    alphas = make_scheduler().alphas_cumprod.to(device)
    path, last = folder / "unet.pt", steps
    if anneal is not None:
        start = loop.load(path)
        path, last = folder / "annealed.pt", start["step"] + anneal
        if not path.exists() or loop.load(path)["step"] < start["step"]:
            loop.save_atomically(start, path)

    def step(number: int, rng: np.random.Generator) -> float:
        latents, states = pairs.draw(rng, batch)
        states[torch.from_numpy(rng.random(batch) < DROPPED).to(device)] = nothing
        generator.manual_seed(int(rng.integers(2**62)))
        noise = torch.randn(latents.shape, generator=generator, device=device)
        timesteps = torch.from_numpy(((np.arange(batch) + rng.random(batch)) * 1000 / batch).astype(np.int64))
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (number + 1) / WARM_UP)
            if anneal is not None and last is not None:
                group["lr"] = rate * max(0.0, (last - number) / anneal)
        with loop.in_bfloat16(device):
            loss = v_loss(unet, alphas, latents, noise, timesteps.to(device), states).mean()
        found = loop.descend(loss, optimizer, unet)
        average.update()
        return found

    parts = {"unet": unet, "optimizer": optimizer, "average": average}
    return loop.train("unet", path, parts, step, seed=seed, steps=last, minutes=minutes)


def load_unet(folder: Path) -> tuple[UNet2DConditionModel, int]:
    """The UNet to ship and its step: the annealed one where it is the newest, else the running average."""
    unet = make_unet()
    saved = loop.load(folder / "unet.pt")
    weights = saved["parts"]["average"]["weights"]
    if (folder / "annealed.pt").exists():
        annealed = loop.load(folder / "annealed.pt")
        if annealed["step"] > saved["step"]:
            saved, weights = annealed, annealed["parts"]["unet"]
    unet.load_state_dict(weights)
    return unet.eval().requires_grad_(False), saved["step"]
