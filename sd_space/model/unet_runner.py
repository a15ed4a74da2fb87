"""How the UNet is called: as it is or recorded, and whole or from features of an earlier step.

Shapes: R rows, C latent channels, h x w latents, L tokens, D features, F' deep features.
"""

from collections.abc import Callable, Iterator

import torch
from diffusers import UNet2DConditionModel

from sd_space.model.compiled_calls import CompiledCalls
from sd_space.model.cuda_graphs import Call, Capture, CudaGraphCache, Tensors
from sd_space.model.deepcache import from_features, with_features
from sd_space.model.kernels import StoredKernels


class CannotRun(Exception):
    """What is to stand for the UNet cannot do what that does; the text says what is missing."""


class UNetRunner:
    """Calls one UNet, or what stands for it (`openvino_unet.py`, `jax_unet.py`).

    Every call takes `sample` (R, C, h, w), `timesteps` (R,) and `embeds` (R, L, D), and gives the predicted noise,
    (R, C, h, w).
    """

    def __init__(self, unet: UNet2DConditionModel):
        self._unet = unet
        self._graphs: CudaGraphCache | None = None
        self._compiled: CompiledCalls | None = None

    def record(self, make_capture: Callable[[], Capture] | None, stored: StoredKernels | None = None) -> None:
        """From now on records what is called often with equal shapes, and replays it; `None` stops that.

        Frees all earlier recordings and their memory. Must be called when the UNet has moved. Without `stored`,
        `improve` does nothing.
        """
        self._graphs = CudaGraphCache(make_capture, stored) if make_capture else None

    def compile(self, compiled: CompiledCalls | None) -> None:
        """From now on compiles what is called often, in the background; `None` stops that. As `record` for a move."""
        self._compiled = compiled

    def improve(self) -> Iterator[None]:
        """Lets what is recorded have the kernels that pay: steps of work for an idle device."""
        return self._graphs.improve() if self._graphs is not None else iter(())

    def predict(self, sample: torch.Tensor, timesteps: torch.Tensor, embeds: torch.Tensor) -> torch.Tensor:
        return self._run(self._plain, sample, timesteps, embeds)[0]

    def predict_with_features(
        self, sample: torch.Tensor, timesteps: torch.Tensor, embeds: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The predicted noise, and the deep features (R, F', h, w) for `predict_from_features` at a later step."""
        noise_pred, features = self._run(self._with_features, sample, timesteps, embeds)
        return noise_pred, features

    def predict_from_features(
        self, sample: torch.Tensor, timesteps: torch.Tensor, embeds: torch.Tensor, features: torch.Tensor
    ) -> torch.Tensor:
        """Runs the outermost layers of the UNet only. Exact where `features` are of the same step."""
        return self._run(self._from_features, sample, timesteps, embeds, features)[0]

    def _run(self, call: Call, *tensors: torch.Tensor) -> Tensors:
        if self._compiled is not None:
            call = self._compiled.of(call, *tensors)
        return call(*tensors) if self._graphs is None else self._graphs(call, *tensors)

    def _plain(self, sample: torch.Tensor, timesteps: torch.Tensor, embeds: torch.Tensor) -> Tensors:
        return self._unet(sample, timesteps, encoder_hidden_states=embeds, return_dict=False)

    def _with_features(self, sample: torch.Tensor, timesteps: torch.Tensor, embeds: torch.Tensor) -> Tensors:
        return with_features(self._unet, sample, timesteps, embeds)

    def _from_features(
        self, sample: torch.Tensor, timesteps: torch.Tensor, embeds: torch.Tensor, features: torch.Tensor
    ) -> Tensors:
        return from_features(self._unet, sample, timesteps, embeds, features)
