"""v1-4's architecture in float16 on a CUDA device: exact, in every memory profile, and after faults.

Where there is no CUDA a small model of that architecture runs on a pretended device (see conftest.py).
"""

import pytest
import torch

from sd_space.backends.loading import build_engine
from sd_space.engine.batcher import BatchKey
from sd_space.engine.denoiser import Denoiser
from sd_space.engine.engine import run_to_completion
from sd_space.model.kernels import TRIALS, USUAL
from sd_space.model.memory import GIB
from sd_space.model.pipeline import LoadedPipeline
from sd_space.schema import GenerationResult, Outcome, RequestFailed
from sd_space.settings import Settings

from .test_denoiser import prepared
from .test_engine import break_unet, pixels, plain_pixels, results, run
from .test_placement import far_apart, overflow
from .tiny_models import admitted, make_engine, make_request

pytestmark = pytest.mark.gpu


def test_alone_the_pixels_are_those_of_the_stock_pipeline_in_float16(gpu):
    loaded = gpu.load()
    assert (loaded.info.device, loaded.info.dtype) == ("cuda", "float16")
    drawn = pixels(run_to_completion(make_engine(loaded), admitted("a", **gpu.request)))
    assert far_apart(drawn, plain_pixels(loaded, make_request(**gpu.request))) == 0


def test_recorded_steps_are_those_of_the_same_weights_called_as_they_are(gpu):
    """Alone and in company: every number of rows is a recording of its own."""
    recorded, plain = gpu.load(), gpu.load()
    assert recorded.placement.profile.recorded_steps
    plain.placement.unet_runner.record(None)
    for pictures in (1, 3, 4):
        changes = gpu.request | {"num_inference_steps": 5, "num_images_per_prompt": pictures}
        one, other = (
            pixels(run_to_completion(make_engine(each), admitted("a", **changes))) for each in (recorded, plain)
        )
        assert far_apart(one, other) == 0
    assert len(recorded.placement.unet_runner._graphs) == 3


def test_what_makes_it_faster_changes_no_value_by_more_than_rounding_does(gpu):
    """Channels last and joined projections, beside a pipeline that has neither."""
    loaded = gpu.load()
    stock = gpu.pipeline().to("cuda")
    drawn = pixels(run_to_completion(make_engine(loaded), admitted("a", **gpu.request)))
    assert far_apart(drawn, plain_pixels(LoadedPipeline(stock, None, None), make_request(**gpu.request))) <= 2


@pytest.mark.parametrize("scheduler", ["PNDM", "DDIM", "Euler", "DPM++ 2M Karras"])
def test_in_a_step_the_host_does_not_wait_for_the_device(gpu, scheduler):
    denoiser = Denoiser(gpu.load().pipeline)
    states = prepared(denoiser, make_request(scheduler=scheduler, **gpu.request | {"num_inference_steps": 8}))
    denoiser.denoise_step(states)
    with gpu.no_waiting():
        denoiser.denoise_step(states)


def test_mixed_requests_have_no_failure(gpu):
    engine = build_engine(gpu.load(), Settings())
    count, sizes = (12, (48, 56, 64)) if gpu.pretended else (500, (256, 384, 512))
    schedulers = ("PNDM", "DDIM", "Euler a", "UniPC")
    ended: dict[str, object] = {}
    for number in range(count):
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
        while engine.counts()[0] > 8 or (number == count - 1 and not engine.is_idle):
            for update in engine.step():
                if isinstance(update, GenerationResult | RequestFailed):
                    ended[update.request_id] = update
    assert len(ended) == count
    images = [image for result in ended.values() if isinstance(result, GenerationResult) for image in result.images]
    assert len(images) == count * 3 // 2 and {image.outcome for image in images} == {Outcome.OK}


