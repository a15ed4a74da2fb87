"""AutoencoderKL of five blocks, small, made for flat outlined drawings: 16 latent channels at a sixteenth of the side.

Those are as many numbers as v1-4's four at an eighth. It starts from a linear one: the first principal components of
16x16x3 patches, partly whitened (each component's deviation becomes its square root). For the first steps the decoder
learns to draw from those and the encoder to agree with them; from there on both are trained as one and leave the line
a little where a curve holds more. Latents get some noise before they are decoded, so that a sampler's small errors
stay small. Training is on crops, for speed; `decoder.py` then goes on with whole pictures.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional

from sd_space.tools.train_tiny import loop
from sd_space.tools.train_tiny.optimizer import Muon

PATCH = 16  # pixels per latent, along each side
CHANNELS = 16
SCALING_FACTOR = 0.18215  # v1-4's own
CROP = 96  # pixels
BATCH = 4
RATE = 2e-3
LINEAR_STEPS = 500  # in which the latents are the linear ones
STEPS = 12000
AVERAGE_DECAY = 0.99
NOISE = 0.1  # the most that is added to latents of deviation 1


@dataclass(frozen=True, slots=True)
class Pca:
    mean: Tensor  # (768,)
    components: Tensor  # (768, 16), orthonormal columns
    scale: Tensor  # (16,)

    def encode(self, pictures: Tensor) -> Tensor:
        """(N, 3, H, W) in -1..1 -> (N, 16, H/16, W/16)."""
        return (((_patches(pictures) - self.mean) @ self.components) * self.scale).permute(0, 3, 1, 2).contiguous()

    def decode(self, latents: Tensor) -> Tensor:
        """(N, 16, h, w) -> (N, 3, 16h, 16w), about -1..1: the best that a linear decoder can do."""
        n, _, h, w = latents.shape
        patches = (latents.permute(0, 2, 3, 1) / self.scale) @ self.components.T + self.mean
        return patches.reshape(n, h, w, 3, PATCH, PATCH).permute(0, 3, 1, 4, 2, 5).reshape(n, 3, h * PATCH, w * PATCH)

    def to(self, device: str) -> "Pca":
        return Pca(self.mean.to(device), self.components.to(device), self.scale.to(device))


def to_unit(pictures: np.ndarray | Tensor) -> Tensor:
    """(N, H, W, 3) uint8 -> (N, 3, H, W) float32 in -1..1."""
    return torch.as_tensor(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_bytes(pictures: Tensor) -> np.ndarray:
    """(N, 3, H, W), about -1..1 -> (N, H, W, 3) uint8."""
    return ((pictures.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()


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


def make_vae() -> AutoencoderKL:
    """(N, 3, H, W) in -1..1 <-> (N, 16, H/16, W/16); residual branches start at zero."""
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 5,
        up_block_types=("UpDecoderBlock2D",) * 5,
        block_out_channels=(16, 32, 64, 128, 96),
        layers_per_block=1,
        latent_channels=CHANNELS,
        norm_num_groups=8,
        sample_size=256,
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


def encode(vae: AutoencoderKL, pictures: Tensor) -> Tensor:
    """(N, 3, H, W) in -1..1 -> (N, 16, H/16, W/16), the mean of the posterior."""
    return vae.quant_conv(vae.encoder(pictures))[:, :CHANNELS]


def decode(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    return vae.decoder(vae.post_quant_conv(latents))


def gradients(pictures: Tensor) -> tuple[Tensor, Tensor]:
    """The differences of neighbours, along rows and along columns."""
    return pictures[..., 1:] - pictures[..., :-1], pictures[..., 1:, :] - pictures[..., :-1, :]


def sharpnesses(gradient: Tensor, side: int = 4) -> Tensor:
    """Root of the gradient's mean square in each square of pixels: a moved edge keeps it, a blurred one does not."""
    return (functional.avg_pool2d(gradient.square(), side) + 1e-4).sqrt()


