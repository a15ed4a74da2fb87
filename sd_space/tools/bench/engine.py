"""The engine against a queue: visitors who come one after the other, and what each of them waits for.

The queue is first come, first served, one plain `StableDiffusionPipeline.__call__` after the other, as most Spaces do.
Both run in this process on the same model and the same requests, in turns; a figure is the median of the repeats, and
a ratio the median of each repeat's own.
"""

import argparse
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from diffusers import StableDiffusionPipeline

from sd_space.backends.loading import build_engine
from sd_space.engine.engine import Engine
from sd_space.schema import AdmittedRequest, GenerationResult, Progress, RequestFailed
from sd_space.settings import Settings
from sd_space.tools.bench import harness

COLUMNS = (
    "visitors",
    "way",
    "pictures/s",
    "mean latency s",
    "worst latency s",
    "mean first preview s",
    "worst first preview s",
    "CPU s a picture",
    "seconds left off by",
)


@dataclass(slots=True)
class Visit:
    """One visitor: seconds from the start of the run. `forecasts` are (made at, seconds left)."""

    arrived_s: float
    preview_s: float = float("nan")
    done_s: float = float("nan")
    forecasts: list[tuple[float, float]] = field(default_factory=list)
    pixels: np.ndarray | None = None  # None: withheld


