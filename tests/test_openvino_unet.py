"""The UNet in OpenVINO draws what the UNet itself draws, and nothing that goes wrong with it keeps pictures away."""

import ctypes
import gc
import logging
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel

from sd_space.backends.loading import build_engine
from sd_space.engine.engine import run_to_completion
from sd_space.errors import ModelUnavailable
from sd_space.model import openvino_unet
from sd_space.model.compiled_models import FOLDER, store_compiled
from sd_space.model.openvino_unet import OpenVinoUNet
from sd_space.model.pipeline import fit_pipeline, load_pipeline
from sd_space.model.spec import Hardware, PipelineSpec
from sd_space.settings import Settings

from .test_engine import pixels
from .tiny_models import admitted, make_engine, make_pipeline

CPU = Hardware("cpu")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder / "sd_space" / FOLDER


@pytest.fixture(scope="module")
def loaded(one_torch_thread, cache):
    """The picture book, by runtime."""
    return {
        runtime: load_pipeline(PipelineSpec.from_settings(Settings(model="tiny", runtime=runtime), CPU))
        for runtime in ("torch", "openvino")
    }


@pytest.fixture
def no_conversion(loaded, monkeypatch):
    """What needs one fails from here on."""

    def convert_model(*arguments, **options):
        raise RuntimeError("it cannot be converted")

    monkeypatch.setattr("openvino.convert_model", convert_model)


def spec_of(hardware: Hardware = CPU, **settings) -> PipelineSpec:
    return PipelineSpec.from_settings(Settings(**{"model": "noise-painter"} | settings), hardware)


@pytest.mark.parametrize(
    "changes",
    [
        {"width": 128, "height": 128, "num_inference_steps": 20, "scheduler": "DPM++ 2M Karras"},
        {"width": 128, "height": 96, "num_images_per_prompt": 3},
        {"width": 72, "height": 104, "guidance_scale": 1.0},
    ],
    ids=["its own size and steps", "three of another size", "a size that its layers do not divide, without guidance"],
)
def test_pictures_differ_by_rounding_alone(loaded, changes):
    one, other = (
        pixels(run_to_completion(make_engine(each, width=4), admitted("a", **changes))).astype(int)
        for each in loaded.values()
    )
    assert np.abs(one - other).max() <= 1


@pytest.mark.parametrize("shape", [(2, 16, 16), (5, 9, 23)])
def test_its_sums_are_its_own(loaded, shape):
    """Or the test above would compare the UNet with itself."""
    unet = loaded["torch"].pipeline.unet
    compiled = loaded["openvino"].placement.unet_runner._unet
    assert isinstance(compiled, OpenVinoUNet)
    rows, height, width = shape
    tensors = (
        torch.ones(rows, unet.config.in_channels, height, width),
        torch.ones(rows),
        torch.ones(rows, 77, unet.config.cross_attention_dim),
    )
    with torch.inference_mode():
        difference = compiled(*tensors)[0] - unet(*tensors, return_dict=False)[0]
    assert 0 < difference.abs().max() < 1e-3


def test_reproducible_holds_for_it_too(loaded):
    engine = make_engine(loaded["openvino"], width=4, fixed_rows=8)
    alone = pixels(run_to_completion(engine, admitted("a", guidance_scale=20.0)))
    engine.add_request(admitted("another", num_images_per_prompt=3, guidance_scale=1.0, seed=9))
    assert np.array_equal(alone, pixels(run_to_completion(engine, admitted("a again", guidance_scale=20.0))))


def test_the_engine_that_is_served_calls_it(loaded):
    engine = build_engine(loaded["openvino"], Settings(max_batch_size=4))
    assert isinstance(engine._denoiser._unet_runner._unet, OpenVinoUNet)
    assert [each.info.runtime for each in loaded.values()] == ["torch", "openvino"]


def test_nothing_is_reported_to_another_host(loaded):
    assert sys.modules["openvino_telemetry"] is None


# --- which runtime is chosen


@pytest.mark.parametrize(
    ("settings", "hardware", "runtime"),
    [
        ({}, CPU, "openvino"),
        ({"turbo": True}, CPU, "torch"),
        ({"reproducible": True}, CPU, "torch"),
        ({"attention_slicing": "on"}, CPU, "torch"),
        ({"backend": "zerogpu"}, CPU, "torch"),
        ({}, Hardware("cuda"), "torch"),
        ({"runtime": "openvino", "reproducible": True}, CPU, "openvino"),
        ({"runtime": "torch"}, CPU, "torch"),
    ],
)
def test_auto_is_openvino_where_nothing_speaks_against_it(settings, hardware, runtime):
    assert spec_of(hardware, **settings).runtime == runtime


