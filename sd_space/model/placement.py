"""Moves a pipeline's parts to their devices for a memory profile, and falls back to the next one on OOM."""

import gc
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from accelerate import cpu_offload, cpu_offload_with_hook
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker

from sd_space.model.compiled_calls import CompiledCalls
from sd_space.model.cuda_graphs import cuda_graph_capture
from sd_space.model.kernels import StoredKernels
from sd_space.model.memory import Footprint, MemoryProfile, decode_bytes, step_bytes
from sd_space.model.unet_runner import UNetRunner
from sd_space.model.wide_upsampling import widen_upsampling
from sd_space.runtime_errors import is_out_of_memory

if TYPE_CHECKING:
    from sd_space.model.jax_unet import JaxModel

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
    """A pipeline on its device, in the first of `profiles` that fits. Used by one thread only.

    `unet_runner` calls the pipeline's UNet, in every profile; with `compiles`, compiled where all of it is in memory.
    `jax` is set where the model runs in JAX.
    """

    def __init__(
        self, pipeline: StableDiffusionPipeline, device: str, profiles: Sequence[MemoryProfile], compiles: bool = False
    ):
        self.unet_runner = UNetRunner(pipeline.unet)
        self.jax: JaxModel | None = None
        self._pipeline = pipeline
        self._device = device
        self._compiles = compiles
        self._profiles = list(profiles)
        if not self._try() and not self.fall_back():
            raise torch.OutOfMemoryError(f"{self.profile.name} does not fit")

    @property
    def profile(self) -> MemoryProfile:
        return self._profiles[0]

    def fall_back(self) -> bool:
        """Takes the next profile that fits. False when there is none; the last one then stays."""
        with torch.inference_mode(False):  # tensors that are made in inference mode cannot be used outside of it
            while len(self._profiles) > 1:
                del self._profiles[0]
                if self._try():
                    logger.warning("out of memory; from now on: %s", self.profile.name)
                    return True
        return False

    def _try(self) -> bool:
        try:
            self._apply(self.profile)
            return True
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        # Only here, after the except block, is the memory of the failed call free.
        self._pipeline.remove_all_hooks()
        self._move("cpu", RUNNING)
        self._free()
        return False

    def _apply(self, profile: MemoryProfile) -> None:
        pipeline = self._pipeline
        pipeline.remove_all_hooks()
        self.unet_runner.record(None)
        self.unet_runner.compile(CompiledCalls() if self._compiles and profile.offload == "none" else None)
        unfuse_qkv(pipeline.unet)
        _order_weights(pipeline, torch.contiguous_format)
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
            if profile.recorded_steps and self._device == "cuda":
                self._speed_up()
            return
        self._move("cpu", RUNNING)
        self._free()
        device = _indexed(self._device)
        if profile.offload == "model":  # each moves the one before it back to the CPU
            hook = None
            for name in RUNNING:
                _, hook = cpu_offload_with_hook(getattr(pipeline, name), device, prev_module_hook=hook)
        else:
            for name in ("text_encoder", "unet"):
                cpu_offload(getattr(pipeline, name), device)
            self._move(self._device, ("vae",))  # small, and it must be able to change its dtype

    def _speed_up(self) -> None:
        """Makes steps faster on CUDA: weights in the order of its matrix units, fused projections, recorded calls."""
        _order_weights(self._pipeline, torch.channels_last)
        widen_upsampling(self._pipeline.unet)
        # Where PyTorch prefers cuDNN's attention (H100, H200) it makes a plan for each shape: seconds at each new size.
        torch.backends.cuda.enable_cudnn_sdp(False)
        if not self.profile.attention_slicing:  # whose attention processor calls each projection by itself
            fuse_qkv(self._pipeline.unet)
        self.unet_runner.record(cuda_graph_capture, StoredKernels(_circumstances(self._pipeline.unet)))

    def _move(self, device: str, names: Sequence[str]) -> None:
        for name in names:
            getattr(self._pipeline, name).to(device)
        if "safety_checker" in names:
            _keep_thresholds_on_cpu(self._pipeline.safety_checker)

    def _free(self) -> None:
        gc.collect()
        if self._device != "cpu":
            torch.get_device_module(self._device).empty_cache()


def _circumstances(unet: UNet2DConditionModel) -> str:
    """Names all but the shape that the speed of kernels depends on."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else unet.device
    network = (*unet.config.block_out_channels, unet.config.layers_per_block, unet.dtype)
    return "; ".join(map(str, (device, torch.__version__, torch.version.cuda, *network)))


def _indexed(device: str) -> torch.device:
    """With its number, as tensors name it: accelerate compares the two, and would move a UNet again at every call."""
    return torch.device(device) if device == "cpu" else torch.device(device, torch.accelerator.current_device_index())


def _keep_thresholds_on_cpu(checker: StableDiffusionSafetyChecker) -> None:
    """The checker reads them one by one, and each time would wait for the device."""
    for name in ("concept_embeds_weights", "special_care_embeds_weights"):
        setattr(checker, name, torch.nn.Parameter(getattr(checker, name).cpu(), requires_grad=False))


def _order_weights(pipeline: StableDiffusionPipeline, memory_format: torch.memory_format) -> None:
    for network in (pipeline.unet, pipeline.vae):
        network.to(memory_format=memory_format)


def fuse_qkv(unet: UNet2DConditionModel) -> None:
    """Uses one matrix for query, key and value (`fuse_qkv_projections`), and makes the three old ones views of it.

    diffusers alone would keep both in memory. Sums may be rounded in another order.
    """
    unet.fuse_qkv_projections()
    for attention in _attentions(unet):
        parts = [attention.to_k, attention.to_v]
        joined = attention.to_kv if attention.is_cross_attention else attention.to_qkv
        if not attention.is_cross_attention:
            parts.insert(0, attention.to_q)
        for part, rows in zip(parts, joined.weight.data.chunk(len(parts)), strict=True):
            part.weight.data = rows


def unfuse_qkv(unet: UNet2DConditionModel) -> None:
    """Undoes `fuse_qkv`; does nothing where it was not called."""
    joined = [attention for attention in _attentions(unet) if attention.fused_projections]
    if joined:
        unet.unfuse_qkv_projections()
    for attention in joined:
        delattr(attention, "to_kv" if attention.is_cross_attention else "to_qkv")
        attention.fused_projections = False


def _attentions(unet: UNet2DConditionModel) -> list[Attention]:
    return [module for module in unet.modules() if isinstance(module, Attention)]


def tile_decode(vae: torch.nn.Module) -> None:
    """Decodes in tiles with half of the model's own sides; diffusers would tile only what is larger than those."""
    vae.enable_tiling()
    levels = len(vae.config.block_out_channels) - 1
    vae.tile_sample_min_size = vae.config.sample_size // 2
    vae.tile_latent_min_size = vae.tile_sample_min_size >> levels
