"""Pictures that start from a picture, beside the stock pipelines for that, and from noise between two seeds."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline
from PIL import Image

from sd_space.engine.denoiser import Denoiser
from sd_space.engine.engine import run_to_completion
from sd_space.engine.safety import MAX_PREVIEW_CELLS
from sd_space.engine.starts import ScreenedSource, slerp
from sd_space.errors import Cancelled, EngineFailed, InvalidRequest
from sd_space.fields import SourcePicture
from sd_space.model.noise_schedulers import make_scheduler
from sd_space.request import GenerationRequest
from sd_space.schema import Outcome, Progress
from sd_space.served_model import SCHEDULERS

from .generated import paired
from .test_engine import failures, pixels, results, run
from .test_safety import flag
from .tiny_models import admitted, make_engine, make_request, make_screen, make_source


def make_start(has_mask: bool = False, **changes) -> GenerationRequest:
    """A request that starts from a picture of its own size."""
    request = make_request(**changes)
    size = {"width": request.width, "height": request.height}
    mask = make_source(channels=1, **size) if has_mask else None
    return replace(request, init_image=make_source(**size), mask=mask)


def as_image(picture: SourcePicture) -> Image.Image:
    return Image.frombytes("RGB" if picture.channels == 3 else "L", (picture.width, picture.height), picture.pixels)


def stock_call(loaded, request: GenerationRequest, output_type: str = "latent"):
    """What the stock pipeline makes of the request, with the picture and a CPU generator for each of its seeds."""
    number, components = request.num_images_per_prompt, loaded.pipeline.components
    own = make_scheduler(request.scheduler, components["scheduler"].config, request.num_inference_steps)
    if request.mask is None:
        pipeline_class, options = StableDiffusionImg2ImgPipeline, {}
    else:
        pipeline_class = StableDiffusionInpaintPipeline
        masks = [as_image(request.mask)] * number
        options = {"mask_image": masks, "width": request.width, "height": request.height}
    pipeline = pipeline_class(**components | {"scheduler": own})
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        prompt=request.prompt,
        negative_prompt=request.negative_prompt or None,
        image=[as_image(request.init_image)] * number,
        strength=request.strength,
        num_images_per_prompt=number,
        num_inference_steps=request.num_inference_steps,
        guidance_scale=request.guidance_scale,
        generator=[torch.Generator().manual_seed(seed) for seed in request.seeds],
        output_type=output_type,
        **options,
    ).images


def prepared(denoiser: Denoiser, request: GenerationRequest):
    encoded, source = denoiser.encode_prompt(request), None
    if request.init_image is not None:
        source = denoiser.encode_source(ScreenedSource(as_image(request.init_image)), request.mask)
    return [
        denoiser.prepare_latents(request.of_picture(index), seed, encoded, source)
        for index, seed in enumerate(request.seeds)
    ]


def denoised(denoiser: Denoiser, request: GenerationRequest) -> torch.Tensor:
    states = prepared(denoiser, request)
    for _ in range(denoiser.num_timesteps(request)):
        assert denoiser.denoise_step(states) == [None] * len(states)
    return torch.cat([state.latents for state in states])


STARTS = {
    "half": {"strength": 0.5, "num_inference_steps": 6},
    "one step": {"strength": 0.26, "num_inference_steps": 4},
    "all": {"strength": 1.0, "num_images_per_prompt": 2},
    "no guidance, odd size": {"guidance_scale": 1.0, "height": 72, "width": 80, "strength": 0.8},
}


@pytest.mark.parametrize("has_mask", [False, True], ids=["image", "mask"])
@pytest.mark.parametrize(("scheduler", "changes"), paired(SCHEDULERS, STARTS, every=1))
def test_each_scheduler_is_bit_equal_to_the_stock_pipeline_for_pictures(noise_painter, scheduler, changes, has_mask):
    request = make_start(has_mask, scheduler=scheduler, negative_prompt="a dog", **changes)
    assert torch.equal(denoised(Denoiser(noise_painter.pipeline), request), stock_call(noise_painter, request))


@pytest.mark.parametrize("has_mask", [False, True], ids=["image", "mask"])
def test_the_picture_books_own_prediction_type_and_size_stay_exact(picture_book, has_mask):
    """For masks the stock class takes UNets of four channels alone, by name; this one is fed eight, and no mask."""
    request = make_start(has_mask, height=128, width=128, num_inference_steps=4, strength=0.5)
    ours = denoised(Denoiser(picture_book.pipeline), request)
    unet = picture_book.pipeline.unet
    channels = unet.config.in_channels
    try:
        unet.register_to_config(in_channels=4)
        assert torch.equal(ours, stock_call(picture_book, request))
    finally:
        unet.register_to_config(in_channels=channels)


@pytest.mark.parametrize(
    ("scheduler", "steps", "strength", "calls"),
    [("PNDM", 50, 0.5, 26), ("Heun", 20, 0.5, 19), ("Euler", 50, 0.5, 25), ("Euler", 3, 0.34, 1), ("DDIM", 7, 1.0, 7)],
)
def test_progress_counts_the_unet_calls_that_are_left(noise_painter, scheduler, steps, strength, calls):
    request = make_start(scheduler=scheduler, num_inference_steps=steps, strength=strength)
    assert Denoiser(noise_painter.pipeline).num_timesteps(request) == calls


def test_padded_rows_are_bit_equal_whatever_the_company(noise_painter):
    denoiser = Denoiser(noise_painter.pipeline, fixed_rows=8)
    for has_mask in (False, True):
        alone, joined = (prepared(denoiser, make_start(has_mask, strength=1.0)) for _ in range(2))
        company = prepared(denoiser, make_request(prompt="a dog", seed=9, num_images_per_prompt=3))
        for _ in range(4):
            denoiser.denoise_step(alone)
            denoiser.denoise_step([*company, *joined])
        assert torch.equal(alone[0].latents, joined[0].latents)


@pytest.mark.parametrize("starts_from", ["noise", "picture"])
def test_a_variation_goes_from_one_seeds_picture_to_anothers(noise_painter, starts_from):
    """At the ends it is either seed's own; in between it is as strong as either, where a straight line would fade."""
    denoiser = Denoiser(noise_painter.pipeline)
    plain = make_start(strength=0.6) if starts_from == "picture" else make_request()

    def noise_of(**changes):
        return prepared(denoiser, replace(plain, **changes))[0].latents

    variation = {"seed": 5, "variation_seed": 9}
    assert torch.equal(noise_of(**variation, variation_strength=0.0), noise_of(seed=5))
    assert (noise_of(**variation, variation_strength=1e-9) - noise_of(seed=5)).abs().max() < 1e-5
    if starts_from == "noise":
        assert (noise_of(**variation, variation_strength=1.0) - noise_of(seed=9)).abs().max() < 1e-5
    middle = noise_of(**variation, variation_strength=0.5)
    assert not torch.equal(middle, noise_of(seed=5)) and not torch.equal(middle, noise_of(seed=9))


