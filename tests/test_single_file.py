"""A checkpoint in one file: which files it needs beside itself, and that every weight arrives."""

import shutil

import pytest
import torch

from sd_space.errors import ModelUnavailable
from sd_space.model import pipeline
from sd_space.model.files import INDEX, WEIGHTS
from sd_space.model.pipeline import load_pipeline
from sd_space.model.spec import Hardware, PipelineSpec
from sd_space.settings import Settings

from .hub import point_here
from .ldm import save_checkpoint
from .tiny_models import make_pipeline


@pytest.fixture(autouse=True)
def nothing_is_loaded(monkeypatch):
    monkeypatch.setattr(pipeline, "_loaded", {})


def load(path, **settings):
    return load_pipeline(
        PipelineSpec.from_settings(Settings(model=str(path), runtime="torch", **settings), Hardware("cpu"))
    )


@pytest.fixture
def checkpoint(tmp_path, one_torch_thread):
    return save_checkpoint(make_pipeline(seed=7), tmp_path / "dreams.safetensors")


def assert_has_the_weights_of_seed_7(loaded) -> None:
    fresh = make_pipeline(seed=7)
    for name in ("unet", "vae", "text_encoder"):
        expected, got = getattr(fresh, name).state_dict(), getattr(loaded.pipeline, name).state_dict()
        assert expected.keys() == got.keys()
        assert all(torch.equal(expected[key], got[key]) for key in expected), name


def test_a_checkpoint_takes_configuration_and_checker_of_v1_4_from_the_hub(checkpoint, standin, caplog):
    caplog.set_level("INFO", "sd_space")
    loaded = load(checkpoint)
    weights = {name for name in standin.fetched if name.endswith("safetensors")}
    assert weights == {"safety_checker/model.safetensors"}
    assert_has_the_weights_of_seed_7(loaded)
    assert (loaded.info.model, loaded.info.revision) == ("dreams.safetensors", None)
    assert not loaded.missing_checker_tensors
    assert "dreams.safetensors holds no safety checker and no tokenizer" in caplog.text


def test_a_checkpoint_in_a_model_folder_needs_no_hub(checkpoint, model_folder, tmp_path):
    folder = tmp_path / "model"
    weights = [f"{part}/*.safetensors" for part in WEIGHTS if part != "safety_checker"]
    shutil.copytree(model_folder, folder)
    for pattern in weights:
        for path in folder.glob(pattern):
            path.unlink()
    assert_has_the_weights_of_seed_7(load(shutil.move(checkpoint, folder / "dreams.safetensors")))
    assert (folder / INDEX).is_file()


def test_without_the_hub_an_operator_reads_what_a_checkpoint_needs(checkpoint, tmp_path, monkeypatch):
    point_here(monkeypatch, "http://127.0.0.1:9", tmp_path / "cache")
    with pytest.raises(ModelUnavailable) as failure:
        load(checkpoint, hub_timeout_s=1.0)
    hint = failure.value.operator_hint
    assert hint.startswith(
        "dreams.safetensors needs the safety checker of CompVis/stable-diffusion-v1-4. The Hub cannot"
    )


@pytest.mark.parametrize("name", ["v1-4.ckpt", "v1-4.bin"])
def test_a_pickle_is_refused_before_it_is_read(tmp_path, name):
    (tmp_path / name).write_bytes(b"not even a pickle")
    with pytest.raises(ModelUnavailable) as failure:
        load(tmp_path / name)
    assert "is no .safetensors file, and nothing else is loaded" in failure.value.operator_hint


def test_a_checkpoint_that_is_cut_short_is_reported(checkpoint, model_folder, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    (folder / "dreams.safetensors").write_bytes(checkpoint.read_bytes()[:-1000])
    with pytest.raises(ModelUnavailable) as failure:
        load(folder / "dreams.safetensors")
    assert "damaged or cut short" in failure.value.operator_hint
