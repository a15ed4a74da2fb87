"""The engine's own clock: the step time that it counts and the time left that it tells, beside what a picture took.

With previews and without. `/metrics` and the forecasts of all visitors stand on these times.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from typing import Any

from sd_space.backends.loading import build_engine
from sd_space.engine.engine import Engine
from sd_space.engine.step_times import StepTimes
from sd_space.schema import AdmittedRequest, GenerationResult, Progress, RequestFailed
from sd_space.settings import Settings
from sd_space.tools.bench import harness

COLUMNS = ("previews", "picture s", "true step ms", "counted step ms", "counted / true", "estimated / true time left")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    harness.add_model_arguments(parser)
    harness.add_request_arguments(parser)
    parser.add_argument("--repeats", type=int, default=3)


def run(options: argparse.Namespace) -> dict[str, Any]:
    loaded = harness.load(options)
    engine = build_engine(loaded, Settings())
    admitted = harness.request_of(loaded, options)
    request = admitted.request
    circumstances = harness.circumstances(loaded, options) | {
        "size": request.width, "steps": request.num_inference_steps, "scheduler": request.scheduler,
        "repeats": options.repeats,
    }  # fmt: skip
    print(harness.describe(circumstances), flush=True)
    drawn(engine, admitted)  # warms up
    runs: dict[bool, list[dict[str, float | None]]] = {True: [], False: []}
    for _ in range(options.repeats):
        for previews, each in runs.items():
            engine.previews = previews
            each.append(drawn(engine, admitted))
    rows = [
        {"previews": "on" if previews else "off"} | {name: _median([one[name] for one in each]) for name in each[0]}
        for previews, each in runs.items()
    ]
    harness.print_table(COLUMNS, [list(row.values()) for row in rows])
    return {**circumstances, "rows": rows}


def drawn(engine: Engine, admitted: AdmittedRequest) -> dict[str, float | None]:
    """One picture by an engine that knows no times yet."""
    engine.times = StepTimes()
    engine.unet_calls.clear()
    engine.add_request(admitted)
    began_s, estimates, denoise_s = time.perf_counter(), [], 0.0
    while not engine.is_idle:
        for update in engine.step():
            if isinstance(update, RequestFailed):
                raise update.error
            if isinstance(update, GenerationResult):
                denoise_s = update.elapsed_s["denoise"]
            elif isinstance(update, Progress) and update.seconds_left is not None:
                estimates.append((time.perf_counter() - began_s, update.seconds_left))
    picture_s = time.perf_counter() - began_s
    calls = sum(number for number, _ in engine.unet_calls.values())
    counted_s = sum(seconds for _, seconds in engine.unet_calls.values())
    counted_ms = 1e3 * counted_s / calls if calls else None
    num_timesteps = engine._denoiser.num_timesteps(admitted.request)
    true_ms = 1e3 * denoise_s / num_timesteps
    ratios = [left_s / (picture_s - at_s) for at_s, left_s in estimates[:-1] if picture_s > at_s]
    return {
        "picture_s": picture_s,
        "true_step_ms": true_ms,
        "counted_step_ms": counted_ms,
        "counted_of_true": counted_ms and counted_ms / true_ms,
        "told_of_true": _median(ratios),
    }


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None
