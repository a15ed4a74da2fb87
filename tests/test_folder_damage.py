"""A model folder with random damages: it draws exactly what the stock pipeline would, or says why in a sentence."""

import re
import shutil
import signal
import warnings
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from sd_space.engine.denoiser import Denoiser
from sd_space.errors import ModelUnavailable, SafetyCheckFailed
from sd_space.model import pipeline
from sd_space.model.noise_schedulers import make_scheduler
from sd_space.model.pipeline import LoadedPipeline
from sd_space.model.spec import Hardware, PipelineSpec
from sd_space.settings import Settings
from sd_space.tools.doctor import Doctor, Failed

from .folder_damage import damage
from .generated import drawn
from .test_denoiser import denoised
from .tiny_models import load, make_request, make_screen

PROGRAMMERS_WORDS = re.compile(r"\w+(Error|Exception)\b|Traceback|object at 0x|\[Errno|torch\.|NoneType|<class")
PATIENCE_S = 60  # for one folder, on a busy machine


@pytest.fixture(autouse=True)
def nothing_hangs():
    """Ends a test in which one folder takes too long; `with_patience` winds it up anew."""

    def give_up(*_):
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, give_up)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def copied(folder: Path, target: Path) -> Path:
    """A copy whose files are links to the same contents: a damage replaces them, and never writes into them."""
    return Path(shutil.copytree(folder, target, copy_function=lambda source, place: Path(place).hardlink_to(source)))


def quick_doctor(folder: Path) -> str | None:
    """What `doctor --quick` says is wrong with the model's files."""
    doctor = Doctor({}, is_quick=True)
    doctor.spec = PipelineSpec.from_settings(Settings(model=str(folder)), Hardware("cpu"))
    try:
        doctor.check_files()
    except (Failed, ModelUnavailable) as failure:
        return getattr(failure, "operator_hint", str(failure))
    return None


def served_or_told(folder: Path) -> LoadedPipeline | str:
    """The model, past the safety screen's own test, or what its operator is told."""
    pipeline._loaded.clear()
    try:
        loaded = load(folder)
        make_screen(loaded)
        return loaded
    except (ModelUnavailable, SafetyCheckFailed) as refusal:
        visitors = str(refusal)
        assert "/" not in visitors and folder.name not in visitors and not PROGRAMMERS_WORDS.search(visitors)
        return refusal.operator_hint


def assert_is_one_sentence(told: str) -> None:
    assert told.endswith(".") and "\n" not in told and len(told) < 500, told
    assert not re.search(r"[.!?] [A-Z]", told), told
    assert ";" in told, f"no fix: {told}"
    assert not PROGRAMMERS_WORDS.search(told), told
    assert "safety_checker=None" not in told


def assert_draws_as_stock(loaded: LoadedPipeline, folder: Path) -> None:
    """Bit by bit the latents of the stock pipeline from the same folder, with the noise scheduler that is proposed."""
    request = make_request(num_inference_steps=2, scheduler=loaded.info.defaults.scheduler)
    request = make_request(
        num_inference_steps=2,
        scheduler=request.scheduler,
        width=loaded.info.defaults.width,
        height=loaded.info.defaults.height,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of outdated fields, which it corrects
        stock = StableDiffusionPipeline.from_pretrained(
            folder, safety_checker=loaded.pipeline.safety_checker, use_safetensors=True, torch_dtype=torch.float32
        )
        parts = stock.components | {"scheduler": make_scheduler(request.scheduler, stock.scheduler.config, 2)}
        stock = StableDiffusionPipeline(**parts)
    stock.set_progress_bar_config(disable=True)
    drawn_by_stock = stock(
        prompt=request.prompt,
        num_inference_steps=2,
        guidance_scale=request.guidance_scale,
        width=request.width,
        height=request.height,
        generator=torch.Generator().manual_seed(request.seed),
        output_type="latent",
    ).images
    assert torch.equal(denoised(Denoiser(loaded.pipeline), request), drawn_by_stock)


def seen_by_checker(loaded: LoadedPipeline) -> torch.Tensor:
    picture = Image.effect_mandelbrot((96, 64), (-2, -1, 1, 1), 100).convert("RGB")
    clip_input = loaded.pipeline.feature_extractor([picture], return_tensors="pt").pixel_values
    checker = loaded.pipeline.safety_checker
    with torch.no_grad():
        return checker.visual_projection(checker.vision_model(clip_input)[1])


def judges_alike(loaded: LoadedPipeline, whole: LoadedPipeline) -> bool:
    """As well as half precision can: a tensor may be saved in it, as v1-4's are."""
    tensors = loaded.pipeline.safety_checker.state_dict()
    # Concepts are known by the direction of what is seen.
    seen = torch.cosine_similarity(seen_by_checker(loaded), seen_by_checker(whole))
    return bool((seen > 1 - 1e-5).all()) and all(
        torch.allclose(tensors[key], value, rtol=2**-11, atol=1e-3)
        for key, value in whole.pipeline.safety_checker.state_dict().items()
    )


@drawn(30, nightly=5_000)
def test_a_damaged_folder_serves_exactly_or_says_why(model_folder, noise_painter, tmp_path, monkeypatch, attempts):
    monkeypatch.setattr(pipeline, "_loaded", {})
    for attempt in attempts:
        with attempt:
            signal.alarm(PATIENCE_S)
            folder = copied(model_folder, tmp_path / f"model-{attempt.number}")
            attempt.asks(damage(attempt.random, folder))
            quickly, answer = quick_doctor(folder), served_or_told(folder)
            if isinstance(answer, str):
                assert_is_one_sentence(answer)
                assert quickly in (None, answer), "the doctor says something else"
            else:
                assert quickly is None, f"served, but the doctor says: {quickly}"
                assert judges_alike(answer, noise_painter), "an unsafe checker"
                assert_draws_as_stock(answer, folder)
            attempt.came_to("told" if isinstance(answer, str) else "served")
            shutil.rmtree(folder)
    signal.alarm(0)
    attempts.assert_held("told", "served")
