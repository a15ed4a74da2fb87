"""The UNet compiled by OpenVINO, for CPUs (`SD_SPACE_RUNTIME`); the package is not among the requirements."""

import contextlib
import functools
import hashlib
import json
import sys
import warnings
from collections.abc import Callable
from typing import Any

import diffusers
import torch
from diffusers import UNet2DConditionModel

from sd_space.model.compiled_models import MAX_BYTES, read_compiled, store_compiled
from sd_space.model.tensor_unet import TensorUNet

KERNELS = 512  # kept for shapes that come again, in 0.1 GB; by OpenVINO's own limit they grow to 0.6 GB
TOLERANCE = 1e-3  # of the largest value; another order of float32 sums changes less than a hundredth of that


class OpenVinoUNet:
    """Is called like the UNet that it was compiled from, and gives the same noise but for the order of float32 sums.

    Compiling takes seconds, and is done once for a UNet, its versions and a CPU; the weights are in memory twice
    afterwards. Raises ModuleNotFoundError without the package openvino, and other errors where that cannot compile the
    UNet or gives other noise.
    """

    def __init__(self, unet: UNet2DConditionModel):
        # Without its module (`None` is Python's own sign for that) openvino does not report each conversion.
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
        import openvino

        core = _core()
        hints = {
            "INFERENCE_PRECISION_HINT": "f32",  # else CPUs that have AMX compute in bfloat16
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "CPU_RUNTIME_CACHE_CAPACITY": KERNELS,
        }
        key = _key(unet, openvino.__version__, core.get_property("CPU", "FULL_DEVICE_NAME"))
        if stored := read_compiled(key):
            with contextlib.suppress(Exception):  # of any type; then it is compiled again
                self._use(core.import_model(stored, "CPU", hints), unet)
                return
        compiled = core.compile_model(_converted(unet, openvino.convert_model), "CPU", hints)
        self._use(compiled, unet)
        if unet.get_memory_footprint() <= MAX_BYTES:
            store_compiled(key, compiled.export_model().getvalue())

    def _use(self, compiled: Any, unet: UNet2DConditionModel) -> None:
        """Raises ArithmeticError where it gives other noise than the UNet, for other shapes than the example's."""
        self._request = compiled.create_infer_request()
        side = 2**unet.num_upsamplers
        sample, timesteps, embeds = _tensors(unet, 3, side + 1, 2 * side)
        with torch.inference_mode():
            expected = unet(sample, timesteps, encoder_hidden_states=embeds, return_dict=False)[0]
            difference = (self(sample, timesteps, embeds)[0] - expected).abs().max()
        if not difference <= TOLERANCE * expected.abs().max():
            raise ArithmeticError("OpenVINO gives other noise than the UNet")

    def __call__(
        self,
        sample: torch.Tensor,
        timesteps: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        return_dict: bool = False,
    ) -> tuple[torch.Tensor]:
        """(R, C, h, w), (R,) and (R, L, D) to the predicted noise, (R, C, h, w)."""
        inputs = [tensor.contiguous().numpy() for tensor in (sample, timesteps, encoder_hidden_states)]
        return (torch.from_numpy(self._request.infer(inputs, share_inputs=True)[0]),)


@functools.cache
def _core() -> Any:
    """The one of this process, which never ends.

    Its CPU plugin gives the thread that loads it an alternate signal stack, and unmaps that with the last core: where
    another thread drops that one, the first thread's next signal kills the process without a message.
    """
    import openvino

    return openvino.Core()


def _converted(unet: UNet2DConditionModel, convert_model: Callable[..., Any]) -> Any:
    """For all sizes: for one that its layers do not divide evenly, the UNet passes on each layer's size."""
    side = unet.config.sample_size + 1
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of branches in Python that depend on shapes
        traced = torch.jit.trace(TensorUNet(unet), _tensors(unet, 2, side, side), check_trace=False)  # `_use` checks it
        return convert_model(traced)


def _tensors(unet: UNet2DConditionModel, rows: int, height: int, width: int) -> tuple[torch.Tensor, ...]:
    """`sample`, `timesteps` and `encoder_hidden_states` of those shapes."""
    noise = torch.Generator().manual_seed(0)
    sample = torch.randn(rows, unet.config.in_channels, height, width, generator=noise)
    return sample, torch.full((rows,), 500.0), torch.randn(rows, 77, unet.config.cross_attention_dim, generator=noise)


def _key(unet: UNet2DConditionModel, *circumstances: str) -> str:
    """Names all that a compiled model depends on."""
    versions = (*circumstances, torch.__version__, diffusers.__version__)
    digest = hashlib.sha256(json.dumps([*versions, dict(unet.config)], default=str, sort_keys=True).encode())
    for name, tensor in unet.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy())
    return digest.hexdigest()
