"""`SD_SPACE_COMPILE`: calls are made as they are until compiled code is there, and whenever that is not right."""

import shutil
import threading

import pytest
import torch

from sd_space.errors import ModelUnavailable
from sd_space.model.compiled_calls import COMPILE_AT, CompiledCalls
from sd_space.model.memory import MemoryProfile
from sd_space.model.pipeline import LoadedPipeline
from sd_space.model.placement import Placement
from sd_space.model.spec import Hardware, PipelineSpec
from sd_space.settings import Settings

from .test_engine import pixels, results, run
from .test_placement import far_apart
from .tiny_models import admitted, make_engine, make_pipeline


def double(tensor: torch.Tensor) -> tuple[torch.Tensor]:
    return (tensor * 2,)


def use(calls: CompiledCalls, times: int, rows: int = 2):
    """What is called at the last of so many calls."""
    for _ in range(times):
        called = calls.of(double, torch.ones(rows))
        assert called(torch.ones(rows))[0].tolist() == [2.0] * rows
    return called


def finish(calls: CompiledCalls) -> None:
    calls._thread.join(60)
    assert not calls._thread.is_alive()


def test_a_shape_is_compiled_once_it_is_called_often_and_served_meanwhile():
    may_end, made = threading.Event(), []

    def compile_call(call, inputs):
        made.append(inputs[0].shape)
        assert may_end.wait(60)
        return lambda tensor: (tensor + tensor,)

    calls = CompiledCalls(compile_call)
    assert use(calls, COMPILE_AT - 1) is double and not made
    assert use(calls, 3 * COMPILE_AT) is double and use(calls, COMPILE_AT, rows=3) is double
    may_end.set()
    finish(calls)
    assert made == [(2,)], "one at a time"
    assert use(calls, 1) is not double and use(calls, 1, rows=3) is double
    finish(calls)
    assert made == [(2,), (3,)] and len(calls) == 2
    assert use(calls, 1).__name__ == "compileddouble"


@pytest.mark.parametrize(
    "compile_call",
    [lambda call, inputs: 1 / 0, lambda call, inputs: lambda tensor: (tensor * 3,)],
    ids=["cannot be made", "computes something else"],
)
def test_code_that_is_not_right_is_not_used(compile_call, caplog):
    calls = CompiledCalls(compile_call)
    use(calls, COMPILE_AT)
    finish(calls)
    assert use(calls, COMPILE_AT) is double and not len(calls)
    assert caplog.text.count("could not be compiled") == 1


def test_code_that_fails_later_gives_way(caplog):
    def compile_call(call, inputs):
        left = [1]  # the first time is the comparison
        return lambda tensor: (tensor * 2,) if left and left.pop() else 1 / 0

    calls = CompiledCalls(compile_call)
    use(calls, COMPILE_AT)
    finish(calls)
    use(calls, 3)
    assert caplog.text.count("failed (ZeroDivisionError)") == 1


@pytest.mark.parametrize("changes", [{"reproducible": True}, {"backend": "zerogpu"}, {"runtime": "openvino"}], ids=str)
def test_where_it_cannot_be_the_operator_reads_so_before_anything_is_loaded(changes):
    with pytest.raises(ModelUnavailable) as failure:
        PipelineSpec.from_settings(Settings(compile=True, **changes), Hardware("cpu"))
    assert "SD_SPACE_COMPILE" in failure.value.operator_hint
    assert PipelineSpec.from_settings(Settings(compile=True), Hardware("cpu")).runtime == "torch"


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # compilers have warnings of their own
def test_pictures_of_the_compiled_unet_are_within_rounding_of_those_of_the_unet_as_it_is(
    one_torch_thread, tmp_path, monkeypatch
):
    """By the CPU's own compiler, in float32; and no step waits for it."""
    assert shutil.which("g++") or shutil.which("clang++"), "torch.compile needs a C++ compiler"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    pipeline = make_pipeline()
    placement = Placement(pipeline, "cpu", [MemoryProfile()], compiles=True)
    engine = make_engine(LoadedPipeline(pipeline, None, placement))

    def draw(**changes):
        engine.add_request(admitted("a", num_inference_steps=COMPILE_AT + 5, **changes))
        return pixels(results(run(engine))["a"])

    expected = draw()
    calls = placement.unet_runner._compiled
    calls._thread.join(900)
    assert len(calls) == 1
    from torch._dynamo.utils import counters

    before = dict(counters["frames"])
    assert far_apart(draw(), expected) <= 1
    assert dict(counters["frames"]) == before, "nothing is compiled in a step"
    (code,) = calls._ready.values()
    assert code._code is not None, "and it did not fail"
