"""Recorded UNet calls on CUDA: more shapes than are kept, and whether those that stay still compute what they did."""

import argparse
from collections.abc import Iterator
from typing import Any

import torch

from sd_space.model.cuda_graphs import MOST_RECORDED, RECORD_AT
from sd_space.model.pipeline import LoadedPipeline
from sd_space.tools.bench import harness

COLUMNS = ("after", "shapes", "largest difference", "reserved GiB")
ROWS, BEYOND = (1, 2, 3, 4, 6, 8, 12), 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    harness.add_model_arguments(parser)
    harness.add_request_arguments(parser)


def run(options: argparse.Namespace) -> dict[str, Any]:
    loaded = harness.load(options)
    if not loaded.placement.profile.recorded_steps:
        raise SystemExit(f"recordings: on {loaded.info.device}, {loaded.info.memory_profile}, no call is recorded.")
    side = harness.request_of(loaded, options).request.width // loaded.pipeline.vae_scale_factor
    sides = [side - 8 * k for k in range(MOST_RECORDED)]
    shapes = [(rows, one) for one in sides if one >= 8 for rows in ROWS][: MOST_RECORDED + BEYOND]
    circumstances = harness.circumstances(loaded, options) | {"kept": MOST_RECORDED, "shapes": len(shapes)}
    print(harness.describe(circumstances), flush=True)
    generator = torch.Generator().manual_seed(options.seed)
    rows: list[dict[str, Any]] = []
    # Recorded one after the other, then those that stayed, then all again: some of those are recorded once more.
    rounds = {"recorded": (shapes, RECORD_AT + 1), "still there": (shapes[BEYOND:], 1), "again": (shapes, 2)}
    for name, (chosen, calls) in rounds.items():
        worst = max(apart(loaded, inputs, calls) for inputs in drawn(loaded, chosen, generator))
        torch.cuda.synchronize()
        reserved_gib = torch.cuda.memory_reserved() / harness.GIB
        rows.append({"after": name, "shapes": len(chosen), "largest_difference": worst, "reserved_gib": reserved_gib})
        harness.keep(options, {**circumstances, "rows": rows})
    harness.print_table(COLUMNS, [list(row.values()) for row in rows])
    return {**circumstances, "rows": rows}


def drawn(
    loaded: LoadedPipeline, shapes: list[tuple[int, int]], generator: torch.Generator
) -> Iterator[tuple[torch.Tensor, ...]]:
    """For each (rows, side of the latents): sample, timesteps and embeddings."""
    unet = loaded.pipeline.unet
    for rows, side in shapes:
        sample = torch.randn(rows, unet.config.in_channels, side, side, generator=generator)
        embeds = torch.randn(rows, 77, unet.config.cross_attention_dim, generator=generator)
        timesteps = torch.full((rows,), 500.0)
        yield sample.to("cuda", unet.dtype), timesteps.to("cuda"), embeds.to("cuda", unet.dtype)


@torch.inference_mode()
def apart(loaded: LoadedPipeline, inputs: tuple[torch.Tensor, ...], calls: int) -> float:
    """How far the last of so many calls is from the UNet called as it is."""
    for _ in range(calls):
        found = loaded.placement.unet_runner.predict(*inputs)
    sample, timesteps, embeds = inputs
    (expected,) = loaded.pipeline.unet(sample, timesteps, encoder_hidden_states=embeds, return_dict=False)
    return float((found - expected).abs().max())
