"""How well a picture is changed by other words: whether it shows them, and how much of the rest stays, by strength.

The starts are the checkpoint's own pictures, of one subject alone; the words name five attributes, of which one is
another than before.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionPipeline
from PIL import Image

from sd_space.tools.evaluate import scorer
from sd_space.tools.train_tiny import export
from sd_space.tools.train_tiny.captions import caption
from sd_space.tools.train_tiny.world import ATTRIBUTES, NAMED_NONE, Scene, sample_scene

STRENGTHS = (0.3, 0.5, 0.7, 0.9)
CHANGED = ("time", "colour", "place", "subject")
NAMED = (*CHANGED, "style")
BATCH = 16
HEADER = f"| strength | shows the new word | {' | '.join(CHANGED)} | of the rest stays | pixels differ, of 255 |"


@dataclass(frozen=True, slots=True)
class Change:
    """The words of a picture and those that it is changed by: the `attribute` becomes `value`."""

    before: str
    after: str
    attribute: str
    value: str


def changes(count: int, rng: random.Random) -> list[Change]:
    """As many of each attribute."""
    found: list[Change] = []
    while len(found) < count:
        attribute, scene = CHANGED[len(found) % len(CHANGED)], sample_scene(rng)
        others = set(ATTRIBUTES[attribute]) - {getattr(scene, attribute), NAMED_NONE, "emblem"}
        value = rng.choice(sorted(others))
        (before, named), (after, named_after) = (
            caption(each, rng, junk=0) for each in (scene, Scene(**asdict(scene) | {attribute: value}))
        )
        says_all = NAMED_NONE not in (said[name] for said in (named, named_after) for name in NAMED)
        if says_all and scene.subject != "emblem" and (scene.companion, scene.count) == (NAMED_NONE, "one"):
            found.append(Change(before, after, attribute, value))
    return found


def measure(pipeline: StableDiffusionPipeline, judge: scorer.Scorer, count: int, seed: int) -> Iterator[dict]:
    """A row of figures for the starts (strength 0), for each strength, and for the new words alone (strength 1)."""
    rng = random.Random(f"{seed}/changes")
    wanted = changes(count, rng)
    seeds, fresh = ([rng.getrandbits(31) for _ in wanted] for _ in range(2))
    draw = export.sampler(pipeline)
    parts = [slice(k, k + BATCH) for k in range(0, count, BATCH)]
    after = [change.after for change in wanted]
    starts = np.concatenate([draw([change.before for change in wanted[part]], seeds[part]) for part in parts])
    yield figures(0.0, starts, starts, wanted, judge)
    changer = StableDiffusionImg2ImgPipeline(
        **pipeline.components | {"safety_checker": None}, requires_safety_checker=False
    )
    changer.set_progress_bar_config(disable=True)
    for strength in STRENGTHS:
        drawn = [changed(changer, starts[part], after[part], fresh[part], strength) for part in parts]
        yield figures(strength, np.concatenate(drawn), starts, wanted, judge)
    drawn = [draw(after[part], fresh[part]) for part in parts]
    yield figures(1.0, np.concatenate(drawn), starts, wanted, judge)


def changed(
    pipeline: StableDiffusionImg2ImgPipeline,
    starts: np.ndarray,
    prompts: list[str],
    seeds: list[int],
    strength: float,
) -> np.ndarray:
    """(N, 256, 256, 3) uint8, unchecked."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    images = pipeline(
        prompts,
        image=[Image.fromarray(start) for start in starts],
        strength=strength,
        generator=generators,
        guidance_scale=export.GUIDANCE_SCALE,
        num_inference_steps=export.STEPS,
        output_type="np",
    ).images
    return (images * 255).round().astype(np.uint8)


def figures(
    strength: float, images: np.ndarray, starts: np.ndarray, wanted: Sequence[Change], judge: scorer.Scorer
) -> dict:
    """Shares of the pictures that show the new value, and of the other attributes that the scorer reads as before."""
    read, before = (
        {name: scores.argmax(1) for name, scores in scorer.read(judge, each)[1].items()} for each in (images, starts)
    )
    shown: dict[str, list[bool]] = {name: [] for name in CHANGED}
    kept = []
    for k, change in enumerate(wanted):
        name = change.attribute
        shown[name].append(bool(read[name][k] == ATTRIBUTES[name].index(change.value)))
        kept += [read[other][k] == before[other][k] for other in NAMED if other != name]
    return {
        "strength": strength,
        "shown": float(np.mean([hit for hits in shown.values() for hit in hits])),
        **{f"shown_{name}": float(np.mean(hits)) for name, hits in shown.items()},
        "kept": float(np.mean(kept)),
        "pixel_difference": float(np.abs(images.astype(float) - starts).mean()),
    }


def line(row: dict) -> str:
    """A row for people."""
    strength, *shares, difference = row.values()
    return f"| {strength:g} | {' | '.join(f'{share:.0%}' for share in shares)} | {difference:.0f} |"
