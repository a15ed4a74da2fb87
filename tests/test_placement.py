"""Placing a pipeline on every profile, and going down while memory runs out, each time with the same pictures."""

import itertools

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from sd_space.backends.loading import build_engine
from sd_space.engine.denoiser import Denoiser
from sd_space.engine.engine import Engine, run_to_completion
from sd_space.errors import EngineFailed, ModelUnavailable
from sd_space.model.memory import MEMORY_PROFILES, MemoryProfile, fallback_order
from sd_space.model.pipeline import LoadedPipeline, fit_pipeline
from sd_space.model.placement import Placement, footprint_of, fuse_qkv, tile_decode, unfuse_qkv
from sd_space.model.spec import Hardware, PipelineSpec
from sd_space.schema import Outcome
from sd_space.settings import WIDTHS, Settings
from sd_space.tools.v1_4_random import make_modules

from .test_engine import break_unet, pixels, plain_pixels
from .tiny_models import admitted, make_engine, make_pipeline, make_request, make_screen

DROPS = pytest.mark.parametrize("drops", range(3))
NO_MEMORY = torch.OutOfMemoryError("no memory")


def fit(**settings) -> LoadedPipeline:
    spec = PipelineSpec.from_settings(Settings(model="noise-painter", runtime="torch", **settings), Hardware("cpu"))
    return fit_pipeline(make_pipeline(), spec)


@pytest.fixture
def fitted(one_torch_thread) -> LoadedPipeline:
    """A noise painter of the test's own, for it is about to be changed."""
    return fit()


@pytest.fixture
def expected(noise_painter) -> np.ndarray:
    """What a plain pipeline draws for the request of these tests."""
    return plain_pixels(noise_painter, make_request(num_images_per_prompt=2))


def draw(engine: Engine, **changes) -> np.ndarray:
    return pixels(run_to_completion(engine, admitted("a", num_images_per_prompt=2, **changes)))


def far_apart(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.abs(one.astype(int) - other.astype(int)).max())


def tiled_pixels() -> np.ndarray:
    """What a plain pipeline draws for them with such tiles."""
    pipeline = make_pipeline()
    tile_decode(pipeline.vae)
    return plain_pixels(LoadedPipeline(pipeline, None, None), make_request(num_images_per_prompt=2))


# --- every profile draws


@pytest.mark.parametrize("profile", MEMORY_PROFILES, ids=lambda profile: profile.name)
def test_every_profile_draws_the_same_pictures(one_torch_thread, expected, profile):
    """Offloading too: its hooks work with any device, so this one pretends to be an accelerator."""
    pipeline = make_pipeline()
    placement = Placement(pipeline, "cpu", [profile])
    loaded = LoadedPipeline(pipeline, None, placement)
    drawn = draw(make_engine(loaded, width=profile.max_pictures or WIDTHS[-1]))
    if profile.vae_tiling:  # tiles are blended where they meet
        expected = tiled_pixels()
    assert far_apart(drawn, expected) <= (1 if profile.vae_slicing or profile.max_pictures else 0)


@pytest.mark.parametrize("slicing", ["on", "off"])
def test_attention_slicing_reaches_the_unet_one_head_at_a_time(one_torch_thread, slicing):
    loaded = fit(attention_slicing=slicing)
    processors = loaded.pipeline.unet.attn_processors.values()
    assert {type(p).__name__ for p in processors} == {"SlicedAttnProcessor" if slicing == "on" else "AttnProcessor2_0"}
    assert {getattr(p, "slice_size", 1) for p in processors} == {1}
    assert loaded.info.memory_profile == ("attention slicing" if slicing == "on" else "everything in memory")


