"""v1-4's architecture in float16 on a CUDA device: exact, in every memory profile, and after faults.

Left out where there is no CUDA (see conftest.py); then nothing of this file has been seen to work.
"""

import gc

import pytest
import torch

from sd_space.backends.loading import build_engine
from sd_space.engine.batcher import BatchKey
from sd_space.engine.denoiser import Denoiser
from sd_space.engine.engine import run_to_completion
from sd_space.model.memory import GIB
from sd_space.model.pipeline import LoadedPipeline
from sd_space.model.spec import PipelineSpec, detect_hardware
from sd_space.schema import GenerationResult, Outcome, RequestFailed
from sd_space.settings import Settings
from sd_space.tools import v1_4_random

from .test_denoiser import prepared
from .test_engine import break_unet, pixels, plain_pixels
from .test_placement import far_apart, overflow
from .tiny_models import admitted, make_engine, make_request

pytestmark = pytest.mark.gpu
OWN_SIZE = {"width": 512, "height": 512, "num_inference_steps": 3}


def load(**settings) -> LoadedPipeline:
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.reset_peak_memory_stats()
    return v1_4_random.load(PipelineSpec.from_settings(Settings(model=v1_4_random.NAME, **settings), detect_hardware()))


def test_alone_the_pixels_are_those_of_the_stock_pipeline_in_float16():
    loaded = load()
    assert (loaded.info.device, loaded.info.dtype) == ("cuda", "float16")
    drawn = pixels(run_to_completion(make_engine(loaded), admitted("a", **OWN_SIZE)))
    assert far_apart(drawn, plain_pixels(loaded, make_request(**OWN_SIZE))) == 0


def test_recorded_steps_are_those_of_the_same_weights_called_as_they_are():
    """Alone and in company: every number of rows is a recording of its own."""
    recorded, plain = load(), load()
    assert recorded.placement.profile.recorded_steps
    plain.placement.unet_runner.record(None)
    for pictures in (1, 3, 4):
        changes = OWN_SIZE | {"num_inference_steps": 8, "num_images_per_prompt": pictures}
        one, other = (
            pixels(run_to_completion(make_engine(each), admitted("a", **changes))) for each in (recorded, plain)
        )
        assert far_apart(one, other) == 0
    assert any(calls._replays for calls in recorded.placement.unet_runner._graphs.values())


def test_what_makes_it_faster_changes_no_value_by_more_than_rounding_does():
    """Channels last and joined projections, beside a pipeline that has neither."""
    loaded = load()
    stock = v1_4_random.make_pipeline(torch.float16).to("cuda")
    drawn = pixels(run_to_completion(make_engine(loaded), admitted("a", **OWN_SIZE)))
    assert far_apart(drawn, plain_pixels(LoadedPipeline(stock, None, None), make_request(**OWN_SIZE))) <= 2


@pytest.mark.parametrize("scheduler", ["PNDM", "DDIM", "Euler", "DPM++ 2M Karras"])
def test_in_a_step_the_host_does_not_wait_for_the_device(scheduler):
    denoiser = Denoiser(load().pipeline)
    states = prepared(denoiser, make_request(scheduler=scheduler, **OWN_SIZE | {"num_inference_steps": 8}))
    denoiser.denoise_step(states)
    torch.cuda.set_sync_debug_mode("error")
    try:
        denoiser.denoise_step(states)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_500_mixed_requests_have_no_failure():
    engine = build_engine(load(), Settings())
    sizes, schedulers = (256, 384, 512), ("PNDM", "DDIM", "Euler a", "UniPC")
    ended: dict[str, object] = {}
    for number in range(500):
        changes = {
            "width": sizes[number % 3],
            "height": sizes[number // 3 % 3],
            "scheduler": schedulers[number % 4],
            "guidance_scale": 1.0 if number % 5 == 0 else 7.5,
            "num_inference_steps": 1 + number % 4,
            "num_images_per_prompt": 1 + number % 2,
            "seed": number,
        }
        engine.add_request(admitted(f"r{number}", **changes))
        while engine.counts()[0] > 8 or (number == 499 and not engine.is_idle):
            for update in engine.step():
                if isinstance(update, GenerationResult | RequestFailed):
                    ended[update.request_id] = update
    assert len(ended) == 500
    images = [image for result in ended.values() if isinstance(result, GenerationResult) for image in result.images]
    assert len(images) == 750 and {image.outcome for image in images} == {Outcome.OK}


def test_step_times_are_those_of_the_size_that_they_are_asked_for():
    """The host is a step ahead, so the time of a step is known only during the next, which may be another size's."""
    engine = make_engine(load(), width=2)
    for number in range(4):
        engine.add_request(admitted(f"r{number}", **OWN_SIZE | {"width": 768 if number % 2 else 256, "height": 512}))
    while not engine.is_idle:
        engine.step()
    small, large = (engine.times.step_s(BatchKey(512, width, True), 2) for width in (256, 768))
    assert 1.5 * small < large


@pytest.mark.parametrize("limit_gb", [24, 12, 8, 6, 4, 3])
def test_the_first_profile_serves_within_a_smaller_cards_memory(limit_gb):
    """The allocator holds to the limit, so a profile that needs more than was predicted would fail here."""
    loaded = load(max_vram_gb=float(limit_gb))
    predicted = loaded.placement.profile
    engine = build_engine(loaded, Settings())
    images = run_to_completion(engine, admitted("a", num_images_per_prompt=4, **OWN_SIZE)).images
    assert [image.outcome for image in images] == [Outcome.OK] * 4
    assert loaded.placement.profile == predicted, "the prediction held"
    assert torch.cuda.max_memory_reserved() <= limit_gb * GIB


def test_out_of_memory_in_a_step_goes_down_and_keeps_the_picture(monkeypatch):
    loaded = load()
    before, failures = loaded.placement.profile, iter([torch.OutOfMemoryError("no memory")] * 2)
    engine = make_engine(loaded, width=1, can_go_lower=True)
    break_unet(monkeypatch, loaded, lambda call, rows: next(failures, None))
    (image,) = run_to_completion(engine, admitted("a", **OWN_SIZE)).images
    assert image.outcome is Outcome.OK
    assert loaded.placement.profile != before


def test_a_real_out_of_memory_error_splits_the_batch():
    """As another process would, something takes the memory while four pictures are under way."""
    loaded = load()
    engine = make_engine(loaded, width=4, can_go_lower=True)
    engine.add_request(admitted("a", num_images_per_prompt=4, **OWN_SIZE))
    engine.step()
    torch.cuda.empty_cache()
    free_bytes, _ = torch.cuda.mem_get_info()
    taken = torch.empty(max(0, free_bytes - GIB // 4), dtype=torch.uint8, device="cuda")
    updates = []
    while not engine.is_idle:
        updates += engine.step()
    del taken
    assert [image.outcome for image in updates[-1].images] == [Outcome.OK] * 4


def test_a_decode_that_overflows_in_float16_is_done_again_in_float32(caplog):
    loaded = load()
    overflow(loaded.pipeline.vae)
    (image,) = run_to_completion(make_engine(loaded), admitted("a", **OWN_SIZE)).images
    assert image.outcome is Outcome.OK
    assert "decoded again in float32" in caplog.text


def test_the_checker_runs_in_float32_beside_a_float16_pipeline():
    loaded = load()
    assert loaded.pipeline.safety_checker.dtype == torch.float32
    assert loaded.pipeline.unet.dtype == torch.float16
