"""The training set: scenes drawn in shards, each kept as latents and captions (and, of the first, pixels)."""

import random
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from sd_space.tools.train_tiny import text, vae
from sd_space.tools.train_tiny.captions import caption
from sd_space.tools.train_tiny.renderer import render
from sd_space.tools.train_tiny.world import Scene, sample_scene

SHARD = 4096  # pictures
CAPTIONS = 2  # per picture
PIXEL_SHARDS = 1  # how many shards keep their pixels, for the VAE


def scenes(seed: int, shard: int) -> list[Scene]:
    """The scenes of one shard; none is held out."""
    rng = random.Random(f"{seed}/{shard}")
    return [sample_scene(rng) for _ in range(SHARD)]


def captions(seed: int, shard: int, drawn: list[Scene]) -> list[str]:
    """`CAPTIONS` captions of each scene, one scene after the other."""
    rng = random.Random(f"{seed}/{shard}/captions")
    return [caption(scene, rng)[0] for scene in drawn for _ in range(CAPTIONS)]


def pixels(drawn: list[Scene], *, processes: int = 1) -> np.ndarray:
    """(N, 256, 256, 3) uint8."""
    if processes == 1:
        return np.stack([_pixels(scene) for scene in drawn])
    with ProcessPoolExecutor(processes) as pool:
        return np.stack(list(pool.map(_pixels, drawn, chunksize=32)))


def _pixels(scene: Scene) -> np.ndarray:
    return np.asarray(render(scene))


def shard_file(folder: Path, kind: str, shard: int) -> Path:
    return folder / "pictures" / f"{kind}-{shard:03d}.npy"


def save_array(array: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.part.npy")
    np.save(scratch, array)
    scratch.replace(path)


def draw(folder: Path, *, seed: int, processes: int = 1) -> None:
    """Draws the shards whose pixels are kept and not there yet."""
    for shard in range(PIXEL_SHARDS):
        path = shard_file(folder, "pixels", shard)
        if not path.exists():
            save_array(pixels(scenes(seed, shard), processes=processes), path)


def load_pixels(folder: Path) -> np.ndarray:
    """(N, 256, 256, 3) uint8, of all shards that keep them."""
    paths = sorted((folder / "pictures").glob("pixels-*.npy"))
    return np.concatenate([np.load(path, mmap_mode="r") for path in paths])


def make(folder: Path, *, seed: int, shards: range, processes: int = 1, device: str = "cpu") -> None:
    """Makes the latents, (N, 16, 16, 16) fp16 each, of the shards that have none yet, with the finished VAE."""
    todo = [shard for shard in shards if not shard_file(folder, "latents", shard).exists()]
    for shard in tqdm(todo, desc="pictures", unit="shard", dynamic_ncols=True):
        kept = shard_file(folder, "pixels", shard)
        drawn = np.load(kept) if kept.exists() else pixels(scenes(seed, shard), processes=processes)
        save_array(latents(folder, drawn, device=device).half().numpy(), shard_file(folder, "latents", shard))


@torch.no_grad()
def latents(folder: Path, drawn: np.ndarray, *, device: str = "cpu", batch: int = 4) -> Tensor:
    """(N, 256, 256, 3) uint8 -> (N, 16, 16, 16), as the VAE in `folder` encodes them."""
    model = vae.load_vae(folder).to(device, memory_format=torch.channels_last)
    parts = (torch.from_numpy(drawn[k : k + batch]).to(device) for k in range(0, len(drawn), batch))
    return torch.cat([vae.encode(model, vae.to_unit(part)).cpu() for part in parts])


def embed(folder: Path, *, seed: int, shards: range, device: str = "cpu") -> None:
    """Runs the captions of the shards through the finished text encoder: (N * `CAPTIONS`, 77, 128) fp16 each."""
    todo = [shard for shard in shards if not shard_file(folder, "text", shard).exists()]
    if not todo:
        return
    tokenizer, reader = text.load_reader(folder)
    encoder = reader.encoder.to(device)
    for shard in tqdm(todo, desc="captions", unit="shard", dynamic_ncols=True):
        texts = captions(seed, shard, scenes(seed, shard))
        save_array(text.embed(tokenizer, encoder, texts).half().numpy(), shard_file(folder, "text", shard))


class Pairs:
    """Latents and caption embeddings of shards, drawn in random batches.

    On an accelerator all of them lie in its memory; on a CPU the embeddings stay on the disk.
    """

    def __init__(self, folder: Path, shards: range, device: str = "cpu") -> None:
        self.device = device
        self.latents = torch.cat(
            [torch.from_numpy(np.load(shard_file(folder, "latents", k))).to(device) for k in shards]
        )
        self.texts = [np.load(shard_file(folder, "text", k), mmap_mode="r") for k in shards]
        if device != "cpu":
            self.all_texts = torch.cat([torch.from_numpy(np.array(part)).to(device) for part in self.texts])

    def draw(self, rng: np.random.Generator, count: int) -> tuple[Tensor, Tensor]:
        """Latents (count, 16, 16, 16) and embeddings (count, 77, 128), float32, on the device."""
        rows = rng.integers(len(self.latents), size=count)
        which = rows * CAPTIONS + rng.integers(CAPTIONS, size=count)
        chosen = self.latents[torch.from_numpy(rows).to(self.device)].float()
        if self.device != "cpu":
            return chosen, self.all_texts[torch.from_numpy(which).to(self.device)].float()
        per_shard = SHARD * CAPTIONS
        texts = np.stack([self.texts[w // per_shard][w % per_shard] for w in which])
        return chosen, torch.from_numpy(texts).float()
