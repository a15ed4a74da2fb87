"""From a picture's last latents to what a visitor may see: decoded and screened, on CUDA beside the steps of others."""

import logging
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from sd_space.engine.batcher import FairQueue, Trajectory
from sd_space.engine.denoiser import Denoiser
from sd_space.engine.pacing import cuda_event
from sd_space.engine.safety import SafetyScreen
from sd_space.engine.side_thread import Pending, SideThread
from sd_space.runtime_errors import is_device_lost
from sd_space.schema import Outcome, ScreenedImage

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Finished:
    """Pictures that are alike in size, with `images` or an `error`. `began_s` is when their last step was done."""

    group: list[Trajectory]
    latents: list[torch.Tensor]  # (1, C, H/f, W/f)
    began_s: float = 0.0
    images: list[ScreenedImage] = field(default_factory=list)
    elapsed_s: dict[str, float] = field(default_factory=dict)  # by stage
    error: Exception | None = None


class Finisher:
    """Keeps pictures in line, and finishes one group of them at a time, between `begin` and `ended`.

    A group that is finished `beside` the steps of others has a thread and a stream of its own, and the same kernels.
    What fails there is done again in the engine's thread, which alone may move what is in memory.
    """

    def __init__(self, denoiser: Denoiser, screen: SafetyScreen, now_s: Callable[[], float]):
        self._denoiser = denoiser
        self._screen = screen
        self._now_s = now_s
        self._line = FairQueue()
        self._latents: dict[Trajectory, torch.Tensor] = {}  # of those in line, (1, C, H/f, W/f)
        self._finishing: Finished | None = None
        self._pending: Pending | None = None
        self._stream: torch.cuda.Stream | None = None
        self._thread = SideThread("finisher")
        weakref.finalize(self, self._thread.end)

    @property
    def under_way(self) -> list[Trajectory]:
        return self._finishing.group if self._finishing else []

    @property
    def in_line(self) -> list[Trajectory]:
        return list(self._line.in_order())

    def add(self, trajectory: Trajectory, latents: torch.Tensor) -> None:
        self._line.add(trajectory)
        self._latents[trajectory] = latents

    def remove(self, request_id: str) -> None:
        """Takes what is in line out of it; what has begun goes on."""
        for trajectory in self._line.remove(request_id):
            del self._latents[trajectory]

    def begin(self, beside: bool, together: bool) -> None:
        """The next one in line, `together` with those that follow; what an inspection shows is decoded one by one."""
        pictures = sum(trajectory.of_step is None for trajectory in self._line.in_order())
        group = self._line.pop(max(1, pictures) if together else 1)
        self._finishing = Finished(group, [self._latents.pop(trajectory) for trajectory in group])
        if beside:
            self._stream = self._stream or torch.cuda.Stream()
            denoised, finishing, stream = cuda_event(), self._finishing, self._stream
            with torch.cuda.stream(stream):
                self._pending = self._thread.submit(lambda: self._finish_beside(finishing, denoised, stream))

    def ended(self, wait: bool) -> Finished | None:
        """What was begun, once it has ended; with `wait`, or where it is not done beside others, it has."""
        finishing, pending = self._finishing, self._pending
        if finishing is None or (pending is not None and not wait and not pending.done.is_set()):
            return None
        self._finishing = self._pending = None
        try:
            if pending is not None and self._is_whole(pending):
                return finishing
            finishing.began_s = finishing.began_s or self._now_s()
            self._denoiser.retry_on_oom(lambda: self._finish(finishing, self._denoiser.decode_latents))
            self._decode_again(finishing)
        except Exception as error:
            finishing.error = error
        return finishing

    def _is_whole(self, pending: Pending) -> bool:
        try:
            finished: Finished = pending.result()
        except Exception as error:
            if is_device_lost(error):
                raise
            logger.warning(
                "a picture could not be finished beside others (%s) and is tried again", type(error).__name__
            )
            return False
        return all(image.outcome is not Outcome.BROKEN for image in finished.images)

    def _finish_beside(self, finishing: Finished, denoised: torch.cuda.Event, stream: torch.cuda.Stream) -> Finished:
        denoised.synchronize()
        finishing.began_s = self._now_s()
        with self._denoiser.staying:
            self._finish(finishing, self._denoiser.decode_once)
        stream.synchronize()  # the engine's stream may use the memory anew
        return finishing

    def _finish(self, finishing: Finished, decode: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Only the screen asks whether values are finite: each question waits for the device."""
        began_s = self._now_s()
        decoded = decode(torch.cat(finishing.latents))
        self._denoiser.synchronize()
        decoded_s = self._now_s()
        finishing.images = self._screen.screen(decoded, [trajectory.seed for trajectory in finishing.group])
        finishing.elapsed_s = {"decode": decoded_s - began_s, "safety": self._now_s() - decoded_s}

    def _decode_again(self, finishing: Finished) -> None:
        """In float32, those whose latents are finite and whose pictures are not."""
        for k, latents in enumerate(finishing.latents):
            if finishing.images[k].outcome is not Outcome.BROKEN or not self._denoiser.may_overflow:
                continue
            if bool(torch.isfinite(latents).all()):
                logger.warning("a picture was not finite and is decoded again in float32")
                decoded = self._denoiser.decode_in_float32(latents)
                (finishing.images[k],) = self._screen.screen(decoded, [finishing.group[k].seed])
