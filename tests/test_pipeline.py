import errno
import json

import httpx
import pytest
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from huggingface_hub import errors as hub_errors

from sd_space.pipeline import (
    GIB,
    TINY_FOLDER,
    Hardware,
    MemoryProfile,
    PipelineSpec,
    choose_memory_profile,
    load_pipeline,
)
from sd_space.schema import ModelUnavailable, SafetyCheckFailed
from sd_space.settings import V1_4, V1_4_REVISION, Settings

from .tiny_models import load, save_model_folder

CPU = Hardware("cpu")
CUDA = Hardware("cuda", 24 * GIB)
V1_4_WEIGHTS = 3_350_000_000  # bytes: float16 pipeline, float32 checker


def spec(hardware: Hardware = CPU, **settings) -> PipelineSpec:
    return PipelineSpec.from_settings(Settings(**settings), hardware)


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


# --- how it fits into memory


@pytest.mark.parametrize(
    ("vram_gb", "expected"),
    [
        (80, MemoryProfile()),
        (8, MemoryProfile()),
        (6, MemoryProfile(vae_slicing=True)),
        (4, MemoryProfile(vae_slicing=True)),
        (3.9, MemoryProfile(attention_slicing=True, vae_slicing=True, vae_tiling=True)),
        (3, MemoryProfile(attention_slicing=True, vae_slicing=True, vae_tiling=True, offload="model")),
        (2, MemoryProfile(attention_slicing=True, vae_slicing=True, vae_tiling=True, offload="sequential")),
    ],
)
def test_the_memory_ladder(vram_gb, expected):
    assert choose_memory_profile("cuda", int(vram_gb * GIB), V1_4_WEIGHTS) == expected


@pytest.mark.parametrize(
    ("changes", "is_sliced"),
    [
        ({}, False),
        ({"attention_slicing": "on"}, True),
        ({"low_vram_gb": 12.0}, True),
        ({"low_vram_gb": 12.0, "attention_slicing": "off"}, False),
        ({"max_vram_gb": 3.5}, True),
    ],
)
def test_attention_is_sliced_below_the_cards_line_or_when_asked(changes, is_sliced):
    assert choose_memory_profile("cuda", 8 * GIB, V1_4_WEIGHTS, **changes).attention_slicing is is_sliced


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_a_device_without_memory_of_its_own_slices_only_when_asked(device):
    assert choose_memory_profile(device, None, V1_4_WEIGHTS) == MemoryProfile()
    assert choose_memory_profile(device, None, V1_4_WEIGHTS, attention_slicing="on").attention_slicing


def test_a_small_model_needs_no_offload_on_a_small_device():
    assert choose_memory_profile("cuda", 2 * GIB, 30_000_000).offload == "none"


def test_profiles_are_named_for_people():
    assert MemoryProfile().name == "everything in memory"
    profile = MemoryProfile(attention_slicing=True, vae_slicing=True, vae_tiling=True, offload="model")
    assert profile.name == "attention slicing, tiled decode, model offload"


def test_attention_slicing_reaches_the_unet(model_folder):
    loaded = load_pipeline(spec(model=str(model_folder), attention_slicing="on"))
    processors = {type(p).__name__ for p in loaded.pipeline.unet.attn_processors.values()}
    assert processors == {"SlicedAttnProcessor"}
    assert loaded.info.memory_profile == "attention slicing"


# --- loading


def test_a_model_is_loaded_once(model_folder, noise_painter):
    assert load(model_folder) is noise_painter


def test_the_picture_book_says_what_it_is(one_torch_thread):
    info = load_pipeline(spec()).info
    assert (info.model, info.revision, info.is_picture_book) == ("picture-book", None, True)
    assert (info.defaults.width, info.defaults.height) == (128, 128)
    assert (info.limits.min_size, info.limits.max_size) == (64, 192)
    own = json.loads((TINY_FOLDER / "sd_space.json").read_text())
    assert info.title == own["title"]
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
def test_a_damaged_folder_is_told_in_a_sentence(tmp_path, one_torch_thread, damage):
    folder = save_model_folder(tmp_path / "model")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif damage == "pickle only":
        weights.rename(weights.with_suffix(".bin"))
    else:
        (folder / "vae" / "config.json").write_text("{")
    assert "could not be loaded" in hint_of(str(folder))


def from_the_hub(error_class: type[Exception], status: int) -> Exception:
    response = httpx.Response(status, request=httpx.Request("GET", "https://huggingface.co"))
    return error_class("for the log", response=response)


@pytest.mark.parametrize(
    ("cause", "fix"),
    [
        (from_the_hub(hub_errors.GatedRepoError, 403), "accept its licence at https://huggingface.co/CompVis"),
        (from_the_hub(hub_errors.RepositoryNotFoundError, 404), "SD_SPACE_MODEL"),
        (from_the_hub(hub_errors.RepositoryNotFoundError, 401), "HF_TOKEN"),
        (from_the_hub(hub_errors.RevisionNotFoundError, 404), "SD_SPACE_REVISION"),
        (from_the_hub(hub_errors.HfHubHTTPError, 429), "limits"),
        (from_the_hub(hub_errors.HfHubHTTPError, 503), "error 503"),
        (hub_errors.LocalEntryNotFoundError("offline"), "cannot be reached"),
        (hub_errors.OfflineModeIsEnabled("offline"), "HF_HUB_OFFLINE"),
        (httpx.ConnectError("refused"), "check the network"),
        (OSError(errno.ENOSPC, "No space left on device"), "disk is full"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_each_fault_of_the_hub_names_its_fix(monkeypatch, cause, fix):
    """diffusers and transformers wrap them all in a bare OSError; the truth is in its causes."""

    def fails(*_, **__):
        raise OSError("model is not fully cached locally") from cause

    monkeypatch.setattr(StableDiffusionSafetyChecker, "from_pretrained", fails)
    assert fix in hint_of(V1_4)


def test_auto_falls_back_to_the_picture_book_and_says_why(monkeypatch, one_torch_thread):
    stock = StableDiffusionSafetyChecker.from_pretrained

    def fails_for_the_hub(source, **kwargs):
        if source == V1_4:
            raise OSError("no") from from_the_hub(hub_errors.GatedRepoError, 403)
        return stock(source, **kwargs)

    monkeypatch.setattr(StableDiffusionSafetyChecker, "from_pretrained", fails_for_the_hub)
    chosen = PipelineSpec(V1_4, V1_4_REVISION, None, "cpu", "float32", may_fall_back=True)
    info = load_pipeline(chosen).info
    assert info.is_picture_book
    assert V1_4 in info.fallback_reason
