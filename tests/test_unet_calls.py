"""The ways of calling the UNet agree. CUDA graphs need CUDA (test_gpu.py); their bookkeeping does not."""

import weakref

import pytest
import torch

from sd_space.model.unet_calls import MOST_RECORDED, RECORD_AGAIN_AFTER, RECORD_AT, Recorded, UNetCalls


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


class Recorder:
    """Records as a CUDA graph does: the same inputs and outputs each time, and no Python in between."""

    def __init__(self):
        self.recorded = self.replayed = 0

    def __call__(self, call):
        self.recorded += 1
        outputs = call()

        def replay():
            self.replayed += 1
            for output, new in zip(outputs, call(), strict=True):
                output.copy_(new)

        return replay, outputs


def plainly(unet, *tensors: torch.Tensor) -> torch.Tensor:
    sample, timesteps, embeds = tensors
    return unet(sample, timesteps, encoder_hidden_states=embeds, return_dict=False)[0]


def test_recorded_calls_give_what_plain_ones_give(unet):
    calls, recorder = UNetCalls(unet), Recorder()
    calls.record(recorder)
    given = [inputs(seed=seed) for seed in range(RECORD_AT + 3)]
    drawn = [calls.predict(*tensors) for tensors in given]
    assert (recorder.recorded, recorder.replayed) == (1, 4), "the shape was seen often enough, and then only replayed"
    for tensors, noise_pred in zip(given, drawn, strict=True):  # after the last: none was written over by a later one
        assert torch.equal(noise_pred, plainly(unet, *tensors))


def test_each_shape_has_a_recording_of_its_own(unet):
    calls, recorder = UNetCalls(unet), Recorder()
    calls.record(recorder)
    for _ in range(RECORD_AT + 1):
        for rows, side in ((2, 8), (4, 8), (2, 16)):
            tensors = inputs(rows, side)
            assert torch.equal(calls.predict(*tensors), plainly(unet, *tensors))
    assert recorder.recorded == 3


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError])
def test_after_one_that_fails_nothing_is_recorded_and_no_recording_is_kept(unet, error, caplog):
    recorder, kept = Recorder(), []

    def record_two(call):
        if recorder.recorded == 2:
            raise error("operation not permitted when stream is capturing")
        replay, outputs = recorder(call)
        kept.append(weakref.ref(outputs[0]))
        return replay, outputs

    calls = UNetCalls(unet)
    calls.record(record_two)
    for rows in (2, 4, 6):
        tensors = inputs(rows)
        for _ in range(RECORD_AT + 2):
            assert torch.equal(calls.predict(*tensors), plainly(unet, *tensors))
    assert "could not be recorded" in caplog.text and caplog.text.count(error.__name__) == 1
    assert [output() for output in kept] == [None, None], "what recordings share can be given back"
    tensors = inputs(2)
    assert torch.equal(calls.predict(*tensors), plainly(unet, *tensors))
    assert recorder.replayed == 6, "none after the failure"


def test_only_so_many_recordings_are_kept_and_the_least_used_goes():
    recorder = Recorder()
    double = Recorded(lambda tensor: (tensor * 2,), recorder)

    def use(length: int, times: int = 1) -> None:
        for _ in range(times):
            assert torch.equal(double(torch.ones(length))[0], torch.full((length,), 2.0))

    for length in range(1, MOST_RECORDED + 1):
        use(length, RECORD_AT)
    use(1)
    use(MOST_RECORDED + 1, RECORD_AT)
    assert len(double._replays) == MOST_RECORDED
    replayed = recorder.replayed
    use(1)
    assert recorder.replayed == replayed + 1, "the one used last is still there"
    use(2, RECORD_AGAIN_AFTER - 1)
    assert recorder.recorded == MOST_RECORDED + 1, "to record and let go in turns would cost more than it saves"
    use(2)
    assert recorder.recorded == MOST_RECORDED + 2, "the oldest is recorded again when it is much used again"


def test_recordings_are_let_go(unet):
    calls, recorder = UNetCalls(unet), Recorder()
    calls.record(recorder)
    for _ in range(RECORD_AT):
        calls.predict(*inputs())
    calls.record(None)
    calls.predict(*inputs())
    assert recorder.replayed == 1


def test_features_of_the_same_step_give_the_same_noise(loaded):
    """Of both models: the one has a plain last block, the other one with attention."""
    unet = loaded.pipeline.unet
    sample = torch.randn(2, unet.config.in_channels, 16, 16, generator=torch.Generator().manual_seed(0))
    embeds = torch.randn(2, 77, unet.config.cross_attention_dim, generator=torch.Generator().manual_seed(1))
    tensors = sample, torch.full((2,), 500.0), embeds
    calls = UNetCalls(unet)
    noise_pred, features = calls.predict_with_features(*tensors)
    assert torch.equal(noise_pred, plainly(unet, *tensors))
    assert torch.equal(calls.predict_from_features(*tensors, features), noise_pred)
