"""From a picture's last latents to what a visitor may see: decoded and screened."""

import logging
from collections.abc import Callable, Sequence

import torch

from sd_space.engine.denoiser import Denoiser
from sd_space.engine.denoising_state import DenoisingState
from sd_space.engine.safety import SafetyScreen
from sd_space.schema import Outcome, ScreenedImage

logger = logging.getLogger(__name__)


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
        """Only the screen asks whether values are finite: each question waits for the device."""
        began_s = self._now_s()
        decoded = self._denoiser.decode_latents(torch.cat([state.latents for state in states]))
        self._denoiser.synchronize()
        decoded_s = self._now_s()
        images = self._screen.screen(decoded, seeds)
        for k, image in enumerate(images):
            if image.outcome is Outcome.BROKEN and self._has_overflowed(states[k]):
                logger.warning("a picture was not finite and is decoded again in float32")
                images[k : k + 1] = self._screen.screen(
                    self._denoiser.decode_in_float32(states[k].latents), seeds[k : k + 1]
                )
        return images, {"decode": decoded_s - began_s, "safety": self._now_s() - decoded_s}

    def _has_overflowed(self, state: DenoisingState) -> bool:
        """Whether what is not finite came of the decode alone."""
        return self._denoiser.may_overflow and bool(torch.isfinite(state.latents).all())
