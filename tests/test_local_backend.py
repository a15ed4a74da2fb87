"""Engines in processes of their own: one that is lost costs time and nothing else, and none outlives the page."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from sd_space.backends import engine_process, engine_slot, local, make_backend
from sd_space.backends.engine_thread import BROKEN
from sd_space.backends.local import LocalBackend
from sd_space.backends.replicas import AGAIN, GIVEN_UP
from sd_space.devices import DeviceState
from sd_space.engine.engine import Engine
from sd_space.errors import Cancelled, EngineFailed, ModelUnavailable
from sd_space.schema import GenerationResult, PictureFinished, Progress, RequestFailed, Stage
from sd_space.serving.metrics import Metrics
from sd_space.serving.own_answers import OwnAnswers
from sd_space.settings import Settings

from .forked import forking_context
from .server import ROOT, until
from .test_in_process_backend import updates_of
from .tiny_models import admitted

TIMEOUT_S = 180.0  # a busy machine imports torch for half a minute
LONG = {"num_inference_steps": 60, "num_images_per_prompt": 2}


def started(model, **changes) -> LocalBackend:
    backend = make_backend(Settings(model=str(model), device="cpu", runtime="torch", **changes))
    backend.start()
    return backend


def engines_of(backend: LocalBackend) -> list[psutil.Process]:
    return [psutil.Process(slot._process.pid) for slot in backend._replicas._slots]


async def drawn(backend: LocalBackend, request) -> list:
    return await updates_of(backend, request, TIMEOUT_S)


@pytest.fixture(scope="module", autouse=True)
def forked():
    """Engines have torch at once: a process of their own imports it for seconds, as the last test's does."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(engine_slot, "CONTEXT", forking_context())
        yield


@pytest.fixture(scope="module")
def shared(model_folder):
    backend = started(model_folder)
    yield backend
    engines = engines_of(backend)
    backend.close(0.0)
    assert not any(engine.is_running() for engine in engines)


@pytest.fixture
def backend(shared):
    """Ready and idle."""
    until(lambda: shared.status().is_ready, TIMEOUT_S, shared.status)
    return shared


def test_a_ready_engine_gives_the_page_its_tokenizer_and_an_outlook(backend):
    assert backend.tokenizer().max_tokens == 75
    asyncio.run(drawn(backend, admitted("a")))
    until(lambda: backend.status().outlook_s, TIMEOUT_S, backend.status)


def after_steps(backend: LocalBackend, act, **changes) -> list:
    """The updates of a request, in whose middle `act` is called."""

    async def main() -> list:
        updates = []
        async with asyncio.timeout(TIMEOUT_S):
            async for update in backend.generate(admitted("a", **LONG | changes)):
                updates.append(update)
                if isinstance(update, Progress) and update.step_index and act not in updates:
                    updates.append(act)
                    act()
        return [update for update in updates if update is not act]

    return asyncio.run(main())


def pixels(updates: list) -> list[bytes]:
    assert isinstance(updates[-1], GenerationResult), updates[-1]
    return [image.pixels for image in updates[-1].images]


def test_a_request_runs_from_progress_to_result(backend):
    updates = asyncio.run(drawn(backend, admitted("a", num_images_per_prompt=2)))
    assert isinstance(updates[0], Progress)
    assert [update.index for update in updates if isinstance(update, PictureFinished)] == [0, 1]
    assert all(pixels(updates)) and backend.status().info.model == "noise-painter"


@pytest.mark.parametrize(("number", "reason"), [(signal.SIGKILL, "killed"), (signal.SIGSTOP, "hung")])
def test_an_engine_that_is_lost_costs_time_and_nothing_else(backend, monkeypatch, number, reason):
    monkeypatch.setattr(engine_slot, "SILENT_S", 3.0)
    undisturbed = pixels(asyncio.run(drawn(backend, admitted("a", **LONG))))
    lost, before = engines_of(backend), backend.status()
    updates = after_steps(backend, lambda: lost[0].send_signal(number))
    assert pixels(updates) == undisturbed
    assert AGAIN in {update.note for update in updates if isinstance(update, Progress)}
    status = backend.status()
    assert status.restarts.get(reason, 0) == before.restarts.get(reason, 0) + 1 and status.reruns == before.reruns + 1
    assert not lost[0].is_running()


