"""A request while the engine works on it: its pictures, their results so far and the time that each stage took."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch

from sd_space.engine.batcher import BatchKey, Trajectory, TrajectoryStatus
from sd_space.engine.denoiser import Denoiser
from sd_space.engine.denoising_state import EncodedPrompt
from sd_space.engine.finishing import Finished
from sd_space.engine.safety import SafetyScreen
from sd_space.engine.starts import EncodedSource
from sd_space.request import GenerationRequest
from sd_space.schema import AdmittedRequest, GenerationResult, PictureFinished, Preview, Progress, ScreenedImage

BEHIND_PICTURES = 2  # added to the priority of what an inspection shows: those of pictures are 0 and 1


@dataclass(slots=True, eq=False)
class ActiveRequest:
    """`images` are the finished pictures by index. `started_s` is when the first picture got its latents.

    `predictions` are the latents that an inspection is to show, (1, C, H/f, W/f) by picture and step.
    """

    admitted: AdmittedRequest
    num_timesteps: int
    added_s: float
    trajectories: list[Trajectory] = field(default_factory=list)
    encoded: EncodedPrompt | None = None
    source: EncodedSource | None = None
    images: dict[int, ScreenedImage] = field(default_factory=dict)
    predictions: dict[tuple[int, int], torch.Tensor] = field(default_factory=dict)
    elapsed_s: dict[str, float] = field(default_factory=dict)
    started_s: float | None = None
    reported_s: float = float("-inf")

    @property
    def request(self) -> GenerationRequest:
        return self.admitted.request

    @property
    def request_id(self) -> str:
        return self.admitted.request_id

    def new_trajectory(self, trajectory_id: int) -> Trajectory:
        """The request's next picture."""
        index = len(self.trajectories)
        self.trajectories.append(
            Trajectory(
                trajectory_id,
                self.request_id,
                self.admitted.visitor,
                self.request.seeds[index],
                index,
                BatchKey.of(self.request),
                self.num_timesteps,
                priority=self.admitted.priority,
            )
        )
        return self.trajectories[-1]

    def new_inspected(self, picture: Trajectory, of_step: int) -> Trajectory:
        """What is seen of one of its finished pictures at a step."""
        index, priority = len(self.trajectories), picture.priority + BEHIND_PICTURES
        self.trajectories.append(replace(picture, index=index, of_step=of_step, priority=priority))
        return self.trajectories[-1]

    def take(self, finished: Finished) -> list[PictureFinished]:
        """Pictures of it that are finished, as its visitor gets them."""
        if finished.group[0].of_step is None:
            self.elapsed_s["denoise"] = finished.began_s - (self.started_s or 0.0)
        for stage, seconds in finished.elapsed_s.items():
            self.add_elapsed(stage, seconds)
        pairs = list(zip(finished.group, finished.images, strict=True))
        self.images |= {trajectory.index: image for trajectory, image in pairs}
        return [PictureFinished(t.request_id, t.index, image, of_step=t.of_step) for t, image in pairs]

    @property
    def is_inspected(self) -> bool:
        return any(trajectory.of_step is not None for trajectory in self.trajectories)

    @property
    def is_complete(self) -> bool:
        return len(self.images) == len(self.trajectories)

    def encode(self, denoiser: Denoiser, screen: SafetyScreen, now_s: Callable[[], float]) -> EncodedPrompt:
        """Encodes the prompt and, once the screen has passed it, the picture to start from, at the first call."""
        if self.encoded is not None:
            return self.encoded
        began_s = now_s()
        self.add_elapsed("queue", began_s - self.added_s)
        self.encoded = denoiser.encode_prompt(self.request)
        self.add_elapsed("encode_prompt", now_s() - began_s)
        if self.request.init_image is not None:
            began_s = now_s()
            screened = screen.screen_source(self.request.init_image)
            self.add_elapsed("safety", now_s() - began_s)
            began_s = now_s()
            self.source = denoiser.encode_source(screened, self.request.mask)
            self.add_elapsed("encode_image", now_s() - began_s)
        return self.encoded

    def add_elapsed(self, stage: str, seconds: float) -> None:
        self.elapsed_s[stage] = self.elapsed_s.get(stage, 0.0) + seconds

    def result(self) -> GenerationResult:
        images = tuple(self.images[index] for index in sorted(self.images))
        truncated = self.encoded.truncated if self.encoded else ""
        return GenerationResult(self.request_id, images, dict(self.elapsed_s), truncated)

    def progress(
        self, queue_position: int, seconds_left: float | None, previews: tuple[Preview | None, ...]
    ) -> Progress:
        """Its steps are those of the running picture that is furthest behind. `previews` are by index."""
        running = [t for t in self.trajectories if t.status is TrajectoryStatus.RUNNING]
        furthest = min(running or self._undecoded or self.trajectories, key=lambda trajectory: trajectory.step_index)
        num_timesteps = sum(trajectory.num_timesteps for trajectory in self.trajectories)
        return Progress(
            request_id=self.request_id,
            queue_position=queue_position,
            step_index=furthest.step_index,
            num_timesteps=furthest.num_timesteps,
            pictures_done=len(self.images),
            num_pictures=len(self.trajectories),
            seconds_left=seconds_left,
            previews=previews if any(previews) else (),
            fraction_done=sum(t.step_index for t in self.trajectories) / num_timesteps,
        )

    @property
    def _undecoded(self) -> list[Trajectory]:
        return [t for t in self.trajectories if t.status is TrajectoryStatus.FINISHED and t.index not in self.images]
