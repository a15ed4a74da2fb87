"""The UNet in OpenVINO draws what the UNet itself draws."""

import sys

import numpy as np
import pytest
import torch

from sd_space.backends.loading import build_engine
from sd_space.engine.engine import run_to_completion
from sd_space.errors import ModelUnavailable
from sd_space.model.openvino_unet import OpenVinoUNet
from sd_space.model.pipeline import load_pipeline
from sd_space.model.spec import Hardware, PipelineSpec
from sd_space.settings import Settings

from .test_engine import pixels
from .tiny_models import admitted, make_engine


@pytest.fixture(scope="module")
def pair(one_torch_thread):
    """The picture book, as it is and with OpenVINO."""
    both = []
    for openvino in (False, True):
        settings = Settings(model="tiny", openvino=openvino, max_batch_size=4)
        loaded = load_pipeline(PipelineSpec.from_settings(settings, Hardware("cpu")))
        both.append(make_engine(loaded, width=4))
    return both


@pytest.mark.parametrize(
    "changes",
    [
        {"width": 128, "height": 128, "num_inference_steps": 20, "scheduler": "DPM++ 2M Karras"},
        {"width": 128, "height": 96, "num_images_per_prompt": 3},
        {"width": 72, "height": 104, "guidance_scale": 1.0},
    ],
    ids=["its own size and steps", "three of another size", "a size that torch draws, without guidance"],
)
def test_pictures_differ_by_rounding_alone(pair, changes):
    one, other = (pixels(run_to_completion(engine, admitted("a", **changes))).astype(int) for engine in pair)
    assert np.abs(one - other).max() <= 1


def test_its_sums_are_its_own(pair):
    """Or the test above would compare the UNet with itself."""
    unet = pair[0]._denoiser._pipeline.unet
    compiled = pair[1]._denoiser._unet_runner._unet
    assert isinstance(compiled, OpenVinoUNet)
    tensors = (
        torch.ones(2, unet.config.in_channels, 16, 16),
        torch.ones(2),
        torch.ones(2, 77, unet.config.cross_attention_dim),
    )
    with torch.inference_mode():
        difference = compiled(*tensors)[0] - unet(*tensors, return_dict=False)[0]
    assert 0 < difference.abs().max() < 1e-3


def test_without_the_package_the_operator_reads_what_to_install(one_torch_thread, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    settings = Settings(model="tiny", openvino=True, max_batch_size=3)
    with pytest.raises(ModelUnavailable) as failure:
        load_pipeline(PipelineSpec.from_settings(settings, Hardware("cpu")))
    assert "pip install" in failure.value.operator_hint


@pytest.mark.parametrize(("settings", "device"), [({"turbo": True}, "cpu"), ({}, "cuda")])
def test_where_it_cannot_be_the_operator_reads_so_before_anything_is_loaded(settings, device):
    with pytest.raises(ModelUnavailable) as failure:
        PipelineSpec.from_settings(Settings(openvino=True, **settings), Hardware(device))
    assert "SD_SPACE_OPENVINO" in failure.value.operator_hint


def test_nothing_is_reported_to_another_host(pair):
    assert sys.modules["openvino_telemetry"] is None


def test_the_backend_serves_it(pair):
    loaded = load_pipeline(
        PipelineSpec.from_settings(Settings(model="tiny", openvino=True, max_batch_size=4), Hardware("cpu"))
    )
    engine = build_engine(loaded, Settings(max_batch_size=4))
    assert isinstance(engine._denoiser._unet_runner._unet, OpenVinoUNet)