def test_fused_projections_draw_the_same_and_hold_nothing_twice(fitted, expected):
    unet = fitted.pipeline.unet
    separate = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
    fuse_qkv(unet)
    assert {type(p).__name__ for p in unet.attn_processors.values()} == {"FusedAttnProcessor2_0"}
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in unet.parameters()}
    held = sum(storage.nbytes() for storage in storages.values())
    assert held <= 1.01 * sum(tensor.numel() * tensor.element_size() for tensor in separate.values())
    assert far_apart(draw(make_engine(fitted)), expected) <= 1
    unfuse_qkv(unet)
    assert all(torch.equal(tensor, separate[name]) for name, tensor in unet.state_dict().items())
    assert len(separate) == len(unet.state_dict())
    assert np.array_equal(draw(make_engine(fitted)), expected)


def test_what_makes_cuda_faster_draws_the_same_and_ends_with_its_profile(fitted, monkeypatch, expected):
    """Seen on a CPU, where all but the recording works: channels last, joined projections, and back."""
    monkeypatch.setattr("sd_space.model.placement.cuda_graph_capture", lambda: None)
    fitted.placement._speed_up()
    assert fitted.pipeline.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    assert far_apart(draw(make_engine(fitted, can_go_lower=True)), expected) <= 1
    assert fitted.placement.fall_back()
    assert not any("to_qkv" in name for name in fitted.pipeline.unet.state_dict())
    assert fitted.pipeline.unet.conv_in.weight.is_contiguous()
    assert far_apart(draw(make_engine(fitted, can_go_lower=True)), expected) <= 1


def test_a_profile_that_is_left_in_the_middle_of_a_decode_moves_usable_weights(fitted, monkeypatch):
    """What is moved in inference mode could never again be looked at outside of it, as the screen's self-test does."""
    placement, modes = fitted.placement, []
    monkeypatch.setattr(placement, "_apply", lambda profile: modes.append(torch.is_inference_mode_enabled()))
    with torch.inference_mode():
        assert placement.fall_back()
        assert torch.is_inference_mode_enabled()
    assert modes == [False]


def test_turbo_calls_an_offloaded_unet_to_the_device(one_torch_thread, monkeypatch):
    """It uses the UNet's layers one by one, where accelerate's hook waits for the whole to be called."""
    pipeline = make_pipeline()
    placement = Placement(pipeline, "cpu", [MEMORY_PROFILES[-2]])
    fetched, hook = [], pipeline.unet._hf_hook
    monkeypatch.setattr(hook, "pre_forward", lambda module, *args, **kw: fetched.append(module) or (args, kw))
    denoiser = Denoiser(pipeline, unet_runner=placement.unet_runner, turbo=True)
    engine = Engine(denoiser, make_screen(LoadedPipeline(pipeline, None, placement)), width=1)
    run_to_completion(engine, admitted("a", num_inference_steps=4, scheduler="DDIM"))
    assert fetched == [pipeline.unet] * 4, "two steps whole, two from features"


def test_a_tile_has_half_of_the_models_own_sides(one_torch_thread):
    """diffusers' own tiles begin above the model's size, so that there they would change nothing."""
    vae, sides = make_pipeline().vae, []
    decode = vae.decoder.forward
    vae.decoder.forward = lambda latents, *rest: sides.append(latents.shape[-1]) or decode(latents, *rest)
    tile_decode(vae)
    assert vae.decode(torch.zeros(1, 4, 8, 8)).sample.shape == (1, 3, 64, 64)
    assert max(sides) == 4 and len(sides) == 9


