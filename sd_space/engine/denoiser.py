"""The device's work, one step at a time: `StableDiffusionPipeline.__call__` taken apart between its steps.

The order and the arithmetic are those of diffusers' pipeline_stable_diffusion.py, so that one request alone comes out
bit-equal to a plain call with CPU generators, one per picture. What is different: every picture has its own noise
scheduler and its own timestep, so pictures at different steps share one UNet call.

Shapes: B pictures, C latent channels (4 in v1-4), H x W pixels, f pixels per latent (8 in v1-4).
"""

import functools
import threading
from collections.abc import Callable
from typing import TypeVar

import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils.torch_utils import randn_tensor

from sd_space.engine.denoising_state import DenoisingState, EncodedPrompt
from sd_space.engine.pacing import synchronize
from sd_space.engine.prompt_encoder import PromptEncoder
from sd_space.engine.schedules import NoiseSchedules, last_alpha_cumprod
from sd_space.engine.starts import EncodedSource, ScreenedSource, SourceEncoder, start, with_known_latents
from sd_space.fields import SourcePicture
from sd_space.model.unet_runner import UNetRunner
from sd_space.request import GenerationRequest
from sd_space.runtime_errors import is_out_of_memory

T = TypeVar("T")

TURBO_EVERY = 3  # steps, of which one runs the whole UNet


