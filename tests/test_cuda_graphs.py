"""Which calls are recorded and kept. CUDA graphs themselves need CUDA (test_gpu.py); this bookkeeping does not."""

import torch

from sd_space.model.cuda_graphs import MOST_RECORDED, RECORD_AGAIN_AFTER, RECORD_AT, CudaGraphCache


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


def test_only_so_many_recordings_are_kept_and_the_least_used_goes():
    recorder = Recorder()
    double = CudaGraphCache(lambda tensor: (tensor * 2,), recorder)

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
