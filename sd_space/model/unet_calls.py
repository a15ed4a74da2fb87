"""The ways of calling the UNet: as it is, recorded as CUDA graphs, and from features of an earlier step (`TURBO`).

Shapes: R rows, C latent channels, h x w latents, L tokens, D features, F channels of the UNet's first level.
"""

import contextlib
import logging
from collections import Counter, OrderedDict
from collections.abc import Callable

import torch
from diffusers import UNet2DConditionModel

logger = logging.getLogger(__name__)

RECORD_AT = 3  # the call of a shape that is recorded; those before let the libraries choose and prepare their kernels
MOST_RECORDED = 16  # shapes; each takes memory of the driver's beside that which all share (`memory.py`)
RECORD_AGAIN_AFTER = 50  # further calls of a shape whose recording was let go: to record one takes longer than a call

Tensors = tuple[torch.Tensor, ...]
Capture = Callable[[Callable[[], Tensors]], tuple[Callable[[], object], Tensors]]


class UNetCalls:
    """Calls one UNet, or what stands for it (`openvino_unet.py`).

    Every call takes `sample` (R, C, h, w), `timesteps` (R,) and `embeds` (R, L, D), and gives the predicted noise,
    (R, C, h, w).
    """

    def __init__(self, unet: UNet2DConditionModel):
        self._unet = unet
        self._recorded: dict[Callable[..., Tensors], Recorded] = {}

    def record(self, capture: Capture | None) -> None:
        """From now on replays what is called often with equal shapes; `None` calls it as it is.

        Lets go of all earlier recordings and of their memory, so it is to be called when the UNet was moved.
        """
        calls = (self._plain, self._with_features, self._from_features)
        self._recorded = {call: Recorded(call, capture, lambda: self.record(None)) for call in calls} if capture else {}

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
        """Runs three layers of the UNet's first level only: its deep features change little from step to step.

        Ma et al. 2023, DeepCache. Exact where `features` are of the same step.
        """
        return self._run(self._from_features, sample, timesteps, embeds, features)[0]

    def _run(self, call: Callable[..., Tensors], *tensors: torch.Tensor) -> Tensors:
        return self._recorded.get(call, call)(*tensors)

    def _plain(self, sample: torch.Tensor, timesteps: torch.Tensor, embeds: torch.Tensor) -> Tensors:
        return self._unet(sample, timesteps, encoder_hidden_states=embeds, return_dict=False)

    def _with_features(self, sample: torch.Tensor, timesteps: torch.Tensor, embeds: torch.Tensor) -> Tensors:
        features: list[torch.Tensor] = []
        skipped = self._unet.conv_in.out_channels  # joined to the features, from the way down

        def keep(module: torch.nn.Module, args: Tensors) -> None:
            features.append(args[0][:, :-skipped].clone())

        hook = self._unet.up_blocks[-1].resnets[-2].register_forward_pre_hook(keep)
        try:
            (noise_pred,) = self._plain(sample, timesteps, embeds)
        finally:
            hook.remove()
        return noise_pred, features[0]

    def _from_features(
        self, sample: torch.Tensor, timesteps: torch.Tensor, embeds: torch.Tensor, features: torch.Tensor
    ) -> Tensors:
        """UNet2DConditionModel.forward (diffusers, unet_2d_condition.py) without what lies between."""
        unet = self._unet
        if hasattr(unet, "_hf_hook"):  # accelerate's, on `forward`: brings the UNet to the device when it was offloaded
            unet._hf_hook.pre_forward(unet)
        emb = unet.time_embedding(unet.get_time_embed(sample=sample, timestep=timesteps))
        down, up = unet.down_blocks[0], unet.up_blocks[-1]

        def layer(block: torch.nn.Module, index: int, hidden: torch.Tensor) -> torch.Tensor:
            hidden = block.resnets[index](hidden, emb)
            if getattr(block, "attentions", None) is None:
                return hidden
            return block.attentions[index](hidden, encoder_hidden_states=embeds, return_dict=False)[0]

        first = unet.conv_in(sample)
        hidden = layer(up, -2, torch.cat([features, layer(down, 0, first)], dim=1))
        hidden = layer(up, -1, torch.cat([hidden, first], dim=1))
        return (unet.conv_out(unet.conv_act(unet.conv_norm_out(hidden))),)


class Recorded:
    """A function of tensors that is replayed, once a shape was seen `RECORD_AT` times: same kernels, one launch.

    Recordings read their inputs from the same place each time, and write their outputs to one. When one fails, the
    others are let go, `give_up` is called, and from then on calls are made as they are.
    """

    def __init__(self, call: Callable[..., Tensors], capture: Capture, give_up: Callable[[], None] = lambda: None):
        self._call = call
        self._capture = capture
        self._give_up = give_up
        self._seen: Counter[tuple] = Counter()
        self._replays: OrderedDict[tuple, tuple[Tensors, Callable[[], object], Tensors]] = OrderedDict()

    def __call__(self, *tensors: torch.Tensor) -> Tensors:
        key = tuple(tensor.shape for tensor in tensors)
        if key not in self._replays:
            self._seen[key] += 1
            if self._seen[key] != RECORD_AT or not self._record(key, tensors):
                return self._call(*tensors)
        self._replays.move_to_end(key)
        inputs, replay, outputs = self._replays[key]
        for place, tensor in zip(inputs, tensors, strict=True):
            place.copy_(tensor)
        replay()
        return tuple(output.clone() for output in outputs)

    def _record(self, key: tuple, tensors: Tensors) -> bool:
        inputs = tuple(tensor.clone() for tensor in tensors)
        try:
            replay, outputs = self._capture(lambda: self._call(*inputs))
        except Exception as error:  # whatever it is, the call as it is will tell whether the device is lost
            kind = type(error).__name__
            logger.warning("a UNet call could not be recorded (%s); from now on they are made as they are", kind)
            self._replays.clear()  # what a failed recording took stays in the pool while it has any graph
            self._give_up()
            return False
        if len(self._replays) == MOST_RECORDED:
            oldest, _ = self._replays.popitem(last=False)
            self._seen[oldest] = RECORD_AT - RECORD_AGAIN_AFTER
        self._replays[key] = inputs, replay, outputs
        return True


def cuda_graphs() -> Capture:
    """Records calls as CUDA graphs, which share one pool of memory because they never run at the same time."""
    pool, stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream()

    def capture(call: Callable[[], Tensors]) -> tuple[Callable[[], object], Tensors]:
        graph, caller = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:  # other threads may use the device meanwhile
            with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
                outputs = call()
        except Exception:  # torch leaves its stream and its pool in use where not even the capture's end succeeded
            torch.cuda.set_stream(caller)
            with contextlib.suppress(RuntimeError):
                torch._C._cuda_endAllocateToPool(caller.device_index, pool)
            raise
        return graph.replay, outputs

    return capture
