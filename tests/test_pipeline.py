import json

import pytest
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker

from sd_space.errors import ModelUnavailable, SafetyCheckFailed
from sd_space.model.memory import GIB
from sd_space.model.pipeline import load_pipeline
from sd_space.model.spec import TINY_FOLDER, Hardware, PipelineSpec
from sd_space.settings import V1_4, V1_4_REVISION, Settings

from .tiny_models import load, save_model_folder

CPU = Hardware("cpu")
CUDA = Hardware("cuda", 24 * GIB)


def spec(hardware: Hardware = CPU, **settings) -> PipelineSpec:
    return PipelineSpec.from_settings(Settings(**{"runtime": "torch"} | settings), hardware)


# --- what is loaded


def test_auto_serves_the_picture_book_without_a_gpu():
    chosen = spec()
    assert (chosen.model, chosen.device, chosen.dtype) == (str(TINY_FOLDER), "cpu", "float32")
    assert not chosen.may_fall_back


def test_auto_serves_v1_4_in_float16_on_cuda():
    chosen = spec(CUDA)
    assert (chosen.model, chosen.revision, chosen.variant, chosen.dtype) == (V1_4, V1_4_REVISION, "fp16", "float16")
    assert chosen.may_fall_back


def test_an_explicit_model_never_falls_back():
    assert not spec(CUDA, model=V1_4).may_fall_back


def test_v1_4_on_a_cpu_is_float32():
    chosen = spec(model=V1_4)
    assert (chosen.revision, chosen.variant, chosen.dtype) == (V1_4_REVISION, None, "float32")


def test_the_cards_old_revision_is_read_as_the_variant():
    chosen = spec(CUDA, revision="fp16")
    assert (chosen.revision, chosen.variant) == (V1_4_REVISION, "fp16")


@pytest.mark.parametrize(
    ("settings", "names"),
    [({"device": "cuda"}, "SD_SPACE_DEVICE"), ({"dtype": "float16"}, "SD_SPACE_DTYPE")],
)
def test_what_a_cpu_cannot_serve_is_refused(settings, names):
    with pytest.raises(ModelUnavailable) as refusal:
        spec(**settings)
    assert names in refusal.value.operator_hint


def test_half_precision_files_are_preferred_where_the_pipeline_runs_in_it():
    assert spec(CUDA, model="CompVis/stable-diffusion-v1-2").variant == "fp16"
    assert spec(CUDA, model="CompVis/stable-diffusion-v1-2", dtype="float32").variant is None


# --- loading


def test_a_model_is_loaded_once(model_folder):
    assert load(model_folder) is load(model_folder)


def test_the_picture_book_says_what_it_is(one_torch_thread):
    info = load_pipeline(spec()).info
    assert (info.model, info.is_picture_book) == ("picture-book", True)
    assert (info.defaults.width, info.defaults.height) == (256, 256)
    assert (info.limits.min_size, info.limits.max_size) == (64, 384)
    own = json.loads((TINY_FOLDER / "sd_space.json").read_text())
    assert (info.title, info.revision) == (own["title"], own["revision"])
    assert info.defaults.num_inference_steps == own["defaults"]["num_inference_steps"]


def test_a_folder_without_a_description_has_the_cards_defaults_and_hides_its_path(tmp_path, one_torch_thread):
    folder = save_model_folder(tmp_path / "my-model")
    (folder / "sd_space.json").unlink()
    info = load(folder).info
    assert (info.defaults.num_inference_steps, info.defaults.guidance_scale, info.defaults.scheduler) == (
        50,
        7.5,
        "PNDM",
    )
    assert (info.model, info.is_picture_book) == ("my-model", False)
    assert str(tmp_path) not in str(info.as_dict())


def test_a_folder_that_holds_only_float16_is_loaded_as_float32_on_a_cpu(tmp_path, one_torch_thread):
    """float16 on a CPU is several times slower."""
    pipeline = load(save_model_folder(tmp_path / "half", variant="fp16")).pipeline
    parts = (pipeline.unet, pipeline.vae, pipeline.text_encoder, pipeline.safety_checker)
    assert {part.dtype for part in parts} == {torch.float32}


def test_missing_checker_refuses_to_load(tmp_path, one_torch_thread):
    folder = save_model_folder(tmp_path / "unsafe")
    (folder / "safety_checker").rename(tmp_path / "elsewhere")
    with pytest.raises(SafetyCheckFailed):
        load(folder)


def test_an_index_without_a_checker_does_not_switch_it_off(tmp_path, one_torch_thread):
    folder = save_model_folder(tmp_path / "unsafe")
    index = json.loads((folder / "model_index.json").read_text())
    index["safety_checker"] = [None, None]
    (folder / "model_index.json").write_text(json.dumps(index))
    assert isinstance(load(folder).pipeline.safety_checker, StableDiffusionSafetyChecker)


# --- what goes wrong


def hint_of(model: str, **settings) -> str:
    with pytest.raises(ModelUnavailable) as failure:
        load_pipeline(spec(model=model, **settings))
    assert model not in str(failure.value), "the visitor's sentence names no path"
    assert "/" not in str(failure.value)
    return failure.value.operator_hint


def test_a_missing_folder_is_named(tmp_path):
    assert "does not exist" in hint_of(str(tmp_path / "nowhere"))


def test_a_folder_of_something_else_is_named(tmp_path):
    assert "model_index.json" in hint_of(str(tmp_path))


@pytest.mark.parametrize("damage", ["truncated", "pickle only", "garbled config"])
def test_a_damaged_folder_is_refused_in_a_sentence(tmp_path, one_torch_thread, damage):
    folder = save_model_folder(tmp_path / "model")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif damage == "pickle only":
        weights.rename(weights.with_suffix(".bin"))
    else:
        (folder / "vae" / "config.json").write_text("{")
    told = {
        "truncated": "damaged or cut short",
        "pickle only": "no safetensors in unet",
        "garbled config": "not a valid JSON",
    }
    assert told[damage] in hint_of(str(folder))
