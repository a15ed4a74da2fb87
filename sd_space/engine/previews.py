"""Previews of pictures under way: begun at one report and handed out at the next, so that no step waits for a copy."""

import torch

from sd_space.engine.denoiser import Denoiser
from sd_space.engine.denoising_state import DenoisingState, PendingMosaic
from sd_space.engine.pacing import cuda_event
from sd_space.engine.safety import SafetyScreen, mosaic_of
from sd_space.runtime_errors import is_out_of_memory
from sd_space.schema import Preview


class Previews:
    """Makes the previews of one engine. A picture has none before its first step."""

    def __init__(self, denoiser: Denoiser, screen: SafetyScreen):
        self._denoiser = denoiser
        self._screen = screen

    def latest(self, state: DenoisingState | None) -> Preview | None:
        """What is ready of `state`: its last step, or on CUDA that of the last report."""
        if state is None or state.noise_pred is None:
            return None
        try:
            mosaic = mosaic_of(self._denoiser.predicted_latents(state))
            if self._denoiser.device.type != "cuda":
                return self._screen.preview(mosaic.cpu())
            ready, state.mosaic = state.mosaic, self._copied(mosaic)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return None
        return self._screen.preview(ready.wait()) if ready else None

    def _copied(self, mosaic: torch.Tensor) -> PendingMosaic:
        return PendingMosaic(mosaic.to("cpu", non_blocking=True), cuda_event())  # into pinned memory
