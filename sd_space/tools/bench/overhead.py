"""What the engine adds: seconds of each step beside the UNet, the noise schedulers, decode and safety check.

That is choosing who runs, joining rows, guidance, bookkeeping and reports. Previews are counted apart.
"""

import argparse
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from sd_space.backends.loading import build_engine
from sd_space.engine.denoiser import Denoiser
from sd_space.engine.engine import Engine
from sd_space.engine.safety import SafetyScreen
from sd_space.model.noise_schedulers import SCHEDULER_TABLE
from sd_space.model.pipeline import LoadedPipeline
from sd_space.schema import AdmittedRequest
from sd_space.settings import Settings
from sd_space.tools.bench import harness

COLUMNS = ("running", "waiting", "step ms", "UNet ms", "schedulers ms", "previews ms", "overhead ms", "overhead %")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    harness.add_model_arguments(parser)
    harness.add_request_arguments(parser)
    parser.add_argument("--visitors", type=int, nargs="+", default=[1, 2, 4, 8, 28], help="28: a full queue")
    parser.add_argument("--repeats", type=int, default=3)


def run(options: argparse.Namespace) -> dict[str, Any]:
    loaded = harness.load(options)
    engine = build_engine(loaded, Settings())
    admitted = [harness.request_of(loaded, options, number) for number in range(max(options.visitors))]
    circumstances = harness.circumstances(loaded, options) | {"width": engine.width, "repeats": options.repeats}
    print(harness.describe(circumstances), flush=True)
    measure(engine, loaded, admitted[:1])  # warms up
    rows = []
    for visitors in options.visitors:
        runs = [measure(engine, loaded, admitted[:visitors]) for _ in range(options.repeats)]
        row = {name: statistics.median(one[name] for one in runs) for name in runs[0]}
        running = min(visitors, engine.width)
        rows.append({"running": running, "waiting": visitors - running, **row})
    harness.print_table(COLUMNS, [list(row.values()) for row in rows])
    return {**circumstances, "rows": rows}


def measure(engine: Engine, loaded: LoadedPipeline, admitted: list[AdmittedRequest]) -> dict[str, float]:
    """Milliseconds per step while as many pictures share it as at first."""
    for one in admitted:
        engine.add_request(one)
    engine.step()  # encodes and draws noise
    samples: list[dict[str, float]] = []
    with stopwatches(loaded) as spent:
        while not engine.is_idle:
            spent.update(dict.fromkeys(spent, 0.0))
            began_s = time.perf_counter()
            engine.step()
            samples.append({"step": time.perf_counter() - began_s, **spent})
            if spent["decode"] or spent["start"]:
                samples.pop()
                break
    for one in admitted:
        engine.cancel(one.request_id)
    while not engine.is_idle:
        engine.step()
    means = {name: statistics.mean(sample[name] for sample in samples) for name in samples[0]}
    overhead = means["step"] - sum(value for name, value in means.items() if name != "step")
    shown = {name: 1e3 * means[name] for name in ("step", "unet", "schedulers", "previews")}
    return {**shown, "overhead": 1e3 * overhead, "overhead_percent": 100 * overhead / means["step"]}


@contextmanager
def stopwatches(loaded: LoadedPipeline) -> Iterator[dict[str, float]]:
    """Seconds spent in each part of a step, under the names of the parts."""
    synchronize = Denoiser(loaded.pipeline).synchronize
    spent: dict[str, float] = {}
    parts = {
        "unet": [(loaded.pipeline.unet, "forward")],
        "schedulers": [(kind, name) for kind, _ in SCHEDULER_TABLE.values() for name in ("step", "scale_model_input")],
        "previews": [(SafetyScreen, "preview"), (Denoiser, "predicted_latents")],
        "decode": [(Denoiser, "decode_latents"), (SafetyScreen, "screen")],
        "start": [(Denoiser, "encode_prompt"), (Denoiser, "prepare_latents")],
    }
    with ExitStack() as stack:
        for part, places in parts.items():
            spent[part] = 0.0
            for owner, name in places:
                stack.enter_context(
                    mock.patch.object(owner, name, _timed(getattr(owner, name), part, spent, synchronize))
                )
        yield spent


def _timed(function: Any, part: str, spent: dict[str, float], synchronize: Any) -> Any:
    def timed(*args: Any, **kwargs: Any) -> Any:
        began_s = time.perf_counter()
        result = function(*args, **kwargs)
        synchronize()
        spent[part] += time.perf_counter() - began_s
        return result

    return timed
