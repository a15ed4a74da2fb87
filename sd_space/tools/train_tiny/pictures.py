"""The training set: scenes drawn in shards, each kept as PCA latents and captions (and, of the first few, pixels)."""

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
PIXEL_SHARDS = 2  # how many shards keep their pixels, for the VAE and the safety checker


def scenes(seed: int, shard: int) -> list[Scene]:
    """The scenes of one shard; none is held out."""
    rng = random.Random(f"{seed}/{shard}")
    return [sample_scene(rng) for _ in range(SHARD)]


def captions(seed: int, shard: int, drawn: list[Scene]) -> list[str]:
    """`CAPTIONS` captions of each scene, one scene after the other."""
    rng = random.Random(f"{seed}/{shard}/captions")
    return [caption(scene, rng)[0] for scene in drawn for _ in range(CAPTIONS)]


def pixels(drawn: list[Scene], *, processes: int = 1) -> np.ndarray:
    """(N, 128, 128, 3) uint8."""
    if processes == 1:
        return np.stack([np.asarray(render(scene)) for scene in drawn])
    with ProcessPoolExecutor(processes) as pool:
        return np.stack(list(pool.map(_pixels, drawn, chunksize=64)))


def _pixels(scene: Scene) -> np.ndarray:
    return np.asarray(render(scene))


def shard_file(folder: Path, kind: str, shard: int) -> Path:
    return folder / "pictures" / f"{kind}-{shard:03d}.npy"


def save_array(array: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.part.npy")
    np.save(scratch, array)
    scratch.replace(path)


def make(folder: Path, *, seed: int, shards: range, processes: int = 1) -> None:
    """Draws the shards that are not there yet: latents (N, 8, 16, 16) fp16, and pixels of the first `PIXEL_SHARDS`."""
    for shard in tqdm(shards, desc="pictures", unit="shard", dynamic_ncols=True):
        path = shard_file(folder, "latents", shard)
        if path.exists():
            continue
        drawn = pixels(scenes(seed, shard), processes=processes)
        if shard < PIXEL_SHARDS:
            save_array(drawn, shard_file(folder, "pixels", shard))
        pca_path = folder / "pca.pt"
        if not pca_path.exists():
            vae.save_pca(vae.fit_pca(drawn[:2048]), pca_path)
        pca = vae.load_pca(pca_path)
        save_array(np.concatenate([pca.encode(part).half().numpy() for part in np.array_split(drawn, 16)]), path)


def embed(folder: Path, *, seed: int, shards: range) -> None:
    """Runs the captions of the shards through the finished text encoder: (N * `CAPTIONS`, 77, 128) fp16 each."""
    todo = [shard for shard in shards if not shard_file(folder, "text", shard).exists()]
    if not todo:
        return
    tokenizer, reader = text.load_reader(folder)
    for shard in tqdm(todo, desc="captions", unit="shard", dynamic_ncols=True):
        texts = captions(seed, shard, scenes(seed, shard))
        save_array(text.embed(tokenizer, reader.encoder, texts).half().numpy(), shard_file(folder, "text", shard))


def load_pixels(folder: Path) -> np.ndarray:
    """(N, 128, 128, 3) uint8, of all shards that keep them."""
    paths = sorted((folder / "pictures").glob("pixels-*.npy"))
    return np.concatenate([np.load(path, mmap_mode="r") for path in paths])


class Pairs:
    """Latents and caption embeddings of shards, drawn in random batches."""

    def __init__(self, folder: Path, shards: range) -> None:
        self.latents = [torch.from_numpy(np.load(shard_file(folder, "latents", k))) for k in shards]
        self.texts = [np.load(shard_file(folder, "text", k), mmap_mode="r") for k in shards]

    def draw(self, rng: np.random.Generator, count: int) -> tuple[Tensor, Tensor]:
        """Latents (count, 8, 16, 16) and embeddings (count, 77, 128), float32."""
        shards = rng.integers(len(self.latents), size=count)
        rows = rng.integers(SHARD, size=count)
        which = rows * CAPTIONS + rng.integers(CAPTIONS, size=count)
        latents = torch.stack([self.latents[s][r] for s, r in zip(shards, rows, strict=True)])
        texts = np.stack([self.texts[s][w] for s, w in zip(shards, which, strict=True)])
        return latents.float(), torch.from_numpy(texts).float()
