import contextlib
import errno
import os
import resource
import shutil
import stat
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sd_space.errors import EngineFailed
from sd_space.request import GenerationRequest
from sd_space.schema import Outcome, ScreenedImage
from sd_space.serving.placeholder import PLACEHOLDER_SIDE
from sd_space.serving.results import ResultStore, SavedPicture

from .fakes import Clock, picture
from .test_schema import INFO

REQUEST = GenerationRequest.parse(
    {"prompt": "a cabin, snow", "negative_prompt": "people", "seed": 7, "guidance_scale": 2.5}, INFO, 0
)

SAVED = SavedPicture(Path("seed-7.png"), 7, Outcome.OK, "Seed 7")


@pytest.fixture
def clock():
    return Clock(1_000_000.0)


@pytest.fixture
def store(tmp_path, clock):
    store = ResultStore(str(tmp_path / "results"), 100.0, now_s=clock)
    yield store
    store.close()


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


@pytest.mark.parametrize("outcome", [Outcome.WITHHELD, Outcome.BROKEN])
def test_what_may_not_be_shown_is_a_placeholder_that_can_be_read(store, outcome):
    saved = save(store, picture(7, outcome))
    assert saved.path.name == f"seed-7-{outcome}.png"
    assert saved.caption.startswith("Seed 7: ")
    with Image.open(saved.path) as image:
        assert min(image.size) >= PLACEHOLDER_SIDE
        assert np.asarray(image).mean() > 150, "a black square would be taken for a picture"
        assert "parameters" not in image.text


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
    store.finish("r")
    clock.now_s += 99
    store.sweep()
    assert path.is_file()
    clock.now_s += 1
    store.sweep()
    assert not path.parent.exists()


def test_a_run_longer_than_the_time_to_live_keeps_its_pictures_until_that_time_after_its_end(store, clock):
    path = save(store).path
    clock.now_s += 1000
    store.sweep()
    assert path.is_file(), "it goes on"
    store.finish("r")
    clock.now_s += 50
    store.finish("r")  # it ended when it ended
    store.sweep()
    assert path.is_file() and store.zip("r", [replace(SAVED, path=path)])
    clock.now_s += 50
    store.sweep()
    assert not path.parent.exists()


def test_a_run_without_results_ends_like_any_other(store):
    store.finish("nothing was saved")
    store.sweep()


def test_a_picture_that_is_gone_is_left_out_of_the_archive_and_no_failure(store):
    pictures = [save(store), store.save("r", 1, picture(8), REQUEST, INFO, True)]
    first = store.zip("r", pictures)
    pictures[0].path.unlink()
    with zipfile.ZipFile(store.zip("r", pictures)) as archive:
        assert archive.namelist() == ["seed-8.png"]
    pictures[1].path.unlink()
    with pytest.raises(EngineFailed, match="were deleted on the server; please make them again"):
        store.zip("r", pictures)
    assert first.is_file()


def test_an_archive_asked_for_after_its_time_is_refused_in_a_sentence(store, clock):
    saved = save(store)
    store.finish("r")
    clock.now_s += 100
    store.sweep()
    with pytest.raises(EngineFailed, match="were deleted on the server"):
        store.zip("r", [saved])


def test_tabs_that_ask_at_once_share_one_archive(store, monkeypatch):
    """Each of them used to write the same part-file, and took it from the others."""
    saved, opened = [save(store, request_id="r")], []
    stock = zipfile.ZipFile.__init__

    def noted(self, file, mode="r", *args, **kwargs):
        opened.append(mode)
        stock(self, file, mode, *args, **kwargs)

    monkeypatch.setattr(zipfile.ZipFile, "__init__", noted)
    with ThreadPoolExecutor(8) as pool:
        paths = set(pool.map(lambda _: store.zip("r", saved), range(32)))
    assert len(paths) == 1 and opened.count("w") == 1
    with zipfile.ZipFile(paths.pop()) as archive:
        assert archive.testzip() is None


@contextlib.contextmanager
def files_of_at_most(limit_bytes: int):
    """The kernel takes no more of any file, as a full disk or a used-up quota does in the middle of one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def noise(seed: int) -> ScreenedImage:
    pixels = np.random.default_rng(seed).integers(0, 256, (512, 512, 3), np.uint8).tobytes()
    return ScreenedImage(seed=seed, outcome=Outcome.OK, width=512, height=512, pixels=pixels)


def test_a_disk_that_fills_up_in_a_picture_or_an_archive_keeps_no_half_of_it(store):
    whole = [store.save("r", k, noise(k), REQUEST, INFO, True) for k in range(2)]
    folder = whole[0].path.parent
    more_than_a_picture = files_of_at_most(1_000_000)
    with more_than_a_picture, pytest.raises(EngineFailed, match="could not be saved"):
        store.zip("r", whole)
    with files_of_at_most(300_000), pytest.raises(EngineFailed, match="could not be saved"):
        store.save("r", 2, noise(2), REQUEST, INFO, True)
    assert sorted(path.name for path in folder.iterdir()) == ["seed-0.png", "seed-1.png"]
    assert store.zip("r", whole).is_file(), "there is room again"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE])
def test_whatever_the_disk_says_no_half_written_file_stays(store, monkeypatch, number):
    folder = save(store).path.parent
    stock = Image.Image.save

    def breaks_off(image, file, *args, **kwargs):
        stock(image, file, *args, **kwargs)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Image.Image, "save", breaks_off)
    with pytest.raises(EngineFailed, match="could not be saved"):
        save(store, picture(8))
    assert [path.name for path in folder.iterdir()] == ["seed-7.png"]


def test_a_folder_that_is_deleted_while_a_picture_is_written_ends_in_a_sentence(store, monkeypatch):
    folder, stock = save(store).path.parent, Image.Image.save

    def deleted_meanwhile(image, file, *args, **kwargs):
        shutil.rmtree(folder)
        stock(image, file, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", deleted_meanwhile)
        with pytest.raises(EngineFailed, match="could not be saved"):
            save(store)
    assert save(store).path.is_file(), "the next one has a folder again"


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
    store.finish("r")
    swept.clear()
    assert swept.wait(10) and not path.exists()
    shutil.rmtree(tmp_path / "results")
    path = save(store).path
    store.finish("r")
    swept.clear()
    assert swept.wait(10) and not path.exists()
    store.close()


def test_closing_deletes_what_this_process_made(store):
    store.start()
    path = save(store).path
    store.close()
    assert not path.exists()


def test_a_disk_that_takes_nothing_is_reported_without_a_path(store, tmp_path, caplog):
    (tmp_path / "results").write_text("a file where the folder should be")
    with pytest.raises(EngineFailed) as failure:
        save(store)
    assert "could not be saved" in str(failure.value)
    assert str(tmp_path) not in str(failure.value) + caplog.text


def test_variations_of_one_seed_have_a_file_each(store):
    request = replace(REQUEST, variation_seed=3, variation_strength=0.5, num_images_per_prompt=2)
    saved = [store.save("r", k, picture(7), request, INFO, True) for k in range(2)]
    assert [picture.path.name for picture in saved] == ["seed-7-variation-3.png", "seed-7-variation-4.png"]
    assert saved[1].caption == "Seed 7, variation 4"
    assert "Variation seed: 4" in Image.open(saved[1].path).text["parameters"]
