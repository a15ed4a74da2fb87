"""Levers on CUDA, each alone on top of what the Space does: a step of one and eight pictures, decode, safety check."""

import argparse
import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from PIL import Image

from sd_space.backends.loading import build_engine, typical_request
from sd_space.engine.engine import Engine
from sd_space.model.compiled_calls import COMPILE_AT, CompiledCalls
from sd_space.model.cuda_graphs import cuda_graph_capture
from sd_space.model.kernels import Kernels
from sd_space.model.pipeline import LoadedPipeline
from sd_space.settings import Settings
from sd_space.tools.bench import harness

Lever = Callable[[Engine, LoadedPipeline], contextlib.AbstractContextManager]

COLUMNS = ("lever", "step ms, 1 picture", "step ms, 8 pictures", "decode ms", "safety ms", "safety ms on the CPU")

FIGURES = ("step_ms", "step_ms_of_8", "decode_ms", "safety_ms", "extractor_ms")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    harness.add_model_arguments(parser)
    harness.add_request_arguments(parser)
    parser.add_argument("--repeats", type=int, default=10)


def run(options: argparse.Namespace) -> dict[str, Any]:
    loaded = harness.load(options)
    if loaded.info.device != "cuda":
        raise SystemExit("levers: there is no CUDA device, and on others none of them does anything.")
    engine = build_engine(loaded, Settings(max_batch_size=1))
    denoiser, screen = engine._denoiser, engine._screen
    request = harness.request_of(loaded, options).request
    circumstances = harness.circumstances(loaded, options) | {"size": request.width, "repeats": options.repeats}
    print(harness.describe(circumstances), flush=True)
    state = denoiser.prepare_latents(request, request.seed, denoiser.encode_prompt(request))
    decoded = denoiser.decode_latents(state.latents)
    extract, picture = loaded.pipeline.feature_extractor, [Image.new("RGB", (request.width, request.height))]
    extract_s = harness.timed(denoiser, lambda: extract(picture, return_tensors="pt"), options.repeats)
    rows: list[dict[str, Any]] = []
    for name, lever in LEVERS.items():
        row: dict[str, Any] = {"lever": name} | dict.fromkeys(FIGURES)
        try:
            with lever(engine, loaded):
                one, eight = (harness.steps(denoiser, request, n, options.repeats)["step_ms"] for n in (1, 8))
                decode_s = harness.timed(denoiser, lambda: denoiser.decode_latents(state.latents), options.repeats)
                safety_s = harness.timed(denoiser, lambda: screen.screen(decoded, [request.seed]), options.repeats)
            row |= zip(FIGURES, (one, eight, 1e3 * decode_s, 1e3 * safety_s, 1e3 * extract_s), strict=True)
        except RuntimeError as error:  # the others are measured all the same
            row["lever"] += f" ({error})"
        rows.append(row)
        harness.keep(options, {**circumstances, "rows": rows})
    harness.print_table(COLUMNS, [list(row.values()) for row in rows])
    return {**circumstances, "rows": rows}


def recorded_anew(loaded: LoadedPipeline) -> None:
    """Recordings keep the kernels that were chosen before."""
    loaded.placement.unet_runner.record(cuda_graph_capture if loaded.placement.profile.recorded_steps else None)


@contextlib.contextmanager
def none(engine: Engine, loaded: LoadedPipeline) -> Iterator[None]:
    recorded_anew(loaded)
    yield


def kernels(wanted: Kernels) -> Lever:
    @contextlib.contextmanager
    def lever(engine: Engine, loaded: LoadedPipeline) -> Iterator[None]:
        recorded_anew(loaded)
        with wanted.in_force():
            yield

    return lever


@contextlib.contextmanager
def by_pillow(engine: Engine, loaded: LoadedPipeline) -> Iterator[None]:
    """The checker's pictures are resized on the host."""
    recorded_anew(loaded)
    screen = engine._screen
    before, screen._prepares_on_device = screen._prepares_on_device, False
    try:
        yield
    finally:
        screen._prepares_on_device = before


@contextlib.contextmanager
def compiled(engine: Engine, loaded: LoadedPipeline) -> Iterator[None]:
    """The calls of one picture alone; of eight they are made as they are, unless there is time for both."""
    recorded_anew(loaded)
    calls = CompiledCalls()
    loaded.placement.unet_runner.compile(calls)
    harness.steps(engine._denoiser, typical_request(loaded.info.defaults), 1, COMPILE_AT)
    if calls._thread is not None:
        calls._thread.join()
    try:
        if not len(calls):
            raise RuntimeError("could not be made here")
        yield
    finally:
        loaded.placement.unet_runner.compile(None)


@contextlib.contextmanager
def tf32(engine: Engine, loaded: LoadedPipeline) -> Iterator[None]:
    """For what is in float32: the safety checker's products."""
    recorded_anew(loaded)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


LEVERS: dict[str, Lever] = {
    "none": none,
    "the checker's pictures by Pillow": by_pillow,
    "cuDNN's attention": kernels(Kernels(cudnn_attention=True)),
    "convolutions by trial": kernels(Kernels(tried_convolutions=True)),
    "TF32": tf32,
    "compiled": compiled,
}
