import json
import stat
import threading
import zipfile
from dataclasses import asdict, replace
from urllib.parse import parse_qsl

import numpy as np
import pytest
from PIL import Image

from sd_space.gallery import (
    PLACEHOLDER_SIDE,
    ResultStore,
    parameters_text,
    picture_of,
    preview_uri,
    recipe_from_query,
    recipe_query,
    result_json,
)
from sd_space.schema import EngineFailed, GenerationRequest, GenerationResult, Outcome, Preview, ScreenedImage

from .fakes import picture
from .test_schema import INFO

REQUEST = GenerationRequest.parse(
    {"prompt": "a cabin, snow", "negative_prompt": "people", "seed": 7, "guidance_scale": 2.5}, INFO, 0
)


class Clock:
    def __init__(self, now_s: float = 1_000_000.0):
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store(tmp_path, clock):
    return ResultStore(str(tmp_path / "results"), 100.0, now_s=clock)


def save(store: ResultStore, image: ScreenedImage | None = None, request_id: str = "r", embed_recipe: bool = True):
    return store.save(request_id, 0, image or picture(7), REQUEST, INFO, embed_recipe)


def test_a_picture_is_saved_without_loss(store):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    saved = save(store, replace(picture(7), pixels=pixels.tobytes()))
    with Image.open(saved.path) as image:
        assert np.array_equal(np.asarray(image), pixels)


def test_a_png_carries_its_recipe_for_other_tools(store):
    with Image.open(save(store).path) as image:
        assert image.text["parameters"] == (
            "a cabin, snow\nNegative prompt: people\n"
            "Steps: 20, Sampler: PLMS, CFG scale: 2.5, Seed: 7, Size: 128x128, Model: picture-book"
        )


def test_the_recipe_can_be_left_out_but_not_that_a_model_made_it(store):
    with Image.open(save(store, embed_recipe=False).path) as image:
        assert "parameters" not in image.text
        assert image.text["Source"] == "AI-generated with Picture book"
        assert "trainedAlgorithmicMedia" in image.text["XML:com.adobe.xmp"]


def test_revision_and_turbo_are_part_of_the_recipe():
    assert "Model hash: 133a221b8a" in parameters_text(REQUEST, 7, replace(INFO, revision="133a221b8aa7292a"))
    assert parameters_text(REQUEST, 7, replace(INFO, turbo=True)).endswith(", Turbo: on")


@pytest.mark.parametrize("outcome", [Outcome.WITHHELD, Outcome.BROKEN])
def test_what_may_not_be_shown_is_a_placeholder_that_can_be_read(store, outcome):
    saved = save(store, picture(7, outcome))
    assert saved.path.name == f"seed-7-{outcome}.png"
    assert saved.caption.startswith("Seed 7: ")
    with Image.open(saved.path) as image:
        assert min(image.size) >= PLACEHOLDER_SIDE
        assert np.asarray(image).mean() > 150, "a black square would be taken for a picture"
        assert "parameters" not in image.text


def test_a_placeholder_has_the_pictures_shape():
    image = ScreenedImage(seed=1, outcome=Outcome.WITHHELD, width=96, height=128, pixels=None)
    width, height = picture_of(image).size
    assert width * 128 == height * 96


def test_withheld_and_broken_are_told_apart():
    shown = [picture_of(picture(1, outcome)).tobytes() for outcome in (Outcome.WITHHELD, Outcome.BROKEN)]
    assert shown[0] != shown[1]


def test_a_folder_has_a_name_of_its_own_and_is_its_users_alone(store):
    first, again, other = save(store, request_id="a"), save(store, request_id="a"), save(store, request_id="b")
    assert first.path.parent == again.path.parent != other.path.parent
    assert len(first.path.parent.name) >= 20 and first.path.parent.name != "a"
    assert stat.S_IMODE(first.path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(store.root.stat().st_mode) == 0o700


def test_the_archive_holds_the_pictures_that_may_be_seen(store):
    saved = [save(store), store.save("r", 1, picture(8, Outcome.WITHHELD), REQUEST, INFO, True)]
    with zipfile.ZipFile(store.zip("r", saved)) as archive:
        assert archive.namelist() == ["seed-7.png"]
    assert store.zip("r", saved[1:]) is None


def test_results_are_gone_when_their_time_is_over_and_not_before(store, clock):
    path = save(store).path
    clock.now_s += 99
    store.sweep()
    assert path.is_file()
    clock.now_s += 1
    store.sweep()
    assert not path.parent.exists()
    assert save(store).path.is_file(), "a request may go on after its first pictures have expired"


def test_what_an_earlier_process_left_goes_by_its_age(tmp_path, clock):
    old = tmp_path / "results" / "left behind"
    old.mkdir(parents=True)
    made_s = old.stat().st_mtime
    for age_s, remains in ((50.0, True), (150.0, False)):
        ResultStore(str(tmp_path / "results"), 100.0, now_s=clock, wall_s=lambda age_s=age_s: made_s + age_s).sweep()
        assert old.exists() is remains


def test_a_wall_clock_that_jumps_deletes_nothing_early(tmp_path, clock):
    store = ResultStore(str(tmp_path), 100.0, now_s=clock, wall_s=lambda: 1e12)
    path = save(store).path
    store.sweep()
    assert path.is_file()


def test_the_janitor_sweeps_by_itself_and_outlives_a_lost_folder(tmp_path, monkeypatch):
    store, swept = ResultStore(str(tmp_path / "results"), 0.5), threading.Event()
    stock = ResultStore.sweep

    def sweep(self):
        stock(self)
        if not any(self.root.iterdir()):
            swept.set()

    monkeypatch.setattr(ResultStore, "sweep", sweep)
    store.start()
    path = save(store).path
    swept.clear()
    assert swept.wait(10) and not path.exists()
    store.root.rmdir()
    store.root.mkdir()
    path = save(store).path
    swept.clear()
    assert swept.wait(10) and not path.exists()
    store.close()


def test_closing_deletes_what_this_process_made(store):
    store.start()
    path = save(store).path
    store.close()
    assert not path.exists()


def test_a_disk_that_takes_nothing_is_told_in_a_sentence_without_a_path(store, tmp_path, caplog):
    (tmp_path / "results").write_text("a file where the folder should be")
    with pytest.raises(EngineFailed) as failure:
        save(store)
    assert "could not be saved" in str(failure.value)
    assert str(tmp_path) not in str(failure.value) + caplog.text


def test_a_link_brings_the_whole_recipe_back():
    assert recipe_from_query(dict(parse_qsl(recipe_query(REQUEST)))) == asdict(REQUEST)


@pytest.mark.parametrize("query", [{"seed": "x"}, {"unknown": "1"}, {"num_inference_steps": "1e9"}])
def test_a_link_with_nonsense_fills_nothing(query):
    assert recipe_from_query(query) == {}


def test_the_result_is_plain_json():
    result = GenerationResult("r", (picture(7), picture(8, Outcome.WITHHELD)), {"total": 1.23456}, "tail")
    described = json.loads(json.dumps(result_json(REQUEST, INFO, result.images, result)))
    assert described["images"] == [{"seed": 7, "outcome": "ok"}, {"seed": 8, "outcome": "withheld"}]
    assert described["elapsed_s"] == {"total": 1.2346} and described["truncated_prompt"] == "tail"


def test_a_preview_is_one_pixel_a_cell():
    assert preview_uri(Preview(2, 1, bytes(6))).startswith("data:image/png;base64,")
