import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.configuration_utils import FrozenDict

from sd_space.engine.denoiser import Denoiser
from sd_space.model.noise_schedulers import SCHEDULER_TABLE, fitting_schedulers, make_scheduler
from sd_space.model.pipeline import LoadedPipeline
from sd_space.request import GenerationRequest
from sd_space.served_model import SCHEDULERS

from .generated import paired
from .tiny_models import make_request


def plain_pipeline(loaded: LoadedPipeline, scheduler: str = "PNDM", num_inference_steps: int = 4):
    """The stock pipeline over the same weights with a scheduler of its own."""
    pipeline = loaded.pipeline
    own = make_scheduler(scheduler, pipeline.scheduler.config, num_inference_steps)
    plain = StableDiffusionPipeline(**pipeline.components | {"scheduler": own})
    plain.set_progress_bar_config(disable=True)
    return plain


def plain_call(loaded: LoadedPipeline, request: GenerationRequest, output_type: str = "latent"):
    """What `StableDiffusionPipeline.__call__` makes of the request with a CPU generator for each picture."""
    return plain_pipeline(loaded, request.scheduler, request.num_inference_steps)(
        prompt=request.prompt,
        negative_prompt=request.negative_prompt or None,
        num_images_per_prompt=request.num_images_per_prompt,
        num_inference_steps=request.num_inference_steps,
        guidance_scale=request.guidance_scale,
        width=request.width,
        height=request.height,
        generator=[torch.Generator().manual_seed(seed) for seed in request.seeds],
        output_type=output_type,
    ).images


def scheduler_config(loaded: LoadedPipeline, **changes) -> dict:
    """The model's own, as a file that has these values would be read: what it leaves out counts as a default."""
    config = dict(loaded.pipeline.scheduler.config) | changes
    return config | {"_use_default_values": [name for name in config["_use_default_values"] if name not in changes]}


def prepared(denoiser: Denoiser, request: GenerationRequest):
    encoded = denoiser.encode_prompt(request)
    return [denoiser.prepare_latents(request, seed, encoded) for seed in request.seeds]


def denoised(denoiser: Denoiser, request: GenerationRequest) -> torch.Tensor:
    states = prepared(denoiser, request)
    for _ in range(denoiser.num_timesteps(request)):
        assert denoiser.denoise_step(states) == [None] * len(states)
    return torch.cat([state.latents for state in states])


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_schedulers_that_fit_a_prediction_type_arrive_at_the_picture(noise_painter, prediction_type):
    """A network that always knows the picture: whatever it is asked to predict, the last latents are that picture."""
    config = scheduler_config(noise_painter, prediction_type=prediction_type)
    fitting = fitting_schedulers(config, 150)
    lacking = {"PNDM", "Euler a"} if prediction_type == "sample" else set()
    assert set(SCHEDULERS) - set(fitting) == lacking
    picture = torch.linspace(-2, 2, 16).view(1, 1, 4, 4)
    for name in fitting:
        scheduler = make_scheduler(name, config, 20)
        scheduler.set_timesteps(20)
        generator = torch.Generator().manual_seed(0)
        latents = torch.randn(picture.shape, generator=generator) * scheduler.init_noise_sigma
        extra = {"generator": generator} if name in ("Euler a", "LCM") else {}
        for t in scheduler.timesteps:
            seen = scheduler.scale_model_input(latents, t)
            alpha = scheduler.alphas_cumprod[int(t)]
            noise = (seen - alpha**0.5 * picture) / (1 - alpha) ** 0.5
            predictions = {"epsilon": noise, "sample": picture}
            predictions["v_prediction"] = alpha**0.5 * noise - (1 - alpha) ** 0.5 * picture
            latents = scheduler.step(predictions[prediction_type], t, latents, return_dict=False, **extra)[0]
        assert (latents - picture).abs().max() < 0.1, name


@pytest.mark.parametrize(
    "changes",
    [
        {"prediction_type": "nonsense"}, {"beta_end": 5.0}, {"beta_schedule": "nonsense"}, {"beta_start": "0.1"},
        {"num_train_timesteps": 0},
    ],
    ids=str,
)  # fmt: skip
def test_no_scheduler_fits_a_configuration_that_none_can_work_with(noise_painter, changes):
    assert fitting_schedulers(scheduler_config(noise_painter, **changes), 150) == ()


def test_trying_schedulers_takes_no_random_numbers(noise_painter):
    before = torch.random.get_rng_state()
    fitting_schedulers(noise_painter.pipeline.scheduler.config, 150)
    assert torch.equal(before, torch.random.get_rng_state())


def test_every_scheduler_on_offer_can_be_made():
    assert tuple(SCHEDULER_TABLE) == SCHEDULERS


