"""A strip of eight guidance scales, whose pictures share UNet calls, beside the same requests one after the other.

Both take turns in one process, and each ratio is taken within a turn: a busy machine slows them alike.
"""

import argparse
import statistics
import time
from dataclasses import replace
from typing import Any

import numpy as np

from sd_space.backends.loading import build_engine
from sd_space.card import load_card
from sd_space.engine.engine import Engine
from sd_space.schema import AdmittedRequest
from sd_space.serving.strip import EVALUATION, strip
from sd_space.settings import Settings
from sd_space.tools.bench import harness
from sd_space.tools.bench.exactness import apart, in_a_crowd

COLUMNS = ("turn", "strip s", "one by one s", "ratio", "strip CPU s", "one by one CPU s", "ratio")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    harness.add_model_arguments(parser)
    harness.add_request_arguments(parser)
    parser.add_argument("--repeats", type=int, default=5, help="turns (default: %(default)s)")


def run(options: argparse.Namespace) -> dict[str, Any]:
    loaded = harness.load(options)
    engine = build_engine(loaded, Settings())
    values = strip({"prompt": load_card().examples[0].text, "seed": options.seed}, "guidance_scale", EVALUATION)
    requests = [harness.request_of(loaded, options, number, **each) for number, each in enumerate(values)]
    admitted = {str(number): replace(each, visitor="visitor") for number, each in enumerate(requests)}
    some = requests[0].request
    circumstances = harness.circumstances(loaded, options) | {
        "size": some.width,
        "steps": some.num_inference_steps,
        "scheduler": some.scheduler,
        "width": engine.width,
    }
    print(harness.describe(circumstances), flush=True)
    timed(engine, admitted, at_once=True)  # warms up
    rows: list[dict[str, float]] = []
    off: list[int | None] = []
    for _ in range(options.repeats):
        (joined, joined_s, joined_cpu_s), (alone, alone_s, alone_cpu_s) = (
            timed(engine, admitted, at_once) for at_once in (True, False)
        )
        off += [apart(joined[name], alone[name]) for name in admitted]
        row = {"strip_s": joined_s, "alone_s": alone_s, "ratio": joined_s / alone_s}
        rows.append(
            row | {"strip_cpu_s": joined_cpu_s, "alone_cpu_s": alone_cpu_s, "cpu_ratio": joined_cpu_s / alone_cpu_s}
        )
        harness.keep(options, {**circumstances, "rows": rows})
    medians = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
    numbered = [[str(number + 1), *row.values()] for number, row in enumerate(rows)]
    harness.print_table(COLUMNS, [*numbered, ["median", *medians.values()]])
    largest = max((each for each in off if each is not None), default=None)
    print(f"The largest difference of a value between both ways: {largest} of 255.", flush=True)
    return {**circumstances, "rows": rows, "median": medians, "largest_difference": largest}


def timed(
    engine: Engine, admitted: dict[str, AdmittedRequest], at_once: bool
) -> tuple[dict[str, np.ndarray], float, float]:
    """The pictures, the seconds until the last of them, and the CPU seconds of this process meanwhile."""
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    parts = [admitted] if at_once else [{name: one} for name, one in admitted.items()]
    drawn = {name: picture for part in parts for name, picture in in_a_crowd(engine, part).items()}
    return drawn, time.perf_counter() - began_s, time.process_time() - began_cpu_s
