"""Latents by principal components, an AutoencoderKL decoder that draws from them, and its encoder that agrees.

A picture's 8x8x3 patches are projected on their first eight principal components, partly whitened (each component's
deviation becomes its square root) and scaled to deviation 1 over all. That encoder exists in seconds, so the UNet can
start at once; the decoder is trained meanwhile from slightly noisy latents, and AutoencoderKL's own encoder is
regressed to the projection, so that image-to-image starts from the same latents.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional

from sd_space.tools.train_tiny import loop
from sd_space.tools.train_tiny.optimizer import Muon

PATCH = 8  # pixels per latent, along each side
CHANNELS = 8
SCALING_FACTOR = 0.18215  # v1-4's own
CROP = 64  # pixels
DECODER_STEPS = 3500
ENCODER_STEPS = 700


@dataclass(frozen=True, slots=True)
class Pca:
    mean: Tensor  # (192,)
    components: Tensor  # (192, 8), orthonormal columns
    scale: Tensor  # (8,)

    def encode(self, pictures: np.ndarray | Tensor) -> Tensor:
        """(N, H, W, 3) uint8 -> (N, 8, H/8, W/8) float32."""
        patches = _patches(to_unit(pictures))  # (N, H/8, W/8, 192)
        return (((patches - self.mean) @ self.components) * self.scale).permute(0, 3, 1, 2).contiguous()

    def decode(self, latents: Tensor) -> Tensor:
        """(N, 8, h, w) -> (N, 3, 8h, 8w), about -1..1: the best that a linear decoder can do."""
        n, _, h, w = latents.shape
        patches = (latents.permute(0, 2, 3, 1) / self.scale) @ self.components.T + self.mean
        return patches.reshape(n, h, w, 3, PATCH, PATCH).permute(0, 3, 1, 4, 2, 5).reshape(n, 3, h * PATCH, w * PATCH)


def to_unit(pictures: np.ndarray | Tensor) -> Tensor:
    """(N, H, W, 3) uint8 -> (N, 3, H, W) float32 in -1..1."""
    return torch.as_tensor(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def _patches(pictures: Tensor) -> Tensor:
    n, _, h, w = pictures.shape
    tiles = pictures.reshape(n, 3, h // PATCH, PATCH, w // PATCH, PATCH)
    return tiles.permute(0, 2, 4, 1, 3, 5).reshape(n, h // PATCH, w // PATCH, 3 * PATCH * PATCH)


def fit_pca(pictures: np.ndarray) -> Pca:
    """From (N, H, W, 3) uint8."""
    patches = _patches(to_unit(pictures)).reshape(-1, 3 * PATCH * PATCH)
    mean = patches.mean(0)
    centred = patches - mean
    values, vectors = torch.linalg.eigh((centred.T @ centred / len(centred)).double())
    values, vectors = values.flip(0)[:CHANNELS].float(), vectors.flip(1)[:, :CHANNELS].float()
    vectors = vectors * torch.where(vectors.sum(0) < 0, -1.0, 1.0)
    deviation = values.sqrt()
    scale = deviation.rsqrt()
    scale = scale / (scale * deviation).square().mean().sqrt()
    return Pca(mean, vectors.contiguous(), scale)


def save_pca(pca: Pca, path: Path) -> None:
    loop.save_atomically({"mean": pca.mean, "components": pca.components, "scale": pca.scale}, path)


def load_pca(path: Path) -> Pca:
    return Pca(**loop.load(path))


def make_vae() -> AutoencoderKL:
    """(N, 3, H, W) in -1..1 <-> (N, 8, H/8, W/8); residual branches start at zero."""
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 64),
        layers_per_block=1,
        latent_channels=CHANNELS,
        norm_num_groups=8,
        sample_size=128,
        scaling_factor=SCALING_FACTOR,
        mid_block_add_attention=False,
    )
    for name, module in vae.named_modules():
        if name.endswith("conv2"):
            nn.init.zeros_(module.weight)
    with torch.no_grad():
        vae.post_quant_conv.weight.copy_(torch.eye(CHANNELS)[..., None, None])
        vae.post_quant_conv.bias.zero_()
        vae.quant_conv.weight.zero_()
        vae.quant_conv.weight[:CHANNELS, :CHANNELS, 0, 0] = torch.eye(CHANNELS)
        vae.quant_conv.bias.zero_()
        vae.quant_conv.bias[CHANNELS:] = -20.0  # log-variance: none
    return vae


def folded(vae: AutoencoderKL) -> AutoencoderKL:
    """`vae` for the pipeline, in place: latents at 1 / `SCALING_FACTOR` times the deviation that training used."""
    with torch.no_grad():
        vae.post_quant_conv.weight *= SCALING_FACTOR
        vae.quant_conv.weight[:CHANNELS] /= SCALING_FACTOR
        vae.quant_conv.bias[:CHANNELS] /= SCALING_FACTOR
    return vae


def unfolded(vae: AutoencoderKL) -> AutoencoderKL:
    """`folded`, undone, in place."""
    with torch.no_grad():
        vae.post_quant_conv.weight /= SCALING_FACTOR
        vae.quant_conv.weight[:CHANNELS] *= SCALING_FACTOR
        vae.quant_conv.bias[:CHANNELS] *= SCALING_FACTOR
    return vae


def half(vae: AutoencoderKL, part: str) -> nn.ModuleList:
    """What is trained as "decoder" or as "encoder"."""
    return nn.ModuleList([vae.post_quant_conv, vae.decoder] if part == "decoder" else [vae.encoder, vae.quant_conv])


def _gradients(pictures: Tensor) -> tuple[Tensor, Tensor]:
    return pictures[..., 1:] - pictures[..., :-1], pictures[..., 1:, :] - pictures[..., :-1, :]


def train(
    folder: Path, pixels: np.ndarray, *, part: str, seed: int, steps: int | None = None, batch: int = 8,
    device: str = "cpu", minutes: float | None = None,
) -> int:  # fmt: skip
    """Trains `part` ("decoder" or "encoder") on crops of `pixels` (N, 128, 128, 3); returns the step reached."""
    steps = steps or (DECODER_STEPS if part == "decoder" else ENCODER_STEPS)
    pca = load_pca(folder / "pca.pt")
    torch.manual_seed(seed)
    trained = half(make_vae(), part).to(device, memory_format=torch.channels_last)
    optimizer = Muon(trained, lr=2e-3)
    places = (128 - CROP) // PATCH + 1

    def step(number: int, rng: np.random.Generator) -> float:
        rows, corners = rng.integers(len(pixels), size=batch), rng.integers(places, size=(batch, 2)) * PATCH
        crops = np.stack([pixels[r, y : y + CROP, x : x + CROP] for r, (y, x) in zip(rows, corners, strict=True)])
        latents = pca.encode(crops)
        target = to_unit(crops).to(device, memory_format=torch.channels_last)
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1.0, (number + 1) / 50) * min(1.0, 1.6 * (1 - number / steps) + 1e-3)
        if part == "decoder":
            noise = torch.from_numpy(rng.standard_normal(latents.shape, np.float32))
            level = torch.from_numpy(rng.random((batch, 1, 1, 1), np.float32)) * 0.2
            drawn = trained[1](trained[0]((latents + level * noise).to(device)))
            loss = (drawn - target).abs().mean()
            for ours, theirs in zip(_gradients(drawn), _gradients(target), strict=True):
                loss = loss + 0.5 * (ours - theirs).abs().mean()
        else:
            loss = functional.mse_loss(trained[1](trained[0](target))[:, :CHANNELS], latents.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    parts = {"half": trained, "optimizer": optimizer}
    return loop.train(part, folder / f"{part}.pt", parts, step, seed=seed, steps=steps, minutes=minutes)


def load_vae(folder: Path) -> AutoencoderKL:
    """The two trained halves as one, not yet `folded`; an encoder that is not trained yet stays as it was made."""
    vae = make_vae()
    for part in ("decoder", "encoder"):
        if (folder / f"{part}.pt").exists():
            half(vae, part).load_state_dict(loop.load(folder / f"{part}.pt")["parts"]["half"])
    return vae.eval().requires_grad_(False)
