"""The UNet compiled by OpenVINO, for CPUs (`SD_SPACE_OPENVINO`); the package is not among the requirements."""

import sys
import warnings

import torch
from diffusers import UNet2DConditionModel
from torch import nn


class OpenVinoUNet:
    """Is called like the UNet that it was compiled from, and gives the same noise but for the order of float32 sums.

    Compiling takes seconds, and the weights are in memory twice afterwards. Raises ModuleNotFoundError without the
    package openvino.
    """

    def __init__(self, unet: UNet2DConditionModel):
        # Without its module (`None` is Python's own sign for that) openvino does not report each conversion.
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
        import openvino

        self._unet = unet
        self._multiple = 2**unet.num_upsamplers
        config, rows = unet.config, 2
        example = (
            torch.zeros(rows, config.in_channels, config.sample_size, config.sample_size),
            torch.zeros(rows),
            torch.zeros(rows, 77, config.cross_attention_dim),
        )
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of branches in Python that depend on shapes
            model = openvino.convert_model(_Plain(unet), example_input=example)
        hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        self._request = openvino.Core().compile_model(model, "CPU", hints).create_infer_request()

    def __call__(
        self,
        sample: torch.Tensor,
        timesteps: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        return_dict: bool = False,
    ) -> tuple[torch.Tensor]:
        """(R, C, h, w), (R,) and (R, L, D) to the predicted noise, (R, C, h, w)."""
        if any(side % self._multiple for side in sample.shape[-2:]):  # the UNet takes another branch there
            return self._unet(sample, timesteps, encoder_hidden_states=encoder_hidden_states, return_dict=False)
        inputs = [tensor.contiguous().numpy() for tensor in (sample, timesteps, encoder_hidden_states)]
        return (torch.from_numpy(self._request.infer(inputs, share_inputs=True)[0]),)


class _Plain(nn.Module):
    """The UNet with nothing but tensors going in and out."""

    def __init__(self, unet: UNet2DConditionModel):
        super().__init__()
        self._unet = unet

    def forward(self, sample: torch.Tensor, timesteps: torch.Tensor, embeds: torch.Tensor) -> torch.Tensor:
        return self._unet(sample, timesteps, encoder_hidden_states=embeds, return_dict=False)[0]
