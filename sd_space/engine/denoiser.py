"""The device's work, one step at a time: `StableDiffusionPipeline.__call__` taken apart between its steps.

The order and the arithmetic are those of diffusers' pipeline_stable_diffusion.py, so that one request alone comes out
bit-equal to a plain call with CPU generators, one per picture. What is different: every picture has its own noise
scheduler and its own timestep, so pictures at different steps share one UNet call.

Shapes: B pictures, C latent channels (4 in v1-4), H x W pixels, f pixels per latent (8 in v1-4), L tokens (77),
D features.
"""

import copy
import functools
import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from diffusers import SchedulerMixin, StableDiffusionPipeline
from diffusers.utils.torch_utils import randn_tensor

from sd_space.faults import is_out_of_memory
from sd_space.model.noise_schedulers import SCHEDULER_TABLE, make_scheduler
from sd_space.model.unet_runner import UNetRunner
from sd_space.schema import GenerationRequest

Step = TypeVar("Step")

logger = logging.getLogger(__name__)

TURBO_EVERY = 3  # steps, of which one runs the whole UNet
KEPT_EMBEDS = 64  # prompts, 0.1 to 0.2 MB each with v1-4


@dataclass(slots=True, eq=False)
class DenoisingState:
    """The tensors of one picture on its way.

    `model_input` and `noise_pred` are those of the step before, from which a preview can be predicted.
    """

    latents: torch.Tensor  # (1, C, H/f, W/f)
    prompt_embeds: torch.Tensor  # (1, L, D)
    negative_prompt_embeds: torch.Tensor | None  # (1, L, D); None: no guidance, one row instead of two
    guidance_scale: float
    scheduler: SchedulerMixin
    generator: torch.Generator  # on the CPU, so that a seed means the same picture on every device
    timesteps: torch.Tensor  # (num_timesteps,), on the CPU
    step_index: int = 0
    model_input: torch.Tensor | None = None  # (1, C, H/f, W/f)
    noise_pred: torch.Tensor | None = None  # (1, C, H/f, W/f)
    features: torch.Tensor | None = None  # (rows, F, H/f, W/f) of the last whole UNet call, only with `turbo`


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """`truncated` is the text beyond the encoder's 77 tokens, which has no effect."""

    prompt_embeds: torch.Tensor  # (1, L, D)
    negative_prompt_embeds: torch.Tensor | None  # (1, L, D)
    truncated: str