@pytest.mark.parametrize(
    ("settings", "hardware", "obstacle"),
    [
        ({"turbo": True}, CPU, "with SD_SPACE_TURBO"),
        ({"attention_slicing": "on"}, CPU, "with SD_SPACE_ATTENTION_SLICING"),
        ({"backend": "zerogpu"}, CPU, "in a process that is forked for each call"),
        ({}, Hardware("cuda"), "on cuda"),
    ],
)
def test_where_it_cannot_be_the_operator_reads_so_before_anything_is_loaded(settings, hardware, obstacle):
    with pytest.raises(ModelUnavailable) as failure:
        spec_of(hardware, runtime="openvino", **settings)
    assert failure.value.operator_hint == (
        f"SD_SPACE_RUNTIME is openvino, which does not work {obstacle}; leave SD_SPACE_RUNTIME empty."
    )


def test_without_the_package_auto_is_torch_and_openvino_is_refused_in_a_sentence(one_torch_thread, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert spec_of().runtime == "torch"
    with pytest.raises(ModelUnavailable) as failure:
        fit_pipeline(make_pipeline(), spec_of(runtime="openvino"))
    assert failure.value.operator_hint == (
        "SD_SPACE_RUNTIME is openvino, which is not installed; pip install openvino, or leave it empty."
    )


def test_where_it_fails_auto_goes_on_with_torch_and_openvino_is_refused(one_torch_thread, no_conversion, caplog):
    with caplog.at_level(logging.WARNING):
        loaded = fit_pipeline(make_pipeline(seed=1), spec_of())
    assert loaded.info.runtime == "torch" and "cannot run this model (RuntimeError)" in caplog.text
    assert not isinstance(loaded.placement.unet_runner._unet, OpenVinoUNet)
    with pytest.raises(ModelUnavailable) as failure:
        fit_pipeline(make_pipeline(seed=1), spec_of(runtime="openvino"))
    assert failure.value.operator_hint == (
        "SD_SPACE_RUNTIME is openvino, which cannot run this model (RuntimeError); set it to torch, or leave it empty."
    )


def test_what_gives_other_noise_than_the_unet_is_not_used(loaded, no_conversion, monkeypatch):
    monkeypatch.setattr(openvino_unet, "TOLERANCE", 0.0)
    with pytest.raises(RuntimeError, match="cannot be converted"):  # as what was stored does not count any more
        OpenVinoUNet(loaded["torch"].pipeline.unet)


# --- what a start keeps for the next one


def test_what_is_compiled_is_kept_for_the_next_start_in_a_private_folder(loaded, cache, no_conversion):
    OpenVinoUNet(loaded["torch"].pipeline.unet)
    (kept,) = cache.iterdir()
    modes = [path.stat().st_mode & 0o777 for path in (kept, cache, cache.parent)]
    assert modes == [0o600, 0o700, 0o700]
    with pytest.raises(RuntimeError, match="cannot be converted"):
        OpenVinoUNet(make_pipeline(seed=1).unet)  # which has other weights


def test_neither_what_is_damaged_nor_what_cannot_be_written_keeps_it_from_compiling(
    one_torch_thread, tmp_path, monkeypatch
):
    unet = make_unet()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    OpenVinoUNet(unet)
    (kept,) = (tmp_path / "sd_space" / FOLDER).iterdir()
    store_compiled(kept.name, b"no model, with its checksum")
    OpenVinoUNet(unet)
    assert kept.stat().st_size > 100_000, "it is replaced"
    monkeypatch.setenv("XDG_CACHE_HOME", str(kept))  # where no folder can be made
    OpenVinoUNet(unet)


def test_the_thread_that_made_it_survives_a_signal_after_another_dropped_it(one_torch_thread):
    with ThreadPoolExecutor(1) as other:
        made = [other.submit(OpenVinoUNet, make_unet()).result()]
        made.clear()
        gc.collect()
        stack = other.submit(stack_for_signals).result()
    mapped = [line.split()[0].split("-") for line in Path("/proc/self/maps").read_text().splitlines()]
    assert not stack or any(int(first, 16) <= stack < int(end, 16) for first, end in mapped)


def stack_for_signals() -> int | None:
    """The address of this thread's alternate one, if it has any."""

    class Stack(ctypes.Structure):
        _fields_ = [("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]

    stack = Stack()
    assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack)) == 0
    return stack.address


def make_unet() -> UNet2DConditionModel:
    """Of a single block, so that it is compiled in no time."""
    block = {"down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("CrossAttnUpBlock2D",)}
    sizes = {"sample_size": 8, "cross_attention_dim": 8, "attention_head_dim": 2, "norm_num_groups": 4}
    return UNet2DConditionModel(block_out_channels=(8,), layers_per_block=1, **block, **sizes).eval()
