"""One picture by its size: a step, its decode, its safety check, memory."""

import argparse
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sd_space.engine.denoiser import Denoiser
from sd_space.engine.safety import SafetyScreen, fit_latent_rgb, mosaic_of
from sd_space.request import GenerationRequest
from sd_space.tools.bench import harness

COLUMNS = (
    "size",
    "step ms",
    "decode ms",
    "safety ms",
    "preview ms",
    "encode ms",
    "picture s",
    "step MiB",
    "decode MiB",
)
SHARES = (0.5, 0.75, 1.0, 1.25, 1.5)  # of the model's own size: 256 to 768 for v1-4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    harness.add_model_arguments(parser)
    parser.add_argument("--sizes", type=int, nargs="+", help="pixels a side (default: 0.5 to 1.5 times the model's)")
    parser.add_argument("--repeats", type=int, default=5)


def run(options: argparse.Namespace) -> dict[str, Any]:
    loaded = harness.load(options)
    denoiser = Denoiser(loaded.pipeline, unet_runner=loaded.placement.unet_runner)
    screen = SafetyScreen(
        loaded.pipeline.safety_checker,
        loaded.pipeline.feature_extractor,
        fit_latent_rgb(denoiser.decode_latents, denoiser.latent_channels),
        loaded.missing_checker_tensors,
    )
    circumstances = harness.circumstances(loaded, options) | {"repeats": options.repeats}
    print(harness.describe(circumstances), flush=True)
    step = loaded.info.limits.size_step
    sizes = options.sizes or [int(share * loaded.info.defaults.width) // step * step for share in SHARES]
    rows = []
    for size in sizes:
        options.size, options.steps, options.scheduler = size, None, None
        rows.append(measure(denoiser, screen, harness.request_of(loaded, options).request, options.repeats))
        harness.keep(options, {**circumstances, "rows": rows})
    harness.print_table(COLUMNS, [list(row.values()) for row in rows])
    print("A picture is calculated: the model's own number of steps, a decode and a check.", flush=True)
    return {**circumstances, "rows": rows}


def measure(denoiser: Denoiser, screen: SafetyScreen, request: GenerationRequest, repeats: int) -> dict[str, Any]:
    steps = denoiser.num_timesteps(request)
    state = denoiser.prepare_latents(request, request.seed, denoiser.encode_prompt(request))
    step_s, step_bytes = timed(denoiser, lambda: denoiser.denoise_step([state]), min(repeats, steps - 2))
    decode_s, decode_bytes = timed(denoiser, lambda: denoiser.decode_latents(state.latents), repeats)
    decoded = denoiser.decode_latents(state.latents)
    safety_s, _ = timed(denoiser, lambda: screen.screen(decoded, [request.seed]), repeats)
    preview_s, _ = timed(denoiser, lambda: screen.preview(mosaic_of(denoiser.predicted_latents(state)).cpu()), repeats)
    prompts = (replace(request, prompt=f"{request.prompt} {n}", guidance_scale=1.0) for n in range(repeats + 2))
    encode_s, _ = timed(denoiser, lambda: denoiser.encode_prompt(next(prompts)), repeats)
    return {
        "size": request.width,
        "step_ms": 1e3 * step_s,
        "decode_ms": 1e3 * decode_s,
        "safety_ms": 1e3 * safety_s,
        "preview_ms": 1e3 * preview_s,
        "encode_ms": 1e3 * encode_s,
        "picture_s": steps * step_s + decode_s + safety_s,
        "step_mib": step_bytes / harness.MIB if step_bytes is not None else None,
        "decode_mib": decode_bytes / harness.MIB if decode_bytes is not None else None,
    }


def timed(denoiser: Denoiser, work: Callable[[], object], repeats: int) -> tuple[float, int | None]:
    """The median of its seconds after its first times, and the bytes which the very first took at most."""
    memory = harness.peak_memory(denoiser.device, work)
    return harness.timed(denoiser, work, repeats), memory
