"""Faults on CUDA: memory that somebody else takes in the middle of a run, and a decode that overflows in float16."""

import argparse
import gc
import time
from collections.abc import Callable
from typing import Any

import torch

from sd_space.backends.loading import build_engine
from sd_space.engine.engine import run_to_completion
from sd_space.schema import GenerationResult, RequestFailed
from sd_space.settings import Settings
from sd_space.tools.bench import harness

COLUMNS = ("fault", "ended with", "before", "after", "s", "failed")
LEFT_BYTES = 2**28  # of the device's memory, for the rest of a run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    harness.add_model_arguments(parser)
    harness.add_request_arguments(parser)


def run(options: argparse.Namespace) -> dict[str, Any]:
    if not torch.cuda.is_available():
        raise SystemExit("faults: there is no CUDA device, whose faults these are.")
    options.steps = options.steps or 6
    circumstances = harness.machine("cuda") | {"model": options.model, "steps": options.steps, "seed": options.seed}
    print(harness.describe(circumstances), flush=True)
    rows: list[dict[str, Any]] = []
    for name, fault in FAULTS.items():
        gc.collect()
        torch.cuda.empty_cache()
        row: dict[str, Any] = {"fault": name, "ended_with": None, "before": None, "after": None}
        began_s = time.perf_counter()
        try:
            row |= fault(options)
            failed = ""
        except Exception as error:  # the other fault is tried all the same
            failed = f"{type(error).__name__}: {str(error)[:300]}"
        rows.append({**row, "s": time.perf_counter() - began_s, "failed": failed})
        harness.keep(options, {**circumstances, "rows": rows})
    harness.print_table(COLUMNS, [list(row.values()) for row in rows])
    return {**circumstances, "rows": rows}


def memory_taken(options: argparse.Namespace) -> dict[str, Any]:
    """Four pictures are under way when nearly all that is free is gone."""
    loaded = harness.load(options)
    before = loaded.placement.profile.name
    engine = build_engine(loaded, Settings(max_batch_size=4))
    engine.add_request(harness.request_of(loaded, options, num_images_per_prompt=4))
    engine.step()
    torch.cuda.empty_cache()
    free_bytes, _ = torch.cuda.mem_get_info()
    taken = torch.empty(max(0, free_bytes - LEFT_BYTES), dtype=torch.uint8, device="cuda")
    ended: list[str] = []
    while not engine.is_idle:
        for update in engine.step():
            if isinstance(update, RequestFailed):
                ended.append(str(update.error))
            if isinstance(update, GenerationResult):
                ended += [str(image.outcome) for image in update.images]
    del taken
    return {"ended_with": ", ".join(ended), "before": before, "after": loaded.placement.profile.name}


def decode_overflows(options: argparse.Namespace) -> dict[str, Any]:
    """The first layer's weights are so large that its results are beyond float16, and not beyond float32."""
    loaded = harness.load(options)
    engine = build_engine(loaded, Settings(max_batch_size=1))
    vae = loaded.pipeline.vae
    with torch.no_grad():
        vae.decoder.conv_in.weight.mul_(1e5)
    before = str(vae.dtype)
    result = run_to_completion(engine, harness.request_of(loaded, options))
    return {"ended_with": str(result.images[0].outcome), "before": before, "after": str(vae.dtype)}


FAULTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "memory taken": memory_taken,
    "decode overflows": decode_overflows,
}
