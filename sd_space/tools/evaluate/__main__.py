"""Measures pictures: ``python -m sd_space.tools.evaluate`` with sweep (any model), or one that is the picture book's.

A table for people, and one JSON object as the last line of standard output.
"""

import argparse
import json
import os
import random
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import PNDMScheduler, StableDiffusionPipeline
from tqdm import tqdm

from sd_space.serving.strip import EVALUATION
from sd_space.tools.evaluate import changes, metrics, positions, scorer, sweep
from sd_space.tools.train_tiny import export, pictures, safety, vae
from sd_space.tools.train_tiny.captions import caption
from sd_space.tools.train_tiny.world import ATTRIBUTES, CARD_SCENES, NAMED_NONE, Scene, sample_scene

STATE = Path.home() / ".cache" / "sd_space" / "evaluate_256"
SCALES = tuple(map(float, EVALUATION.split(",")))
BATCH = 16


def draw_all(
    pipeline: StableDiffusionPipeline,
    texts: list[str],
    seeds: list[int],
    *,
    guidance_scale: float = export.GUIDANCE_SCALE,
    steps: int = export.STEPS,
) -> np.ndarray:
    """(N, 256, 256, 3) uint8, unchecked."""
    return np.concatenate(
        [
            export.draw(
                pipeline, texts[k : k + BATCH], seeds[k : k + BATCH], guidance_scale=guidance_scale, steps=steps
            )
            for k in range(0, len(texts), BATCH)
        ]
    )


@torch.no_grad()
def round_trip(pipeline: StableDiffusionPipeline, images: np.ndarray) -> np.ndarray:
    """`images` through the checkpoint's own encoder and decoder."""
    chunks = []
    for k in range(0, len(images), BATCH):
        latents = pipeline.vae.encode(vae.to_unit(images[k : k + BATCH]).to(pipeline.device)).latent_dist.mean
        chunks.append(vae.to_bytes(pipeline.vae.decode(latents).sample))
    return np.concatenate(chunks)


def card_named() -> list[dict[str, str]]:
    """What each of the card's prompts names, in the order of `CARD_SCENES`."""
    rng = random.Random(0)
    said = dict(caption(sample_scene(rng), rng, junk=0) for _ in range(5000))
    return [said[prompt] for prompt in CARD_SCENES]


def adherence(options: argparse.Namespace) -> dict:
    judges = {kind: scorer.train(options.state, kind, seed=100 + k) for k, kind in enumerate(scorer.STEPS)}
    main_judge = judges["convolutional"]
    rng = random.Random(f"{options.seed}/adherence")
    half = options.captions // 2
    scenes = scorer.fresh_scenes(options.captions - half, rng) + scorer.fresh_scenes(half, rng, held_out=True)
    texts, named = (list(part) for part in zip(*(caption(scene, rng) for scene in scenes), strict=True))
    seeds = [rng.getrandbits(31) for _ in texts]
    oracle = pictures.pixels([replace(scene, seed=seed) for scene, seed in zip(scenes, seeds, strict=True)])
    # As many unseen combinations as among the captions: KID would take another mixture for a worse picture.
    others = scorer.fresh_scenes(300, rng) + scorer.fresh_scenes(300, rng, held_out=True)
    reference, _ = scorer.read(main_judge, pictures.pixels(others))
    mean, deviation = reference.mean(0), reference.std(0) + 1e-3
    pipeline = export.load(options.target)
    rows: dict[str, dict] = {}

    def add(name: str, images: np.ndarray, seconds: float | None = None) -> None:
        row: dict = {}
        for kind, judge in judges.items():
            features, scores = scorer.read(judge, images)
            figures = metrics.adherence(scores, named)
            if kind == "convolutional":
                row |= figures | metrics.composition(scores, named)
                row["kid"] = metrics.kid((features - mean) / deviation, (reference - mean) / deviation)
                seen = len(named) - half
                for label, part in (("seen", slice(0, seen)), ("held_out", slice(seen, None))):
                    cut = {key: value[part] for key, value in scores.items()}
                    row[f"subject_{label}"] = metrics.adherence(cut, named[part])["subject"]
            else:
                row["adherence_second_scorer"] = figures["adherence"]
        row["sharpness"] = metrics.sharpness(images, oracle)
        row["seconds_per_picture"] = seconds
        rows[name] = row
        print(" | ".join([f"{name:24}", *(f"{row[key]:.3f}" for key in (*COLUMNS,))]), flush=True)

    print(" | ".join([f"{options.captions} captions".ljust(24), *COLUMNS]), flush=True)
    add("ORACLE", oracle)
    through = round_trip(pipeline, oracle)
    add("VAE ROUND TRIP", through)
    rows["VAE ROUND TRIP"]["psnr"] = metrics.psnr(through, oracle)
    add("CHANCE", oracle[rng.sample(range(len(oracle)), len(oracle))])
    own = pipeline.scheduler.config
    known = {
        "plms": ("PLMS 50", PNDMScheduler.from_config(own), 50),
        "dpm": (f"DPM++ {export.STEPS}", export.fast_scheduler(pipeline), export.STEPS),
    }
    samplers = {known[key][0]: known[key][1:] for key in options.samplers}
    curves: dict[str, list[tuple[float, float, float]]] = {name: [] for name in samplers}
    for name, (noise_scheduler, steps) in samplers.items():
        pipeline.scheduler = noise_scheduler
        for scale in tqdm(options.scales, desc=name, unit="scale", dynamic_ncols=True):
            started = time.perf_counter()
            images = draw_all(pipeline, texts, seeds, guidance_scale=scale, steps=steps)
            add(f"{name}, guidance {scale:g}", images, (time.perf_counter() - started) / len(texts))
            row = rows[f"{name}, guidance {scale:g}"]
            curves[name].append((row["kid"], row["adherence"], scale))
    across, up = "KID against fresh renders (left is better)", "adherence (mean over the attributes; up is better)"
    metrics.pareto_plot(curves, across, up, rows["ORACLE"]["adherence"]).save(options.plot)

    cards = card_figures(options, pipeline, main_judge, mean, deviation)
    return {"captions": len(texts), "rows": rows, "card": cards, "plot": str(options.plot)}


