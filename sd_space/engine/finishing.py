"""From a picture's last latents to what a visitor may see: decoded and screened."""

from collections.abc import Callable, Sequence

import torch

from sd_space.engine.denoiser import Denoiser
from sd_space.engine.denoising_state import DenoisingState
from sd_space.engine.safety import SafetyScreen
from sd_space.schema import ScreenedImage


class Finisher:
    """Decodes pictures and screens them."""

    def __init__(self, denoiser: Denoiser, screen: SafetyScreen, now_s: Callable[[], float]):
        self._denoiser = denoiser
        self._screen = screen
        self._now_s = now_s

    def finish(
        self, states: Sequence[DenoisingState], seeds: Sequence[int], height: int, width: int
    ) -> tuple[list[ScreenedImage], dict[str, float]]:
        """The pictures of `states`, which are alike in size, and seconds by stage. May take to less memory."""
        return self._denoiser.retry_on_oom(lambda: self._finish(states, seeds, height, width))

    def _finish(
        self, states: Sequence[DenoisingState], seeds: Sequence[int], height: int, width: int
    ) -> tuple[list[ScreenedImage], dict[str, float]]:
        """Latents that are not finite are not decoded: that picture alone is broken."""
        images = {
            k: self._screen.broken(seeds[k], height, width)
            for k, state in enumerate(states)
            if not bool(torch.isfinite(state.latents).all())
        }
        finite = [k for k in range(len(states)) if k not in images]
        if not finite:
            return list(images.values()), {}
        began_s = self._now_s()
        decoded = self._denoiser.decode_latents(torch.cat([states[k].latents for k in finite]))
        self._denoiser.synchronize()
        decoded_s = self._now_s()
        images |= zip(finite, self._screen.screen(decoded, [seeds[k] for k in finite]), strict=True)
        elapsed_s = {"decode": decoded_s - began_s, "safety": self._now_s() - decoded_s}
        return [images[k] for k in range(len(states))], elapsed_s
