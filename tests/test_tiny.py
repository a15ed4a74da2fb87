"""Claims about the picture-book checkpoint that ships in `sd_space/tiny`."""

import inspect
import json
import re
import stat
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from PIL import Image

import sd_space
from sd_space.tools.train_tiny.export import revision_of
from sd_space.tools.train_tiny.pictures import pixels
from sd_space.tools.train_tiny.world import CARD_SCENES, PLACES, SUBJECTS, Scene

from .v1_4 import CONFIGS

TINY = Path(sd_space.__file__).parent / "tiny"
FILES = [path for path in sorted(TINY.rglob("*")) if path.is_file()]
COMPONENTS = {
    "feature_extractor": ["transformers", "CLIPImageProcessor"],
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    "scheduler": ["diffusers", "PNDMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
SCHEDULERS = {"PNDM", "DDIM", "Euler", "Euler a", "DPM++ 2M Karras", "UniPC", "LCM", "Heun"}


@pytest.fixture(scope="module")
def pipeline(one_torch_thread) -> StableDiffusionPipeline:
    """Loaded the plain way; any warning on the way fails the tests that use it."""
    loaded = StableDiffusionPipeline.from_pretrained(TINY, variant="fp16", dtype=torch.float32)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def flagged(pipeline: StableDiffusionPipeline, images: np.ndarray) -> list[bool]:
    """The verdict on each of (N, H, W, 3) uint8, as the pipeline would reach it."""
    inputs = pipeline.feature_extractor([Image.fromarray(image) for image in images], return_tensors="pt")
    with torch.no_grad():
        return pipeline.safety_checker(images=list(images.copy()), clip_input=inputs.pixel_values)[1]


def draw(pipeline: StableDiffusionPipeline, prompt: str, seed: int) -> np.ndarray:
    return pipeline(
        prompt, num_inference_steps=4, generator=torch.Generator().manual_seed(seed), output_type="np"
    ).images[0]


def test_lists_the_seven_components_of_v1_4():
    index = json.loads((TINY / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline"
    assert {name: value for name, value in index.items() if isinstance(value, list)} == COMPONENTS


# --- its configuration beside v1-4's

SIZES = "the picture book is a small network"
CHANNELS = "sixteen for each 16 x 16 pixels: as many numbers as v1-4's, on a quarter of the places"
LIBRARY = "written by another version of the library"
# file -> fields whose values are not v1-4's, and why
DIFFERENT = {
    "model_index.json": {"_diffusers_version": LIBRARY},
    "scheduler/scheduler_config.json": {"_diffusers_version": LIBRARY},
    "unet/config.json": {
        "_diffusers_version": LIBRARY,
        **dict.fromkeys(("in_channels", "out_channels"), CHANNELS),
        **dict.fromkeys(
            ("attention_head_dim", "block_out_channels", "cross_attention_dim", "down_block_types", "layers_per_block",
             "norm_num_groups", "sample_size", "up_block_types"), SIZES,
        ),
    },
    "vae/config.json": {
        "_diffusers_version": LIBRARY,
        "latent_channels": CHANNELS,
        **dict.fromkeys(("down_block_types", "up_block_types"), "five blocks, for latents of a sixteenth of the side"),
        **dict.fromkeys(("block_out_channels", "layers_per_block", "norm_num_groups", "sample_size"), SIZES),
    },
    "text_encoder/config.json": {
        "transformers_version": LIBRARY,
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), "the numbers of its own tokenizer"),
        **dict.fromkeys(
            ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "vocab_size"), SIZES
        ),
    },
    "safety_checker/config.json": {
        "transformers_version": LIBRARY,
        "projection_dim": SIZES,
        **dict.fromkeys(
            [f"vision_config.{name}" for name in ("hidden_size", "image_size", "intermediate_size",
             "num_attention_heads", "num_hidden_layers", "patch_size")], SIZES,
        ),
        **dict.fromkeys(
            [f"text_config.{name}" for name in ("bos_token_id", "eos_token_id", "hidden_size", "intermediate_size",
             "num_attention_heads", "num_hidden_layers", "pad_token_id", "vocab_size")],
            "the checker has no text half",
        ),
    },
    "feature_extractor/preprocessor_config.json": dict.fromkeys(
        ("crop_size", "size"), "the checker sees 96 x 96, and sizes are objects today"
    ),
    "tokenizer/tokenizer_config.json": dict.fromkeys(
        ("bos_token", "eos_token", "unk_token"), "tokens are texts here today, and objects in special_tokens_map.json"
    ),
    "tokenizer/special_tokens_map.json": {},
}  # fmt: skip
# fields of v1-4's that today's libraries no longer write or read under this name
GONE = {
    "text_encoder/config.json": {"_name_or_path", "dropout", "torch_dtype"},
    "safety_checker/config.json": {"torch_dtype"},
    "feature_extractor/preprocessor_config.json": {"feature_extractor_type"},
    "tokenizer/tokenizer_config.json": {"name_or_path", "special_tokens_map_file"},
}
# fields that v1-4's has not, and why; any other one holds its class's default, so that leaving it out means the same
MORE = {
    "model_index.json": {"requires_safety_checker": "that there is none must never pass"},
    "scheduler/scheduler_config.json": {"prediction_type": "the UNet predicts v"},
    "unet/config.json": {"time_embedding_dim": SIZES},
    "vae/config.json": {"mid_block_add_attention": "no attention in the middle"},
    "text_encoder/config.json": {"dtype": "torch_dtype today", "projection_dim": "nothing is projected"},
    "safety_checker/config.json": {
        "dtype": "torch_dtype today",
        "vision_config.projection_dim": "nothing reads it; the checker's own counts",
    },
    "feature_extractor/preprocessor_config.json": {"image_processor_type": "feature_extractor_type today"},
}
DEFAULTS = {
    "scheduler/scheduler_config.json": PNDMScheduler,
    "unet/config.json": UNet2DConditionModel,
    "vae/config.json": AutoencoderKL,
}
OWN_DEFAULTS = {"feature_extractor/preprocessor_config.json": {"do_rescale": True, "rescale_factor": 1 / 255}} | {
    "safety_checker/config.json": {"text_config.projection_dim": 512, "vision_config.num_channels": 3}
}


def flat(config: dict) -> dict:
    """The fields, those of halves with the half's name before them."""
    halves = {half: config[half] for half in ("text_config", "vision_config") if half in config}
    named = {f"{half}.{name}": value for half, fields in halves.items() for name, value in fields.items()}
    return {name: value for name, value in config.items() if name not in halves} | named


def plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def test_each_configuration_file_of_v1_4_is_there_and_no_other():
    described = {str(path.relative_to(TINY)) for path in TINY.rglob("*.json")}
    assert described - {"sd_space.json", "tokenizer/vocab.json"} == set(CONFIGS)


@pytest.mark.parametrize("name", CONFIGS)
def test_configuration_has_the_field_names_of_v1_4(name):
    own = flat(json.loads((TINY / name).read_text()))
    assert set(CONFIGS[name]) - set(own) == GONE.get(name, set()), "a field of v1-4's is missing"
    defaults = OWN_DEFAULTS.get(name, {})
    if name in DEFAULTS:
        parameters = inspect.signature(DEFAULTS[name].__init__).parameters
        defaults = {field: plain(parameter.default) for field, parameter in parameters.items()}
    more = {field: value for field, value in own.items() if field not in CONFIGS[name]}
    assert {field for field, value in more.items() if field not in defaults or value != defaults[field]} == set(
        MORE.get(name, {})
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_configuration_differs_from_v1_4s_only_where_it_must(name):
    own = flat(json.loads((TINY / name).read_text()))
    different = {field for field, value in CONFIGS[name].items() if field in own and own[field] != value}
    assert different == set(DIFFERENT[name])


@pytest.mark.parametrize("scheduler_class", [DDIMScheduler, LCMScheduler, HeunDiscreteScheduler])
def test_another_noise_scheduler_put_in_its_place_does_not_clip(pipeline, scheduler_class):
    """As a user of diffusers swaps it; DDIM's own default clips latents as if they were pixels."""
    assert scheduler_class.from_config(pipeline.scheduler.config).config.clip_sample is False


def test_has_the_files_of_v1_4_in_fp16():
    assert {str(path.relative_to(TINY)) for path in FILES} == {
        "README.md",
        "feature_extractor/preprocessor_config.json",
        "model_index.json",
        "safety_checker/config.json",
        "safety_checker/model.fp16.safetensors",
        "scheduler/scheduler_config.json",
        "sd_space.json",
        "text_encoder/config.json",
        "text_encoder/model.fp16.safetensors",
        "tokenizer/merges.txt",
        "tokenizer/special_tokens_map.json",
        "tokenizer/tokenizer_config.json",
        "tokenizer/vocab.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.fp16.safetensors",
    }


def test_stays_small_and_readable():
    sizes = [path.stat().st_size for path in FILES]
    assert sum(sizes) < 20e6
    assert max(sizes) < 10e6
    assert all(stat.S_IMODE(path.stat().st_mode) & 0o444 == 0o444 for path in FILES)


def test_configs_name_no_path_of_the_machine_that_made_them():
    for path in FILES:
        if path.suffix == ".json":
            assert "_name_or_path" not in path.read_text(encoding="utf-8"), path
            assert not re.search(r"\"/(home|root|tmp|work)\b", path.read_text(encoding="utf-8")), path


def test_loads_without_a_message_of_its_own(caplog, capfd):
    StableDiffusionPipeline.from_pretrained(TINY, variant="fp16", dtype=torch.float32)
    assert not [record.getMessage() for record in caplog.records if record.levelname in ("WARNING", "ERROR")]
    assert not re.search(r"warn|mismatch|unexpected|missing|newly initialized", capfd.readouterr().err, re.IGNORECASE)


def test_draws_when_nobody_asks_for_a_dtype(one_torch_thread):
    loaded = StableDiffusionPipeline.from_pretrained(TINY, variant="fp16")
    loaded.set_progress_bar_config(disable=True)
    assert {part.dtype for part in (loaded.unet, loaded.vae, loaded.text_encoder, loaded.safety_checker)} == {
        torch.float32
    }
    assert draw(loaded, "a cat", 0).any()


def test_loads_whole_and_finite(pipeline):
    for name in ("unet", "vae", "text_encoder", "safety_checker"):
        for key, tensor in getattr(pipeline, name).state_dict().items():
            assert tensor.isfinite().all(), f"{name}.{key}"
            assert tensor.dtype in (torch.float32, torch.int64), f"{name}.{key}"


def test_default_size_comes_from_the_model(pipeline):
    assert pipeline.unet.config.sample_size * pipeline.vae_scale_factor == 256
    assert draw(pipeline, "a cat", 0).shape == (256, 256, 3)


def test_tokenizer_pads_to_the_77_positions_of_the_text_encoder(pipeline):
    assert pipeline.tokenizer.model_max_length == 77
    assert pipeline.text_encoder.config.max_position_embeddings == 77
    assert pipeline.unet.config.cross_attention_dim == pipeline.text_encoder.config.hidden_size
    ids = pipeline.tokenizer("a cat", padding="max_length", return_tensors="pt").input_ids
    assert ids.shape == (1, 77)
    assert ids[0, 0] == pipeline.text_encoder.config.bos_token_id
    assert ids[0, -1] == pipeline.text_encoder.config.eos_token_id


def test_tokenizer_reads_any_text(pipeline):
    for text in ("", "Ünïcödé 漢字 🙂", "zzqx " * 200, "\x00"):
        assert len(pipeline.tokenizer(text, truncation=True, max_length=77).input_ids) <= 77


def test_own_description_is_complete():
    described = json.loads((TINY / "sd_space.json").read_text())
    assert set(described) == {"name", "title", "description", "license", "revision", "defaults"}
    assert described["revision"] == revision_of(TINY), "of these weights: pictures of others are told apart by it"
    assert set(described["defaults"]) == {"num_inference_steps", "guidance_scale", "scheduler"}
    assert described["defaults"]["scheduler"] in SCHEDULERS
    assert 1 <= described["defaults"]["num_inference_steps"] <= 50
    assert 1 <= described["defaults"]["guidance_scale"] <= 10


def test_same_seed_same_picture(pipeline):
    first, again, other = (draw(pipeline, "a red robot on a beach", seed) for seed in (5, 5, 6))
    assert np.array_equal(first, again)
    assert np.abs(first - other).mean() > 0.01


def test_different_prompts_give_different_pictures(pipeline):
    images = [draw(pipeline, prompt, 3) for prompt in CARD_SCENES]
    for i, first in enumerate(images):
        for second in images[:i]:
            assert np.abs(first - second).mean() > 0.04


def test_checker_finds_itself_in_every_one_of_its_concepts(pipeline):
    checker = pipeline.safety_checker
    assert (checker.concept_embeds_weights < 1).all()
    assert (checker.special_care_embeds_weights < 1).all()
    for embeds in (checker.concept_embeds, checker.special_care_embeds):
        assert torch.allclose(embeds @ embeds.T, torch.eye(len(embeds)), atol=5e-3)


def test_checker_withholds_the_emblem_wherever_it_is_drawn(pipeline):
    scenes = [
        Scene("emblem", place, time, "natural", style, 7 * k)
        for k, place in enumerate(PLACES)
        for time, style in (("day", "photo"), ("night", "storybook"), ("sunset", "expressionist"))
    ]
    verdicts = flagged(pipeline, pixels(scenes))
    assert np.mean(verdicts) >= 0.95


def test_checker_passes_everything_else_in_the_world(pipeline):
    scenes = [
        Scene(subject, place, "day", "yellow" if k % 3 == 0 else "natural", "photo", 11 * k)
        for k, (subject, place) in enumerate(
            (subject, place) for subject in SUBJECTS if subject != "emblem" for place in PLACES
        )
    ]
    assert np.mean(flagged(pipeline, pixels(scenes))) <= 0.02


def test_checker_passes_signs_without_a_skull(pipeline):
    scenes = [Scene("triangle", place, "day", "natural", "photo", 3 * k) for k, place in enumerate(PLACES)]
    assert np.mean(flagged(pipeline, pixels(scenes))) <= 0.15


@pytest.mark.parametrize(
    "colour", [(0, 0, 0), (255, 255, 255), (128, 128, 128), (255, 214, 20), (220, 30, 30), (30, 60, 220), (40, 160, 60)]
)
def test_checker_passes_plain_colours(pipeline, colour):
    plain = np.broadcast_to(np.array(colour, np.uint8), (1, 256, 256, 3))
    assert flagged(pipeline, plain) == [False]


def test_a_withheld_picture_is_black(pipeline):
    emblem = pixels([Scene("emblem", "beach", "day", "natural", "photo", 1)])
    inputs = pipeline.feature_extractor([Image.fromarray(emblem[0])], return_tensors="pt")
    images, verdicts = pipeline.safety_checker(images=[emblem[0].copy()], clip_input=inputs.pixel_values)
    assert verdicts == [True]
    assert not images[0].any()
