"""How a picture came about: what its steps predicted, or what the autoencoder makes of it, lined up to be decoded."""

import torch

from sd_space.engine.active_request import ActiveRequest
from sd_space.engine.batcher import Trajectory
from sd_space.engine.denoiser import Denoiser
from sd_space.engine.denoising_state import DenoisingState
from sd_space.engine.safety import SafetyScreen
from sd_space.schema import MAX_STEPS_SHOWN, Inspection, Outcome


class Inspector:
    """Makes the inspections of one engine. What it lines up is decoded and screened as pictures are, after those."""

    def __init__(self, denoiser: Denoiser, screen: SafetyScreen):
        self._denoiser = denoiser
        self._screen = screen

    def keep(self, active: ActiveRequest, picture: Trajectory, state: DenoisingState) -> Exception | None:
        """Keeps what the step that was just made predicts for the end, if it is one of those to be shown.

        Returns what went wrong, so that it ends no other request.
        """
        try:
            if active.admitted.inspection is Inspection.STEPS and state.step_index in steps_shown(active.num_timesteps):
                predicted = self._denoiser.retry_on_oom(lambda: self._denoiser.predicted_latents(state))
                active.predictions[picture.index, state.step_index] = predicted
        except Exception as error:
            return error
        return None

    def begin(self, active: ActiveRequest) -> list[tuple[Trajectory, torch.Tensor]]:
        """What there is to be decoded once a request has its own pictures: nothing if one of those is not shown."""
        pictures = list(active.trajectories)
        if active.is_inspected or any(image.outcome is not Outcome.OK for image in active.images.values()):
            return []
        if active.admitted.inspection is Inspection.AUTOENCODER:
            for picture in pictures:
                source = self._screen.passed(active.images[picture.index])
                active.predictions[picture.index, 0] = self._denoiser.encode_source(source, None).mode()
        return [
            (active.new_inspected(pictures[index], step), latents)
            for (index, step), latents in sorted(active.predictions.items(), key=lambda item: item[0])
        ]


def steps_shown(num_timesteps: int) -> tuple[int, ...]:
    """Counted from 1: all of them, or as many as are shown at most, spread evenly from the first to the last one."""
    if num_timesteps <= MAX_STEPS_SHOWN:
        return tuple(range(1, num_timesteps + 1))
    return tuple(1 + round(k * (num_timesteps - 1) / (MAX_STEPS_SHOWN - 1)) for k in range(MAX_STEPS_SHOWN))
