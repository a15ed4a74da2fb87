"""A model folder whose files are not what they should be, or whose parts do not fit: one sentence, the doctor's too."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from sd_space.engine.denoiser import Denoiser
from sd_space.errors import ModelUnavailable, SafetyCheckFailed
from sd_space.model import pipeline
from sd_space.model.configs import Unfit
from sd_space.model.folder import examine
from sd_space.model.spec import TINY_FOLDER
from sd_space.served_model import SCHEDULERS

from .folder_damage import LFS_POINTER, WEB_PAGE, replaced
from .hub import save_2022_repository
from .ldm import save_checkpoint
from .test_denoiser import denoised
from .test_folder_damage import assert_is_one_sentence, copied, quick_doctor, served_or_told
from .tiny_models import load, make_engine, make_pipeline, make_request
from .v1_4 import CONFIGS

UNET, SCHEDULER = "unet/config.json", "scheduler/scheduler_config.json"
EXTRACTOR, CHECKER = "feature_extractor/preprocessor_config.json", "safety_checker/config.json"


@pytest.fixture(autouse=True)
def nothing_is_loaded(monkeypatch):
    monkeypatch.setattr(pipeline, "_loaded", {})


@pytest.fixture
def folder(model_folder, tmp_path) -> Path:
    return copied(model_folder, tmp_path / "dreams-1")


def edit(folder: Path, name: str, **changes) -> None:
    config = json.loads((folder / name).read_text())
    replaced(folder / name, json.dumps(config | changes))


def with_inputs(folder: Path, channels: int) -> None:
    """The UNet of another kind of model, whole in itself."""
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors["conv_in.weight"] = torch.zeros(len(tensors["conv_in.weight"]), channels, 3, 3)
    path.unlink()
    save_file(tensors, path, metadata={"format": "pt"})
    edit(folder, UNET, in_channels=channels)


def told_of(folder: Path) -> str:
    """What is told, which must be the quick doctor's sentence too, a whole one, and none for visitors."""
    told = served_or_told(folder)
    assert isinstance(told, str), "served"
    assert_is_one_sentence(told)
    assert quick_doctor(folder) == told
    return told


# --- files that are not what they should be

EVERY_FILE = [
    *sorted(CONFIGS.keys() - {"tokenizer/special_tokens_map.json"}),
    "tokenizer/tokenizer.json", "unet/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors", "safety_checker/model.safetensors",
]  # fmt: skip
CONTENTS = {
    "empty": ("", "is empty; fetch or copy it again."),
    "git-lfs pointer": (LFS_POINTER, "is a git-lfs pointer in place of the file; run git lfs pull there"),
    "web page": (WEB_PAGE, "is a web page in place of the file; fetch or copy it again, by its own address."),
}


@pytest.mark.parametrize("name", EVERY_FILE)
@pytest.mark.parametrize("kind", CONTENTS)
def test_another_file_in_place_of_one_is_named(folder, name, kind):
    contents, told = CONTENTS[kind]
    replaced(folder / name, contents)
    assert f"{name} {told}" in told_of(folder)


@pytest.mark.parametrize("name", [name for name in EVERY_FILE if name.endswith(".json")])
@pytest.mark.parametrize(
    ("contents", "told"),
    [("[1]", "is no JSON object"), ("{", "is not a valid JSON file"), ("[" * 99_999, "is not a valid JSON file")],
    ids=["a list", "cut short", "nested for ever"],
)
def test_a_configuration_that_is_no_object_is_named(folder, name, contents, told):
    replaced(folder / name, contents)
    assert f"{name} {told}" in told_of(folder)


