"""The pretended device refuses what CUDA refuses, notes each wait, and replays graphs; else its claims show nothing."""

import gc
import warnings

import pytest
import torch

from .gpu import Gpu
from .pretend_cuda import counted, pretended_cuda


@pytest.fixture
def device():
    with pretended_cuda() as device:
        yield device


def ones(*shape: int) -> torch.Tensor:
    return torch.ones(shape, device="cuda")


def test_tensors_say_cuda_and_compute(device):
    doubled = torch.arange(3.0).to("cuda", torch.float16) * 2
    assert (str(doubled.device), doubled.is_cuda, doubled.dtype) == ("cuda:0", True, torch.float16)
    assert doubled.cpu().tolist() == [0.0, 2.0, 4.0] and doubled.cpu().device.type == "cpu"
    module = torch.nn.Linear(2, 3).to("cuda")
    assert {parameter.device.type for parameter in module.parameters()} == {"cuda"}
    assert module(ones(1, 2)).device.type == "cuda"
    assert {parameter.device.type for parameter in module.to("cpu").parameters()} == {"cpu"}


@pytest.mark.parametrize(
    "mixes",
    [
        lambda: ones(2) + torch.ones(2),
        lambda: torch.cat([ones(2), torch.ones(2)]),
        lambda: torch.nn.functional.linear(torch.ones(1, 2), ones(2, 2)),
        lambda: torch.stack([ones(), torch.ones(())]),
        lambda: torch.nn.Linear(2, 2)(ones(1, 2)),
    ],
)
def test_devices_do_not_mix(device, mixes):
    with pytest.raises(RuntimeError, match="same device"):
        mixes()


def test_a_number_on_the_cpu_goes_along_with_a_launch(device):
    with device.stalls.watched() as stalls:
        assert (torch.tensor(0.5) * ones(2)).is_cuda
    assert not stalls


def test_what_is_on_the_device_is_no_array(device):
    with pytest.raises(TypeError, match="cpu"):
        ones(2).numpy()


@pytest.mark.parametrize(
    ("does", "kind"),
    [
        (lambda: ones(1).item(), "wait"),
        (lambda: bool(ones(1) > 0), "wait"),
        (lambda: ones(2)[ones(2) > 0], "wait"),
        (lambda: torch.linalg.solve(ones(1, 1), ones(1)), "wait"),
        (lambda: ones(2).cpu(), "copy to host"),
        (lambda: torch.empty(2).copy_(ones(2)), "copy to host"),
        (lambda: torch.ones(2).to("cuda"), "copy to device"),
        (lambda: torch.tensor([1.0], device="cuda"), "copy to device"),
        (lambda: torch.ones(2).to("cuda", non_blocking=True), "pageable copy"),
        (lambda: torch.cuda.synchronize(), "synchronize"),
        (lambda: ones(2).to("cpu", non_blocking=True), None),
        (lambda: torch.ones(2).pin_memory().to("cuda", non_blocking=True), None),
        (lambda: ones(2).to(torch.float16)[0].view(1).add_(1), None),
    ],
)
def test_each_wait_is_noted(device, does, kind):
    with device.stalls.watched() as stalls:
        does()
    assert counted(stalls) == ({kind: 1} if kind else {})


def test_a_copy_that_nobody_waited_for_holds_nonsense(device):
    copied, done = ones(2).to("cpu", non_blocking=True), torch.cuda.Event(blocking=True)
    assert copied.isnan().all()
    done.record()
    done.synchronize()
    assert copied.tolist() == [1.0, 1.0]


def test_time_on_the_device_passes_by_itself(device):
    clock = device.clock
    clock.launch_s, clock.kernel_s = 0.001, 0.1
    begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begun.record()
    tensor = ones(1)
    ended.record()
    assert clock() == pytest.approx(0.001)
    with pytest.raises(torch.AcceleratorError):
        begun.elapsed_time(ended)
    tensor.item()
    assert clock() == pytest.approx(0.101)
    assert begun.elapsed_time(ended) == pytest.approx(101.0)


def test_the_mode_that_refuses_waits_is_set_and_then_warns_as_torch_does(device):
    with pytest.warns(UserWarning):
        torch.cuda.set_sync_debug_mode("error")
    with pytest.raises(RuntimeError, match="synchronizing"):
        ones(1).item()
    with warnings.catch_warnings(record=True) as warned:
        torch.cuda.set_sync_debug_mode("default")
    assert not warned and ones(1).item() == 1


def test_waits_are_refused_inside_and_allowed_again_after(device):
    with pytest.raises(RuntimeError, match="synchronizing"), Gpu(device).no_waiting():
        ones(1).item()
    assert ones(1).item() == 1


def captured(pool=None):
    static, graph = ones(2), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool, stream=torch.cuda.Stream()):
        result = static * 2 + static.view(2, 1)[:, 0]
    return static, graph, result


def test_a_graph_computes_when_it_is_replayed(device):
    static, graph, result = captured()
    assert result.isnan().all()
    static.copy_(ones(2) * 5)
    graph.replay()
    assert result.cpu().tolist() == [15.0, 15.0]


def test_nothing_waits_in_a_capture(device):
    static, graph = ones(2), torch.cuda.CUDAGraph()
    with pytest.raises(torch.AcceleratorError, match="not permitted"), torch.cuda.graph(graph):
        static.sum().item()
    assert ones(1).item() == 1


def test_a_graph_that_goes_takes_the_others_of_its_pool_with_it(device):
    pool = torch.cuda.graph_pool_handle()
    first, second, alone = captured(pool), captured(pool), captured(torch.cuda.graph_pool_handle())
    del first
    gc.collect()
    with pytest.raises(torch.AcceleratorError, match="illegal memory"):
        second[1].replay()
    alone[1].replay()


def test_memory_runs_out_at_the_allocation_that_is_asked_for(device):
    tensor = ones(2)
    device.fails_at = {device.allocations + 2}
    tensor.add_(1)
    kept = tensor + 1
    with pytest.raises(torch.OutOfMemoryError):
        _ = kept + 1
    assert (kept + 1).cpu().tolist() == [4.0, 4.0]


def test_after_it_there_is_no_cuda_any_more():
    with pretended_cuda():
        assert torch.cuda.is_available()
    assert not torch.cuda.is_available()
    assert torch.ones(2).to("cpu").numpy().tolist() == [1.0, 1.0]
