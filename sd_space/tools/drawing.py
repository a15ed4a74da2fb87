"""Draws pictures in the caller's own process and saves them, through the same gate, engine and safety screen."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from sd_space.backends.loading import build_engine, load
from sd_space.card import load_card
from sd_space.schema import PictureFinished, RequestFailed
from sd_space.serving.gate import Gate
from sd_space.serving.marks import Marks
from sd_space.settings import Settings


def draw_files(settings: Settings, wanted: Sequence[Mapping[str, object]], folder: Path = Path()) -> Iterator[Path]:
    """Draws one picture for each of `wanted`, all at once; each file as soon as it is saved. Raises SpaceError."""
    loaded, marks = load(settings), Marks.from_settings(settings)
    gate = Gate(load_card(), settings.secret, settings.token_ttl_s)
    admitted = [gate.admit_operator({**values, "num_images_per_prompt": 1}, loaded.info) for values in wanted]
    requests = {each.request_id: each.request for each in admitted}
    engine = build_engine(loaded, settings)
    for each in admitted:
        engine.add_request(each)
    while not engine.is_idle:
        for update in engine.step():
            match update:
                case RequestFailed():
                    raise update.error
                case PictureFinished():
                    path = folder / f"picture_{update.image.seed}.png"
                    with path.open("wb") as file:
                        marks.write(file, update.image, requests[update.request_id], loaded.info, embed_recipe=True)
                    yield path
