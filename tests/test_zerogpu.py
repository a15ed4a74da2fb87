"""ZeroGPU: in this process, where `spaces` does nothing; over a real server, where it forks; while it packs weights."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace

import httpx
import pytest
from diffusers import PNDMScheduler

from sd_space.backends import make_backend, zerogpu
from sd_space.backends.zerogpu import ZeroGpuBackend, as_refusal, seconds_to_ask_for
from sd_space.engine.batcher import BatchKey
from sd_space.engine.schedules import NoiseSchedules
from sd_space.engine.step_times import StepTimes
from sd_space.errors import Cancelled, EngineFailed, ModelUnavailable, QueueFull, SafetyCheckFailed
from sd_space.schema import GenerationResult, Inspection, PictureFinished, Progress, RequestFailed, Stage
from sd_space.serving.limits import Capacity
from sd_space.settings import Settings

from .server import ROOT, serve
from .test_api import MARKS, QUICK, call
from .test_in_process_backend import TIMEOUT_S, Gate, updates_of
from .tiny_models import admitted, make_request
from .zerogpu_device import lend

SCHEDULES = NoiseSchedules(PNDMScheduler(skip_prk_steps=True).config)  # as v1-4 has it
VISITOR = {"X-IP-Token": "header.e30.signature"}  # the Hub's proxy adds it; the payload is {}


@pytest.fixture
def prepare(model_folder, monkeypatch):
    """Backends on the noise painter, with the module as it is when a process starts."""
    monkeypatch.setattr(zerogpu, "_served", None, raising=False)
    monkeypatch.setattr(zerogpu, "_engine", None)
    backends = []

    def make(**changes) -> ZeroGpuBackend:
        backend = make_backend(Settings(**{"model": str(model_folder), "backend": "zerogpu"} | changes))
        backend.start()
        backend.start()
        backends.append(backend)
        return backend

    yield make
    for backend in backends:
        backend.close(TIMEOUT_S)
        assert not backend._calls


def test_a_request_runs_from_progress_to_result(prepare):
    backend = prepare()
    assert backend.status().is_ready and backend.status().info.model == "noise-painter"
    updates = asyncio.run(updates_of(backend, admitted("a", num_images_per_prompt=2)))
    assert isinstance(updates[0], Progress)
    assert [update.index for update in updates if isinstance(update, PictureFinished)] == [0, 1]
    assert isinstance(updates[-1], GenerationResult)


def test_an_inspection_runs_there_as_anywhere(prepare):
    updates = asyncio.run(updates_of(prepare(), replace(admitted("a"), inspection=Inspection.STEPS)))
    steps = [update.of_step for update in updates if isinstance(update, PictureFinished)]
    assert steps == [None, 1, 2, 3, 4, 5] and len(updates[-1].images) == 6


def test_the_page_gets_the_tokenizer(prepare):
    assert prepare().tokenizer().max_tokens == 75


def test_requests_take_turns_where_nothing_forks(prepare):
    async def main():
        backend = prepare()
        return await asyncio.gather(*(updates_of(backend, admitted(f"r{k}", seed=k)) for k in range(4)))

    for k, updates in enumerate(asyncio.run(main())):
        assert {update.request_id for update in updates} == {f"r{k}"}
        assert updates[-1].images[0].seed == k


def test_cancel_ends_the_call_at_the_next_step_and_leaves_an_idle_engine(prepare, monkeypatch):
    gate, steps = Gate(monkeypatch), []

    async def main():
        backend = prepare()
        await updates_of(backend, admitted("first"))  # builds the engine
        monkeypatch.setattr(zerogpu._engine, "step", counted(zerogpu._engine.step))
        gate.close()
        running = asyncio.create_task(updates_of(backend, admitted("a", num_inference_steps=100)))
        await gate.reached()
        thread = backend._calls["a"].thread
        backend.cancel("a")
        backend.cancel("nobody")
        updates = await running  # answers before the step is over
        gate.open.set()
        await asyncio.to_thread(thread.join, TIMEOUT_S)
        assert zerogpu._engine.is_idle
        return updates, await updates_of(backend, admitted("b"))

    def counted(step):
        def counting():
            steps.append(step)
            return step()

        return counting

    cancelled, after = asyncio.run(main())
    assert isinstance(cancelled[-1].error, Cancelled)
    assert isinstance(after[-1], GenerationResult)
    assert len(steps) < 20, "the step under way, and those of the request after"


def test_closing_the_iterator_gives_the_gpu_back(prepare):
    async def main():
        backend = prepare()
        async with asyncio.timeout(TIMEOUT_S):
            updates = backend.generate(admitted("a", num_inference_steps=150, num_images_per_prompt=4))
            await anext(updates)
            await updates.aclose()
            return await updates_of(backend, admitted("b"))

    assert isinstance(asyncio.run(main())[-1], GenerationResult)


def test_a_full_queue_refuses(prepare, monkeypatch):
    gate = Gate(monkeypatch)

    async def main():
        settings = {"max_queue": 1, "max_batch_size": 1}
        backend = prepare(**settings)
        capacity = Capacity(Settings(**settings), backend.status)
        await updates_of(backend, admitted("first"))
        gate.close()
        for _ in range(2):
            capacity.enter(None)
        waiting = asyncio.create_task(updates_of(backend, admitted("waits")))
        await gate.reached()
        assert backend.status().waiting == 1
        with pytest.raises(QueueFull, match="come back"):
            capacity.enter(None)
        gate.open.set()
        return await waiting

    assert isinstance(asyncio.run(main())[-1], GenerationResult)


def test_close_refuses_new_requests_and_ends_what_does_not_finish(prepare):
    async def main():
        backend = prepare()
        iterator = backend.generate(admitted("a", num_inference_steps=150, num_images_per_prompt=4))
        async with asyncio.timeout(TIMEOUT_S):
            await anext(iterator)
            await asyncio.to_thread(backend.close, 0.0)
            with pytest.raises(EngineFailed, match="restarting"):
                await updates_of(backend, admitted("b"))
            return backend.status(), [update async for update in iterator][-1]

    status, last = asyncio.run(main())
    assert status.stage is Stage.STOPPED
    assert isinstance(last, RequestFailed) and "restarting" in str(last.error)


def test_a_model_that_cannot_be_loaded_is_reported(prepare, tmp_path):
    backend = prepare(model=str(tmp_path / "nowhere"))
    assert backend.status().stage is Stage.FAILED and "cannot be loaded" in backend.status().reason
    with pytest.raises(ModelUnavailable):
        asyncio.run(updates_of(backend, admitted("a")))


def test_a_checker_that_fails_its_self_test_ends_the_service(prepare, monkeypatch):
    backend = prepare()
    monkeypatch.setattr("sd_space.engine.safety.SafetyScreen._is_flagged", lambda self, picture: None)
    updates = asyncio.run(updates_of(backend, admitted("a")))
    assert isinstance(updates[-1].error, SafetyCheckFailed)
    assert backend.status().stage is Stage.FAILED
    with pytest.raises(SafetyCheckFailed):
        asyncio.run(updates_of(backend, admitted("b")))


def asked_for(
    times: StepTimes | None = None, stated_step_s: float = 0.1, inspection: Inspection | None = None, **changes
) -> int:
    """Seconds for one picture of 512 x 512 in 50 steps, or as `changes` say."""
    request = make_request(**{"num_inference_steps": 50, "width": 512, "height": 512} | changes)
    return seconds_to_ask_for(request, SCHEDULES.num_timesteps(request), times, stated_step_s, inspection)


def test_no_more_gpu_time_is_asked_for_than_the_request_needs():
    asked = asked_for()
    assert asked == 16  # 8 s to start, and half as much again as 51 steps and one picture's end take
    assert asked_for(num_inference_steps=25) < asked
    assert asked_for(width=256, height=256) < asked
    assert asked < asked_for(num_images_per_prompt=4) < 4 * asked
    assert asked_for(scheduler="Heun") > asked, "Heun takes two UNet calls a step"
    assert asked < asked_for(inspection=Inspection.AUTOENCODER) < asked_for(inspection=Inspection.STEPS)


def test_measured_times_replace_the_stated_ones():
    times = StepTimes()
    times.record_step(BatchKey(512, 512, True), 1, 0.02)
    times.record_finish(512, 512, 0.1)
    assert asked_for(times, stated_step_s=9.0) == 10


def test_the_second_call_plans_with_measured_times(prepare):
    async def main():
        backend = prepare(zerogpu_step_s=1000.0)
        first = asked_by(backend)
        await updates_of(backend, admitted("a"))
        while backend._calls:
            await asyncio.sleep(0.001)
        return first, asked_by(backend)

    def asked_by(backend):
        return backend._seconds_to_ask_for(admitted("next"))

    first, second = asyncio.run(main())
    assert second < 60 < first


def test_an_unknown_failure_is_reported_without_its_words(caplog):
    error = as_refusal(RuntimeError("a secret"), asked_s=9)
    assert isinstance(error, EngineFailed)
    assert "secret" not in str(error) + caplog.text


def test_auto_is_zerogpu_where_the_hub_says_so():
    assert Settings.from_env({"SPACES_ZERO_GPU": "true"}).backend == "zerogpu"
    assert Settings.from_env({"SPACES_ZERO_GPU": "true", "SD_SPACE_BACKEND": "auto"}).backend == "zerogpu"
    assert Settings.from_env({"SPACES_ZERO_GPU": "true", "SD_SPACE_BACKEND": "local"}).backend == "local"
    assert Settings.from_env({"SPACES_ZERO_GPU": "false"}).backend == "auto"


def test_a_missing_package_is_named():
    run = subprocess.run(
        [sys.executable, "-c", "import sys; sys.modules['spaces'] = None; import app; sys.exit(app.main())"],
        cwd=ROOT,
        env=os.environ | {"SD_SPACE_BACKEND": "zerogpu"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 2
    assert run.stderr == "SD_SPACE_BACKEND is zerogpu, which needs spaces: pip install it, or use local.\n"


# From here on `spaces` forks: the real app in a process of its own, and a stand-in for the Hub's side.


@pytest.fixture(scope="module")
def hub():
    with (
        lend() as device,
        serve(
            module="tests.zerogpu_app", is_fresh=True, SPACES_ZERO_GPU="true", SPACES_ZERO_DEVICE_API_URL=device.url
        ) as server,
    ):
        server.wait_for("/readyz", timeout_s=120)
        _, (token,) = call(server, "accept_license", {"agree": True})
        yield device, server, QUICK | {"acceptance_token": token}


@pytest.fixture
def device(hub):
    """The stand-in, its log emptied and its refusal taken back."""
    device, _, _ = hub
    device.calls.clear()
    device.refusal = None
    return device


@pytest.fixture
def draw(hub):
    device, server, values = hub

    def drawn(**changes):
        while device.released.acquire(blocking=False):
            pass
        event, answer = call(server, "generate", values | changes, VISITOR)
        if event == "complete":  # the visitor is told before the GPU is given back and the child can be used again
            assert device.released.acquire(timeout=TIMEOUT_S)
        return event, answer

    return drawn


def test_the_start_is_reported_with_the_weights_in_place(hub):
    device, _, _ = hub
    assert device.calls[0][0] == "/startup-report"


def test_a_call_is_charged_to_its_visitor_and_its_child_is_used_again(hub, device, draw):
    for seed in (7, 8):
        event, answer = draw(seed=seed)
        assert event == "complete", answer
        assert answer[1]["images"] == [{"seed": seed, "outcome": "ok", **MARKS}]
    asked = device.parameters("/schedule")
    assert [call["token"] for call in asked] == [VISITOR["X-IP-Token"]] * 2
    assert all(9 <= int(call["durationSeconds"]) <= 12 for call in asked)
    assert len(device.parameters("/allow")) <= 1, "one child at most was forked"
    assert [call["fail"] for call in device.parameters("/release")] == ["false"] * 2


@pytest.mark.parametrize(
    ("status", "body", "sentence"),
    [
        (429, {"left": 3, "wait": 3661}, "does not cover the .* s of GPU time asked for; try again in 1:01:01"),
        (429, {"left": 0, "wait": 200_000}, "try again in 2 days, 7:33:20"),
        (429, {"left": 3, "wait": 0}, "try again later"),
        (429, {"left": 3, "wait": -1}, "more than the Hub lends for one call"),
        (503, {}, "No shared GPU became free"),
        (401, {}, "please reload"),
    ],
)
def test_the_hubs_refusals_become_one_plain_sentence(device, draw, status, body, sentence):
    device.refusal = (status, body)
    event, answer = draw()
    assert event == "error"
    assert re.search(sentence, answer["error"])
    assert answer["error"].count(".") == 1 and "http" not in answer["error"]


def test_a_visitor_who_leaves_gives_the_gpu_back_and_the_child_stays_usable(hub, device, draw):
    _, server, values = hub
    long = values | {"num_inference_steps": 150, "num_images_per_prompt": 4}
    posted = httpx.post(f"{server.url}/gradio_api/call/v2/generate", json=long, headers=VISITOR).json()
    while device.released.acquire(blocking=False):
        pass
    with httpx.stream("GET", f"{server.url}/gradio_api/call/generate/{posted['event_id']}", timeout=60) as stream:
        for line in stream.iter_lines():
            if '"step": 1' in line:
                break
    left_s = time.monotonic()
    assert device.released.acquire(timeout=TIMEOUT_S)
    assert time.monotonic() - left_s < 10, "150 steps of four pictures take longer"
    event, answer = draw(seed=9)
    assert event == "complete" and answer[1]["images"] == [{"seed": 9, "outcome": "ok", **MARKS}]
    assert len(device.parameters("/allow")) <= 1, "the child that was cancelled drew the next picture"


def test_a_gpu_that_is_taken_away_is_reported_and_the_next_call_gets_another(hub, device, draw):
    _, server, values = hub
    draw()
    children = subprocess.run(
        ["pgrep", "-P", str(server.process.pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    long = values | {"num_inference_steps": 150, "num_images_per_prompt": 4}
    posted = httpx.post(f"{server.url}/gradio_api/call/v2/generate", json=long, headers=VISITOR).json()
    lines = []
    with httpx.stream("GET", f"{server.url}/gradio_api/call/generate/{posted['event_id']}", timeout=60) as stream:
        for line in stream.iter_lines():
            lines.append(line)
            if '"step": 1' in line:
                for pid in children:
                    os.kill(int(pid), signal.SIGKILL)
    assert any("taken away" in line for line in lines)
    event, answer = draw()
    assert event == "complete" and answer[1]["images"] == [{"seed": 7, "outcome": "ok", **MARKS}]
    assert len(device.parameters("/allow")) == 1


EMULATED = """
import torch
# What `spaces` takes from a CUDA build of torch, and a CPU build lacks.
torch.version.cuda, torch._C._cuda_init, torch.cuda._is_in_bad_fork = "12.8", None, bool
import os, threading
from sd_space.backends import make_backend, zerogpu
from sd_space.settings import Settings
from sd_space.engine.step_times import StepTimes
backend = make_backend(Settings.from_env(os.environ))
backend.start()
pipeline, info = zerogpu._served[0].pipeline, backend.status().info
from spaces.zero.torch import pack
print(info.device, info.dtype, pipeline.unet.device, pipeline.safety_checker.device, pack() > 10_000_000)
"""


@pytest.mark.nightly
def test_weights_are_placed_on_cuda_and_packed_before_the_launch(tmp_path):
    """Under the emulation that `spaces` lays over torch; the child's side of it needs a GPU and did not run here."""
    zero = {"SPACES_ZERO_GPU": "true", "SPACES_ZERO_DEVICE_API_URL": "http://127.0.0.1:9"}
    environ = os.environ | zero | {"ZEROGPU_OFFLOAD_DIR": str(tmp_path), "SD_SPACE_MODEL": "tiny"}
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", EMULATED], cwd=ROOT, env=environ, capture_output=True, text=True
    )
    assert run.stdout.split() == ["cuda", "float16", "cuda:0", "cuda:0", "True"], run.stderr
