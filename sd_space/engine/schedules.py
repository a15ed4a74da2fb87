"""Noise schedules: a scheduler for each picture, and how many UNet calls a request's pictures take."""

import copy
import functools
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import SchedulerMixin

from sd_space.engine.denoising_state import DenoisingState
from sd_space.model.noise_schedulers import SCHEDULER_TABLE, make_scheduler
from sd_space.request import GenerationRequest


class NoiseSchedules:
    """Makes noise schedulers from the scheduler config of one model."""

    def __init__(self, config: Mapping[str, Any]):
        # Of a function, not of a method: an engine that was replaced must be free of cycles to be freed.
        self._prepared = functools.lru_cache(maxsize=32)(functools.partial(_prepare, dict(config)))
        self._step_parameters = {
            scheduler_class: frozenset(inspect.signature(scheduler_class.step).parameters)
            for scheduler_class, _ in SCHEDULER_TABLE.values()
        }

    def num_timesteps(self, request: GenerationRequest) -> int:
        """How many UNet calls one picture of `request` takes: n + 1 with PNDM, 2n - 1 with Heun, n with most others.

        From a picture they are fewer: its first steps are left out.
        """
        return len(_timesteps(self._prepared(request.scheduler, request.num_inference_steps), request))

    def start(self, request: GenerationRequest) -> tuple[SchedulerMixin, torch.Tensor]:
        """A noise scheduler before its first step, and the timesteps of one picture.

        It is a copy, because some take milliseconds to compute their schedule.
        """
        scheduler = copy.deepcopy(self._prepared(request.scheduler, request.num_inference_steps))
        if request.init_image is not None and hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(request.first_step * scheduler.order)
        return scheduler, _timesteps(scheduler, request)

    def extra_step_kwargs(self, scheduler: SchedulerMixin, generator: torch.Generator) -> dict[str, Any]:
        """Those arguments of `scheduler.step` that only some noise schedulers take."""
        parameters = self._step_parameters[type(scheduler)]
        return {name: value for name, value in (("eta", 0.0), ("generator", generator)) if name in parameters}


def last_alpha_cumprod(state: DenoisingState) -> float:
    """How much of the last step's sample was picture. Between the timesteps of training only `sigmas` say so."""
    scheduler = state.scheduler
    if hasattr(scheduler, "sigmas"):
        return 1 / (1 + float(scheduler.sigmas[scheduler.step_index - 1]) ** 2)
    return float(scheduler.alphas_cumprod[int(state.timesteps[state.step_index - 1])])


def _timesteps(scheduler: SchedulerMixin, request: GenerationRequest) -> torch.Tensor:
    return scheduler.timesteps[request.first_step * scheduler.order :]


def _prepare(config: Mapping[str, Any], name: str, num_inference_steps: int) -> SchedulerMixin:
    scheduler = make_scheduler(name, config, num_inference_steps)
    # On the CPU, because schedulers index with timesteps: on the device each step would wait for it to catch up.
    scheduler.set_timesteps(num_inference_steps, device="cpu")
    return scheduler
