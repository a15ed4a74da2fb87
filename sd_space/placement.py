"""Where a pipeline's parts lie: puts them as a memory profile says, and a rung lower when that does not fit."""

import gc
import logging
from collections.abc import Sequence

import torch
from accelerate import cpu_offload, cpu_offload_with_hook
from diffusers import StableDiffusionPipeline

from sd_space.memory import Footprint, MemoryProfile, decode_bytes, step_bytes

logger = logging.getLogger(__name__)

RUNNING = ("text_encoder", "unet", "vae")  # in the order in which a picture meets them


def footprint_of(pipeline: StableDiffusionPipeline) -> Footprint:
    """What the parts will take on a device, from their parameters and their configuration."""
    sizes = {
        name: sum(tensor.numel() * tensor.element_size() for tensor in getattr(pipeline, name).state_dict().values())
        for name in (*RUNNING, "safety_checker")
    }
    unet, vae = pipeline.unet.config, pipeline.vae.config
    side, item_bytes = unet.sample_size, pipeline.unet.dtype.itemsize
    pixels = side * pipeline.vae_scale_factor
    return Footprint(
        **sizes,
        step=step_bytes(unet.block_out_channels[0], side, side, item_bytes),
        decode=decode_bytes(vae.block_out_channels[0], pixels, pixels, item_bytes),
    )


class Placement:
    """A pipeline on its device, in the first profile of `ladder` that fits. Owned by the thread that runs it."""

    def __init__(self, pipeline: StableDiffusionPipeline, device: str, ladder: Sequence[MemoryProfile]):
        self._pipeline = pipeline
        self._device = device
        self._ladder = list(ladder)
        if not self._try() and not self.lower():
            raise torch.OutOfMemoryError(f"{self.profile.name} does not fit")

    @property
    def profile(self) -> MemoryProfile:
        return self._ladder[0]

    def lower(self) -> bool:
        """Goes down to the next profile that fits; `False` when this was the last, which then stays."""
        while len(self._ladder) > 1:
            del self._ladder[0]
            if self._try():
                logger.warning("out of memory; from now on: %s", self.profile.name)
                return True
        return False

    def _try(self) -> bool:
        try:
            self._apply(self.profile)
        except torch.OutOfMemoryError:
            pass  # leaving this block lets go of what the failed call held
        else:
            return True
        self._move("cpu", RUNNING)
        self._free()
        return False

    def _apply(self, profile: MemoryProfile) -> None:
        pipeline = self._pipeline
        pipeline.remove_all_hooks()
        if profile.attention_slicing:
            # One head at a time: two halves ("auto") would need more memory than the fused attention they replace.
            pipeline.enable_attention_slicing("max")
        if profile.vae_slicing:
            pipeline.vae.enable_slicing()
        if profile.vae_tiling:
            tile_decode(pipeline.vae)
        if profile.checker_on_cpu or profile.offload != "none":
            self._move("cpu", ("safety_checker",))
        else:
            self._move(self._device, ("safety_checker",))
        if profile.offload == "none":
            self._move(self._device, RUNNING)
            return
        self._move("cpu", RUNNING)
        self._free()
        if profile.offload == "model":  # each evicts the one before it
            hook = None
            for name in RUNNING:
                _, hook = cpu_offload_with_hook(getattr(pipeline, name), self._device, prev_module_hook=hook)
        else:
            for name in ("text_encoder", "unet"):
                cpu_offload(getattr(pipeline, name), torch.device(self._device))
            self._move(self._device, ("vae",))  # small, and it must be able to change its dtype

    def _move(self, device: str, names: Sequence[str]) -> None:
        for name in names:
            getattr(self._pipeline, name).to(device)

    def _free(self) -> None:
        gc.collect()
        if self._device == "cuda":
            torch.cuda.empty_cache()


def tile_decode(vae: torch.nn.Module) -> None:
    """Decodes in tiles of half the model's own size a side; diffusers' own tiles would begin above it."""
    vae.enable_tiling()
    levels = len(vae.config.block_out_channels) - 1
    vae.tile_sample_min_size = vae.config.sample_size // 2
    vae.tile_latent_min_size = vae.tile_sample_min_size >> levels