def test_the_test_models_schedules_are_those_of_v1_4s_own_file(noise_painter):
    """It names no spacing of timesteps, so each noise scheduler takes its own; a file that we write names PNDM's."""
    spacings = {
        name: make_scheduler(name, noise_painter.pipeline.scheduler.config, 4).config.timestep_spacing
        for name in SCHEDULERS
    }
    leading = [name for name, spacing in spacings.items() if spacing == "leading"]
    assert leading == ["PNDM", "DDIM", "LCM"] and set(spacings.values()) == {"leading", "linspace"}


CASES = {
    "one": {},
    "four, negative, odd size": {"num_images_per_prompt": 4, "negative_prompt": "a dog", "height": 72, "width": 80},
    "no guidance": {"num_images_per_prompt": 2, "guidance_scale": 1.0},
    "one step": {"num_inference_steps": 1, "guidance_scale": 3.3},
    "two steps": {"num_inference_steps": 2},
}


@pytest.mark.parametrize(("scheduler", "changes"), paired(SCHEDULERS, CASES, every=3))
def test_each_scheduler_is_bit_equal_to_the_stock_pipeline(noise_painter, scheduler, changes):
    request = make_request(scheduler=scheduler, **changes)
    assert torch.equal(denoised(Denoiser(noise_painter.pipeline), request), plain_call(noise_painter, request))


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_the_models_own_prediction_type_and_size_stay_exact(loaded, scheduler):
    """The picture book predicts v and has eight latent channels; v1-4 predicts noise and has four."""
    defaults = loaded.info.defaults
    request = make_request(scheduler=scheduler, height=defaults.height, width=defaults.width, num_inference_steps=3)
    assert torch.equal(denoised(Denoiser(loaded.pipeline), request), plain_call(loaded, request))


@pytest.mark.parametrize(
    ("scheduler", "steps", "calls"), [("PNDM", 50, 51), ("PNDM", 1, 1), ("Heun", 20, 39), ("Euler", 20, 20)]
)
def test_progress_counts_unet_calls(noise_painter, scheduler, steps, calls):
    request = make_request(scheduler=scheduler, num_inference_steps=steps)
    assert Denoiser(noise_painter.pipeline).num_timesteps(request) == calls


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_as_many_steps_as_the_limits_allow(noise_painter, scheduler):
    """LCM by itself refuses more than 50."""
    request = make_request(scheduler=scheduler, num_inference_steps=noise_painter.info.limits.max_steps)
    assert Denoiser(noise_painter.pipeline).num_timesteps(request) >= request.num_inference_steps


def test_padded_rows_are_bit_equal_whatever_the_company(noise_painter):
    denoiser = Denoiser(noise_painter.pipeline, fixed_rows=8)
    alone = prepared(denoiser, make_request())
    joined = prepared(denoiser, make_request())
    company = prepared(denoiser, make_request(prompt="a dog", seed=9, scheduler="Euler a", num_images_per_prompt=3))
    for step in range(4):
        denoiser.denoise_step(alone)
        denoiser.denoise_step(company[: step % 4] + joined if step % 2 else joined + company[: step % 4])
    assert torch.equal(alone[0].latents, joined[0].latents)


def test_a_failed_unet_call_leaves_every_state_as_it_was(noise_painter, monkeypatch):
    denoiser = Denoiser(noise_painter.pipeline)
    request = make_request(num_images_per_prompt=2)
    states = prepared(denoiser, request)
    denoiser.denoise_step(states)
    with monkeypatch.context() as patched:
        patched.setattr(noise_painter.pipeline.unet, "forward", _out_of_memory)
        with pytest.raises(torch.OutOfMemoryError):
            denoiser.denoise_step(states)
    for _ in range(denoiser.num_timesteps(request) - 1):
        denoiser.denoise_step(states)
    assert torch.equal(torch.cat([state.latents for state in states]), plain_call(noise_painter, request))


