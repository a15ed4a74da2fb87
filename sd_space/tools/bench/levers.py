"""Levers on CUDA, each alone on top of what the Space does: a step of one and eight pictures, decode, safety check."""

import argparse
import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from PIL import Image

from sd_space.backends.loading import build_engine
from sd_space.model.cuda_graphs import cuda_graph_capture
from sd_space.settings import Settings
from sd_space.tools.bench import harness

COLUMNS = ("lever", "step ms, 1 picture", "step ms, 8 pictures", "decode ms", "safety ms", "safety ms on the CPU")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    harness.add_model_arguments(parser)
    harness.add_request_arguments(parser)
    parser.add_argument("--repeats", type=int, default=10)


def run(options: argparse.Namespace) -> dict[str, Any]:
    loaded = harness.load(options)
    if loaded.info.device != "cuda":
        raise SystemExit("levers: there is no CUDA device, and on others none of them does anything.")
    engine = build_engine(loaded, Settings(max_batch_size=1))
    denoiser, screen, calls = engine._denoiser, engine._screen, loaded.placement.unet_runner
    request = harness.request_of(loaded, options).request
    circumstances = harness.circumstances(loaded, options) | {"size": request.width, "repeats": options.repeats}
    print(harness.describe(circumstances), flush=True)
    state = denoiser.prepare_latents(request, request.seed, denoiser.encode_prompt(request))
    decoded = denoiser.decode_latents(state.latents)
    extract, picture = loaded.pipeline.feature_extractor, [Image.new("RGB", (request.width, request.height))]
    extract_s = harness.timed(denoiser, lambda: extract(picture, return_tensors="pt"), options.repeats)
    rows: list[dict[str, Any]] = []
    for name, lever in LEVERS.items():
        with lever():
            # Recordings keep the kernels that were chosen before.
            calls.record(cuda_graph_capture if loaded.placement.profile.recorded_steps else None)
            one, eight = (harness.steps(denoiser, request, n, options.repeats)["step_ms"] for n in (1, 8))
            decode_s = harness.timed(denoiser, lambda: denoiser.decode_latents(state.latents), options.repeats)
            safety_s = harness.timed(denoiser, lambda: screen.screen(decoded, [request.seed]), options.repeats)
        row = {"lever": name, "step_ms": one, "step_ms_of_8": eight, "decode_ms": 1e3 * decode_s}
        rows.append(row | {"safety_ms": 1e3 * safety_s, "extractor_ms": 1e3 * extract_s})
        harness.keep(options, {**circumstances, "rows": rows})
    harness.print_table(COLUMNS, [list(row.values()) for row in rows])
    return {**circumstances, "rows": rows}


@contextlib.contextmanager
def without_cudnn_attention() -> Iterator[None]:
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


@contextlib.contextmanager
def benchmarked_convolutions() -> Iterator[None]:
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


@contextlib.contextmanager
def tf32() -> Iterator[None]:
    """For what is in float32: the safety checker's products."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


LEVERS: dict[str, Callable[[], contextlib.AbstractContextManager]] = {
    "none": contextlib.nullcontext,
    "without cuDNN's attention": without_cudnn_attention,
    "convolutions by trial": benchmarked_convolutions,
    "TF32": tf32,
}
