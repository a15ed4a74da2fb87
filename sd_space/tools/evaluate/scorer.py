"""Two networks that name what a picture shows, attribute by attribute; trained on renders and nothing else.

They have no part in the checkpoint's training nor in the choice of its seeds. What they measure is adherence inside
the drawn world; it cannot be compared with figures of models of photographs.
"""

import random
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from sd_space.tools.train_tiny import loop, pictures, safety
from sd_space.tools.train_tiny.world import ATTRIBUTES, Scene, sample_scene

FEATURES = 128
SIDE = 64  # pixels that a scorer sees, along each side
BATCH = 64
POOL = 12000  # renders
CHUNK = 256  # of them at a time in full size
STEPS = {"convolutional": 3000, "patches": 3000}


def fresh_scenes(count: int, rng: random.Random, *, held_out: bool = False) -> list[Scene]:
    """Scenes without the tilt towards the card's; of combinations that training never saw where `held_out`."""
    drawn: list[Scene] = []
    while len(drawn) < count:
        scene = sample_scene(rng, held_out=held_out)
        if not scene.is_card or rng.random() < 0.3:
            drawn.append(scene)
    return drawn


class Scorer(nn.Module):
    """(N, 3, 64, 64) normalised -> (N, 128) features, and for each attribute (N, values) logits."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        if kind == "convolutional":
            layers: list[nn.Module] = []
            for before, after in ((3, 24), (24, 48), (48, 96), (96, 128)):
                layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(8, after), nn.GELU()]
            self.trunk = nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * 16, FEATURES), nn.GELU())
        else:
            self.trunk = _Patches()
        self.heads = nn.ModuleDict({name: nn.Linear(FEATURES, len(values) - 1) for name, values in ATTRIBUTES.items()})

    def forward(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        features = self.trunk(images)
        return features, {name: head(features) for name, head in self.heads.items()}


class _Patches(nn.Module):
    """A small transformer over 8x8 patches (Dosovitskiy et al., 2021), mean-pooled."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 96, 8, stride=8)
        self.position = nn.Parameter(torch.randn(1, 64, 96) * 0.02)
        layer = nn.TransformerEncoderLayer(96, 4, 256, 0.0, "gelu", batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.out = nn.Sequential(nn.LayerNorm(96), nn.Linear(96, FEATURES), nn.GELU())

    def forward(self, images: Tensor) -> Tensor:
        return self.out(self.layers(self.embed(images).flatten(2).mT + self.position).mean(1))


def targets(scenes: list[Scene]) -> dict[str, Tensor]:
    """For each attribute (N,) indices; -100, which no loss counts, where the picture has no value that has a word."""
    return {
        name: torch.tensor([values.index(v) if (v := getattr(s, name)) in values[:-1] else -100 for s in scenes])
        for name, values in ATTRIBUTES.items()
    }


def rendered(scenes: list[Scene]) -> np.ndarray:
    """(N, 64, 64, 3) uint8, as a scorer sees them."""
    parts = (scenes[k : k + CHUNK] for k in range(0, len(scenes), CHUNK))
    return np.concatenate([safety.shrunk(pictures.pixels(part), SIDE) for part in parts])


def _loss(logits: Tensor, target: Tensor) -> Tensor:
    """Mean over all of the batch, also those that have no value: a batch may hold none of a rare attribute."""
    return functional.cross_entropy(logits, target, reduction="sum") / len(target)


def train(folder: Path, kind: str, *, seed: int, steps: int | None = None, pool: int = POOL) -> Scorer:
    """The scorer of that kind, trained on `pool` renders of seen combinations where it is not in `folder` yet."""
    scorer = Scorer(kind)
    path = folder / f"scorer-{kind}.pt"
    steps = steps or STEPS[kind]
    if not path.exists() or loop.load(path)["step"] < steps:
        torch.manual_seed(seed)
        scorer = Scorer(kind)
        scenes = fresh_scenes(pool, random.Random(f"{seed}/scorer/{kind}"))
        small, known = rendered(scenes), targets(scenes)
        optimizer = torch.optim.AdamW(scorer.parameters(), lr=1e-3, weight_decay=0.05)

        def step(number: int, rng: np.random.Generator) -> float:
            rows = rng.choice(len(small), BATCH)
            for group in optimizer.param_groups:
                group["lr"] = 1e-3 * min(1.0, (number + 1) / 50) * min(1.0, 1.6 * (1 - number / steps) + 1e-3)
            _, logits = scorer(safety.varied(safety.normalized(small[rows]), rng, mirror=False))
            loss = sum(_loss(logits[name], known[name][rows]) for name in logits)
            return loop.descend(loss, optimizer)

        parts = {"scorer": scorer, "optimizer": optimizer}
        loop.train(f"scorer-{kind}", path, parts, step, seed=seed, steps=steps)
    scorer.load_state_dict(loop.load(path)["parts"]["scorer"])
    return scorer.eval().requires_grad_(False)


@torch.no_grad()
def read(scorer: Scorer, images: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(N, 256, 256, 3) uint8 -> (N, 128) features, and for each attribute (N, values) log-probabilities."""
    features, logits = scorer(safety.normalized(safety.shrunk(images, SIDE)))
    return features.numpy(), {name: value.log_softmax(1).numpy() for name, value in logits.items()}