Way = Callable[[Sequence[AdmittedRequest], Sequence[float]], list[Visit]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    harness.add_model_arguments(parser)
    harness.add_request_arguments(parser)
    parser.add_argument("--visitors", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument(
        "--stagger",
        type=float,
        default=0.1,
        help="time between two arrivals, in plain calls; 0: all at once (default: %(default)s)",
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--width", type=int, help="most pictures in a UNet call (default: measured as at start)")


def run(options: argparse.Namespace) -> dict[str, Any]:
    loaded = harness.load(options)
    engine = build_engine(loaded, Settings(max_batch_size=options.width))
    admitted = [harness.request_of(loaded, options, number) for number in range(max(options.visitors))]
    plain = harness.plain_pipeline(loaded, admitted[0].request)
    circumstances = harness.circumstances(loaded, options) | {
        "size": admitted[0].request.width,
        "steps": admitted[0].request.num_inference_steps,
        "scheduler": admitted[0].request.scheduler,
        "width": engine.width,
        "repeats": options.repeats,
    }
    by_queue(plain, admitted[:1], [0.0])  # warms up
    (alone,) = by_queue(plain, admitted[:1], [0.0])
    stagger_s = options.stagger * alone.done_s
    print(
        f"{harness.describe(circumstances)}; {engine.width} pictures a call, a visitor every {stagger_s:.3f} s",
        flush=True,
    )
    rows = []
    for visitors in options.visitors:
        arrivals = [number * stagger_s for number in range(visitors)]
        rows.append(compared(engine, plain, admitted[:visitors], arrivals, options.repeats))
        harness.keep(options, {**circumstances, "stagger_s": stagger_s, "rows": rows})
    harness.print_table(COLUMNS, [line for row in rows for line in lines(row)])
    return {**circumstances, "stagger_s": stagger_s, "rows": rows}


def compared(
    engine: Engine,
    plain: StableDiffusionPipeline,
    admitted: Sequence[AdmittedRequest],
    arrivals: Sequence[float],
    repeats: int,
) -> dict[str, Any]:
    """The same visitors by queue and by engine, in turns."""
    ways: dict[str, Way] = {"queue": partial(by_queue, plain), "engine": partial(by_engine, engine)}
    if len(admitted) == 1:
        ways["engine, no previews"] = partial(by_engine, engine, previews=False)
    elif engine._beside():
        ways["engine, nothing beside steps"] = partial(by_engine, engine, beside=False)
    runs: dict[str, list[dict[str, float | None]]] = {way: [] for way in ways}
    difference = 0
    for repeat in range(repeats):
        visits = {}
        for way in list(ways)[:: 1 if repeat % 2 == 0 else -1]:
            began_s = time.process_time()
            visits[way] = ways[way](admitted, arrivals)
            runs[way].append(figures(visits[way], time.process_time() - began_s))
        for one, other in zip(visits["queue"], visits["engine"], strict=True):
            if one.pixels is not None and other.pixels is not None:
                difference = max(difference, int(np.abs(one.pixels.astype(int) - other.pixels).max()))
    medians = {way: {name: _median(run[name] for run in each) for name in each[0]} for way, each in runs.items()}
    ratios = {
        way: {
            name: _median(_ratio(run[name], base[name]) for run, base in zip(runs[way], runs["queue"], strict=True))
            for name in medians["queue"]
            if name != "forecast_error"
        }
        for way in list(ways)[1:]
    }
    return {"visitors": len(admitted), **medians, "to_queue": ratios, "largest_pixel_difference": difference}


def by_queue(
    plain: StableDiffusionPipeline, admitted: Sequence[AdmittedRequest], arrivals: Sequence[float]
) -> list[Visit]:
    """First come, first served; a preview could be shown when the first step is done."""
    began_s = time.perf_counter()
    visits = [Visit(arrived_s) for arrived_s in arrivals]
    for visit, one in zip(visits, admitted, strict=True):
        _sleep_until(began_s + visit.arrived_s)

        def first_step(pipeline: Any, step: int, timestep: Any, tensors: dict, visit: Visit = visit) -> dict:
            if step == 0:
                visit.preview_s = time.perf_counter() - began_s
            return tensors

        (picture,) = harness.plain_call(plain, one.request, callback_on_step_end=first_step)
        visit.done_s = time.perf_counter() - began_s
        visit.pixels = np.asarray(picture) if picture.getbbox() else None
    return visits


def by_engine(
    engine: Engine,
    admitted: Sequence[AdmittedRequest],
    arrivals: Sequence[float],
    previews: bool = True,
    beside: bool = True,
) -> list[Visit]:
    """As `backends/local.py` drives it. Without previews the first Progress that has made a step stands for one."""
    engine.previews = previews
    before = engine._beside
    engine._beside = lambda: beside and before()
    try:
        return _visits_by_engine(engine, admitted, arrivals)
    finally:
        engine._beside = before


def _visits_by_engine(engine: Engine, admitted: Sequence[AdmittedRequest], arrivals: Sequence[float]) -> list[Visit]:
    visits = {one.request_id: Visit(arrived_s) for one, arrived_s in zip(admitted, arrivals, strict=True)}
    coming = deque(admitted)
    began_s = time.perf_counter()
    while coming or not engine.is_idle:
        if engine.is_idle:
            _sleep_until(began_s + visits[coming[0].request_id].arrived_s)
        while coming and began_s + visits[coming[0].request_id].arrived_s <= time.perf_counter():
            engine.add_request(coming.popleft())
        for update in engine.step():
            visit, now_s = visits[update.request_id], time.perf_counter() - began_s
            if isinstance(update, Progress):
                if np.isnan(visit.preview_s) and update.step_index > 0:
                    visit.preview_s = now_s
                if update.seconds_left is not None:
                    visit.forecasts.append((now_s, update.seconds_left))
            elif isinstance(update, RequestFailed):
                raise update.error
            elif isinstance(update, GenerationResult):
                visit.done_s = now_s
                (image,) = update.images
                if image.pixels is not None:
                    visit.pixels = np.frombuffer(image.pixels, np.uint8).reshape(image.height, image.width, 3)
    return list(visits.values())


def figures(visits: Sequence[Visit], cpu_s: float) -> dict[str, float | None]:
    latencies = [visit.done_s - visit.arrived_s for visit in visits]
    previews = [visit.preview_s - visit.arrived_s for visit in visits]
    last_arrival_s = max(visit.arrived_s for visit in visits)
    # Who comes later changes what is left, so a forecast is judged from the last arrival on.
    errors = [
        abs(seconds_left / (visit.done_s - told_s) - 1)
        for visit in visits
        for told_s, seconds_left in visit.forecasts[:-1]
        if told_s >= last_arrival_s
    ]
    return {
        "pictures_per_s": len(visits) / max(visit.done_s for visit in visits),
        "mean_latency_s": statistics.mean(latencies),
        "worst_latency_s": max(latencies),
        "mean_first_preview_s": statistics.mean(previews),
        "worst_first_preview_s": max(previews),
        "cpu_s_per_picture": cpu_s / len(visits),
        "forecast_error": statistics.median(errors) if errors else None,
    }


def lines(row: dict[str, Any]) -> list[list[object]]:
    """The table's lines for one number of visitors: each way, and the engine's ratios to the queue."""
    ways = [way for way in row if isinstance(row[way], dict) and way != "to_queue"]
    rows = [[row["visitors"], way, *row[way].values()] for way in ways]
    ratios = row["to_queue"]["engine"]
    return [*rows, [row["visitors"], "engine / queue", *(f"x{value:.3f}" for value in ratios.values()), ""]]


def _ratio(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one / other


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _sleep_until(at_s: float) -> None:
    time.sleep(max(0.0, at_s - time.perf_counter()))
