"""What an inspection shows: what the steps predicted, or what the autoencoder makes of a picture."""

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from sd_space.engine import inspector
from sd_space.engine.denoiser import Denoiser
from sd_space.engine.engine import Engine, run_to_completion
from sd_space.engine.inspector import steps_shown
from sd_space.errors import Cancelled
from sd_space.schema import MAX_STEPS_SHOWN, GenerationResult, Inspection, Outcome, PictureFinished, ScreenedImage
from sd_space.served_model import SCHEDULERS

from .test_denoiser import plain_pipeline, prepared
from .test_engine import failures, results, run
from .tiny_models import admitted, make_engine, make_request


def inspected(request_id: str, inspection: Inspection = Inspection.STEPS, **changes):
    return replace(admitted(request_id, **changes), inspection=inspection)


def values(image: ScreenedImage) -> np.ndarray:
    return np.frombuffer(image.pixels, np.uint8).astype(int)


def flag_some(monkeypatch, engine: Engine, flagged: set[int]) -> list[bool]:
    """The screen flags pictures by their number; returns the verdicts that it gives."""
    verdicts: list[bool] = []

    def flags(picture):
        verdicts.append(len(verdicts) in flagged)
        return verdicts[-1]

    monkeypatch.setattr(engine._screen, "_is_flagged", flags)
    return verdicts


def predicted(plain: StableDiffusionPipeline, request) -> list[torch.Tensor]:
    """What the stock pipeline's noise scheduler predicts for the end at each step."""
    scheduler, predictions = plain.scheduler, []
    assert scheduler.config.prediction_type == "epsilon"
    step = scheduler.step

    @functools.wraps(step)
    def recorded(noise_pred, t, sample, **kwargs):
        stepped = step(noise_pred, t, sample, **kwargs)
        if len(stepped) > 1:
            predictions.append(stepped[1])
        elif hasattr(scheduler, "model_outputs"):
            predictions.append(scheduler.model_outputs[-1])
        else:
            alpha = scheduler.alphas_cumprod[t]
            predictions.append((sample - (1 - alpha) ** 0.5 * noise_pred) / alpha**0.5)
        return stepped

    scheduler.step = recorded
    plain(
        prompt=request.prompt,
        num_inference_steps=request.num_inference_steps,
        guidance_scale=request.guidance_scale,
        width=request.width,
        height=request.height,
        generator=torch.Generator().manual_seed(request.seed),
        output_type="latent",
    )
    return predictions


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_each_scheduler_says_what_a_step_predicts(noise_painter, scheduler):
    request = make_request(scheduler=scheduler, num_inference_steps=7)
    denoiser, plain = Denoiser(noise_painter.pipeline), plain_pipeline(noise_painter, scheduler, 7)
    (state,) = prepared(denoiser, request)
    for own in predicted(plain, request):
        denoiser.denoise_step([state])
        assert torch.allclose(denoiser.predicted_latents(state), own, atol=1e-4)


@pytest.mark.parametrize("guidance_scale", [7.5, 1.0])
@pytest.mark.parametrize("scheduler", ["PNDM", "Euler"])
def test_each_step_is_that_prediction_decoded(noise_painter, scheduler, guidance_scale):
    changes = {"scheduler": scheduler, "num_inference_steps": 7, "guidance_scale": guidance_scale}
    result = run_to_completion(make_engine(noise_painter), inspected("a", **changes))
    plain = plain_pipeline(noise_painter, scheduler, 7)
    expected = predicted(plain, make_request(**changes))
    assert len(result.images) == 1 + len(expected)
    for image, own in zip(result.images[1:], expected, strict=True):
        with torch.inference_mode():
            decoded = plain.vae.decode(own / plain.vae.config.scaling_factor).sample
        picture = np.asarray(plain.image_processor.postprocess(decoded, "pil")[0])
        assert np.abs(values(image) - picture.reshape(-1).astype(int)).max() <= 1


def test_as_many_steps_are_shown_as_a_visitor_can_look_at(noise_painter):
    assert steps_shown(1) == (1,) and steps_shown(5) == (1, 2, 3, 4, 5)
    for number in range(MAX_STEPS_SHOWN + 1, 60):
        steps = steps_shown(number)
        assert len(set(steps)) == MAX_STEPS_SHOWN and (steps[0], steps[-1]) == (1, number)
    engine = make_engine(noise_painter)
    engine.add_request(inspected("a", num_inference_steps=20))  # 21 with PNDM
    finished = [update for update in run(engine) if isinstance(update, PictureFinished)]
    assert [update.of_step for update in finished] == [None, *steps_shown(21)]
    assert [update.index for update in finished] == list(range(1 + MAX_STEPS_SHOWN))