def test_a_prompt_that_was_embedded_is_not_embedded_again(noise_painter, monkeypatch):
    denoiser, calls = Denoiser(noise_painter.pipeline), []
    encoder = noise_painter.pipeline.text_encoder
    forward = encoder.forward
    monkeypatch.setattr(encoder, "forward", lambda *args, **kwargs: calls.append(1) or forward(*args, **kwargs))
    first = denoiser.encode_prompt(make_request(prompt="a cat"))
    denoiser.encode_prompt(make_request(prompt="a dog"))
    again = denoiser.encode_prompt(make_request(prompt="a cat"))
    assert len(calls) == 3, "two prompts, and the empty negative prompt of all"
    assert torch.equal(first.prompt_embeds, again.prompt_embeds)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_turbo_runs_the_whole_unet_at_one_step_of_three(noise_painter, monkeypatch, scheduler):
    unet, calls = noise_painter.pipeline.unet, []
    forward = unet.forward
    monkeypatch.setattr(unet, "forward", lambda *args, **kwargs: calls.append(len(args[0])) or forward(*args, **kwargs))
    denoiser = Denoiser(noise_painter.pipeline, turbo=True)
    request = make_request(scheduler=scheduler, num_inference_steps=10, num_images_per_prompt=2)
    latents = denoised(denoiser, request)
    assert len(calls) == -(-denoiser.num_timesteps(request) // 3)
    assert bool(torch.isfinite(latents).all())
    exact = plain_call(noise_painter, request)
    assert not torch.equal(latents, exact)
    assert torch.nn.functional.cosine_similarity(latents.flatten(1), exact.flatten(1)).min() > 0.9


@pytest.mark.parametrize("guidance_scale", [7.5, 1.0])
def test_turbo_draws_the_same_whatever_the_company(noise_painter, guidance_scale):
    """Those who are at a whole step and those who are not take turns in the same tick."""
    denoiser = Denoiser(noise_painter.pipeline, fixed_rows=8, turbo=True)
    alone = prepared(denoiser, make_request(guidance_scale=guidance_scale))
    joined = prepared(denoiser, make_request(guidance_scale=guidance_scale))
    company = prepared(denoiser, make_request(prompt="a dog", seed=9, guidance_scale=guidance_scale))
    denoiser.denoise_step(company)
    for _ in range(4):
        denoiser.denoise_step(alone)
        denoiser.denoise_step(company + joined if company[0].step_index < 5 else joined)
    assert torch.equal(alone[0].latents, joined[0].latents)


def test_an_error_in_one_noise_scheduler_is_that_pictures_alone(noise_painter, monkeypatch):
    denoiser = Denoiser(noise_painter.pipeline)
    states = prepared(denoiser, make_request(num_images_per_prompt=2))
    monkeypatch.setattr(states[0].scheduler, "step", _index_error)
    errors = denoiser.denoise_step(states)
    assert isinstance(errors[0], IndexError)
    assert errors[1] is None
    assert [state.step_index for state in states] == [0, 1]


def test_decoding_out_of_memory_goes_on_in_slices(noise_painter, monkeypatch):
    denoiser = Denoiser(noise_painter.pipeline)
    vae = noise_painter.pipeline.vae
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = denoiser.decode_latents(latents)
    forward = vae.decoder.forward

    def only_one(sample, *args, **kwargs):
        return forward(sample, *args, **kwargs) if len(sample) == 1 else _out_of_memory()

    monkeypatch.setattr(vae.decoder, "forward", only_one)
    try:
        decoded = denoiser.decode_latents(latents)
    finally:
        vae.disable_slicing()
        vae.disable_tiling()
    assert torch.allclose(decoded, expected, atol=1e-4)


def test_what_the_encoder_cannot_read_is_named(noise_painter):
    denoiser = Denoiser(noise_painter.pipeline)
    assert denoiser.encode_prompt(make_request(prompt="cat " * 30)).truncated == ""
    truncated = denoiser.encode_prompt(make_request(prompt="cat " * 80 + "with a hat")).truncated
    assert truncated.endswith("with a hat")
    assert truncated.count("cat") == 5, "77 tokens are a start, 75 words and an end"


def test_the_libraries_do_not_print_prompts(noise_painter, capfd):
    """diffusers logs the part of a prompt that was cut off."""
    denoised(Denoiser(noise_painter.pipeline), make_request(prompt="secret " * 80, num_inference_steps=1))
    plain_call(noise_painter, make_request(prompt="secret " * 80, num_inference_steps=1))
    assert "secret" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_a_perfect_model_predicts_its_picture_at_every_step(noise_painter, monkeypatch, scheduler, prediction_type):
    """The preview's formula must undo each scheduler's own scaling; checked with a UNet that knows the answer."""
    pipeline = noise_painter.pipeline
    config = scheduler_config(noise_painter, prediction_type=prediction_type)
    monkeypatch.setattr(pipeline.scheduler, "_internal_dict", FrozenDict(config))
    denoiser = Denoiser(pipeline)
    target = torch.full((1, 4, 8, 8), 0.5)

    def knows_the_answer(sample, timesteps, **_):
        alpha_cumprod = pipeline.scheduler.alphas_cumprod[timesteps.long()].view(-1, 1, 1, 1)
        alpha, sigma = alpha_cumprod.sqrt(), (1 - alpha_cumprod).sqrt()
        noise = (sample - alpha * target) / sigma
        return (noise if prediction_type == "epsilon" else alpha * noise - sigma * target,)

    monkeypatch.setattr(pipeline.unet, "forward", knows_the_answer)
    (state,) = prepared(denoiser, make_request(scheduler=scheduler, num_inference_steps=6))
    assert not denoiser.predicted_latents(state).any(), "nothing is known before the first step"
    for _ in range(5):
        denoiser.denoise_step([state])
        assert torch.allclose(denoiser.predicted_latents(state), target, atol=1e-2)


def _out_of_memory(*_, **__):
    raise torch.OutOfMemoryError("no memory")


def _index_error(*_, **__):
    raise IndexError("step index out of range")
