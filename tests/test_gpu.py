"""v1-4's architecture in float16 on a CUDA device: exact, on every rung of the memory ladder, and after faults.

Left out where there is no CUDA (see conftest.py); then nothing of this file has been seen to work.
"""

import gc

import pytest
import torch

from sd_space.backends.local import build_engine
from sd_space.engine import run_to_completion
from sd_space.memory import GIB
from sd_space.pipeline import LoadedPipeline, PipelineSpec, detect_hardware
from sd_space.schema import Outcome
from sd_space.settings import Settings
from sd_space.tools import v1_4_random

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


@pytest.mark.parametrize("limit_gb", [24, 12, 8, 6, 4, 3])
def test_the_ladder_serves_within_a_smaller_cards_memory(limit_gb):
    """The allocator holds to the limit, so a rung that needs more than was predicted would fail here."""
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
