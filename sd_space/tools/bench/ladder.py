"""The memory profiles on CUDA: under each limit, the profile predicted, the one it ended on, seconds and memory."""

import argparse
import gc
import time
from typing import Any

import torch

from sd_space.backends.loading import build_engine
from sd_space.engine.engine import run_to_completion
from sd_space.settings import Settings
from sd_space.tools.bench import harness

COLUMNS = (
    "limit GiB", "predicted", "ended on", "width", "s of 4 pictures", "outcomes", "step ms", "allocated GiB",
    "reserved GiB", "failed",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    harness.add_model_arguments(parser)
    harness.add_request_arguments(parser)
    parser.add_argument("--limits", type=float, nargs="+", default=[8, 6, 4, 3, 12, 24], help="GiB, in this order")


def run(options: argparse.Namespace) -> dict[str, Any]:
    if not torch.cuda.is_available():
        raise SystemExit("ladder: there is no CUDA device, whose memory this is about.")
    options.steps = options.steps or 4
    circumstances = harness.machine("cuda") | {"model": options.model, "steps": options.steps, "seed": options.seed}
    print(harness.describe(circumstances), flush=True)
    rows: list[dict[str, Any]] = []
    for limit_gb in options.limits:
        row = dict.fromkeys(ROW) | {"limit_gb": limit_gb, "failed": ""}
        try:
            measure(row, options)
        except Exception as error:  # the other limits are measured all the same
            row["failed"] = f"{type(error).__name__}: {str(error)[:300]}"
        rows.append(row)
        harness.keep(options, {**circumstances, "rows": rows})
    harness.print_table(COLUMNS, [list(row.values()) for row in rows])
    return {**circumstances, "rows": rows}


ROW = (
    "limit_gb", "predicted", "ended_on", "width", "four_pictures_s", "outcomes", "step_ms", "allocated_gib",
    "reserved_gib", "failed",
)  # fmt: skip


def measure(row: dict[str, Any], options: argparse.Namespace) -> None:
    """Fills `row` as far as it comes. The allocator holds to the limit, so a prediction that was wrong shows."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.reset_peak_memory_stats()
    loaded = harness.load(options, max_vram_gb=row["limit_gb"])
    row["predicted"] = loaded.placement.profile.name
    engine = build_engine(loaded, Settings())
    row["width"] = engine.width
    began_s = time.perf_counter()
    result = run_to_completion(engine, harness.request_of(loaded, options, num_images_per_prompt=4))
    row["four_pictures_s"] = time.perf_counter() - began_s
    row["outcomes"] = ", ".join(str(image.outcome) for image in result.images)
    row["ended_on"] = loaded.placement.profile.name
    calls = sum(number for number, _ in engine.unet_calls.values())
    row["step_ms"] = 1e3 * sum(seconds for _, seconds in engine.unet_calls.values()) / calls if calls else None
    row["allocated_gib"] = torch.cuda.max_memory_allocated() / harness.GIB
    row["reserved_gib"] = torch.cuda.max_memory_reserved() / harness.GIB
    loaded.pipeline.remove_all_hooks()
