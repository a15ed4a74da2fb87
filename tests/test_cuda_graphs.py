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


def test_when_there_are_too_many_recordings_all_go_together():
    recorder, pools = Recorder(), []
    graphs = CudaGraphCache(lambda: pools.append(len(pools)) or recorder)

    def double(tensor: torch.Tensor) -> tuple[torch.Tensor]:
        return (tensor * 2,)

    def use(length: int, times: int = 1) -> None:
        for _ in range(times):
            assert torch.equal(graphs(double, torch.ones(length))[0], torch.full((length,), 2.0))

    for length in range(1, MOST_RECORDED + 1):
        use(length, RECORD_AT)
    assert (len(graphs), pools) == (MOST_RECORDED, [0])
    use(MOST_RECORDED + 1, RECORD_AT)
    assert (len(graphs), pools) == (1, [0, 1]), "into new memory"
    use(2, RECORD_AGAIN_AFTER - 1)
    assert recorder.recorded == MOST_RECORDED + 1, "to record and let go in turns would cost more than it saves"
    use(2)
    assert recorder.recorded == MOST_RECORDED + 2, "one that is much used is recorded again"


def test_all_that_is_called_shares_the_room_for_recordings():
    """TURBO calls the UNet in three ways: more recordings than memory is reserved for would run out of it."""
    graphs = CudaGraphCache(Recorder)
    calls = [lambda tensor: (tensor + 1,), lambda tensor: (tensor + 2,), lambda tensor: (tensor + 3,)]
    for length in range(1, MOST_RECORDED):
        for number, call in enumerate(calls, start=1):
            for _ in range(RECORD_AT + 1):
                assert torch.equal(graphs(call, torch.zeros(length))[0], torch.full((length,), float(number)))
            assert len(graphs) <= MOST_RECORDED
