"""Draws pictures in the caller's own process and saves them, through the same gate, engine and safety screen."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sd_space.backends.loading import build_engine, load
from sd_space.card import load_card
from sd_space.request import GenerationRequest
from sd_space.schema import AdmittedRequest, PictureFinished, RequestFailed, ScreenedImage
from sd_space.served_model import ModelInfo
from sd_space.serving.gate import Gate
from sd_space.serving.marks import Marks
from sd_space.settings import Settings

if TYPE_CHECKING:
    from sd_space.engine.engine import Engine


def draw_files(settings: Settings, wanted: Sequence[Mapping[str, object]], folder: Path = Path()) -> Iterator[Path]:
    """Draws one picture for each of `wanted`, all at once; each file as soon as it is saved. Raises SpaceError."""
    loaded, marks = load(settings), Marks.from_settings(settings)
    for request, image in draw(build_engine(loaded, settings), admit(settings, wanted, loaded.info)):
        path = folder / f"picture_{image.seed}.png"
        with path.open("wb") as file:
            marks.write(file, image, request, loaded.info, embed_recipe=True)
        yield path


def admit(settings: Settings, wanted: Sequence[Mapping[str, object]], info: ModelInfo) -> Sequence[AdmittedRequest]:
    """A request for one picture for each of `wanted`. Raises InvalidRequest."""
    gate = Gate(load_card(), settings.secret, settings.token_ttl_s)
    return [gate.admit_operator({**values, "num_images_per_prompt": 1}, info) for values in wanted]


def draw(
    engine: "Engine", admitted: Sequence[AdmittedRequest], on_step: Callable[[], object] = lambda: None
) -> Iterator[tuple[GenerationRequest, ScreenedImage]]:
    """Draws requests together; each picture as soon as it is screened, with its request. Raises SpaceError."""
    requests = {each.request_id: each.request for each in admitted}
    for each in admitted:
        engine.add_request(each)
    while not engine.is_idle:
        for update in engine.step():
            match update:
                case RequestFailed():
                    raise update.error
                case PictureFinished():
                    yield requests[update.request_id], update.image
        on_step()
