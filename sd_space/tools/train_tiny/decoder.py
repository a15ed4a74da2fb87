"""The VAE's decoder alone, trained on for sharper edges: the latents, and so what the UNet has learned, stay.

Where latents leave open on which pixel an edge lies, the squared error is smallest with a blur. So beside the colours
counts how much gradient there is in each 4x4 and 8x8 pixels, wherever in them: an edge a pixel off is better than a
smear.

Training is on whole pictures, one at a time: group normalization takes its statistics from a whole picture, and a
decoder that has only seen pieces draws these better (28.5 dB) than pictures (27.2 dB).
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from sd_space.tools.train_tiny import loop, vae
from sd_space.tools.train_tiny.optimizer import Muon

RATE = 8e-4
STEPS = 4200
AVERAGE_DECAY = 0.995


def difference(drawn: Tensor, target: Tensor) -> Tensor:
    """As the VAE's own, with less weight on the squared error and on edges that lie elsewhere."""
    return vae.difference(drawn, target, squared=3.0, edges=0.3, sharpness=((0.8, 4), (2.0, 8)))


def train(folder: Path, pixels: np.ndarray, *, seed: int, steps: int = STEPS, device: str = "cpu") -> int:
    """Trains the decoder in `vae.pt` on `pixels` (N, H, W, 3) uint8 with a falling rate; returns the step."""
    torch.manual_seed(seed)
    model = vae.make_vae()
    model.load_state_dict(loop.load(folder / "vae.pt")["parts"]["average"]["weights"])
    model = model.to(device, memory_format=torch.channels_last)
    model.encoder.requires_grad_(False)
    model.quant_conv.requires_grad_(False)
    optimizer = Muon(nn.ModuleList([model.post_quant_conv, model.decoder]), lr=RATE)
    average = loop.Average(model, AVERAGE_DECAY)
    source = torch.from_numpy(np.require(pixels, requirements="W")).to(device)
    generator = torch.Generator(device)

    def step(number: int, rng: np.random.Generator) -> float:
        target = vae.to_unit(source[int(rng.integers(len(source)))][None]).contiguous(memory_format=torch.channels_last)
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (number + 1) / 50) * min(1.0, 2 * (1 - number / steps) + 1e-3)
        with loop.in_bfloat16(device):
            with torch.no_grad():
                latents = vae.encode(model, target)
            drawn = vae.decode(model, vae.disturbed(latents, generator, rng)).float()
        loss = difference(drawn, target)
        found = loop.descend(loss, optimizer)
        average.update()
        return found

    parts = {"vae": model, "optimizer": optimizer, "average": average}
    return loop.train("decoder", folder / "decoder.pt", parts, step, seed=seed, steps=steps)
