"""One UNet call by how many pictures share it: seconds, seconds per picture, memory."""

import argparse
import statistics
import time
from typing import Any

import torch

from sd_space.denoiser import Denoiser
from sd_space.engine import calibrate
from sd_space.tools.bench import harness

COLUMNS = ("pictures", "rows", "step ms", "ms per picture", "of one alone", "memory MiB")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    harness.add_model_arguments(parser)
    harness.add_request_arguments(parser)
    parser.add_argument("--pictures", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--repeats", type=int, default=10)


def run(options: argparse.Namespace) -> dict[str, Any]:
    loaded = harness.load(options)
    denoiser = Denoiser(loaded.pipeline, unet_calls=loaded.placement.unet_calls)
    request = harness.request_of(loaded, options).request
    encoded = denoiser.encode_prompt(request)
    circumstances = harness.circumstances(loaded, options) | {
        "size": request.width,
        "scheduler": request.scheduler,
        "repeats": options.repeats,
    }
    print(harness.told(circumstances), flush=True)
    seconds: dict[int, list[float]] = {pictures: [] for pictures in options.pictures}
    memory: dict[int, int | None] = {}
    for repeat in range(options.repeats + 1):
        for pictures in list(seconds):
            states = [denoiser.prepare_latents(request, seed, encoded) for seed in range(pictures)]

            def step(states: list = states, pictures: int = pictures) -> None:
                began_s = time.perf_counter()
                denoiser.denoise_step(states)
                denoiser.synchronize()
                seconds[pictures].append(time.perf_counter() - began_s)

            try:
                if repeat == 0:  # warms up
                    memory[pictures] = harness.peak_memory(denoiser.device, step)
                    seconds[pictures].clear()
                else:
                    step()
            except torch.OutOfMemoryError:
                denoiser.free_memory()
                del seconds[pictures]
    alone = statistics.median(seconds[options.pictures[0]]) / options.pictures[0]
    rows = []
    for pictures in options.pictures:
        step_s = statistics.median(seconds[pictures]) if seconds.get(pictures) else None
        rows.append(
            {
                "pictures": pictures,
                "rows": pictures * (2 if request.guidance_scale > 1.0 else 1),
                "step_ms": step_s and 1e3 * step_s,
                "ms_per_picture": step_s and 1e3 * step_s / pictures,
                "of_one_alone": step_s and step_s / pictures / alone,
                "memory_mib": memory[pictures] / harness.MIB if memory.get(pictures) is not None else None,
            }
        )
    harness.print_table(COLUMNS, [list(row.values()) for row in rows])
    width, _ = calibrate(denoiser, request)
    print(f"Calibration would let {width} share a call.", flush=True)
    return {**circumstances, "rows": rows, "calibrated_width": width}
