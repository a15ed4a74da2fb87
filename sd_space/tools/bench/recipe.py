"""One picture by the card's own recipe, by this Space, with TURBO, with OpenVINO, and what the arithmetic allows.

The recipe is a plain StableDiffusionPipeline call. All ways take turns in one process: a busy machine slows them alike.
"""

import argparse
import copy
import importlib.util
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from sd_space.backends.loading import build_engine
from sd_space.engine.engine import run_to_completion
from sd_space.model.openvino_unet import OpenVinoUNet
from sd_space.model.pipeline import LoadedPipeline
from sd_space.model.unet_runner import UNetRunner
from sd_space.schema import AdmittedRequest
from sd_space.settings import Settings
from sd_space.tools import v1_4_random
from sd_space.tools.bench import harness

COLUMNS = ("way", "s a picture", "of the recipe", "ms a step", "of the limit", "mean difference", "largest")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    harness.add_model_arguments(parser)
    harness.add_request_arguments(parser)
    parser.add_argument("--repeats", type=int, default=3)


def run(options: argparse.Namespace) -> dict[str, Any]:
    loaded = harness.load(options)
    admitted = harness.request_of(loaded, options)
    request = admitted.request
    stock = harness.plain_pipeline(loaded, request)
    if loaded.info.device != "cpu":  # there the Space changes the weights' order
        stock = stock_pipeline(options, loaded)
        stock.scheduler = harness.plain_pipeline(loaded, request).scheduler
    engines = {way: build_engine(loaded, Settings(turbo=way == "TURBO")) for way in ("this Space", "TURBO")}
    if loaded.info.device == "cpu" and importlib.util.find_spec("openvino"):
        placement = copy.copy(loaded.placement)
        placement.unet_runner = UNetRunner(OpenVinoUNet(loaded.pipeline.unet))
        engines["OpenVINO"] = build_engine(replace(loaded, placement=placement), Settings())

    def by_recipe() -> np.ndarray:
        return np.asarray(harness.plain_call(stock, request)[0])

    def by_engine(way: str) -> np.ndarray:
        again = AdmittedRequest(way, request, "visitor", accepted_at=0.0)
        (image,) = run_to_completion(engines[way], again).images
        return np.frombuffer(image.pixels or b"", np.uint8).reshape(image.height, image.width, 3)

    ways: dict[str, Callable[[], np.ndarray]] = {"the recipe": by_recipe}
    ways |= {way: partial(by_engine, way) for way in engines}
    calls = engines["this Space"]._denoiser.num_timesteps(request)
    flops = unet_flops(loaded, request.width // loaded.pipeline.vae_scale_factor)
    rate = harness.matmul_rate(loaded.info.device, loaded.pipeline.unet.dtype)
    limit_s = 2 * calls * flops / rate
    circumstances = harness.circumstances(loaded, options) | {
        "size": request.width, "scheduler": request.scheduler, "unet_calls": calls, "repeats": options.repeats,
        "unet_gflop_a_row": flops / 1e9, "matmul_tflop_a_second": rate / 1e12, "limit_s": limit_s,
    }  # fmt: skip
    print(harness.describe(circumstances), flush=True)
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    drawn = {way: draw() for way, draw in ways.items()}  # and warms up
    for _ in range(options.repeats):
        for way, draw in ways.items():
            began_s = time.perf_counter()
            draw()
            seconds[way].append(time.perf_counter() - began_s)
        rows = [row_of(way, seconds, drawn, calls, limit_s) for way in ways]
        harness.keep(options, {**circumstances, "rows": rows})
    harness.print_table(COLUMNS, [list(row.values()) for row in rows])
    print(
        f"The limit, {limit_s:.3g} s: {calls} UNet calls with guidance, {2 * flops / 1e9:.4g} GFLOP each, at the "
        f"{rate / 1e12:.3g} TFLOP/s that a matrix product reached. A step is a picture's time by its UNet calls.",
        flush=True,
    )
    return {**circumstances, "rows": rows}


def row_of(
    way: str, seconds: dict[str, list[float]], drawn: dict[str, np.ndarray], calls: int, limit_s: float
) -> dict[str, Any]:
    picture_s, recipe_s = (statistics.median(seconds[name]) for name in (way, "the recipe"))
    off = np.abs(drawn[way].astype(int) - drawn["the recipe"].astype(int))
    return {
        "way": way,
        "picture_s": picture_s,
        "of_the_recipe": picture_s / recipe_s,
        "step_ms": 1e3 * picture_s / calls,
        "of_the_limit": limit_s / picture_s,
        "mean_difference": float(off.mean()),
        "largest_difference": int(off.max()),
    }


def stock_pipeline(options: argparse.Namespace, loaded: LoadedPipeline) -> StableDiffusionPipeline:
    """As the card has it: loaded, cast, moved, and nothing else."""
    dtype = getattr(torch, loaded.info.dtype)
    if options.model == v1_4_random.NAME:
        return v1_4_random.make_pipeline(dtype, options.seed).to(loaded.info.device)
    variant = "fp16" if dtype == torch.float16 else None
    stock = StableDiffusionPipeline.from_pretrained(loaded.info.model, variant=variant, dtype=dtype)
    stock.set_progress_bar_config(disable=True)
    return stock.to(loaded.info.device)


def unet_flops(loaded: LoadedPipeline, side: int) -> int:
    """Of one row of `side` x `side` latents, counted without computing."""
    config = loaded.pipeline.unet.config
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(config)
    sample = torch.empty(1, config.in_channels, side, side, device="meta", dtype=unet.dtype)
    embeds = torch.empty(1, 77, config.cross_attention_dim, device="meta", dtype=unet.dtype)
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        unet(sample, torch.empty(1, device="meta"), encoder_hidden_states=embeds, return_dict=False)
    return counter.get_total_flops()