@pytest.mark.nightly
def test_of_forty_requests_none_is_lost_to_five_kills(backend):
    """Four visitors, ten requests each; every picture is the one of its seed."""

    finished: list[int] = []

    async def one(seed: int) -> np.ndarray:
        updates = await drawn(backend, admitted(f"r{seed}", seed=seed, num_inference_steps=20))
        finished.append(seed)
        return np.frombuffer(pixels(updates)[0], np.uint8).astype(int)

    async def visitor(first: int) -> list[np.ndarray]:
        return [await one(first + k) for k in range(10)]

    async def kill() -> None:
        for number in range(5):
            while len(finished) < 40 + 7 * number or not backend.status().running:
                await asyncio.sleep(0.01)
            engines_of(backend)[0].kill()
            while backend.status().is_ready:
                await asyncio.sleep(0.01)

    async def main() -> tuple[list[list[np.ndarray]], list[list[np.ndarray]]]:
        expected = [await visitor(first) for first in range(0, 40, 10)]
        killing = asyncio.create_task(kill())
        found = await asyncio.gather(*(visitor(first) for first in range(0, 40, 10)))
        await killing
        return expected, found

    before = backend.status().restarts.get("killed", 0)
    expected, found = asyncio.run(main())
    assert np.abs(np.array(found) - np.array(expected)).max() <= 1
    assert backend.status().restarts["killed"] == before + 5


def test_cancel_frees_the_device(backend):
    updates = after_steps(backend, lambda: backend.cancel("a"))
    assert isinstance(updates[-1], RequestFailed) and isinstance(updates[-1].error, Cancelled)
    assert pixels(asyncio.run(drawn(backend, admitted("b"))))


def test_a_model_that_cannot_be_loaded_is_said_once_and_not_tried_again(tmp_path):
    backend = started(tmp_path / "nowhere")
    with pytest.raises(ModelUnavailable, match="cannot be loaded"):
        asyncio.run(drawn(backend, admitted("a")))
    until(lambda: backend.status().stage is Stage.FAILED, TIMEOUT_S)
    status = backend.status()
    assert str(tmp_path) not in status.reason and not status.restarts
    backend.close(0.0)


def ends_at_once(*_: object) -> None:
    os._exit(3)


def test_an_engine_that_never_comes_up_is_given_up_with_a_sentence(model_folder, monkeypatch):
    monkeypatch.setattr(engine_process, "run", ends_at_once)
    monkeypatch.setattr(engine_slot, "PAUSES_S", (0.0, 0.0, 0.0))
    backend = started(model_folder)
    with pytest.raises(ModelUnavailable, match=BROKEN):
        asyncio.run(drawn(backend, admitted("a")))
    assert backend.status().restarts == {"crashed": 2}
    backend.close(0.0)


def dies_of_poison(*arguments: object) -> None:
    """`engine_process.run`, but a step of the request with that id ends the process."""
    step = Engine.step

    def fatal_step(self: Engine) -> list:
        updates = step(self)
        if any(update.request_id == "poison" for update in updates):
            os._exit(3)
        return updates

    Engine.step = fatal_step
    engine_process.run(*arguments)


@pytest.mark.nightly
def test_a_request_that_its_engine_dies_of_is_given_up_and_no_other(model_folder, monkeypatch):
    monkeypatch.setattr(engine_process, "run", dies_of_poison)
    backend = started(model_folder)

    async def main() -> list:
        poison = asyncio.create_task(drawn(backend, admitted("poison", **LONG)))
        others = [asyncio.create_task(drawn(backend, admitted(f"r{k}"))) for k in range(3)]
        while not backend.status().restarts:
            await asyncio.sleep(0.01)
        late = asyncio.create_task(drawn(backend, admitted("late")))
        with pytest.raises(EngineFailed, match=GIVEN_UP):
            await poison
        return await asyncio.gather(*others, late)

    for updates in asyncio.run(main()):
        assert all(pixels(updates))
    assert backend.status().restarts == {"crashed": 4}, "two beside others, and two alone"
    backend.close(0.0)


@pytest.fixture(scope="module")
def pair(model_folder):
    """Two engines, whose calls take one picture."""
    backend = started(model_folder, devices="2", max_batch_size=1)
    yield backend
    backend.close(0.0)


@pytest.fixture
def ready_pair(pair):
    until(lambda: pair.status().replicas == {"running": 2}, TIMEOUT_S, pair.status)
    return pair


def test_two_engines_share_a_crowd(ready_pair):
    async def main():
        loads = []
        tasks = [asyncio.create_task(drawn(ready_pair, admitted(f"r{k}", **LONG))) for k in range(4)]
        while not loads or sum(loads) < 4:
            await asyncio.sleep(0.01)
            loads = [slot.load for slot in ready_pair._replicas._slots]
        for k in range(4):
            ready_pair.cancel(f"r{k}")
        await asyncio.gather(*tasks)
        return loads

    assert asyncio.run(main()) == [2, 2]