def test_noise_between_two_noises_keeps_its_strength():
    start, end = (torch.randn(1, 4, 64, 64, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    for fraction in (0.0, 0.25, 0.5, 1.0):
        assert slerp(start, end, fraction).std() == pytest.approx(1.0, abs=0.02)
    assert torch.equal(slerp(start, start, 0.5), start)


def test_variations_of_a_picture_share_its_seed():
    request = make_request(seed=5, variation_seed=2**32 - 1, variation_strength=0.1, num_images_per_prompt=3)
    assert request.seeds == (5, 5, 5)
    assert request.variation_seeds == (2**32 - 1, 0, 1)
    assert replace(request, variation_strength=0.0).seeds == (5, 6, 7)


# --- in the engine


KINDS = {
    "text": {},
    "picture": {"init_image": make_source(), "strength": 0.6},
    "mask": {"init_image": make_source(seed=3), "mask": make_source(channels=1), "strength": 0.9, "seed": 8},
    "variation": {"variation_seed": 3, "variation_strength": 0.2, "num_images_per_prompt": 2},
}


def drawn(loaded, kinds=tuple(KINDS), **options):
    """The pixels of requests of these kinds that share one engine."""
    engine = make_engine(loaded, **options)
    for kind in kinds:
        engine.add_request(admitted(kind, **KINDS[kind], num_inference_steps=5))
    return {name: pixels(result) for name, result in results(run(engine)).items()}


@pytest.mark.parametrize("kind", ["picture", "mask"])
def test_alone_the_pixels_are_those_of_the_stock_pipeline(noise_painter, kind):
    request = make_request(**KINDS[kind], num_inference_steps=5)
    stock = np.stack([np.asarray(picture).reshape(-1) for picture in stock_call(noise_painter, request, "pil")])
    assert np.array_equal(drawn(noise_painter, [kind])[kind], stock)


def test_in_a_crowd_of_all_kinds_a_value_differs_by_one_at_most(noise_painter):
    together = drawn(noise_painter)
    for kind in KINDS:
        assert np.abs(together[kind].astype(int) - drawn(noise_painter, [kind])[kind]).max() <= 1


def test_all_kinds_share_a_unet_call(noise_painter):
    engine = make_engine(noise_painter)
    for kind in KINDS:
        engine.add_request(admitted(kind, **KINDS[kind]))
    engine.step()
    assert engine.unet_calls.keys() == {5}


def test_a_run_from_a_picture_is_timed_and_shows_mosaics(noise_painter):
    engine = make_engine(noise_painter)
    engine.add_request(admitted("a", **KINDS["picture"]))
    updates = run(engine)
    assert {"encode_image", "safety"} <= results(updates)["a"].elapsed_s.keys()
    previews = [preview for u in updates if isinstance(u, Progress) for preview in u.previews if preview]
    assert previews and all(max(preview.columns, preview.rows) <= MAX_PREVIEW_CELLS for preview in previews)


# --- the safety screen


def refused(loaded, monkeypatch, screen, kind="picture"):
    """The error of a request of this kind beside one of text, when nothing of it has reached the UNet or the VAE."""
    engine = make_engine(loaded, screen=screen)
    encoded, rows = [], []
    encode, forward = loaded.pipeline.vae.encode, loaded.pipeline.unet.forward
    monkeypatch.setattr(loaded.pipeline.vae, "encode", lambda *args: encoded.append(args) or encode(*args))
    monkeypatch.setattr(
        loaded.pipeline.unet, "forward", lambda sample, *a, **k: rows.append(len(sample)) or forward(sample, *a, **k)
    )
    engine.add_request(admitted("a", **KINDS[kind]))
    engine.add_request(admitted("b"))
    updates = run(engine)
    assert not encoded and max(rows) == 2 and "b" in results(updates)
    return failures(updates)["a"]


@pytest.mark.parametrize("kind", ["picture", "mask"])
def test_nothing_is_drawn_from_a_flagged_picture(noise_painter, monkeypatch, kind):
    screen = make_screen(noise_painter)
    source = KINDS[kind]["init_image"]
    flag(screen, torch.from_numpy(np.array(as_image(source)).astype("float32") / 127.5 - 1).permute(2, 0, 1))
    error = refused(noise_painter, monkeypatch, screen, kind)
    assert isinstance(error, InvalidRequest) and error.field == "init_image"
    assert "flagged by the safety checker" in str(error)


def test_a_part_that_is_flagged_is_found_wherever_it_is(noise_painter):
    """The checker itself sees the middle of a long picture alone."""
    screen, part, grey = make_screen(noise_painter), make_source(seed=4), Image.new("RGB", (192, 64), (128, 128, 128))
    flag(screen, torch.from_numpy(np.array(as_image(part)).astype("float32") / 127.5 - 1).permute(2, 0, 1))
    grey.paste(as_image(part), (0, 0))
    with pytest.raises(InvalidRequest, match="flagged"):
        screen.screen_source(SourcePicture(192, 64, 3, grey.tobytes(), ""))


@pytest.mark.parametrize("fault", ["raises", "none", "too few", "not a number"])
def test_a_picture_that_cannot_be_checked_is_refused(noise_painter, monkeypatch, fault):
    screen = make_screen(noise_painter)
    answers = {"none": None, "too few": [], "not a number": [False]}

    def broken(clip_input, images):
        if fault == "raises":
            raise RuntimeError("no")
        output = torch.full((1, 32), float("nan")) if fault == "not a number" else torch.ones(1, 32)
        screen._safety_checker.visual_projection(output)
        return images, answers[fault]

    monkeypatch.setattr(screen._safety_checker, "forward", broken)
    monkeypatch.setattr(screen, "screen", lambda images, seeds: [screen.broken(seed, 64, 64) for seed in seeds])
    error = refused(noise_painter, monkeypatch, screen)
    assert type(error) is EngineFailed and "could not check init_image" in str(error)


# --- faults


def test_encoding_runs_again_with_less_memory(noise_painter, monkeypatch):
    vae, failures_left = noise_painter.pipeline.vae, [1]
    encode = vae.encode

    def scarce(image):
        if failures_left:
            failures_left.pop()
            raise torch.OutOfMemoryError("no memory")
        return encode(image)

    expected = drawn(noise_painter, ["picture"])["picture"]
    monkeypatch.setattr(vae, "encode", scarce)
    engine = make_engine(noise_painter)
    monkeypatch.setattr(engine._denoiser, "_reduce_memory", lambda: True)
    result = run_to_completion(engine, admitted("picture", **KINDS["picture"], num_inference_steps=5))
    assert np.array_equal(pixels(result), expected)


@pytest.mark.parametrize("error", [RuntimeError("no"), torch.OutOfMemoryError("no memory")], ids=type)
def test_a_failed_encoding_ends_its_own_request(noise_painter, monkeypatch, error):
    def failing(image):
        raise error

    monkeypatch.setattr(noise_painter.pipeline.vae, "encode", failing)
    engine = make_engine(noise_painter)
    for kind in KINDS:
        engine.add_request(admitted(kind, **KINDS[kind]))
    updates = run(engine)
    assert failures(updates).keys() == {"picture", "mask"}
    assert results(updates).keys() == {"text", "variation"}


def test_a_picture_that_turns_to_no_numbers_is_broken_alone(noise_painter, monkeypatch):
    vae = noise_painter.pipeline.vae
    encode = vae.encode

    def spoilt(image):
        output = encode(image)
        output.latent_dist.parameters.fill_(float("nan"))
        return output

    monkeypatch.setattr(vae, "encode", spoilt)
    engine = make_engine(noise_painter)
    for kind in ("picture", "text"):
        engine.add_request(admitted(kind, **KINDS[kind]))
    done = results(run(engine))
    assert [image.outcome for image in done["picture"].images] == [Outcome.BROKEN]
    assert [image.outcome for image in done["text"].images] == [Outcome.OK]


def test_a_cancelled_run_from_a_picture_leaves_nothing_behind(noise_painter):
    engine = make_engine(noise_painter)
    engine.add_request(admitted("a", **KINDS["mask"]))
    engine.step()
    engine.cancel("a")
    assert isinstance(failures(run(engine))["a"], Cancelled)
    assert engine.is_idle and not engine._states


def test_the_request_travels_whole_and_unseen():
    """To other processes, and never into a log."""
    request = make_request(**KINDS["mask"])
    assert pickle.loads(pickle.dumps(request)) == request
    assert len(repr(request)) < 1000 and "pixels" not in repr(request)
