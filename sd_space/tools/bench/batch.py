"""One UNet call by how many pictures share it: seconds, seconds per picture, memory; recorded, and as it is."""

import argparse
import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch

from sd_space.engine.batcher import BatchKey
from sd_space.engine.calibration import calibrate
from sd_space.engine.denoiser import Denoiser
from sd_space.model.cuda_graphs import RECORD_AT
from sd_space.request import GenerationRequest
from sd_space.tools.bench import harness

COLUMNS = (
    "pictures", "rows", "step ms", "host ms", "ms per picture", "of one alone", "memory MiB", "not recorded ms",
    "its host ms",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    harness.add_model_arguments(parser)
    harness.add_request_arguments(parser)
    parser.add_argument("--pictures", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--repeats", type=int, default=10)


def run(options: argparse.Namespace) -> dict[str, Any]:
    loaded = harness.load(options)
    denoiser = Denoiser(loaded.pipeline, unet_runner=loaded.placement.unet_runner)
    request = harness.request_of(loaded, options).request
    circumstances = harness.circumstances(loaded, options) | {
        "size": request.width,
        "scheduler": request.scheduler,
        "repeats": options.repeats,
    }
    print(harness.describe(circumstances), flush=True)
    is_recorded = loaded.placement.profile.recorded_steps
    warm_ups = RECORD_AT + 1 if is_recorded else 1
    measured = measure(denoiser, request, options.pictures, options.repeats, warm_ups)
    rows = rows_of(measured, request)
    harness.keep(options, {**circumstances, "rows": rows})
    if is_recorded:
        loaded.placement.unet_runner.record(None)
        again = measure(denoiser, request, options.pictures, options.repeats, 1)
        for row in rows:
            row["eager_ms"], row["eager_host_ms"], _ = again.get(row["pictures"], (None, None, None))
    harness.print_table(COLUMNS, [list(row.values()) for row in rows])
    width, _ = calibrate(denoiser, request)
    print(f"Calibration would let {width} share a call.", flush=True)
    return {**circumstances, "rows": rows, "calibrated_width": width}


def measure(
    denoiser: Denoiser, request: GenerationRequest, numbers: Sequence[int], repeats: int, warm_ups: int
) -> dict[int, tuple[float, float, int | None]]:
    """By pictures: milliseconds of a step, those of them until it was launched, and bytes at most, in turns.

    Without those that do not fit into memory.
    """
    encoded = denoiser.encode_prompt(request)
    steps: dict[int, list[tuple[float, float]]] = {pictures: [] for pictures in numbers}
    memory: dict[int, int | None] = {}
    for repeat in range(repeats + warm_ups):
        for pictures in list(steps):
            states = [denoiser.prepare_latents(request, seed, encoded) for seed in range(pictures)]

            def step(states: list = states, pictures: int = pictures) -> None:
                began_s = time.perf_counter()
                denoiser.denoise_step(states)
                launched_s = time.perf_counter()
                denoiser.synchronize()
                steps[pictures].append((time.perf_counter() - began_s, launched_s - began_s))

            try:
                if repeat == 0:
                    memory[pictures] = harness.peak_memory(denoiser.device, step)
                else:
                    step()
                if repeat < warm_ups:
                    steps[pictures].clear()
            except torch.OutOfMemoryError:
                denoiser.free_memory()
                del steps[pictures]
    medians = {n: [1e3 * statistics.median(times) for times in zip(*each, strict=True)] for n, each in steps.items()}
    return {n: (step_ms, host_ms, memory[n]) for n, (step_ms, host_ms) in medians.items()}


def rows_of(measured: dict[int, tuple[float, float, int | None]], request: GenerationRequest) -> list[dict[str, Any]]:
    fewest = min(measured)
    alone_ms = measured[fewest][0] / fewest
    return [
        {
            "pictures": pictures,
            "rows": pictures * (2 if BatchKey.of(request).has_guidance else 1),
            "step_ms": step_ms,
            "host_ms": host_ms,
            "ms_per_picture": step_ms / pictures,
            "of_one_alone": step_ms / pictures / alone_ms,
            "memory_mib": most_bytes / harness.MIB if most_bytes is not None else None,
            "eager_ms": None,
            "eager_host_ms": None,
        }
        for pictures, (step_ms, host_ms, most_bytes) in measured.items()
    ]