class Denoiser:
    """Runs the components of one stock pipeline; holds no picture's state itself.

    `fixed_rows` pads every UNet call to that many rows and decodes pictures one by one: kernels depend on the
    batch's size, so pixels do not depend on the other pictures in a call only if that size never changes.
    `reduce_memory` moves the pipeline to a memory profile that needs less, and returns whether there was one.
    `decode` stands for the VAE's decoder, where something does.
    `turbo` runs the whole UNet at one step of three, and at the others reuses its deep features.
    """

    def __init__(
        self,
        pipeline: StableDiffusionPipeline,
        fixed_rows: int | None = None,
        reduce_memory: Callable[[], bool] = lambda: False,
        unet_runner: UNetRunner | None = None,
        turbo: bool = False,
        decode: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ):
        self.device: torch.device = pipeline._execution_device  # asking takes milliseconds
        self.staying = threading.Lock()  # held by another thread that uses the VAE or the checker
        self._pipeline = pipeline
        self._fixed_rows = fixed_rows
        self._reduce_memory = reduce_memory
        self._unet_runner = unet_runner or UNetRunner(pipeline.unet)
        self._turbo = turbo
        self._decode = decode  # of another runtime; a method of this object would keep it alive
        self._schedules = NoiseSchedules(pipeline.scheduler.config)
        self._prompt_encoder = PromptEncoder(pipeline)
        self._source_encoder = SourceEncoder(pipeline)

    @property
    def latent_channels(self) -> int:
        return self._pipeline.unet.config.in_channels

    @property
    def vae_scale_factor(self) -> int:
        return self._pipeline.vae_scale_factor

    @property
    def may_overflow(self) -> bool:
        """Whether a decode has less range than float32."""
        return self._pipeline.vae.dtype != torch.float32

    @property
    def has_fixed_rows(self) -> bool:
        """Whether fewer pictures make a UNet call no smaller."""
        return self._fixed_rows is not None

    def num_timesteps(self, request: GenerationRequest) -> int:
        """How many UNet calls one picture of `request` takes."""
        return self._schedules.num_timesteps(request)

    @torch.inference_mode()
    def encode_prompt(self, request: GenerationRequest) -> EncodedPrompt:
        """Embeds what the request says in words."""
        return self._prompt_encoder.encode(request, self.device, self.retry_on_oom)

    @torch.inference_mode()
    def encode_source(self, screened: ScreenedSource, mask: SourcePicture | None) -> EncodedSource:
        """Encodes the picture that a request starts from."""
        return self._source_encoder.encode(screened, mask, self.device, self.retry_on_oom)

    @torch.inference_mode()
    def prepare_latents(
        self, request: GenerationRequest, seed: int, encoded: EncodedPrompt, source: EncodedSource | None = None
    ) -> DenoisingState:
        """The state of one picture before its first step: noise of `seed`, drawn on the CPU, and what lies under it."""
        scheduler, timesteps = self._schedules.start(request)
        factor = self.vae_scale_factor
        shape = (1, self.latent_channels, request.height // factor, request.width // factor)
        dtype = encoded.prompt_embeds.dtype
        # `non_blocking`: the device may still be at a step of others.
        on_device = functools.partial(torch.Tensor.to, device=self.device, non_blocking=True)

        def draw(generator: torch.Generator) -> torch.Tensor:
            return on_device(randn_tensor(shape, generator=generator, dtype=dtype))

        begun, device_timesteps = self.retry_on_oom(
            lambda: (start(request, seed, source, draw, scheduler, timesteps), on_device(timesteps.float()))
        )
        return DenoisingState(
            latents=begun.latents,
            prompt_embeds=encoded.prompt_embeds,
            negative_prompt_embeds=encoded.negative_prompt_embeds,
            guidance_scale=request.guidance_scale,
            scheduler=scheduler,
            generator=begun.generator,
            timesteps=timesteps,
            device_timesteps=device_timesteps,
            known=begun.known,
        )

    @torch.inference_mode()
    def denoise_step(self, states: list[DenoisingState]) -> list[Exception | None]:
        """One step for each of `states`, which agree in size and in whether they have guidance.

        If this raises, no state has changed and the same step can be run again. An error in one picture's own noise
        scheduler is returned in its place, and that picture has not changed; the others have advanced.
        """
        timesteps = [state.timesteps[state.step_index] for state in states]
        model_inputs = [
            state.scheduler.scale_model_input(state.latents, t) for state, t in zip(states, timesteps, strict=True)
        ]
        noise_preds = self._predict_noise(states, model_inputs)  # for each state (rows, C, H/f, W/f)
        noise_preds = [_guided(*pair) for pair in zip(noise_preds, states, strict=True)]
        return [self._advance(*each) for each in zip(states, timesteps, model_inputs, noise_preds, strict=True)]

    def _advance(
        self, state: DenoisingState, t: torch.Tensor, model_input: torch.Tensor, noise_pred: torch.Tensor
    ) -> Exception | None:
        """The noise scheduler's step. An error is returned, and leaves the scheduler and its noise as they were."""
        drawn = state.generator.get_state()
        kept = {
            name: list(value) if isinstance(value, list) else value for name, value in vars(state.scheduler).items()
        }
        try:
            extra = self._schedules.extra_step_kwargs(state.scheduler, state.generator)
            latents = state.scheduler.step(noise_pred, t, state.latents, **extra, return_dict=False)[0]
            if state.known is not None:
                latents = with_known_latents(latents, state, state.known)
        except Exception as error:
            vars(state.scheduler).update(kept)
            state.generator.set_state(drawn)
            return error
        state.latents, state.model_input, state.noise_pred = latents, model_input, noise_pred
        state.step_index += 1
        return None

    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """(B, C, H/f, W/f) latents to (B, 3, H, W) pictures, about -1 to 1, not clamped, not screened.

        When memory runs out, pictures are decoded one by one from then on, and if that is not enough, with the next
        memory profiles. Nothing says that the values are finite: float16 ends at 65504.
        """
        return self.retry_on_oom(lambda: self.decode_once(latents), self._pipeline.vae.enable_slicing)

    @torch.inference_mode()
    def decode_once(self, latents: torch.Tensor) -> torch.Tensor:
        """`decode_latents` that fails when memory runs out: for a thread that may not move what is in memory."""
        if self._fixed_rows and len(latents) > 1:
            return torch.cat([self.decode_once(one) for one in latents.split(1)])
        vae = self._pipeline.vae
        latents = latents.to(device=self.device, dtype=vae.dtype) / vae.config.scaling_factor
        return self._decode(latents) if self._decode else vae.decode(latents, return_dict=False)[0]

    def decode_in_float32(self, latents: torch.Tensor) -> torch.Tensor:
        """`decode_latents` by the VAE itself, which is in float32 meanwhile."""
        vae, decode = self._pipeline.vae, self._decode
        dtype = vae.dtype
        try:
            vae.to(torch.float32)
            self._decode = None
            return self.decode_latents(latents.float())
        finally:
            vae.to(dtype)
            self._decode = decode

    @torch.inference_mode()
    def predicted_latents(self, state: DenoisingState) -> torch.Tensor:
        """The latents that the last step predicts for the end, (1, C, H/f, W/f): those without the predicted noise.

        Works for every scheduler, because what the UNet is fed is always the variance-preserving sample
        sqrt(a) x0 + sqrt(1 - a) noise, with a = alphas_cumprod[t] (Ho et al. 2020).
        """
        if state.noise_pred is None:
            return torch.zeros_like(state.latents)
        alpha_cumprod = last_alpha_cumprod(state)
        alpha, sigma = alpha_cumprod**0.5, (1 - alpha_cumprod) ** 0.5
        if state.scheduler.config.prediction_type == "sample":
            return state.noise_pred
        if state.scheduler.config.prediction_type == "v_prediction":
            return alpha * state.model_input - sigma * state.noise_pred
        return (state.model_input - sigma * state.noise_pred) / alpha

    def synchronize(self) -> None:
        """Waits for this thread's work on the device, before a time is measured."""
        synchronize(self.device)

    def reduce_memory(self) -> bool:
        """Moves to the memory profile that needs less, after an out-of-memory error; False if there is none."""
        self.free_memory()
        with self.staying:
            return self._reduce_memory()

    def retry_on_oom(self, call: Callable[[], T], first: Callable[[], None] = lambda: None) -> T:
        """The result of `call`, run again while memory runs out: after `first`, then after each `reduce_memory`."""
        is_first = True
        while True:
            try:
                return call()
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                failure = error.with_traceback(None)  # which holds the failed call's tensors
            if is_first:
                is_first = False
                first()
                self.free_memory()
            elif not self.reduce_memory():
                raise failure

    def free_memory(self) -> None:
        """Gives cached device memory back after an out-of-memory error."""
        if self.device.type != "cpu":
            torch.get_device_module(self.device).empty_cache()

    def _predict_noise(self, states: list[DenoisingState], samples: list[torch.Tensor]) -> list[torch.Tensor]:
        """The noise in each of `samples`: (2, C, H/f, W/f), without and with the prompt; one row without guidance."""
        if not self._turbo:
            noise_pred = self._unet_runner.predict(*self._batch_inputs(states, samples))
            return self._split_outputs(noise_pred, states)
        noise_preds: dict[int, torch.Tensor] = {}
        for is_whole in (True, False):
            chosen = [k for k, state in enumerate(states) if (state.step_index % TURBO_EVERY == 0) is is_whole]
            if not chosen:
                continue
            part = [states[k] for k in chosen]
            inputs = self._batch_inputs(part, [samples[k] for k in chosen])
            if is_whole:
                noise_pred, features = self._unet_runner.predict_with_features(*inputs)
                for state, kept in zip(part, self._split_outputs(features, part), strict=True):
                    state.features = kept
            else:
                features = torch.stack([state.features for state in part], dim=1).flatten(0, 1)
                noise_pred = self._unet_runner.predict_from_features(*inputs, self._pad(features))
            noise_preds |= zip(chosen, self._split_outputs(noise_pred, part), strict=True)
        return [noise_preds[k] for k in range(len(states))]

    def _batch_inputs(
        self, states: list[DenoisingState], samples: list[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The UNet's inputs: the rows without prompt, then those with it, as in the stock pipeline, then padding."""
        embeds = [state.prompt_embeds for state in states]
        timesteps = [state.device_timesteps[state.step_index] for state in states]
        if states[0].negative_prompt_embeds is not None:
            embeds = [state.negative_prompt_embeds for state in states] + embeds
            samples, timesteps = samples * 2, timesteps * 2
        return self._pad(torch.cat(samples)), self._pad(torch.stack(timesteps)), self._pad(torch.cat(embeds))

    def _pad(self, rows: torch.Tensor) -> torch.Tensor:
        if not self._fixed_rows:
            return rows
        missing = max(0, self._fixed_rows - len(rows))
        # Encoded pictures lie in memory as the VAE's convolutions left them, and kernels depend on that too.
        return torch.cat([rows, rows[-1:].expand(missing, *rows.shape[1:])]).contiguous()

    def _split_outputs(self, rows: torch.Tensor, states: list[DenoisingState]) -> list[torch.Tensor]:
        """Each picture's rows of a UNet output: the inverse of `_batch_inputs`."""
        number = len(states)
        used = number * (1 if states[0].negative_prompt_embeds is None else 2)
        return [rows[k:used:number] for k in range(number)]


def _guided(noise_pred: torch.Tensor, state: DenoisingState) -> torch.Tensor:
    """(rows, C, H/f, W/f) predictions of one picture, without and with its prompt, as one: Ho and Salimans, 2022."""
    if state.negative_prompt_embeds is None:
        return noise_pred
    noise_pred_uncond, noise_pred_text = noise_pred.chunk(2)
    return noise_pred_uncond + state.guidance_scale * (noise_pred_text - noise_pred_uncond)
