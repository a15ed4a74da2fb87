"""One step by noise scheduler: milliseconds, how long the host takes to launch it, and how often it waits inside."""

import argparse
import warnings
from typing import Any

import torch

from sd_space.engine.denoiser import Denoiser
from sd_space.model.cuda_graphs import RECORD_AT
from sd_space.model.noise_schedulers import SCHEDULER_TABLE
from sd_space.request import GenerationRequest
from sd_space.tools.bench import harness

COLUMNS = ("scheduler", "pictures", "step ms", "host ms", "ms per picture", "host waits")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    harness.add_model_arguments(parser)
    harness.add_request_arguments(parser)
    parser.add_argument("--pictures", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--repeats", type=int, default=8)


def run(options: argparse.Namespace) -> dict[str, Any]:
    loaded = harness.load(options)
    denoiser = Denoiser(loaded.pipeline, unet_runner=loaded.placement.unet_runner)
    names = [options.scheduler] if options.scheduler else list(SCHEDULER_TABLE)
    size = harness.request_of(loaded, options).request.width
    circumstances = harness.circumstances(loaded, options) | {"size": size, "repeats": options.repeats}
    print(harness.describe(circumstances), flush=True)
    rows: list[dict[str, Any]] = []
    for name in names:
        request = harness.request_of(loaded, options, scheduler=name, num_inference_steps=RECORD_AT + 3).request
        for pictures in options.pictures:
            timed = harness.steps(denoiser, request, pictures, options.repeats)
            waits = host_waits(denoiser, request, pictures)
            rows.append({"scheduler": name, "pictures": pictures, **timed, "host_waits": waits})
            harness.keep(options, {**circumstances, "rows": rows})
    harness.print_table(COLUMNS, [list(row.values()) for row in rows])
    return {**circumstances, "rows": rows}


def host_waits(denoiser: Denoiser, request: GenerationRequest, pictures: int) -> int | None:
    """How often CUDA says that the host waited within one step; `None` on other devices."""
    if denoiser.device.type != "cuda":
        return None
    encoded = denoiser.encode_prompt(request)
    states = [denoiser.prepare_latents(request, seed, encoded) for seed in range(pictures)]
    for _ in range(RECORD_AT + 1):
        denoiser.denoise_step(states)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")  # which itself warns that it is a prototype
        try:
            denoiser.denoise_step(states)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing CUDA operation" in str(one.message) for one in caught)