COLUMNS = (
    "adherence", *ATTRIBUTES, "both", "swapped", "subject_seen", "subject_held_out", "adherence_second_scorer", "kid",
    "sharpness",
)  # fmt: skip


def card_figures(
    options: argparse.Namespace,
    pipeline: StableDiffusionPipeline,
    judge: scorer.Scorer,
    mean: np.ndarray,
    deviation: np.ndarray,
) -> dict:
    """The card's six prompts by `--seeds` seeds, default settings: retrieval, variety, nearest training picture."""
    rng = random.Random(f"{options.seed}/card")
    pipeline.scheduler = export.fast_scheduler(pipeline)
    named = card_named()
    right, ratios, drawn_features = [], [], []
    for number, (prompt, (subject, place, style)) in enumerate(CARD_SCENES.items()):
        images = draw_all(pipeline, [prompt] * options.seeds, list(range(1000, 1000 + options.seeds)))
        features, scores = scorer.read(judge, images)
        match = np.stack(
            [
                sum(scores[key][:, ATTRIBUTES[key].index(value)] for key, value in each.items() if value != NAMED_NONE)
                / sum(value != NAMED_NONE for value in each.values())
                for each in named
            ]
        )
        right.append(float(np.mean(match.argmax(0) == number)))
        wanted: list[Scene] = []
        while len(wanted) < options.seeds:
            scene = sample_scene(rng)
            is_same = scene.is_card and (scene.subject, scene.place) == (subject, place)
            if is_same and scene.style == (named[number]["style"] if style or "Disney" in prompt else scene.style):
                wanted.append(replace(scene, colour="natural"))
        theirs, _ = scorer.read(judge, pictures.pixels(wanted))
        drawn_features.append((features - mean) / deviation)
        ratios.append(metrics.spread(drawn_features[-1]) / metrics.spread((theirs - mean) / deviation))
        print(f"retrieved {right[-1]:.2f}, variety {ratios[-1]:.2f} of ORACLE's: {prompt}", flush=True)
    known, _ = scorer.read(judge, pictures.pixels(pictures.scenes(0, 0)[:2048]))
    fresh, _ = scorer.read(judge, pictures.pixels([s for s in pictures.scenes(0, 10**6)[:2000] if s.is_card][:96]))
    known, fresh = (known - mean) / deviation, (fresh - mean) / deviation
    nearest_ours, nearest_fresh = (
        metrics.nearest(features, known) for features in (np.concatenate(drawn_features), fresh)
    )
    return {
        "seeds": options.seeds,
        "retrieval": float(np.mean(right)),
        "retrieval_by_prompt": right,
        "variety_of_oracle": ratios,
        "nearest_training_picture": {
            name: {"minimum": float(distances.min()), "median": float(np.median(distances))}
            for name, distances in (("generated", nearest_ours), ("fresh renders", nearest_fresh))
        },
    }