def test_the_footprint_of_v1_4_is_its_architectures():
    networks = make_modules()

    class Pipeline:
        vae_scale_factor = 8
        unet, vae = networks["unet"].half(), networks["vae"].half()
        text_encoder, safety_checker = networks["text_encoder"].half(), networks["safety_checker"]

    footprint = footprint_of(Pipeline)
    mib = 2**20
    parts = (footprint.unet, footprint.vae, footprint.text_encoder, footprint.safety_checker)
    assert [part // mib for part in parts] == [1639, 159, 234, 1159]
    assert (footprint.step, footprint.decode) == (130 * mib, 384 * mib)


# --- out of memory, at every point


@DROPS
def test_out_of_memory_while_placing_takes_the_next_profile(one_torch_thread, monkeypatch, drops):
    pipeline = make_pipeline()
    calls = itertools.count()

    def move(device=None, memory_format=None):
        """Each placing moves the UNet once, and each that failed takes it back."""
        if device is None:
            return
        call = next(calls)
        if call % 2 == 0 and call < 2 * drops:
            raise NO_MEMORY

    monkeypatch.setattr(pipeline.unet, "to", move)
    placement = Placement(pipeline, "cpu", fallback_order("cuda", 2**40, footprint_of(pipeline)))
    assert placement.profile == MEMORY_PROFILES[drops]


def test_a_model_that_fits_in_no_profile_is_reported_to_the_operator(one_torch_thread, monkeypatch):
    def never(*_):
        raise NO_MEMORY

    monkeypatch.setattr(Placement, "_apply", never)
    with pytest.raises(ModelUnavailable) as failure:
        fit()
    assert "SD_SPACE_MAX_VRAM_GB" in failure.value.operator_hint


@DROPS
def test_out_of_memory_in_a_step_with_one_picture_goes_down_and_runs_it_again(fitted, monkeypatch, expected, drops):
    """The step fails until the placement has gone down often enough; nobody's picture is lost."""
    engine = make_engine(fitted, width=1, can_go_lower=True)
    wanted = fallback_order("cpu", None, footprint_of(fitted.pipeline))[drops]
    break_unet(monkeypatch, fitted, lambda call, rows: None if fitted.placement.profile == wanted else NO_MEMORY)
    assert far_apart(draw(engine), expected) <= 1
    assert fitted.placement.profile == wanted


@pytest.mark.parametrize("drops", [1, 2])
def test_out_of_memory_in_the_text_encoder_goes_down_and_encodes_again(fitted, monkeypatch, expected, drops):
    encoder, failures = fitted.pipeline.text_encoder, iter([NO_MEMORY] * drops)
    forward = encoder.forward

    def fails(*inputs, **options):
        for error in failures:
            raise error
        return forward(*inputs, **options)

    monkeypatch.setattr(encoder, "forward", fails)
    assert np.array_equal(draw(make_engine(fitted, can_go_lower=True)), expected)


def test_out_of_memory_in_the_decode_slices_then_tiles(fitted, monkeypatch):
    engine = make_engine(fitted, can_go_lower=True)
    sizes = []
    decoder = fitted.pipeline.vae.decoder
    forward = decoder.forward

    def fits_a_tile(latents, *rest):
        sizes.append((len(latents), latents.shape[-1]))
        if len(latents) * latents.shape[-1] > 4:
            raise NO_MEMORY
        return forward(latents, *rest)

    monkeypatch.setattr(decoder, "forward", fits_a_tile)
    assert far_apart(draw(engine), tiled_pixels()) <= 1
    assert sizes[:2] == [(2, 8), (1, 8)]
    assert max(sizes[-9:]) == (1, 4)
    assert fitted.placement.profile.vae_tiling


def test_a_sliced_decode_is_enough_where_it_fits(fitted, monkeypatch, expected):
    decoder = fitted.pipeline.vae.decoder
    forward = decoder.forward

    def fits_one(latents, *rest):
        if len(latents) > 1:
            raise NO_MEMORY
        return forward(latents, *rest)

    monkeypatch.setattr(decoder, "forward", fits_one)
    assert far_apart(draw(make_engine(fitted, can_go_lower=True)), expected) <= 1
    assert fitted.placement.profile == MemoryProfile(), "slices alone change no profile"


@pytest.mark.parametrize("component", ["unet", "vae.decoder", "text_encoder"])
def test_only_when_nothing_helps_the_visitor_gets_a_sentence_and_the_engine_goes_on(fitted, monkeypatch, component):
    module = fitted.pipeline
    for name in component.split("."):
        module = getattr(module, name)

    def never(*_, **__):
        raise NO_MEMORY

    engine = make_engine(fitted, can_go_lower=True)
    with monkeypatch.context() as patched:
        patched.setattr(module, "forward", never)
        with pytest.raises(EngineFailed, match="smaller size or fewer pictures"):
            draw(engine)
    assert draw(engine).shape[0] == 2


def test_out_of_memory_while_measuring_goes_down_until_a_picture_fits(fitted, monkeypatch):
    break_unet(monkeypatch, fitted, lambda call, rows: NO_MEMORY if call < 2 else None)
    engine = build_engine(fitted, Settings())
    assert fitted.placement.profile != MemoryProfile()
    assert draw(engine).shape[0] == 2


def test_a_model_with_which_not_one_picture_fits_is_reported_to_the_operator(fitted, monkeypatch):
    break_unet(monkeypatch, fitted, lambda call, rows: NO_MEMORY)
    with pytest.raises(ModelUnavailable) as failure:
        build_engine(fitted, Settings())
    assert "SD_SPACE_MODEL" in failure.value.operator_hint


def test_the_cap_on_pictures_reaches_the_engine(fitted):
    fitted.placement._profiles[:] = [MemoryProfile(vae_slicing=True, max_pictures=1)]
    assert build_engine(fitted, Settings()).width == 1
    assert build_engine(fitted, Settings(max_batch_size=4)).width == 1
    assert build_engine(fitted, Settings(reproducible=True)).width == 1


def test_a_width_that_was_asked_for_is_taken_where_memory_allows(fitted):
    fitted.placement._profiles[:] = [MemoryProfile()]
    assert build_engine(fitted, Settings(max_batch_size=16)).width == 16


# --- not a number


def overflow(vae: AutoencoderKL) -> None:
    """Weights with which float16 overflows on the way and float32 does not: real ones come near it."""
    with torch.no_grad():
        vae.decoder.conv_in.weight.mul_(1e5)  # finite in float16 themselves


def test_a_decode_that_overflows_in_half_is_done_again_in_float32(fitted, caplog):
    vae = fitted.pipeline.vae
    overflow(vae)
    whole = draw(make_engine(fitted))
    vae.half()
    engine = make_engine(fitted)
    result = run_to_completion(engine, admitted("a", num_images_per_prompt=2))
    assert [image.outcome for image in result.images] == [Outcome.OK] * 2
    assert far_apart(pixels(result), whole) <= 1
    assert vae.dtype == torch.float16, "the next one is tried in half again"
    assert "decoded again in float32" in caplog.text


def test_a_picture_that_is_no_number_in_float32_either_is_broken(fitted, monkeypatch):
    vae = fitted.pipeline.vae
    engine = make_engine(fitted)
    with torch.no_grad():
        vae.decoder.conv_out.bias.fill_(float("nan"))
    vae.half()
    judged = []
    monkeypatch.setattr(engine._screen, "_is_flagged", lambda picture: judged.append(picture))
    result = run_to_completion(engine, admitted("a"))
    assert [image.outcome for image in result.images] == [Outcome.BROKEN]
    assert not judged, "the checker is not asked about what is no picture"


def test_only_the_broken_picture_is_decoded_again(fitted, monkeypatch):
    vae = fitted.pipeline.vae
    vae.half()
    decode, rows = vae.decode, []

    def second_overflows(latents, **options):
        rows.append((len(latents), latents.dtype))
        images = decode(latents, **options)[0].clone()
        if len(latents) == 3:
            images[1] = float("inf")
        return (images,)

    engine = make_engine(fitted)
    monkeypatch.setattr(vae, "decode", second_overflows)
    result = run_to_completion(engine, admitted("a", num_images_per_prompt=3))
    assert rows == [(3, torch.float16), (1, torch.float32)]
    assert [image.outcome for image in result.images] == [Outcome.OK] * 3