def difference(
    drawn: Tensor,
    target: Tensor,
    *,
    squared: float = 4.0,
    edges: float = 0.5,
    sharpness: Sequence[tuple[float, int]] = ((0.8, 4),),
) -> Tensor:
    """Of the colours (absolute and squared), of their gradients and of the sharpness of the edges, each in the mean.

    `sharpness` are weights, each with the side of the squares in which it is compared.
    """
    error = drawn - target
    loss = error.abs().mean() + squared * error.square().mean()
    for ours, theirs in zip(gradients(drawn), gradients(target), strict=True):
        loss = loss + edges * (ours - theirs).abs().mean()
        for weight, side in sharpness:
            loss = loss + weight * (sharpnesses(ours, side) - sharpnesses(theirs, side)).abs().mean()
    return loss


def disturbed(latents: Tensor, generator: torch.Generator, rng: np.random.Generator) -> Tensor:
    """(N, 16, h, w) with noise, as little or much for each as a sampler's errors may be."""
    generator.manual_seed(int(rng.integers(2**62)))
    noise = torch.randn(latents.shape, generator=generator, device=latents.device)
    level = NOISE * torch.rand((len(latents), 1, 1, 1), generator=generator, device=latents.device)
    return latents + level * noise


def crops(pixels: Tensor, rng: np.random.Generator, count: int, side: int) -> Tensor:
    """(count, 3, side, side) in -1..1, random pieces of `pixels` (N, H, W, 3) uint8, on the same device."""
    rows = rng.integers(len(pixels), size=count)
    corners = rng.integers(pixels.shape[1] - side + 1, size=(count, 2))
    cut = [pixels[r, y : y + side, x : x + side] for r, (y, x) in zip(rows, corners, strict=True)]
    return to_unit(torch.stack(cut))


def train(
    folder: Path, pixels: np.ndarray, *, seed: int, steps: int = STEPS, batch: int = BATCH, crop: int = CROP,
    device: str = "cpu", minutes: float | None = None,
) -> int:  # fmt: skip
    """Trains on crops of `pixels` (N, H, W, 3) uint8, the last two fifths with a falling rate; returns the step."""
    torch.manual_seed(seed)
    vae = make_vae().to(device, memory_format=torch.channels_last)
    optimizer = Muon(vae, lr=RATE)
    average = loop.Average(vae, AVERAGE_DECAY)
    source = torch.from_numpy(np.require(pixels, requirements="W")).to(device)
    pca_path = folder / "pca.pt"
    if not pca_path.exists():
        pca = fit_pca(pixels[:512])
        loop.save_atomically({"mean": pca.mean, "components": pca.components, "scale": pca.scale}, pca_path)
    pca = Pca(**loop.load(pca_path)).to(device)
    generator = torch.Generator(device)

    def step(number: int, rng: np.random.Generator) -> float:
        target = crops(source, rng, batch, crop)
        linear = pca.encode(target)
        target = target.contiguous(memory_format=torch.channels_last)
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (number + 1) / 50) * min(1.0, 2.5 * (1 - number / steps) + 1e-3)
        is_linear = number < LINEAR_STEPS
        with loop.in_bfloat16(device):
            latents = encode(vae, target).float()
            drawn = decode(vae, disturbed(linear if is_linear else latents, generator, rng)).float()
        loss = difference(drawn, target)
        loss = loss + functional.mse_loss(latents, linear) * (1.0 if is_linear else 0.05)
        loss = loss + 0.05 * (latents.square().mean((0, 2, 3)) - linear.square().mean((0, 2, 3))).square().mean()
        found = loop.descend(loss, optimizer)
        average.update()
        return found

    parts = {"vae": vae, "optimizer": optimizer, "average": average}
    return loop.train("vae", folder / "vae.pt", parts, step, seed=seed, steps=steps, minutes=minutes)


def load_vae(folder: Path) -> AutoencoderKL:
    """The running average of the weights, not yet `folded`; with the sharper decoder (`decoder.py`) if there is one."""
    vae = make_vae()
    path = next(path for path in (folder / "decoder.pt", folder / "vae.pt") if path.exists())
    vae.load_state_dict(loop.load(path)["parts"]["average"]["weights"])
    return vae.eval().requires_grad_(False)