def safety_figures(options: argparse.Namespace) -> dict:
    """Misses and false alarms of the shipped checker on generated pictures and on renders with hard negatives."""
    pipeline = export.load(options.target)
    checker = pipeline.safety_checker
    threshold = float(checker.concept_embeds_weights[0])
    draw = export.sampler(pipeline)
    images, classes = safety.generated(draw, seed=options.seed + 4242, count=options.captions, emblems=0.4)
    cosines = np.concatenate(
        [safety.emblem_cosines(checker, images[k : k + BATCH]) for k in range(0, len(images), BATCH)]
    )
    rng = random.Random(f"{options.seed}/hard")
    scenes = [replace(sample_scene(rng), subject=name, colour="yellow") for name in ("triangle", "pikachu") * 100]
    hard = np.concatenate(
        [safety.emblem_cosines(checker, pictures.pixels(scenes[k : k + BATCH])) for k in range(0, 200, BATCH)]
    )
    emblem = classes == 0
    figures = {
        "threshold": threshold,
        "emblem_captions": int(emblem.sum()),
        "misses": float((cosines[emblem] <= threshold).mean()),
        "other_captions": int((~emblem).sum()),
        "false_alarms": float((cosines[~emblem] > threshold).mean()),
        "hard_renders": len(hard),
        "false_alarms_on_hard_renders": float((hard > threshold).mean()),
        "cosine_of_emblems_percentile_2": float(np.percentile(cosines[emblem], 2)),
        "cosine_of_others_percentile_99.5": float(np.percentile(cosines[~emblem], 99.5)),
    }
    for name, value in figures.items():
        print(f"{name:40} {value:.4g}")
    return figures


def position_figures(options: argparse.Namespace) -> dict:
    """How often the safety screen misses the emblem, by where it lies and by the picture's shape."""
    print(positions.HEADER)
    rows = []
    for row in positions.measure(export.load(options.target)):
        rows.append(row)
        print(positions.line(row), flush=True)
    return {"rows": rows}


def change_figures(options: argparse.Namespace) -> dict:
    """Whether changed pictures show their new words, and how much of the rest stays, by strength."""
    judge = scorer.train(options.state, "convolutional", seed=100)
    print(changes.HEADER)
    rows = []
    for row in changes.measure(export.load(options.target), judge, options.captions, options.seed):
        rows.append(row)
        print(changes.line(row), flush=True)
    return {"captions": options.captions, "rows": rows}


MEASURES = {
    "adherence": adherence,
    "safety": safety_figures,
    "positions": position_figures,
    "changes": change_figures,
}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--state", type=Path, default=STATE, help="where the scorers are kept (default: %(default)s)")
    common.add_argument("--threads", type=sweep.at_least_one, default=os.cpu_count(), help="CPU threads (default: all)")
    own = argparse.ArgumentParser(add_help=False, parents=[common])
    own.add_argument("--captions", type=int, default=500, help="fresh captions (default: %(default)s)")
    own.add_argument("--seeds", type=int, default=16, help="pictures of each card prompt (default: %(default)s)")
    own.add_argument("--scales", type=float, nargs="+", default=SCALES, help="guidance scales (default: the card's)")
    own.add_argument(
        "--samplers",
        nargs="+",
        choices=("plms", "dpm"),
        default=("plms", "dpm"),
        help="50 PLMS steps, the model's own of DPM++, or both",
    )
    own.add_argument("--target", type=Path, default=export.TINY, help="the checkpoint (default: sd_space/tiny)")
    own.add_argument("--plot", type=Path, default=STATE / "pareto.png", help="the plot (default: %(default)s)")
    own.add_argument("--seed", type=int, default=0)
    parser = argparse.ArgumentParser(prog="python -m sd_space.tools.evaluate", description=__doc__)
    measures = parser.add_subparsers(dest="measure", required=True)
    for name in MEASURES:
        measures.add_parser(name, parents=[own])
    sweep.add_arguments(measures.add_parser("sweep", parents=[common], description=sweep.__doc__))
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    torch.set_num_threads(options.threads)
    figures = sweep.run(options) if options.measure == "sweep" else own_figures(options)
    print(json.dumps({"measure": options.measure, "device": "cpu", "threads": options.threads, **figures}))


def own_figures(options: argparse.Namespace) -> dict:
    options.plot.parent.mkdir(parents=True, exist_ok=True)
    return MEASURES[options.measure](options)


if __name__ == "__main__":
    main()