class Denoiser:
    """Runs the components of one stock pipeline; holds no picture's state itself.

    `fixed_rows` pads every UNet call to that many rows and decodes pictures one by one: kernels depend on the
    batch's size, so pixels are bit-identical whatever the company only if the size never changes. `make_room` frees
    device memory for good by taking the next memory profile (`Placement.fall_back`), and says whether it could.
    `turbo` runs the whole UNet at one step of three, and at the others reuses its deep features.
    """

    def __init__(
        self,
        pipeline: StableDiffusionPipeline,
        fixed_rows: int | None = None,
        make_room: Callable[[], bool] = lambda: False,
        unet_runner: UNetRunner | None = None,
        turbo: bool = False,
    ):
        self.device: torch.device = pipeline._execution_device  # asking takes milliseconds
        self._pipeline = pipeline
        self._fixed_rows = fixed_rows
        self._make_room = make_room
        self._unet_runner = unet_runner or UNetRunner(pipeline.unet)
        self._turbo = turbo
        self._last_step: tuple[torch.cuda.Event, Any] | None = None  # set when the device has done that step; which
        self._scheduler_config = dict(pipeline.scheduler.config)
        self._step_parameters = {
            scheduler_class: frozenset(inspect.signature(scheduler_class.step).parameters)
            for scheduler_class, _ in SCHEDULER_TABLE.values()
        }
        self._embed = functools.lru_cache(maxsize=KEPT_EMBEDS)(self._embed_anew)
        self._schedulers = functools.lru_cache(maxsize=32)(self._make_scheduler)

    @property
    def latent_channels(self) -> int:
        return self._pipeline.unet.config.in_channels

    @property
    def vae_scale_factor(self) -> int:
        return self._pipeline.vae_scale_factor

    def num_timesteps(self, request: GenerationRequest) -> int:
        """How many UNet calls one picture of `request` takes: PNDM n + 1, Heun 2n - 1, most others n."""
        return len(self._schedulers(request.scheduler, request.num_inference_steps).timesteps)

    @torch.inference_mode()
    def encode_prompt(self, request: GenerationRequest) -> EncodedPrompt:
        """Embeds prompt and negative prompt, each in a call of its own as the plain pipeline does.

        Those of the last prompts are kept: visitors come back to theirs, and most negative prompts are empty.
        """
        prompt_embeds, truncated = self._embed(request.prompt)
        if request.guidance_scale <= 1.0:
            return EncodedPrompt(prompt_embeds, None, truncated)
        return EncodedPrompt(prompt_embeds, self._embed(request.negative_prompt)[0], truncated)

    @torch.inference_mode()
    def prepare_latents(self, request: GenerationRequest, seed: int, encoded: EncodedPrompt) -> DenoisingState:
        """The state of one picture before its first step: noise of `seed`, drawn on the CPU."""
        scheduler = self._scheduled(request)
        factor = self.vae_scale_factor
        shape = (1, self.latent_channels, request.height // factor, request.width // factor)
        generator = torch.Generator("cpu").manual_seed(seed)
        noise = randn_tensor(shape, generator=generator, device=self.device, dtype=encoded.prompt_embeds.dtype)
        return DenoisingState(
            latents=noise * scheduler.init_noise_sigma,
            prompt_embeds=encoded.prompt_embeds,
            negative_prompt_embeds=encoded.negative_prompt_embeds,
            guidance_scale=request.guidance_scale,
            scheduler=scheduler,
            generator=generator,
            timesteps=scheduler.timesteps,
        )

    @torch.inference_mode()
    def denoise_step(self, states: list[DenoisingState]) -> list[Exception | None]:
        """One step for each of `states`, which agree in size and in whether they have guidance.

        If the UNet call raises, no state has changed and the same step can be run again. An error in one
        picture's own noise scheduler is returned in its place; the others have advanced.
        """
        has_guidance = states[0].negative_prompt_embeds is not None
        timesteps = [state.timesteps[state.step_index] for state in states]
        model_inputs = [
            state.scheduler.scale_model_input(state.latents, t) for state, t in zip(states, timesteps, strict=True)
        ]
        noise_preds = self._predict_noise(states, model_inputs, timesteps)  # for each state (rows, C, H/f, W/f)

        errors: list[Exception | None] = []
        for state, t, model_input, noise_pred in zip(states, timesteps, model_inputs, noise_preds, strict=True):
            if has_guidance:
                noise_pred_uncond, noise_pred_text = noise_pred.chunk(2)
                noise_pred = noise_pred_uncond + state.guidance_scale * (noise_pred_text - noise_pred_uncond)
            try:
                state.latents = state.scheduler.step(
                    noise_pred, t, state.latents, **self._extra_step_kwargs(state), return_dict=False
                )[0]
            except Exception as error:
                errors.append(error)
                continue
            state.step_index += 1
            state.model_input, state.noise_pred = model_input, noise_pred
            errors.append(None)
        return errors

    @torch.inference_mode()
    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """(B, C, H/f, W/f) latents to (B, 3, H, W) pictures, about -1 to 1, not clamped, not screened.

        Where that runs out of memory, the pictures are decoded one by one from then on, and then in less and less
        room. A picture that comes out as no number (float16 ends at 65504) is decoded once more in float32.
        """
        if self._fixed_rows and len(latents) > 1:
            return torch.cat([self.decode_latents(one) for one in latents.split(1)])
        vae = self._pipeline.vae
        latents = latents.to(device=self.device, dtype=vae.dtype) / vae.config.scaling_factor
        images = self._in_room(lambda: vae.decode(latents, return_dict=False)[0], vae.enable_slicing)
        broken = ~torch.isfinite(images).flatten(1).all(dim=1)  # (B,)
        if bool(broken.any()) and vae.dtype != torch.float32:
            dtype = vae.dtype
            logger.warning(
                "%d pictures were no numbers in %s and are decoded again in float32", int(broken.sum()), dtype
            )
            try:
                vae.to(torch.float32)
                again = latents[broken].float()
                images = images.float()
                images[broken] = self._in_room(lambda: vae.decode(again, return_dict=False)[0], vae.enable_slicing)
            finally:
                vae.to(dtype)
        return images

    @torch.inference_mode()
    def predicted_latents(self, state: DenoisingState) -> torch.Tensor:
        """The picture that the last step was heading for, (1, C, H/f, W/f): noise estimated and taken away.

        Works for every scheduler, because what the UNet is fed is always the variance-preserving sample
        sqrt(a) x0 + sqrt(1 - a) noise, with a = alphas_cumprod[t] (Ho et al. 2020).
        """
        if state.noise_pred is None:
            return torch.zeros_like(state.latents)
        t = int(state.timesteps[state.step_index - 1])
        alpha_cumprod = float(state.scheduler.alphas_cumprod[t])
        alpha, sigma = alpha_cumprod**0.5, (1 - alpha_cumprod) ** 0.5
        if state.scheduler.config.prediction_type == "sample":
            return state.noise_pred
        if state.scheduler.config.prediction_type == "v_prediction":
            return alpha * state.model_input - sigma * state.noise_pred
        return (state.model_input - sigma * state.noise_pred) / alpha

    def synchronize(self) -> None:
        """Waits until the device has done what it was given, so that a measured time is a true one."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            self._last_step = None

    def keep_pace(self, step: Step) -> Step | None:
        """Waits for the step before `step`, so that the device is never without work and a cancel is never late.

        Returns which step has just ended, if one has: the time since the last call of this is what it took.
        """
        if self.device.type != "cuda":
            return step
        before, self._last_step = self._last_step, (torch.cuda.Event(), step)
        self._last_step[0].record()
        if before is None:
            return None
        before[0].synchronize()
        return before[1]

    def make_room(self) -> bool:
        """Takes the next memory profile after an out-of-memory error; False where there is none."""
        self.free_memory()
        return self._make_room()

    def _in_room(self, call: Callable[[], torch.Tensor], first: Callable[[], None] | None = None) -> torch.Tensor:
        """The result of `call`, which is run again after `first`, and then on each profile, while memory runs out."""
        while True:
            try:
                return call()
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                failure = error.with_traceback(None)  # which holds what the failed call held
            if first is not None:
                first()
                first = None
                self.free_memory()
            elif not self.make_room():
                raise failure

    def free_memory(self) -> None:
        """Gives cached device memory back after an out-of-memory error."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _predict_noise(
        self, states: list[DenoisingState], samples: list[torch.Tensor], timesteps: list[torch.Tensor]
    ) -> list[torch.Tensor]:
        """The noise in each of `samples`: (2, C, H/f, W/f), without and with its prompt; one row without guidance."""
        if not self._turbo:
            return self._apart(self._unet_runner.predict(*self._joined(states, samples, timesteps)), states)
        noise_preds: dict[int, torch.Tensor] = {}
        for is_whole in (True, False):
            chosen = [k for k, state in enumerate(states) if (state.step_index % TURBO_EVERY == 0) is is_whole]
            if not chosen:
                continue
            part = [states[k] for k in chosen]
            joined = self._joined(part, [samples[k] for k in chosen], [timesteps[k] for k in chosen])
            if is_whole:
                noise_pred, features = self._unet_runner.predict_with_features(*joined)
                for state, kept in zip(part, self._apart(features, part), strict=True):
                    state.features = kept
            else:
                features = torch.stack([state.features for state in part], dim=1).flatten(0, 1)
                noise_pred = self._unet_runner.predict_from_features(*joined, self._padded(features))
            noise_preds |= zip(chosen, self._apart(noise_pred, part), strict=True)
        return [noise_preds[k] for k in range(len(states))]

    def _joined(
        self, states: list[DenoisingState], samples: list[torch.Tensor], timesteps: list[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What the UNet is fed: [uncond of all, text of all], the order of the plain pipeline, and then padding."""
        embeds = [state.prompt_embeds for state in states]
        if states[0].negative_prompt_embeds is not None:
            embeds = [state.negative_prompt_embeds for state in states] + embeds
            samples, timesteps = samples * 2, timesteps * 2
        # Without waiting for the device, which is still at the step before.
        row_timesteps = self._padded(torch.stack(timesteps).float()).to(self.device, non_blocking=True)  # (rows,)
        return self._padded(torch.cat(samples)), row_timesteps, self._padded(torch.cat(embeds))

    def _padded(self, rows: torch.Tensor) -> torch.Tensor:
        missing = (self._fixed_rows or 0) - len(rows)
        return torch.cat([rows, rows[-1:].expand(missing, *rows.shape[1:])]) if missing > 0 else rows

    def _apart(self, rows: torch.Tensor, states: list[DenoisingState]) -> list[torch.Tensor]:
        """Each picture's rows of what the UNet gave for `_joined`."""
        number = len(states)
        used = number * (1 if states[0].negative_prompt_embeds is None else 2)
        return [rows[k:used:number] for k in range(number)]

    def _embed_anew(self, text: str) -> tuple[torch.Tensor, str]:
        """(1, L, D) embeddings of `text`, and its part that did not fit into the encoder's tokens."""
        tokenizer, text_encoder = self._pipeline.tokenizer, self._pipeline.text_encoder
        max_length = tokenizer.model_max_length
        ids = tokenizer(text, padding="max_length", max_length=max_length, truncation=True, return_tensors="pt")
        embeds = self._in_room(lambda: text_encoder(ids.input_ids.to(self.device), attention_mask=None)[0])
        all_ids = tokenizer(text).input_ids
        truncated = tokenizer.decode(all_ids[max_length - 1 : -1]).strip() if len(all_ids) > max_length else ""
        return embeds.to(dtype=text_encoder.dtype, device=self.device), truncated

    def _scheduled(self, request: GenerationRequest) -> SchedulerMixin:
        """A noise scheduler before its first step; a copy, because computing some schedules takes milliseconds."""
        return copy.deepcopy(self._schedulers(request.scheduler, request.num_inference_steps))

    def _make_scheduler(self, name: str, num_inference_steps: int) -> SchedulerMixin:
        scheduler = make_scheduler(name, self._scheduler_config, num_inference_steps)
        # On the CPU, where schedulers index with timesteps: on the device each step would wait for it to catch up.
        scheduler.set_timesteps(num_inference_steps, device="cpu")
        return scheduler

    def _extra_step_kwargs(self, state: DenoisingState) -> dict[str, Any]:
        parameters = self._step_parameters[type(state.scheduler)]
        return {name: value for name, value in (("eta", 0.0), ("generator", state.generator)) if name in parameters}