def test_each_of_two_engines_is_a_device_and_a_result_names_those_that_drew_it(ready_pair):
    devices = ready_pair.status().devices
    assert [(each.device, each.state, each.width) for each in devices] == [("cpu:0", "ready", 1), ("cpu:1", "ready", 1)]
    assert all(each.memory_profile and "thread" in each.name for each in devices)

    async def main() -> list[list]:
        requests = [admitted(f"d{k}", num_images_per_prompt=2) for k in range(2)]
        return await asyncio.gather(*(drawn(ready_pair, request) for request in requests))

    assert {updates[-1].devices for updates in asyncio.run(main())} == {("cpu:0",) * 2, ("cpu:1",) * 2}


def test_while_one_of_two_engines_is_down_the_page_is_ready_and_tells_its_state(ready_pair, monkeypatch):
    monkeypatch.setattr(engine_slot, "PAUSES_S", (60.0,))
    slot, status = ready_pair._replicas._slots[0], ready_pair.status
    engines_of(ready_pair)[0].kill()
    until(lambda: status().devices[0].state is DeviceState.RESTARTING, TIMEOUT_S, status)
    contract = SimpleNamespace(is_queue_alive=lambda: True, title="a title", icon=Path("icon.png"))
    answers = OwnAnswers(status, Metrics(status), contract)
    assert answers.find("GET", "/readyz", "").status_code == 200
    told = answers.find("GET", "/metrics", "").body.decode()
    assert 'sd_space_engine_state{device="cpu:0",state="restarting"} 1.0' in told
    assert 'sd_space_engine_state{device="cpu:1",state="ready"} 1.0' in told
    updates = asyncio.run(drawn(ready_pair, admitted("a")))
    assert updates[-1].devices == ("cpu:1",) and not slot.is_up


@pytest.mark.parametrize(
    ("devices", "visible", "environs"),
    [
        ("all", None, [{}, {"CUDA_VISIBLE_DEVICES": "1"}]),
        ("all", "GPU-a,GPU-b", [{}, {"CUDA_VISIBLE_DEVICES": "GPU-b"}]),
        ("2", "5,7", [{"CUDA_VISIBLE_DEVICES": "5"}, {"CUDA_VISIBLE_DEVICES": "7"}]),
        ("0,2", None, [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "2"}]),
        ("3,", None, [{"CUDA_VISIBLE_DEVICES": "3"}]),
    ],
)
def test_each_engine_sees_its_own_gpu(monkeypatch, devices, visible, environs):
    monkeypatch.setattr(local, "_is_without_gpu", lambda settings: False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [local._environ(Settings(devices=devices), number) for number in range(len(environs))] == environs


def test_engines_on_a_cpu_share_its_cores(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert local._environ(Settings(device="cpu", devices="4"), 0) == {"OMP_NUM_THREADS": "2"}
    assert local._environ(Settings(device="cpu"), 0) == {}


PAGE = """
import sys, time
from sd_space.backends import make_backend
from sd_space.settings import Settings
if __name__ == "__main__":
    backend = make_backend(Settings(model=sys.argv[1], device="cpu", runtime="torch"))
    backend.start()
    while not backend._replicas._slots[0].is_up:
        time.sleep(0.01)
    print(backend._replicas._slots[0]._process.pid, "torch" in sys.modules, flush=True)
    time.sleep(60)
"""


def ignores(pid: int, number: int) -> bool:
    """As the engine's process does once it knows whose it is."""
    lines = dict(line.split(":\t") for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return bool(int(lines["SigIgn"], 16) >> (number - 1) & 1)


@pytest.mark.parametrize("is_stopped", [False, True], ids=["at work", "stopped"])
def test_an_engine_ends_when_the_page_is_gone_however_that_came(model_folder, is_stopped):
    arguments = [sys.executable, "-c", PAGE, str(model_folder)]
    page = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    pid, has_torch = page.stdout.readline().split()
    engine = psutil.Process(int(pid))
    until(lambda: ignores(int(pid), signal.SIGTERM), TIMEOUT_S, "it does not begin")
    if is_stopped:
        engine.suspend()
    page.kill()
    page.wait()
    page.stdout.close()
    until(lambda: not engine.is_running() or engine.status() == psutil.STATUS_ZOMBIE, 30, "it goes on")
    assert has_torch == "False"