def test_a_step_that_is_flagged_is_withheld_alone(noise_painter, monkeypatch):
    engine = make_engine(noise_painter)
    verdicts = flag_some(monkeypatch, engine, {2})  # the first is the picture's own
    images = run_to_completion(engine, inspected("a")).images
    assert [image.outcome for image in images] == [Outcome.OK, Outcome.OK, Outcome.WITHHELD, *[Outcome.OK] * 3]
    assert images[2].pixels is None and len(verdicts) == len(images), "each is looked at"


@pytest.mark.parametrize("inspection", Inspection)
def test_nothing_is_decoded_of_a_run_with_a_picture_that_is_withheld(noise_painter, monkeypatch, inspection):
    engine = make_engine(noise_painter)
    verdicts = flag_some(monkeypatch, engine, {1})
    images = run_to_completion(engine, inspected("a", inspection, num_images_per_prompt=2)).images
    assert [image.outcome for image in images] == [Outcome.OK, Outcome.WITHHELD] and len(verdicts) == 2


def test_the_autoencoders_picture_is_the_one_that_was_seen_encoded_and_decoded(noise_painter):
    image, again = run_to_completion(make_engine(noise_painter), inspected("a", Inspection.AUTOENCODER)).images
    vae = noise_painter.pipeline.vae
    pixels = torch.from_numpy(values(image).reshape(1, image.height, image.width, 3)).permute(0, 3, 1, 2)
    with torch.inference_mode():
        decoded = vae.decode(vae.encode(pixels.float() / 127.5 - 1).latent_dist.mode()).sample[0]
    expected = ((decoded / 2 + 0.5).clamp(0, 1) * 255).round().permute(1, 2, 0).reshape(-1).numpy()
    assert np.abs(values(again) - expected).max() <= 1
    assert np.abs(values(again) - values(image)).max() > 1, "it loses something"


def test_a_cancelled_inspection_ends_between_two_steps_and_leaves_nothing(noise_painter):
    engine, updates = make_engine(noise_painter), []
    engine.add_request(inspected("a"))
    while not any(isinstance(update, PictureFinished) and update.of_step for update in updates):
        updates += engine.step()
    engine.cancel("a")
    rest = run(engine)
    assert isinstance(failures(rest)["a"], Cancelled) and not any(isinstance(u, PictureFinished) for u in rest)
    assert not engine._states and not engine._requests and not engine._finisher.in_line


def test_anothers_picture_is_finished_before_the_steps_that_are_left(noise_painter):
    engine, updates = make_engine(noise_painter), []
    engine.add_request(inspected("a", num_inference_steps=4))
    engine.add_request(admitted("b", num_inference_steps=6, seed=9))
    while not engine.is_idle:
        updates += engine.step()
    order = [update.request_id for update in updates if isinstance(update, GenerationResult)]
    assert order == ["b", "a"]
    alone = run_to_completion(make_engine(noise_painter), inspected("a", num_inference_steps=4)).images
    for image, other in zip(results(updates)["a"].images, alone, strict=True):
        assert np.abs(values(image) - values(other)).max() <= 1


def test_an_encoder_that_fails_ends_its_own_request(noise_painter, monkeypatch):
    def failing(image):
        raise ValueError

    monkeypatch.setattr(noise_painter.pipeline.vae, "encode", failing)
    engine = make_engine(noise_painter)
    engine.add_request(inspected("a", Inspection.AUTOENCODER))
    engine.add_request(admitted("b"))
    updates = run(engine)
    assert set(failures(updates)) == {"a"} and set(results(updates)) == {"b"}


def test_a_prediction_that_fails_ends_its_own_request(noise_painter, monkeypatch):
    def failing(num_timesteps):
        raise ValueError

    monkeypatch.setattr(inspector, "steps_shown", failing)
    engine = make_engine(noise_painter)
    engine.add_request(inspected("a"))
    engine.add_request(admitted("b"))
    updates = run(engine)
    assert set(failures(updates)) == {"a"} and set(results(updates)) == {"b"}
