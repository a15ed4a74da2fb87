"""Chooses how many pictures share a UNet call, by measuring steps of several widths."""

import time
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import TypeVar

import torch

from sd_space.engine.batcher import BatchKey
from sd_space.engine.denoiser import Denoiser
from sd_space.engine.denoising_state import DenoisingState
from sd_space.engine.step_times import StepTimes
from sd_space.request import GenerationRequest
from sd_space.runtime_errors import is_out_of_memory
from sd_space.settings import WIDTHS

T = TypeVar("T")

MAX_COST_PER_PICTURE = 0.9  # a wider call must cost at most this share of the narrower one's time per picture
ROUNDS = 5  # of which the first warms up
LONG_STEP_S = 5.0  # above it no wider call is tried and no step is measured again
PROBE_SIZE = 64  # pixels a side
LONG_PROBE_S = 0.25  # ten times what a step of that size takes where it is bound by kernel launches


def calibrate(
    denoiser: Denoiser,
    request: GenerationRequest,
    widths: tuple[int, ...] = WIDTHS,
    now_s: Callable[[], float] = time.perf_counter,
) -> tuple[int, StepTimes]:
    """Measures at once; returns the width and the measured times. See `is_step_short` and `measure_widths`."""
    times = StepTimes()
    if not is_step_short(denoiser, request, times, now_s):
        return widths[0], times
    return _all_of(measure_widths(denoiser, request, times, widths, now_s)), times


def is_step_short(
    denoiser: Denoiser,
    request: GenerationRequest,
    times: StepTimes,
    now_s: Callable[[], float] = time.perf_counter,
    size: int = PROBE_SIZE,
) -> bool:
    """Whether more can be measured in no time, by a step of a tiny picture, or of another `size`.

    Where even that is long (v1-4 on a CPU), a step at the model's own size takes up to a minute: `times` then get an
    upper estimate of it.
    """
    request = replace(request, num_inference_steps=ROUNDS)
    width, height = min(size, request.width), min(size, request.height)
    encoded = denoiser.encode_prompt(request)
    probe = denoiser.prepare_latents(replace(request, width=width, height=height), 0, encoded)
    # Two, because the first call on a GPU also loads the kernels from the disk, and the third would be recorded.
    probe_s = (_all_of(_fastest_steps(denoiser, [[probe]], now_s, rounds=2)) or [0.0])[0]
    if probe_s > LONG_PROBE_S:
        times.slowest_s = probe_s * request.width * request.height / (width * height)
    return probe_s <= LONG_PROBE_S


def measure_widths(
    denoiser: Denoiser,
    request: GenerationRequest,
    times: StepTimes,
    widths: tuple[int, ...] = WIDTHS,
    now_s: Callable[[], float] = time.perf_counter,
) -> Generator[None, None, int]:
    """The largest width at which a wider UNet call still makes a picture's step cheaper. Yields after each step.

    So whoever owns the device can let requests go first. Sharing a call pays where a step is bound by launches and idle
    units; where it is bound by arithmetic it only delays every picture. Measuring stops at the second width that does
    not pay (a single one may be due to other load), at one that does not fit into memory, and where a step is long.
    """
    request = replace(request, num_inference_steps=ROUNDS * len(widths))  # enough for every measured step
    encoded, key = denoiser.encode_prompt(request), BatchKey.of(request)
    best, best_s, failed = widths[0], 0.0, 0
    narrow: list[DenoisingState] = []
    for width in widths:
        if best_s > LONG_STEP_S or failed == 2:
            break
        wide = [denoiser.prepare_latents(request, seed, encoded) for seed in range(width)]
        fastest_s = yield from _fastest_steps(denoiser, [narrow, wide] if narrow else [wide], now_s)
        if fastest_s is None and narrow:
            break
        if fastest_s is None:
            if not denoiser.reduce_memory():
                raise torch.OutOfMemoryError("not even one picture fits")
            return (yield from measure_widths(denoiser, request, times, widths, now_s))
        times.record_step(key, width, fastest_s[-1])
        if not narrow or fastest_s[-1] / width < MAX_COST_PER_PICTURE * fastest_s[0] / best:
            best, best_s, narrow, failed = width, fastest_s[-1], wide, 0
        else:
            failed += 1
    return best


def _all_of(measuring: Generator[None, None, T]) -> T:
    """What it returns, measured at once."""
    while True:
        try:
            next(measuring)
        except StopIteration as measured:
            return measured.value


def _fastest_steps(
    denoiser: Denoiser,
    batches: list[list[DenoisingState]],
    now_s: Callable[[], float],
    rounds: int = ROUNDS,
) -> Generator[None, None, list[float] | None]:
    """Seconds of one step of each batch, the fastest of a few rounds; `None` if they do not fit into memory.

    The batches take turns, so that other load on the machine slows all of them alike.
    """
    fastest_s = [float("inf")] * len(batches)
    spent_s = 0.0
    try:
        for _ in range(rounds):
            for k, states in enumerate(batches):
                step_began_s = now_s()
                denoiser.denoise_step(states)
                denoiser.synchronize()
                took_s = now_s() - step_began_s
                fastest_s[k], spent_s = min(fastest_s[k], took_s), spent_s + took_s
                yield
            if spent_s > LONG_STEP_S:
                break
        return fastest_s
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    # Out of the `except` block, where the error would still hold the failed call's tensors.
    denoiser.free_memory()
    return None
