"""A pipeline of real classes in v1-4's layout with seeded random weights: it paints noise, always the same."""

import copy
import hashlib
import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from sd_space.engine.denoiser import Denoiser
from sd_space.engine.engine import Engine
from sd_space.engine.safety import SafetyScreen, fit_latent_rgb
from sd_space.fields import SourcePicture
from sd_space.model.pipeline import LoadedPipeline, load_pipeline
from sd_space.model.spec import Hardware, PipelineSpec
from sd_space.request import GenerationRequest
from sd_space.schema import AdmittedRequest
from sd_space.settings import Settings

from .v1_4 import CONFIGS

IMAGE_SIZE = 64  # pixels; latents are 8 x 8 with 4 channels
PROJECTION = 32


def byte_symbols() -> list[str]:
    """The 256 printable stand-ins of bytes that GPT-2 and CLIP use in their vocabularies."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + k) for k in range(len(others))]


def make_tokenizer() -> CLIPTokenizer:
    symbols = byte_symbols()
    merges = [("a", "</w>"), ("c", "a"), ("ca", "t</w>"), ("d", "o"), ("do", "g</w>")]
    tokens = [*symbols, *(symbol + "</w>" for symbol in symbols), *("".join(pair) for pair in merges)]
    tokens = list(dict.fromkeys(tokens))
    vocab = {token: k for k, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
    merges = [pair for pair in merges if pair[0] in vocab and pair[1] in vocab]
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=77)


def make_safety_checker(seed: int = 3) -> StableDiffusionSafetyChecker:
    """Concepts in directions of their own with thresholds that pictures of noise do not reach."""
    torch.manual_seed(seed)
    tower = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = CLIPConfig(
        vision_config=tower | {"image_size": 32, "patch_size": 8},
        text_config=tower | {"vocab_size": 99, "bos_token_id": 97, "eos_token_id": 98, "pad_token_id": 98},
        projection_dim=PROJECTION,
    )
    checker = StableDiffusionSafetyChecker(config)
    directions, _ = torch.linalg.qr(torch.randn(PROJECTION, PROJECTION))
    with torch.no_grad():
        checker.concept_embeds.copy_(directions[:17])
        checker.special_care_embeds.copy_(directions[17:20])
        checker.concept_embeds_weights.fill_(0.9)
        checker.special_care_embeds_weights.fill_(0.9)
    return checker.eval()


def make_pipeline(seed: int = 0) -> StableDiffusionPipeline:
    tokenizer = make_tokenizer()
    torch.manual_seed(seed)
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=37,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=77,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=IMAGE_SIZE // 8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=4,
        norm_num_groups=8,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=IMAGE_SIZE,
    )
    # v1-4's scheduler_config.json
    scheduler = PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        steps_offset=1,
        set_alpha_to_one=False,
    )
    pipeline = StableDiffusionPipeline(
        vae=vae.eval(),
        text_encoder=text_encoder.eval(),
        tokenizer=tokenizer,
        unet=unet.eval(),
        scheduler=scheduler,
        safety_checker=make_safety_checker(),
        feature_extractor=CLIPImageProcessorPil(size=32, crop_size=32),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def save_model_folder(folder: Path, variant: str | None = None) -> Path:
    """Writes a model folder as an operator has it, with v1-4's names in its index."""
    make_pipeline().save_pretrained(folder, safe_serialization=True, variant=variant)
    index = folder / "model_index.json"
    index.write_text(index.read_text().replace("CLIPImageProcessorPil", "CLIPImageProcessor"))
    # As v1-4 has it: what its file leaves out is each noise scheduler's own default, not PNDM's.
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(CONFIGS["scheduler/scheduler_config.json"]))
    described = {"name": "noise-painter", "title": "Noise", "defaults": {"num_inference_steps": 4}}
    (folder / "sd_space.json").write_text(json.dumps(described))
    return folder


def load(folder: Path) -> LoadedPipeline:
    return load_pipeline(PipelineSpec.from_settings(Settings(model=str(folder), runtime="torch"), Hardware("cpu")))


def make_screen(loaded: LoadedPipeline, **changes) -> SafetyScreen:
    """A screen with a checker of its own, so that a test may break it."""
    denoiser = Denoiser(loaded.pipeline)
    return SafetyScreen(
        **{
            "safety_checker": copy.deepcopy(loaded.pipeline.safety_checker),
            "feature_extractor": loaded.pipeline.feature_extractor,
            "latent_rgb": fit_latent_rgb(denoiser.decode_latents, denoiser.latent_channels),
            "missing_tensors": loaded.missing_checker_tensors,
        }
        | changes
    )


def make_engine(
    loaded: LoadedPipeline, width: int = 8, fixed_rows: int | None = None, can_go_lower: bool = False, **changes
) -> Engine:
    """An engine that reports at every step. `can_go_lower` lets it change how the pipeline is placed."""
    placement = loaded.placement
    reduce_memory = placement.fall_back if can_go_lower else lambda: False
    denoiser = Denoiser(loaded.pipeline, fixed_rows, reduce_memory, placement.unet_runner)
    options = {"screen": make_screen(loaded), "width": width, "report_every_s": 0.0}
    if can_go_lower:
        options["most_pictures"] = lambda: placement.profile.max_pictures
    return Engine(denoiser, **options | changes)


def make_request(**changes) -> GenerationRequest:
    return GenerationRequest(
        **{
            "prompt": "a cat",
            "negative_prompt": "",
            "num_images_per_prompt": 1,
            "num_inference_steps": 4,
            "guidance_scale": 7.5,
            "seed": 5,
            "width": IMAGE_SIZE,
            "height": IMAGE_SIZE,
            "scheduler": "PNDM",
        }
        | changes
    )


def admitted(request_id: str, visitor: str = "", **changes) -> AdmittedRequest:
    return AdmittedRequest(request_id, make_request(**changes), visitor or request_id, accepted_at=0.0)


def make_source(width: int = IMAGE_SIZE, height: int = IMAGE_SIZE, channels: int = 3, seed: int = 0) -> SourcePicture:
    """A picture of coloured blots, or a mask of some."""
    blots = torch.rand(1, channels, 4, 4, generator=torch.Generator().manual_seed(seed))
    values = torch.nn.functional.interpolate(blots, (height, width), mode="bicubic").clamp(0, 1)
    pixels = (values[0].permute(1, 2, 0) * 255).to(torch.uint8).numpy().tobytes()
    return SourcePicture(width, height, channels, pixels, hashlib.sha256(pixels).hexdigest())
