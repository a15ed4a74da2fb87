"""Attention by its kernel, on CUDA: what PyTorch chooses for v1-4's shapes, and what each of its ways takes.

The first call of a shape is reported too: some ways plan it anew, for each shape and in each thread.
"""

import argparse
import statistics
import time
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from sd_space.tools.bench import harness

LEVELS = ((4096, 40), (1024, 80), (256, 160), (64, 160))  # tokens and features a head of v1-4 at 512 x 512
HEADS, TEXT_TOKENS = 8, 77
WAYS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cuDNN": SDPBackend.CUDNN_ATTENTION,
    "plain": SDPBackend.MATH,
}
COLUMNS = ("rows", "queries x keys", "features", "chosen", "first ms", "then ms", *(f"{way} ms" for way in WAYS))
CALLS = 20  # between two looks at the clock


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, nargs="+", default=[2, 16], help="of a call: two a picture")
    parser.add_argument("--repeats", type=int, default=3)


def run(options: argparse.Namespace) -> dict[str, Any]:
    if not torch.cuda.is_available():
        raise SystemExit("attention: there is no CUDA device, whose kernels this is about.")
    circumstances = harness.machine("cuda") | {"dtype": "float16", "repeats": options.repeats}
    print(harness.describe(circumstances), flush=True)
    rows: list[dict[str, Any]] = []
    for number in options.rows:
        for tokens, features in LEVELS:
            for keys in (tokens, TEXT_TOKENS):
                shape = {"rows": number, "shape": f"{tokens} x {keys}", "features": features}
                rows.append(shape | measure(number, tokens, keys, features, options.repeats))
                harness.keep(options, {**circumstances, "rows": rows})
    harness.print_table(COLUMNS, [list(row.values()) for row in rows])
    return {**circumstances, "rows": rows}


@torch.inference_mode()
def measure(rows: int, tokens: int, keys: int, features: int, repeats: int) -> dict[str, Any]:
    def heads(length: int) -> torch.Tensor:  # as diffusers hands them in: (rows, heads, tokens, features), transposed
        return torch.randn(rows, length, HEADS, features, device="cuda", dtype=torch.float16).transpose(1, 2)

    query, key, value = heads(tokens), heads(keys), heads(keys)

    def timed(calls: int) -> float:
        torch.cuda.synchronize()
        began_s = time.perf_counter()
        for _ in range(calls):
            scaled_dot_product_attention(query, key, value)
        torch.cuda.synchronize()
        return 1e3 * (time.perf_counter() - began_s) / calls

    found: dict[str, Any] = {"chosen": chosen(query, key, value), "first_ms": timed(1)}
    found["then_ms"] = statistics.median(timed(CALLS) for _ in range(repeats))
    for way, backend in WAYS.items():
        try:
            with sdpa_kernel(backend):
                timed(1)
                found[way] = statistics.median(timed(CALLS) for _ in range(repeats))
        except RuntimeError:  # it has no kernel for this shape or card
            found[way] = None
    return found


def chosen(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> str | None:
    """The name of PyTorch's choice, where this version still tells."""
    choose = getattr(torch, "_fused_sdp_choice", None)
    if choose is None:
        return None
    number = int(choose(query, key, value))
    return next((way for way, backend in WAYS.items() if int(backend) == number), str(number))
