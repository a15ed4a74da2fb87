"""How far a runtime's pictures are from the plain pipeline's: mixed requests, each drawn alone by both, in turns.

All noise schedulers, sizes, 1 to 4 pictures, guidance scales from 1 to 20 and steps from 1 to 150, few of them
more often than many.
"""

import argparse
import random
import time
from typing import Any

import numpy as np

from sd_space.backends.loading import build_engine
from sd_space.card import load_card
from sd_space.engine.engine import run_to_completion
from sd_space.served_model import Limits
from sd_space.settings import Settings
from sd_space.tools.bench import harness
from sd_space.tools.bench.exactness import apart, by_plain, pixels

COLUMNS = ("scheduler", "pictures", "equal", "within 1", "within 2", "99th percentile", "worst", "of the plain time")
VARIED = (
    "scheduler", "num_inference_steps", "guidance_scale", "num_images_per_prompt", "negative_prompt", "width", "height",
    "seed",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    harness.add_model_arguments(parser)
    parser.set_defaults(runtime="openvino", size=None, steps=None, scheduler=None)
    parser.add_argument("--cases", type=int, default=500, help="requests (default: %(default)s)")


def run(options: argparse.Namespace) -> dict[str, Any]:
    loaded = harness.load(options)
    engine = build_engine(loaded, Settings(max_batch_size=4))
    circumstances = harness.circumstances(loaded, options) | {"cases": options.cases}
    print(harness.describe(circumstances), flush=True)
    draw, rows = random.Random(options.seed), []
    for number in range(options.cases):
        admitted = harness.request_of(loaded, options, number, **a_case(draw, number, loaded.info.limits))
        began_s = time.process_time()
        ours = pixels(run_to_completion(engine, admitted))
        engine_s = time.process_time() - began_s
        theirs = by_plain(loaded, admitted.request)
        plain_s = time.process_time() - began_s - engine_s
        off = [apart(ours[k : k + 1], theirs[k : k + 1]) for k in range(len(ours))]  # None where one is withheld
        case = {name: getattr(admitted.request, name) for name in VARIED}
        rows.append({**case, "off": off, "engine_cpu_s": engine_s, "plain_cpu_s": plain_s})
        harness.keep(options, {**circumstances, "rows": rows})
    groups = {"all": rows}
    for row in rows:
        groups.setdefault(row["scheduler"], []).append(row)
    figures = {name: summary(group) for name, group in groups.items() if shown_of(group)}
    harness.print_table(COLUMNS, [[name, *values.values()] for name, values in figures.items()])
    print("The largest difference of a value in a picture, of 255; time is that of all cores together.", flush=True)
    return {**circumstances, "summary": figures, "rows": rows}


def a_case(draw: random.Random, number: int, limits: Limits) -> dict[str, Any]:
    """The noise schedulers in turns; the rest by chance."""
    sides = range(limits.min_size, limits.max_size + 1, limits.size_step)
    return {
        "scheduler": limits.schedulers[number % len(limits.schedulers)],
        "num_inference_steps": round(150 ** draw.random()),
        "guidance_scale": draw.choice([1.0, 7.5, 20.0, *(round(draw.uniform(1, 20), 1) for _ in range(5))]),
        "num_images_per_prompt": draw.choice([1, 1, 1, 1, 1, 2, 3, 4]),
        "negative_prompt": draw.choice(["", "", "a castle at night"]),
        "prompt": draw.choice(load_card().examples).text,
        "width": draw.choice(sides),
        "height": draw.choice(sides),
        "seed": draw.randrange(2**32),
    }


def summary(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Shares of the pictures, by the largest difference in each; those that were withheld are not compared."""
    off = np.array(shown_of(rows))
    plain_s, engine_s = (sum(row[name] for row in rows) for name in ("plain_cpu_s", "engine_cpu_s"))
    return {
        "pictures": len(off),
        "equal": float(np.mean(off == 0)),
        "within_1": float(np.mean(off <= 1)),
        "within_2": float(np.mean(off <= 2)),
        "percentile_99": float(np.percentile(off, 99)),
        "worst": int(off.max()),
        "of_the_plain_time": engine_s / plain_s,
    }


def shown_of(rows: list[dict[str, Any]]) -> list[int]:
    return [off for row in rows for off in row["off"] if off is not None]