def test_step_times_are_those_of_the_size_that_they_are_asked_for(gpu):
    """The host is a step ahead, so the time of a step is known only during the next, which may be another size's."""
    engine = make_engine(gpu.load(), width=4)
    for number in range(4):
        width = gpu.size // 2 * (3 if number % 2 else 1)
        engine.add_request(admitted(f"r{number}", **gpu.request | {"width": width, "num_inference_steps": 8}))
    while not engine.is_idle:
        engine.step()
    assert set(engine.unet_calls) == {2}, "two pictures of each size share a call"
    small, large = (engine.times.step_s(BatchKey(gpu.size, gpu.size // 2 * sides, True), 2) for sides in (1, 3))
    assert 1.5 * small < large


@pytest.mark.real_gpu
@pytest.mark.parametrize("limit_gb", [24, 12, 8, 6, 4, 3])
def test_the_first_profile_serves_within_a_smaller_cards_memory(gpu, limit_gb):
    """The allocator holds to the limit, so a profile that needs more than was predicted would fail here."""
    loaded = gpu.load(max_vram_gb=float(limit_gb))
    predicted = loaded.placement.profile
    engine = build_engine(loaded, Settings())
    images = run_to_completion(engine, admitted("a", num_images_per_prompt=4, **gpu.request)).images
    assert [image.outcome for image in images] == [Outcome.OK] * 4
    assert loaded.placement.profile == predicted, "the prediction held"
    assert torch.cuda.max_memory_reserved() <= limit_gb * GIB


def test_other_kernels_change_no_value_by_more_than_rounding_does(gpu):
    """Each set of them, recorded in turn."""
    loaded, drawn = gpu.load(), []
    graphs = loaded.placement.unet_runner._graphs
    for kernels in (USUAL, *TRIALS):
        drawn.append(pixels(run_to_completion(make_engine(loaded), admitted("a", **gpu.request))))
        graphs._kernels = dict.fromkeys(graphs._recordings, kernels)
        list(loaded.placement.unet_runner.improve())
        assert {recording.kernels for recording in graphs._recordings.values()} == {kernels}
    drawn.append(pixels(run_to_completion(make_engine(loaded), admitted("a", **gpu.request))))
    assert max(far_apart(each, drawn[0]) for each in drawn) <= 2


def test_pictures_that_are_finished_beside_steps_are_those_that_others_wait_for(gpu):
    drawn = []
    for beside in (True, False):
        loaded = gpu.load()
        engine = make_engine(loaded, width=2, beside=lambda beside=beside: beside)
        for steps in range(1, 5):
            engine.add_request(admitted(f"r{steps}", **gpu.request | {"num_inference_steps": steps}))
        drawn.append(results(run(engine)))
    for name, result in drawn[0].items():
        assert far_apart(pixels(result), pixels(drawn[1][name])) == 0


def test_out_of_memory_in_a_step_goes_down_and_keeps_the_picture(gpu, monkeypatch):
    loaded = gpu.load()
    before, failures = loaded.placement.profile, iter([torch.OutOfMemoryError("no memory")] * 2)
    engine = make_engine(loaded, width=1, can_go_lower=True)
    break_unet(monkeypatch, loaded, lambda call, rows: next(failures, None))
    (image,) = run_to_completion(engine, admitted("a", **gpu.request)).images
    assert image.outcome is Outcome.OK
    assert loaded.placement.profile != before


@pytest.mark.real_gpu
def test_a_real_out_of_memory_error_splits_the_batch(gpu):
    """As another process would, something takes the memory while four pictures are under way."""
    loaded = gpu.load()
    engine = make_engine(loaded, width=4, can_go_lower=True)
    engine.add_request(admitted("a", num_images_per_prompt=4, **gpu.request))
    engine.step()
    torch.cuda.empty_cache()
    free_bytes, _ = torch.cuda.mem_get_info()
    taken = torch.empty(max(0, free_bytes - GIB // 4), dtype=torch.uint8, device="cuda")
    updates = []
    while not engine.is_idle:
        updates += engine.step()
    del taken
    assert [image.outcome for image in updates[-1].images] == [Outcome.OK] * 4


def test_a_decode_that_overflows_in_float16_is_done_again_in_float32(gpu, caplog):
    loaded = gpu.load()
    overflow(loaded.pipeline.vae)
    (image,) = run_to_completion(make_engine(loaded), admitted("a", **gpu.request)).images
    assert image.outcome is Outcome.OK
    assert "decoded again in float32" in caplog.text


def test_the_checker_runs_in_float32_beside_a_float16_pipeline(gpu):
    loaded = gpu.load()
    assert loaded.pipeline.safety_checker.dtype == torch.float32
    assert loaded.pipeline.unet.dtype == torch.float16
