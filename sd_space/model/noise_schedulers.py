"""The noise schedulers on offer: each one's class, how it is made for a model, and which of them fit it."""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    SchedulerMixin,
)

from sd_space.model.unipc import UniPC

logger = logging.getLogger(__name__)

# name on the page -> class and what its config changes of the model's own scheduler config
SCHEDULER_TABLE: dict[str, tuple[type[SchedulerMixin], dict[str, Any]]] = {
    "PNDM": (PNDMScheduler, {}),  # PLMS: Liu et al. 2022
    # Song et al. 2020. Clipping is for pixels, not for latents; the stock pipeline switches it off too.
    "DDIM": (DDIMScheduler, {"clip_sample": False}),
    "Euler": (EulerDiscreteScheduler, {}),  # Karras et al. 2022, algorithm 2 without churn
    "Euler a": (EulerAncestralDiscreteScheduler, {}),
    "DPM++ 2M Karras": (  # Lu et al. 2022, sigmas of Karras et al. 2022
        DPMSolverMultistepScheduler,
        {"algorithm_type": "dpmsolver++", "use_karras_sigmas": True},
    ),
    "UniPC": (UniPC, {}),  # Zhao et al. 2023
    "LCM": (LCMScheduler, {}),  # Luo et al. 2023
    "Heun": (HeunDiscreteScheduler, {}),  # Karras et al. 2022: two UNet calls a step, each counted as one here
}


def make_scheduler(name: str, config: Mapping[str, Any], num_inference_steps: int) -> SchedulerMixin:
    """A noise scheduler of its own for one picture: schedulers keep history and must never be shared."""
    scheduler_class, changes = SCHEDULER_TABLE[name]
    if name == "LCM":
        # LCM picks its steps from 50 training steps and would refuse more than 50.
        changes = {"original_inference_steps": max(50, num_inference_steps)}
    # The stock pipeline sets this whatever the config says; a value that a config leaves out, `from_config` forgets.
    return scheduler_class.from_config(config, steps_offset=1, **changes)


def fitting_schedulers(config: Mapping[str, Any], max_steps: int) -> tuple[str, ...]:
    """Those that can work with a model's scheduler config, such as its `prediction_type`, found by trying each.

    PNDM and Euler a, for one, have no arithmetic for a UNet that predicts the picture itself.
    """
    with torch.random.fork_rng(devices=[]):  # some draw noise, and must not change the global generator
        return tuple(name for name in SCHEDULER_TABLE if _fits(name, config, max_steps))


def _fits(name: str, config: Mapping[str, Any], max_steps: int) -> bool:
    try:
        make_scheduler(name, config, max_steps).set_timesteps(max_steps, device="cpu")
        scheduler = make_scheduler(name, config, 2)
        scheduler.set_timesteps(2, device="cpu")
        latents = torch.ones(1, 1, 2, 2) * scheduler.init_noise_sigma
        for t in scheduler.timesteps:
            model_output = torch.full_like(scheduler.scale_model_input(latents, t), 0.5)
            latents = scheduler.step(model_output, t, latents, return_dict=False)[0]
        return bool(torch.isfinite(latents).all())
    except Exception as error:  # of any type: it cannot work with this model
        logger.info("%s is not offered: %s", name, type(error).__name__)
        return False
