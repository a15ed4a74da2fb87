"""The UNet and the VAE's decoder in JAX, on all of its devices (`SD_SPACE_RUNTIME`); the package is not required."""

import jax
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from torch import nn

from sd_space.cache_folder import private_folder
from sd_space.model.jax_network import JaxNetwork
from sd_space.model.tensor_unet import TensorUNet

CACHE_BYTES = 2**30


class JaxUNet:
    """Is called like the UNet that it was made from."""

    def __init__(self, unet: UNet2DConditionModel, dtype: torch.dtype):
        self._dtype, self._tokens_shape = dtype, (77, unet.config.cross_attention_dim)
        self._channels = unet.config.in_channels
        with torch.device("meta"):
            network = TensorUNet(UNet2DConditionModel.from_config(unet.config)).to(dtype).eval()
        # Two rows a device: one picture, without and with its prompt.
        self._network = JaxNetwork(network, TensorUNet(unet).state_dict(), rows=2)

    def __call__(
        self,
        sample: torch.Tensor,
        timesteps: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        return_dict: bool = False,
    ) -> tuple[torch.Tensor]:
        """(R, C, h, w), (R,) and (R, L, D) to the predicted noise, (R, C, h, w)."""
        dtype = self._dtype
        return (self._network(sample.to(dtype), timesteps.float(), encoder_hidden_states.to(dtype)),)

    def compile(self, height: int, width: int) -> None:
        """For latents of that size."""
        sample = torch.empty(1, self._channels, height, width, dtype=self._dtype)
        self._network.compile((sample, torch.empty(1), torch.empty(1, *self._tokens_shape, dtype=self._dtype)))


class JaxDecoder:
    """Decodes as the VAE that it was made from."""

    def __init__(self, vae: AutoencoderKL, dtype: torch.dtype):
        self._dtype, self._channels = dtype, vae.config.latent_channels
        with torch.device("meta"):
            network = _decoder_of(AutoencoderKL.from_config(vae.config)).to(dtype).eval()
        self._network = JaxNetwork(network, _decoder_of(vae).state_dict(), rows=1)

    def __call__(self, latents: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) to (B, 3, H, W)."""
        return self._network(latents.to(self._dtype))

    def compile(self, height: int, width: int) -> None:
        """For latents of that size."""
        self._network.compile((torch.empty(1, self._channels, height, width, dtype=self._dtype),))


class JaxModel:
    """Both of one pipeline, compiled for each size (in pixels) once; what a start compiles is kept for the next one."""

    def __init__(self, pipeline: StableDiffusionPipeline, dtype: str):
        _keep_compiled()
        self._factor: int = pipeline.vae_scale_factor
        self.unet = JaxUNet(pipeline.unet, getattr(torch, dtype))
        self.decode = JaxDecoder(pipeline.vae, getattr(torch, dtype))
        self.num_devices: int = jax.device_count()
        self._sizes: set[tuple[int, int]] = set()

    def is_compiled(self, height: int, width: int) -> bool:
        return (height, width) in self._sizes

    def compile(self, height: int, width: int) -> None:
        """Takes seconds to minutes. Raises CannotRun."""
        for network in (self.unet, self.decode):
            network.compile(height // self._factor, width // self._factor)
        self._sizes.add((height, width))


def _decoder_of(vae: AutoencoderKL) -> nn.Module:
    return nn.Sequential(vae.post_quant_conv, vae.decoder)


def _keep_compiled() -> None:
    """JAX runs what it finds there: only a folder that nobody else can write to will do."""
    if folder := private_folder("jax"):
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_compilation_cache_max_size", CACHE_BYTES)
