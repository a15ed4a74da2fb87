"""How a picture starts: from noise, or from a picture under noise, drawn and mixed as the stock pipelines do.

Those are StableDiffusionPipeline, StableDiffusionImg2ImgPipeline and, with a mask, StableDiffusionInpaintPipeline for a
UNet that is fed nothing but latents. Shapes: C latent channels, H x W pixels, f pixels per latent.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers import SchedulerMixin, StableDiffusionPipeline
from diffusers.image_processor import VaeImageProcessor
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from PIL import Image

from sd_space.engine.denoising_state import DenoisingState, KnownLatents
from sd_space.fields import SourcePicture
from sd_space.request import GenerationRequest


@dataclass(frozen=True, slots=True)
class ScreenedSource:
    """A picture to start from after the safety check: made only in `safety.py`, and all that is ever encoded."""

    image: Image.Image


@dataclass(frozen=True, slots=True, eq=False)
class EncodedSource:
    """A picture to start from, as the VAE sees it."""

    moments: torch.Tensor  # (1, 2C, H/f, W/f): mean and log variance of its latents
    scaling_factor: float
    mask: torch.Tensor | None  # (1, 1, H/f, W/f): 1 is drawn anew, 0 stays

    def sample(self, generator: torch.Generator) -> torch.Tensor:
        return self.scaling_factor * DiagonalGaussianDistribution(self.moments).sample(generator)

    def mode(self) -> torch.Tensor:
        """The likeliest of its latents."""
        return self.scaling_factor * DiagonalGaussianDistribution(self.moments).mode()


class SourceEncoder:
    """Encodes pictures with the VAE of a stock pipeline, prepared by its own processors."""

    def __init__(self, pipeline: StableDiffusionPipeline):
        self._vae = pipeline.vae
        self._image_processor = pipeline.image_processor
        self._mask_processor = VaeImageProcessor(
            pipeline.vae_scale_factor, do_normalize=False, do_binarize=True, do_convert_grayscale=True
        )

    def encode(
        self,
        screened: ScreenedSource,
        mask: SourcePicture | None,
        device: torch.device,
        retried: Callable[[Callable[[], torch.Tensor]], torch.Tensor],
    ) -> EncodedSource:
        """The picture's latents, and the mask in their size. `retried` makes the VAE's call."""
        vae, image = self._vae, self._image_processor.preprocess(screened.image)  # (1, 3, H, W), -1 to 1
        image = image.to(device=device, dtype=vae.dtype)
        moments = retried(lambda: vae.encode(image).latent_dist.parameters)
        latents_mask = None
        if mask is not None:
            pixels = self._mask_processor.preprocess(Image.frombytes("L", (mask.width, mask.height), mask.pixels))
            # Each latent is drawn anew as the pixel in its corner says.
            latents_mask = torch.nn.functional.interpolate(pixels, size=moments.shape[-2:])
            latents_mask = latents_mask.to(device=device, dtype=vae.dtype)
        return EncodedSource(moments, vae.config.scaling_factor, latents_mask)


@dataclass(frozen=True, slots=True, eq=False)
class Start:
    """Where a picture begins. `generator` has drawn what the stock pipeline draws before the first step."""

    latents: torch.Tensor  # (1, C, H/f, W/f)
    generator: torch.Generator
    known: KnownLatents | None


def start(
    request: GenerationRequest,
    seed: int,
    source: EncodedSource | None,
    draw: Callable[[torch.Generator], torch.Tensor],
    scheduler: SchedulerMixin,
    timesteps: torch.Tensor,
) -> Start:
    """The start of the picture with this seed and the request's `variation_seed`. `draw` draws noise."""
    generator = torch.Generator("cpu").manual_seed(seed)
    image_latents = source.sample(generator) if source else None
    noise = draw(generator)
    if request.variation_strength:
        other = torch.Generator("cpu").manual_seed(request.variation_seed)
        if source:
            draw(other)  # what a picture of that seed takes for its sample
        noise = slerp(noise, draw(other), request.variation_strength)
    if source is None or image_latents is None:
        return Start(noise * scheduler.init_noise_sigma, generator, None)
    if source.mask is None:
        return Start(_under_noise(image_latents, noise, scheduler, timesteps[:1]), generator, None)
    image_latents = image_latents.contiguous()  # as the stock pipeline's are: kernels depend on the layout in memory
    draw(generator)  # the stock pipeline encodes the masked picture too, for UNets that are fed it
    if request.strength == 1.0:
        latents = noise * scheduler.init_noise_sigma
    else:
        latents = _under_noise(image_latents, noise, scheduler, timesteps[:1])
    return Start(latents, generator, KnownLatents(image_latents, noise, source.mask))


def with_known_latents(drawn: torch.Tensor, state: DenoisingState, known: KnownLatents) -> torch.Tensor:
    """What the step of `state.step_index` has `drawn`, with the known latents where nothing is drawn anew."""
    latents, following = known.latents, state.timesteps[state.step_index + 1 :][:1]
    if len(following):
        latents = _under_noise(latents, known.noise, state.scheduler, following)
    return (1 - known.mask) * latents + known.mask * drawn


def _under_noise(
    latents: torch.Tensor, noise: torch.Tensor, scheduler: SchedulerMixin, timestep: torch.Tensor
) -> torch.Tensor:
    """The scheduler's `add_noise` with its two factors found on the CPU: on the device it waits for copies of them."""
    one = torch.ones(1, dtype=latents.dtype)
    kept, added = (scheduler.add_noise(*pair, timestep)[0] for pair in ((one, 0 * one), (0 * one, one)))
    return kept * latents + added * noise


def slerp(start: torch.Tensor, end: torch.Tensor, fraction: float) -> torch.Tensor:
    """The noise on the great circle from `start` to `end` (Shoemake 1985), which a straight line would weaken."""
    cosine = torch.nn.functional.cosine_similarity(start.flatten().double(), end.flatten().double(), dim=0)
    angle = torch.arccos(cosine.clamp(-1, 1))
    if angle.sin() < 1e-6:  # the two are one
        return start
    weights = torch.sin((1 - fraction) * angle) / angle.sin(), torch.sin(fraction * angle) / angle.sin()
    return (weights[0] * start.double() + weights[1] * end.double()).to(start.dtype)
