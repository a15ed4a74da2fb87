"""This machine: its device, driver and versions, and what a large matrix product and a copy reach on it."""

import argparse
import time
from typing import Any

import torch

from sd_space.model.spec import detect_hardware
from sd_space.tools.bench import harness

COLUMNS = ("what", "reached", "unit")
COPIED_BYTES = {"cpu": 2**28}  # elsewhere 2 GiB


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="of which the best is reported (default: %(default)s)")


def run(options: argparse.Namespace) -> dict[str, Any]:
    found = detect_hardware()
    kind = found.device if options.device == "auto" else options.device
    circumstances = {"kind": kind, "free_memory_bytes": found.free_vram_bytes, **harness.machine(kind)}
    print(harness.describe(circumstances), flush=True)
    harness.keep(options, circumstances)  # also when the device turns out to be of no use
    rows: list[dict[str, Any]] = []
    for dtype in (torch.float32,) if kind == "cpu" else (torch.float32, torch.float16, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        rate = harness.matmul_rate(kind, dtype, options.rounds)
        rows.append({"what": f"matrix product, {name}", "reached": rate / 1e12, "unit": "TFLOP/s"})
    rows.append({"what": "copy on the device", "reached": copy_rate(kind, options.rounds) / 1e9, "unit": "GB/s"})
    harness.print_table(COLUMNS, [list(row.values()) for row in rows])
    return {**circumstances, "rows": rows}


def copy_rate(kind: str, rounds: int) -> float:
    """Bytes a second, read and written: the best of a few."""
    source = torch.ones(COPIED_BYTES.get(kind, 2**31), dtype=torch.uint8, device=kind)
    target, best_s = torch.empty_like(source), float("inf")
    for _ in range(rounds + 1):  # the first warms up
        source[-1].item()  # waits for the device
        began_s = time.perf_counter()
        target.copy_(source)
        target[-1].item()
        best_s = min(best_s, time.perf_counter() - began_s)
    return 2 * source.numel() / best_s
