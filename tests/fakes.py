"""A backend without a model, for tests of what happens around one, a clock that stands, and what v1-4 weighs."""

import asyncio
from collections.abc import AsyncIterator, Sequence

from sd_space.devices import Device
from sd_space.errors import Cancelled, SpaceError
from sd_space.model.memory import Footprint, decode_bytes, step_bytes
from sd_space.schema import (
    AdmittedRequest,
    BackendStatus,
    GenerationResult,
    Inspection,
    Outcome,
    PictureFinished,
    Progress,
    PromptTokenizer,
    RequestFailed,
    ScreenedImage,
    Stage,
    Update,
)

from .test_schema import INFO

V1_4 = Footprint(  # float16; the checker in float32
    unet=2 * 859_520_964,
    vae=2 * 83_653_863,
    text_encoder=2 * 123_060_480,
    safety_checker=4 * 303_981_588,
    step=step_bytes(320, 64, 64, 2),
    decode=decode_bytes(128, 512, 512, 2),
)


class Clock:
    """Seconds that pass only where a test says so."""

    def __init__(self, now_s: float = 0.0):
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


def picture(seed: int, outcome: Outcome = Outcome.OK, size: int = 64) -> ScreenedImage:
    pixels = bytes(size * size * 3) if outcome is Outcome.OK else None
    return ScreenedImage(seed=seed, outcome=outcome, width=size, height=size, pixels=pixels)


class FakeBackend:
    """Draws black pictures, one as soon as `proceed` is set; `outcomes` and `error` script what comes out."""

    def __init__(self, outcomes: Sequence[Outcome] = (Outcome.OK,) * 4, error: SpaceError | None = None):
        self.outcomes = outcomes
        self.step_outcomes: Sequence[Outcome] = (Outcome.OK,) * 2  # of an inspection
        self.error = error
        self.stage, self.info = Stage.READY, INFO
        self.devices: tuple[Device, ...] = ()
        self.drawn_on: tuple[str, ...] = ()
        self.prompt_tokenizer: PromptTokenizer | None = None
        self.outlook_s: float | None = None
        self.proceed = asyncio.Event()
        self.cancelled: dict[str, asyncio.Event] = {}
        self.started: list[AdmittedRequest] = []

    def status(self) -> BackendStatus:
        is_ready = self.stage is Stage.READY
        return BackendStatus(
            self.stage, self.info if is_ready else None, devices=self.devices, outlook_s=self.outlook_s
        )

    def tokenizer(self) -> PromptTokenizer | None:
        return self.prompt_tokenizer

    def cancel(self, request_id: str) -> None:
        self.cancelled[request_id].set()

    async def generate(self, admitted: AdmittedRequest) -> AsyncIterator[Update]:
        self.started.append(admitted)
        cancelled = self.cancelled[admitted.request_id] = asyncio.Event()
        yield Progress(admitted.request_id, 0, 1, 51, 0, len(admitted.request.seeds), seconds_left=2.0)
        images = [picture(*pair) for pair in zip(admitted.request.seeds, self.outcomes, strict=False)]
        yield PictureFinished(admitted.request_id, 0, images[0])
        waits = [asyncio.ensure_future(event.wait()) for event in (self.proceed, cancelled)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        if cancelled.is_set():
            yield RequestFailed(admitted.request_id, Cancelled("Cancelled."))
        elif self.error is not None:
            yield RequestFailed(admitted.request_id, self.error)
        else:
            for index, image in list(enumerate(images))[1:]:
                yield PictureFinished(admitted.request_id, index, image)
            first = 1 if admitted.inspection is Inspection.STEPS else 0
            for step, image in enumerate(self._inspected(admitted, images), first):
                images.append(image)
                yield PictureFinished(admitted.request_id, len(images) - 1, image, of_step=step)
            yield GenerationResult(admitted.request_id, tuple(images), {"total": 2.0}, devices=self.drawn_on)

    def _inspected(self, admitted: AdmittedRequest, images: Sequence[ScreenedImage]) -> list[ScreenedImage]:
        if admitted.inspection is None or any(image.outcome is not Outcome.OK for image in images):
            return []
        outcomes = self.step_outcomes if admitted.inspection is Inspection.STEPS else self.step_outcomes[:1]
        return [picture(images[0].seed, outcome) for outcome in outcomes]
