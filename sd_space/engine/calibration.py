"""Chooses how many pictures share a UNet call, by measuring steps of several widths at start."""

import time
from collections.abc import Callable
from dataclasses import replace

import torch

from sd_space.engine.batcher import BatchKey
from sd_space.engine.denoiser import Denoiser
from sd_space.engine.denoising_state import DenoisingState
from sd_space.engine.step_times import StepTimes
from sd_space.runtime_errors import is_out_of_memory
from sd_space.schema import GenerationRequest
from sd_space.settings import WIDTHS

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
    """The largest width at which a wider UNet call still makes a picture's step cheaper, and the measured times.

    Sharing a call pays where a step is bound by launches and idle units; where it is bound by arithmetic it only
    delays every picture. Measuring stops at the second width that does not pay (a single one may be due to other
    load), at one that does not fit into memory, and where a step is long. Where even a tiny picture's step is long
    (v1-4 on a CPU), nothing more is measured, because a step at the model's own size takes up to a minute there.
    """
    request = replace(request, num_inference_steps=ROUNDS * len(widths))  # enough for every measured step
    times, encoded, key = StepTimes(), denoiser.encode_prompt(request), BatchKey.of(request)
    side = min(PROBE_SIZE, request.width, request.height)
    probe_s = _probe_s(denoiser, denoiser.prepare_latents(replace(request, width=side, height=side), 0, encoded), now_s)
    if probe_s > LONG_PROBE_S:
        times.slowest_s = probe_s * request.width * request.height / side**2  # an upper estimate
        return widths[0], times
    best, best_s, failed = widths[0], 0.0, 0
    narrow: list[DenoisingState] = []
    for width in widths:
        if best_s > LONG_STEP_S or failed == 2:
            break
        wide = [denoiser.prepare_latents(request, seed, encoded) for seed in range(width)]
        fastest_s = _fastest_steps(denoiser, [narrow, wide] if narrow else [wide], now_s)
        if fastest_s is None and narrow:
            break
        if fastest_s is None:
            if not denoiser.reduce_memory():
                raise torch.OutOfMemoryError("not even one picture fits")
            return calibrate(denoiser, request, widths, now_s)
        times.record_step(key, width, fastest_s[-1])
        if not narrow or fastest_s[-1] / width < MAX_COST_PER_PICTURE * fastest_s[0] / best:
            best, best_s, narrow, failed = width, fastest_s[-1], wide, 0
        else:
            failed += 1
    return best, times


def _probe_s(denoiser: Denoiser, probe: DenoisingState, now_s: Callable[[], float]) -> float:
    """Seconds of a step of one tiny picture; 0 if it does not fit into memory."""
    if denoiser.device.type == "cuda":  # the first call also loads the kernels from the disk
        _fastest_steps(denoiser, [[probe]], now_s, rounds=1)
    return (_fastest_steps(denoiser, [[probe]], now_s, rounds=2) or [0.0])[0]


def _fastest_steps(
    denoiser: Denoiser,
    batches: list[list[DenoisingState]],
    now_s: Callable[[], float],
    rounds: int = ROUNDS,
) -> list[float] | None:
    """Seconds of one step of each batch, the fastest of a few rounds; `None` if they do not fit into memory.

    The batches take turns, so that other load on the machine slows all of them alike.
    """
    fastest_s = [float("inf")] * len(batches)
    began_s = now_s()
    try:
        for _ in range(rounds):
            for k, states in enumerate(batches):
                step_began_s = now_s()
                denoiser.denoise_step(states)
                denoiser.synchronize()
                fastest_s[k] = min(fastest_s[k], now_s() - step_began_s)
            if now_s() - began_s > LONG_STEP_S:
                break
        return fastest_s
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    # Out of the `except` block, where the error would still hold the failed call's tensors.
    denoiser.free_memory()
    return None