@pytest.mark.parametrize("name", [name for name in EVERY_FILE if name.endswith(".safetensors")])
def test_weights_that_are_cut_short_are_named(folder, name):
    data = (folder / name).read_bytes()
    for length in (1, 100, len(data) // 2, len(data) - 1):
        replaced(folder / name, data[:length])
        assert f"{name} is damaged or cut short" in told_of(folder)


@pytest.mark.parametrize("name", EVERY_FILE)
@pytest.mark.parametrize("kind", ["missing", "a folder", "a link to itself"])
def test_a_file_that_is_not_there_is_named(folder, name, kind):
    (folder / name).unlink()
    if kind == "a folder":
        (folder / name).mkdir()
    elif kind == "a link to itself":
        (folder / name).symlink_to(folder / name)
    told = told_of(folder)
    assert "has no " in told and name.partition("/")[0] in told


def test_a_part_that_is_a_link_to_a_folder_is_read(folder, tmp_path):
    (folder / "unet").rename(tmp_path / "elsewhere")
    (folder / "unet").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (folder / "vae" / "again").symlink_to(folder, target_is_directory=True)
    assert quick_doctor(folder) is None
    assert load(folder).info.model == "noise-painter"


def test_a_pointer_in_place_of_a_checkpoint_is_named(folder):
    replaced(folder / "dreams.safetensors", LFS_POINTER)
    with pytest.raises(ModelUnavailable) as refusal:
        load(folder / "dreams.safetensors")
    assert "dreams.safetensors is a git-lfs pointer" in refusal.value.operator_hint
    assert quick_doctor(folder / "dreams.safetensors") == refusal.value.operator_hint


# --- parts that do not fit together


@pytest.mark.parametrize("null", [[None, None], None])
def test_an_extractor_that_is_null_must_be_handed_in(folder, null):
    edit(folder, "model_index.json", feature_extractor=null)
    told = told_of(folder)
    assert "names no feature_extractor" in told and "hand it one" in told
    assert "safety_checker=None" not in told


@pytest.mark.parametrize(
    ("channels", "purpose"), [(9, "inpainting"), (8, "editing a picture"), (5, "depth maps"), (7, "enlarging")]
)
def test_a_unet_for_another_purpose_is_refused_by_its_name(folder, channels, purpose):
    with_inputs(folder, channels)
    assert f"its UNet takes {channels} channels: it is one for {purpose}" in told_of(folder)


def test_an_inpainting_checkpoint_in_one_file_is_refused_by_its_name(folder, one_torch_thread):
    path = save_checkpoint(make_pipeline(), folder / "inpainting.safetensors")
    tensors = load_file(path)
    key = "model.diffusion_model.input_blocks.0.0.weight"
    tensors[key] = torch.zeros(len(tensors[key]), 9, 3, 3)
    save_file(tensors, path)
    with pytest.raises(ModelUnavailable) as refusal:
        load(path)
    assert "it is one for inpainting" in refusal.value.operator_hint
    assert quick_doctor(path) == refusal.value.operator_hint


def test_a_unet_of_other_latents_is_refused(folder):
    with_inputs(folder, 6)
    assert "its UNet takes 6 channels and gives 4, and its VAE has 4" in told_of(folder)


@pytest.mark.parametrize(
    ("name", "changes", "told"),
    [
        (UNET, {"cross_attention_dim": 64}, "reads texts 64 wide, and its text encoder makes them 32 wide"),
        (UNET, {"sample_size": 1}, "sample_size is 1, which must be a whole number from 8 to 512"),
        (UNET, {"sample_size": "64"}, "sample_size is 64, which must be a whole number"),
        (UNET, {"time_cond_proj_dim": 256}, "inputs that a plain Stable Diffusion has not (time_cond_proj_dim)"),
        (UNET, {"layers_per_block": 10**9}, "says that layers_per_block is 1000000000, which no such model has"),
        ("vae/config.json", {"scaling_factor": 0}, "scaling_factor is 0, which no VAE has"),
        ("text_encoder/config.json", {"vocab_size": 3}, "words, and its text encoder 3"),
        ("text_encoder/config.json", {"intermediate_size": 10**6}, "its weights say otherwise"),
        ("text_encoder/config.json", {"eos_token_id": None}, "eos_token_id is None"),
        ("tokenizer/tokenizer_config.json", {"model_max_length": 10**30}, "model_max_length is"),
        ("model_index.json", {"vae": ["diffusers", "AutoencoderTiny"]}, "names diffusers.AutoencoderTiny as vae"),
        ("model_index.json", {"unet": ["evil", "UNet2DConditionModel"]}, "names evil.UNet2DConditionModel as unet"),
        ("model_index.json", {"image_encoder": {"a": 1}}, "names an image_encoder"),
        ("model_index.json", {"scheduler": ["os", "system"]}, "names no noise scheduler of diffusers"),
        (SCHEDULER, {"prediction_type": "flow_prediction"}, "prediction_type is flow_prediction, and epsilon,"),
        (SCHEDULER, {"num_train_timesteps": 10}, "num_train_timesteps is 10, which must be a whole number from 150"),
        ("sd_space.json", {"defaults": {"width": 3}}, "width must be a whole number from 64 to 96 pixels, not 3"),
    ],
)  # fmt: skip
def test_a_value_that_does_not_fit_is_named(folder, name, changes, told):
    edit(folder, name, **changes)
    assert told in (told_of(folder) if name != "sd_space.json" else served_or_told(folder))


@pytest.mark.parametrize(
    "changes",
    [
        {"do_normalize": False}, {"image_mean": [0, 0, 0]}, {"image_std": [1, 1, 1]}, {"do_rescale": False},
        {"rescale_factor": 1.0}, {"do_center_crop": False}, {"do_resize": False}, {"resample": 0},
        {"size": {"shortest_edge": 64}}, {"crop_size": 16},
    ],
    ids=str,
)  # fmt: skip
def test_a_checker_that_would_be_shown_something_else_is_refused(folder, changes):
    """It would pass its self-test, and let through what it was made to withhold."""
    edit(folder, EXTRACTOR, **changes)
    assert f"{EXTRACTOR} does not show pictures to the safety checker as CLIP sees them, 32 x 32" in told_of(folder)


@pytest.mark.parametrize("changes", [{"hidden_act": "relu"}, {"layer_norm_eps": 0.5}, {"num_attention_heads": 5}])
@pytest.mark.parametrize("place", ["vision_config", "vision_config_dict"])
def test_a_checker_of_another_arithmetic_is_refused(folder, changes, place):
    config = json.loads((folder / CHECKER).read_text())
    replaced(folder / CHECKER, json.dumps(config | {place: config["vision_config"] | changes}))
    assert f"{CHECKER} is not of CLIP's vision tower" in told_of(folder)


def test_a_tokenizer_with_a_word_more_than_the_text_encoder_is_refused(folder):
    """transformers gives a name that it does not know the next free number."""
    edit(folder, "tokenizer/tokenizer_config.json", pad_token="<pad>")
    assert "has words that the text encoder lacks" in served_or_told(folder)


def test_a_checker_of_fewer_layers_than_its_weights_is_refused(folder):
    """transformers leaves the others out without a word."""
    config = json.loads((folder / CHECKER).read_text())
    config["vision_config"]["num_hidden_layers"] = 1
    replaced(folder / CHECKER, json.dumps(config))
    assert f"{CHECKER} leaves out" in served_or_told(folder)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "safety_checker"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(folder, part, value):
    (path,) = (folder / part).glob("*.safetensors")
    tensors = load_file(path)
    key = sorted(key for key, tensor in tensors.items() if tensor.is_floating_point())[-1]
    tensors[key].view(-1)[-1] = value
    path.unlink()
    save_file(tensors, path, metadata={"format": "pt"})
    told = served_or_told(folder)
    assert isinstance(told, str)
    assert_is_one_sentence(told)
    assert "no numbers" in told


def test_a_folder_without_a_checker_is_refused_in_the_same_words(folder):
    shutil.rmtree(folder / "safety_checker")
    assert "it has no safety_checker folder" in told_of(folder)
    with pytest.raises(SafetyCheckFailed):
        load(folder)


# --- what fits


@pytest.mark.parametrize("make", ["tiny", "2022"])
def test_whole_folders_are_found_whole(tmp_path, one_torch_thread, make):
    examine(TINY_FOLDER if make == "tiny" else save_2022_repository(tmp_path / "v1-4"), None)


def test_configurations_as_v1_4_published_them_are_found_to_fit(repository, tmp_path):
    """All but the weights, whose widths are another model's."""
    folder = copied(repository, tmp_path / "v1-4")
    for name, config in CONFIGS.items():
        halves: dict[str, dict] = {}
        for field, value in config.items():
            half, dot, inner = field.rpartition(".")
            (halves.setdefault(half, {}) if dot else halves.setdefault("", {}))[inner] = value
        whole = halves.pop("") | halves
        if name == CHECKER:
            whole["vision_config_dict"] = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
        replaced(folder / name, json.dumps(whole))
    with pytest.raises(Unfit, match="hidden_size is 1024, and its weights say otherwise"):
        examine(folder, None, ("safety_checker",))


def test_a_model_that_predicts_the_picture_itself_is_offered_what_can_draw_with_it(folder):
    edit(folder, SCHEDULER, prediction_type="sample")
    assert quick_doctor(folder) is None
    loaded = load(folder)
    assert set(SCHEDULERS) - set(loaded.info.limits.schedulers) == {"PNDM", "Euler a"}
    assert loaded.info.defaults.scheduler == "DDIM"
    engine = make_engine(loaded)
    assert engine.is_idle


def test_a_folder_without_clip_sample_draws_as_the_stock_pipeline_with_ddim(folder):
    """The stock pipeline switches DDIM's clipping off where it is given one that clips."""
    config = json.loads((folder / SCHEDULER).read_text())
    del config["clip_sample"]
    (folder / SCHEDULER).write_text(json.dumps(config))
    loaded, request = load(folder), make_request(scheduler="DDIM", num_inference_steps=3)
    scheduler = DDIMScheduler.from_config(loaded.pipeline.scheduler.config)
    assert scheduler.config.clip_sample is True
    with pytest.warns(FutureWarning, match="clip_sample"):
        stock = StableDiffusionPipeline(**loaded.pipeline.components | {"scheduler": scheduler})
    stock.set_progress_bar_config(disable=True)
    drawn = stock(
        prompt=request.prompt,
        num_inference_steps=3,
        guidance_scale=request.guidance_scale,
        width=request.width,
        height=request.height,
        generator=torch.Generator().manual_seed(request.seed),
        output_type="latent",
    ).images
    own = denoised(Denoiser(loaded.pipeline), request)
    assert own.abs().max() > 1, "clipping would show"
    assert torch.equal(own, drawn)
