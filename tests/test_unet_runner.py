"""The ways of calling the UNet agree: plainly, and recorded (here by a stand-in for CUDA graphs)."""

import weakref

import pytest
import torch

from sd_space.model.cuda_graphs import RECORD_AT
from sd_space.model.unet_runner import UNetRunner

from .test_cuda_graphs import Recorder


@pytest.fixture
def unet(noise_painter):
    return noise_painter.pipeline.unet


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


def inputs(rows: int = 2, side: int = 8, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(rows, 4, side, side, generator=generator)
    return noise, torch.full((rows,), 500.0), torch.randn(rows, 77, 32, generator=generator)


def plainly(unet, *tensors: torch.Tensor) -> torch.Tensor:
    sample, timesteps, embeds = tensors
    return unet(sample, timesteps, encoder_hidden_states=embeds, return_dict=False)[0]


def test_recorded_calls_give_what_plain_ones_give(unet):
    runner, recorder = UNetRunner(unet), Recorder()
    runner.record(lambda: recorder)
    given = [inputs(seed=seed) for seed in range(RECORD_AT + 3)]
    drawn = [runner.predict(*tensors) for tensors in given]
    assert (recorder.recorded, recorder.replayed) == (1, 4), "the shape was seen often enough, and then only replayed"
    for tensors, noise_pred in zip(given, drawn, strict=True):  # after the last: none was written over by a later one
        assert torch.equal(noise_pred, plainly(unet, *tensors))


def test_each_shape_has_a_recording_of_its_own(unet):
    runner, recorder = UNetRunner(unet), Recorder()
    runner.record(lambda: recorder)
    for _ in range(RECORD_AT + 1):
        for rows, side in ((2, 8), (4, 8), (2, 16)):
            tensors = inputs(rows, side)
            assert torch.equal(runner.predict(*tensors), plainly(unet, *tensors))
    assert recorder.recorded == 3


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError])
def test_a_shape_that_cannot_be_recorded_is_called_as_it_is_and_others_are_recorded_on(unet, error, caplog):
    recorder, kept = Recorder(), []

    def fails_with_six(call):
        replay, outputs = recorder(call)
        if len(outputs[0]) == 6:
            raise error("operation not permitted when stream is capturing")
        kept.append(weakref.ref(outputs[0]))
        return replay, outputs

    runner = UNetRunner(unet)
    runner.record(lambda: fails_with_six)
    for rows in (2, 4, 6):
        tensors = inputs(rows)
        for _ in range(RECORD_AT + 2):
            assert torch.equal(runner.predict(*tensors), plainly(unet, *tensors))
    assert "could not be recorded" in caplog.text and caplog.text.count(error.__name__) == 1
    assert [output() for output in kept] == [None, None], "what recordings share can be given back"
    for _ in range(RECORD_AT):
        tensors = inputs(8)
        assert torch.equal(runner.predict(*tensors), plainly(unet, *tensors))
    assert (recorder.recorded, recorder.replayed) == (4, 7)


def test_recordings_are_let_go(unet):
    runner, recorder = UNetRunner(unet), Recorder()
    runner.record(lambda: recorder)
    for _ in range(RECORD_AT):
        runner.predict(*inputs())
    runner.record(None)
    runner.predict(*inputs())
    assert recorder.replayed == 1
