"""What SD_SPACE_MODEL may name on this machine; the doctor says the same as the loading."""

import os
from pathlib import Path

import pytest

from sd_space.errors import ModelUnavailable
from sd_space.model.location import local_path
from sd_space.settings import V1_4

from .test_model_folder import told_of


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [pipe, device])
@pytest.mark.parametrize("name", ["dreams.safetensors", "dreams"])
def test_what_is_neither_folder_nor_file_is_reported_at_once(tmp_path, make, name):
    make(tmp_path / name)
    told = told_of(tmp_path / name)
    assert "dreams" in told and "neither a folder nor a regular file; correct SD_SPACE_MODEL or --model." in told


@pytest.mark.parametrize("name", ["nowhere", "nowhere.safetensors", "x" * 300])
def test_what_is_not_there_is_reported_with_the_fix(tmp_path, name):
    assert "which does not exist; correct SD_SPACE_MODEL or --model." in told_of(tmp_path / name)


@pytest.mark.parametrize("model", ["models/of/mine", "--x", "a b/dreams", "x" * 300])
def test_what_can_be_no_name_on_the_hub_is_reported_in_our_words(model):
    told = told_of(Path(model))
    assert told.startswith(f"{model} is no folder here and can be no name on the Hub; set SD_SPACE_MODEL to")


def test_a_folder_may_have_a_checkpoints_name(tmp_path):
    (folder := tmp_path / "dreams.safetensors").mkdir()
    assert local_path(str(folder)) == folder


def test_a_name_without_a_file_is_one_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert local_path(V1_4) is None
    (tmp_path / V1_4).mkdir(parents=True)
    assert local_path(V1_4) == Path(V1_4)


def test_a_checkpoint_by_a_name_of_its_own_is_looked_for_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelUnavailable):
        local_path("dreams.safetensors")
    (tmp_path / "dreams.safetensors").touch()
    assert local_path("dreams.safetensors") == Path("dreams.safetensors")
