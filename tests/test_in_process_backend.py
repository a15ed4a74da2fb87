import asyncio
import contextlib
import json
import threading

import pytest
import torch

from sd_space.backends.engine_thread import EngineThread
from sd_space.backends.in_process import InProcessBackend
from sd_space.engine.denoiser import Denoiser
from sd_space.engine.engine import Engine
from sd_space.errors import Cancelled, EngineFailed, ModelUnavailable, QueueFull, SafetyCheckFailed
from sd_space.lived_time import LivedTime
from sd_space.schema import BackendStatus, GenerationResult, Outcome, PictureFinished, Progress, RequestFailed, Stage
from sd_space.serving.limits import Capacity
from sd_space.serving.recipe import result_json
from sd_space.settings import Settings
from sd_space.ui import views

from .tiny_models import admitted, make_request, save_model_folder

TIMEOUT_S = 60.0  # only so that a bug ends a test instead of hanging it


async def ready(backend: InProcessBackend, stages: list[Stage] | None = None) -> None:
    """Until the backend serves or has failed; the stages seen on the way go into `stages`."""
    async with asyncio.timeout(TIMEOUT_S):
        while (stage := backend.status().stage) not in (Stage.READY, Stage.FAILED):
            if stages is not None and stage not in stages:
                stages.append(stage)
            await asyncio.sleep(0.001)


async def updates_of(backend: InProcessBackend, request, timeout_s: float = TIMEOUT_S) -> list:
    async with asyncio.timeout(timeout_s):
        return [update async for update in backend.generate(request)]


class Gate:
    """Holds the UNet until it is let go: a request can be met while it runs."""

    def __init__(self, monkeypatch, denoiser_class=Denoiser):
        self.entered, self.open = threading.Event(), threading.Event()
        self.open.set()
        stock = denoiser_class.denoise_step

        def held(denoiser, states):
            self.entered.set()
            assert self.open.wait(TIMEOUT_S)
            return stock(denoiser, states)

        monkeypatch.setattr(denoiser_class, "denoise_step", held)

    def close(self) -> None:
        self.entered.clear()
        self.open.clear()

    async def reached(self) -> None:
        await asyncio.to_thread(self.entered.wait, TIMEOUT_S)


@pytest.fixture
def start(model_folder):
    """Starts backends on the noise painter and closes them at the end."""
    backends = []

    def make(**changes) -> InProcessBackend:
        backend = InProcessBackend(
            Settings(**{"model": str(model_folder), "max_batch_size": 8, "runtime": "torch"} | changes)
        )
        backends.append(backend)
        backend.start()
        return backend

    yield make
    for backend in backends:
        backend.close(0.0)
        assert not backend._engine_thread.is_alive


def test_a_request_runs_from_progress_to_result(start):
    updates = asyncio.run(updates_of(start(), admitted("a", num_images_per_prompt=2)))
    assert isinstance(updates[0], Progress)
    assert [update.index for update in updates if isinstance(update, PictureFinished)] == [0, 1]
    assert isinstance(updates[-1], GenerationResult)
    assert [image.outcome for image in updates[-1].images] == [Outcome.OK] * 2


def test_the_device_time_of_its_calls_is_counted_by_the_pictures_in_them(start):
    backend = start(max_batch_size=2)
    asyncio.run(updates_of(backend, admitted("a", num_images_per_prompt=2, num_inference_steps=5, scheduler="DDIM")))
    assert {pictures: calls for pictures, (calls, _) in backend.status().unet_calls.items()} == {2: 5}
    assert 0.0 < backend.status().unet_calls[2][1] < TIMEOUT_S


def test_loading_is_reported_stage_by_stage_and_requests_wait_for_it(start):
    async def main():
        backend, stages = start(), []
        waiting = asyncio.create_task(updates_of(backend, admitted("a")))
        await ready(backend, stages)
        return backend, stages, await waiting

    backend, stages, updates = asyncio.run(main())
    assert stages[-1:] == [Stage.WARMING_UP]
    assert stages == [stage for stage in Stage if stage in stages], "in this order"
    assert (updates[0].queue_position, updates[0].seconds_left) == (1, None)
    assert isinstance(updates[-1], GenerationResult)
    assert backend.status().is_ready
    assert backend.status().info.model == "noise-painter"


def test_the_width_is_measured_once_while_nothing_is_asked_for(start, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    stored = tmp_path / "sd_space" / "widths.json"

    async def measured():
        backend = start(max_batch_size=None)
        await ready(backend)
        async with asyncio.timeout(TIMEOUT_S):
            while not stored.exists():
                await asyncio.sleep(0.01)

    asyncio.run(measured())
    (width,) = json.loads(stored.read_text()).values()
    monkeypatch.setattr("sd_space.engine.calibration.measure_widths", None)  # would fail if it were called

    async def again():
        backend = start(max_batch_size=None)
        await ready(backend)
        return await updates_of(backend, admitted("a", num_images_per_prompt=4)), backend.status().unet_calls

    updates, calls = asyncio.run(again())
    assert isinstance(updates[-1], GenerationResult) and max(calls) == min(width, 4)


def test_no_request_waits_until_the_width_is_measured(start, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def endless(*_):
        while True:
            yield

    monkeypatch.setattr("sd_space.engine.calibration.measure_widths", endless)
    updates = asyncio.run(updates_of(start(max_batch_size=None), admitted("a")))
    assert isinstance(updates[-1], GenerationResult)


def test_visitors_run_at_the_same_time(start):
    async def main():
        backend = start()
        return await asyncio.gather(*(updates_of(backend, admitted(f"r{k}", seed=k)) for k in range(5)))

    for k, updates in enumerate(asyncio.run(main())):
        assert {update.request_id for update in updates} == {f"r{k}"}
        assert updates[-1].images[0].seed == k


def test_cancel_ends_the_iterator_with_cancelled(start, monkeypatch):
    gate = Gate(monkeypatch)

    async def main():
        backend = start()
        await ready(backend)
        gate.close()
        running = asyncio.create_task(updates_of(backend, admitted("a")))
        await gate.reached()
        backend.cancel("a")
        backend.cancel("nobody")
        gate.open.set()
        return await running

    updates = asyncio.run(main())
    assert isinstance(updates[-1].error, Cancelled)
    assert not any(isinstance(update, PictureFinished) for update in updates)


def test_closing_the_iterator_frees_the_device(start):
    async def main():
        backend = start()
        async with asyncio.timeout(TIMEOUT_S):
            updates = backend.generate(admitted("a", num_inference_steps=150, num_images_per_prompt=4))
            await anext(updates)
            await updates.aclose()
            while backend.status().running or backend.status().waiting:
                await asyncio.sleep(0.001)
        return await updates_of(backend, admitted("b"))

    assert isinstance(asyncio.run(main())[-1], GenerationResult)


def test_a_full_queue_refuses_with_when_to_come_back(start, monkeypatch):
    gate = Gate(monkeypatch)

    async def main():
        settings = {"max_queue": 2, "max_batch_size": 1}
        backend = start(**settings)
        capacity = Capacity(Settings(**settings), backend.status)
        for _ in range(3):
            capacity.enter(None)
        await ready(backend)
        gate.close()
        tasks = [asyncio.create_task(updates_of(backend, admitted("running")))]
        await gate.reached()
        tasks += [asyncio.create_task(updates_of(backend, admitted(f"waiting{k}"))) for k in range(2)]
        await asyncio.sleep(0)
        assert (backend.status().waiting, backend.status().running) == (2, 1)
        with pytest.raises(QueueFull, match="come back"):
            capacity.enter(None)
        gate.open.set()
        return await asyncio.gather(*tasks)

    assert all(isinstance(updates[-1], GenerationResult) for updates in asyncio.run(main()))


def test_a_full_queue_counts_those_who_wait_for_the_model(model_folder):
    async def main():
        settings = Settings(model=str(model_folder), max_queue=1, max_batch_size=1)
        backend = InProcessBackend(settings)  # not started: it loads for ever
        capacity, tasks = Capacity(settings, backend.status), []
        for name in "ab":
            capacity.enter(None)
            tasks.append(asyncio.create_task(updates_of(backend, admitted(name))))
            await asyncio.sleep(0)
        assert (backend.status().waiting, backend.status().running) == (2, 0)
        with pytest.raises(QueueFull):
            capacity.enter(None)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(main())


def test_a_model_that_cannot_be_loaded_is_reported_without_its_path(start, tmp_path, caplog):
    async def main():
        backend = start(model=str(tmp_path / "nowhere"))
        with pytest.raises(ModelUnavailable) as early:
            await updates_of(backend, admitted("a"))
        with pytest.raises(ModelUnavailable) as late:
            await updates_of(backend, admitted("b"))
        return backend, early.value, late.value

    backend, *errors = asyncio.run(main())
    status = backend.status()
    assert status.stage is Stage.FAILED
    for sentence in (status.reason, *map(str, errors)):
        assert "cannot be loaded" in sentence
        assert str(tmp_path) not in sentence
    assert caplog.text.count("does not exist") == 1, "the operator's sentence is logged once"


def test_how_far_the_loading_is_is_reported_beside_the_stage(start, monkeypatch):
    told, status = [], EngineThread.status

    def noted(self, detail):
        stock(self, detail)
        told.append((status(self).stage, status(self).detail))

    stock = EngineThread._set_detail
    monkeypatch.setattr(EngineThread, "_set_detail", noted)
    monkeypatch.setattr("sd_space.model.pipeline._loaded", {})

    async def main():
        backend = start()
        await ready(backend)
        return backend.status()

    assert asyncio.run(main()).detail == ""
    assert (Stage.LOADING, "loading the unet") in told


def test_a_profile_taken_while_serving_is_reported_with_the_model(start, monkeypatch):
    """What the page and every result say of the memory profile is what is in force."""
    monkeypatch.setattr("sd_space.model.pipeline._loaded", {})
    stock, calls = Denoiser.denoise_step, []

    def too_little_at_first(denoiser, states):
        calls.append(len(states))
        if backend.status().is_ready and len(calls) < first + 2:
            raise torch.OutOfMemoryError("no memory")
        return stock(denoiser, states)

    async def main():
        await ready(backend)
        return len(calls), backend.status().info.memory_profile

    backend = start()
    first, before = asyncio.run(main())
    monkeypatch.setattr(Denoiser, "denoise_step", too_little_at_first)
    calls[:] = [0] * first
    updates = asyncio.run(updates_of(backend, admitted("a")))
    assert isinstance(updates[-1], GenerationResult)
    assert (before, backend.status().info.memory_profile) == ("everything in memory", "sliced decode")


def test_turbo_reaches_the_engine_and_every_result_says_so(start):
    async def drawn(backend):
        await ready(backend)
        updates = await updates_of(backend, admitted("a", num_inference_steps=6))
        return updates[-1], backend.status().info

    exact, info = asyncio.run(drawn(start()))
    turbo, turbo_info = asyncio.run(drawn(start(turbo=True)))
    assert turbo.images[0].pixels != exact.images[0].pixels
    request = make_request(num_inference_steps=6)
    assert [result_json(request, i, [], exact)["turbo"] for i in (info, turbo_info)] == [False, True]
    assert "turbo" in views.banner(BackendStatus(Stage.READY, turbo_info))


def test_missing_checker_refuses_to_serve(start, tmp_path):
    folder = save_model_folder(tmp_path / "unsafe")
    (folder / "safety_checker").rename(tmp_path / "elsewhere")

    async def main():
        backend = start(model=str(folder))
        with pytest.raises(SafetyCheckFailed):
            await updates_of(backend, admitted("a"))
        return backend.status()

    status = asyncio.run(main())
    assert (status.stage, status.info) == (Stage.FAILED, None)
    assert "no safety checker" in status.reason


def test_a_closed_event_loop_does_not_end_the_thread(start, monkeypatch):
    gate = Gate(monkeypatch)
    backend = start()

    async def walk_away():
        await ready(backend)
        gate.close()
        iterator = backend.generate(admitted("a", num_inference_steps=100))
        pending = asyncio.ensure_future(anext(iterator))
        await gate.reached()
        monkeypatch.setattr(backend, "_kept", (iterator, pending), raising=False)
        pending.cancel()

    # A loop that is closed without winding up its iterators: nobody is told that the visitor has gone.
    loop = asyncio.new_event_loop()
    loop.run_until_complete(walk_away())
    stream = backend._engine_thread._streams["a"]
    loop.close()
    gate.open.set()
    updates = asyncio.run(updates_of(backend, admitted("b")))
    assert isinstance(updates[-1], GenerationResult)
    assert stream.loop.is_closed()
    assert "a" not in backend._engine_thread._streams


def test_an_engine_that_is_built_anew_goes_on_with_the_counts(start, monkeypatch):
    """What operators see counted since the start must not fall."""

    async def main():
        backend = start()
        await ready(backend)
        await updates_of(backend, admitted("first"))
        before, _ = backend.status().unet_calls[1]
        with monkeypatch.context() as patched, pytest.raises(EngineFailed, match="went wrong"):
            patched.setattr(Engine, "step", lambda engine: {}["nothing"])
            await updates_of(backend, admitted("a"))
        await updates_of(backend, admitted("b"))
        return before, backend.status().unet_calls[1][0]

    before, after = asyncio.run(main())
    assert after == 2 * before


def test_a_lost_device_is_not_ready(start, monkeypatch, caplog):
    async def main():
        backend = start()
        await ready(backend)

        def lost(*_, **__):
            raise torch.AcceleratorError("illegal memory access")

        monkeypatch.setattr(Denoiser, "denoise_step", lost)
        with pytest.raises(ModelUnavailable):
            await updates_of(backend, admitted("a"))
        return backend

    status = asyncio.run(main()).status()
    assert status.stage is Stage.FAILED
    assert "stopped working" in status.reason
    assert "AcceleratorError" in caplog.text


def test_a_step_that_hangs_is_not_ready(start, monkeypatch):
    gate = Gate(monkeypatch)

    async def main():
        backend = start()
        await ready(backend)
        assert backend.status().is_ready
        gate.close()
        running = asyncio.create_task(updates_of(backend, admitted("a")))
        await gate.reached()
        heartbeat = backend._engine_thread._heartbeat
        heartbeat._last_s -= 1000.0  # as if the last one were long ago
        assert heartbeat.age_s > 999
        assert not backend.status().is_ready
        gate.open.set()
        await running
        assert backend.status().is_ready

    asyncio.run(main())


@pytest.mark.parametrize(("what", "is_lost"), [("paused", False), ("hanging", True)])
def test_a_process_that_was_paused_is_distinguished_from_a_step_that_hangs(start, monkeypatch, what, is_lost):
    """Nobody looked for an hour in either case: what counts is whether this process ran meanwhile."""
    gate, clock = Gate(monkeypatch), [0.0]

    async def main():
        backend = start()
        await ready(backend)
        heartbeat = backend._engine_thread._heartbeat
        heartbeat.stop()
        heartbeat._lived_s = LivedTime(lambda: clock[0])
        heartbeat._last_s, heartbeat._slowest_step_s = 0.0, 0.0
        gate.close()
        running = asyncio.create_task(updates_of(backend, admitted("a")))
        await gate.reached()
        for second in range(3600):
            clock[0] += 1.0
            if what == "hanging" or second == 3599:
                heartbeat._lived_s.tick()
        status = backend.status()
        gate.open.set()
        if is_lost:
            with contextlib.suppress(EngineFailed):
                await running
        else:
            assert isinstance((await running)[-1], GenerationResult)
        return status

    assert asyncio.run(main()).is_ready is not is_lost


def test_a_checker_that_hangs_is_not_ready(start, monkeypatch):
    async def main():
        backend = start()
        await ready(backend)
        monkeypatch.setattr("sd_space.engine.safety.SafetyScreen.is_healthy", False)
        await updates_of(backend, admitted("a"))
        return backend.status()

    status = asyncio.run(main())
    assert not status.is_ready
    assert "safety checker" in status.reason


def test_close_lets_running_requests_finish(start):
    async def main():
        backend = start()
        await ready(backend)
        running = asyncio.create_task(updates_of(backend, admitted("a")))
        await asyncio.sleep(0)
        await asyncio.to_thread(backend.close, TIMEOUT_S)
        with pytest.raises(EngineFailed, match="restarting"):
            await updates_of(backend, admitted("b"))
        return backend.status(), await running

    status, updates = asyncio.run(main())
    assert status.stage is Stage.STOPPED
    assert isinstance(updates[-1], GenerationResult)


def test_close_ends_what_does_not_finish_in_time(start):
    async def main():
        backend = start()
        await ready(backend)
        iterator = backend.generate(admitted("a", num_inference_steps=150, num_images_per_prompt=4))
        async with asyncio.timeout(TIMEOUT_S):
            await anext(iterator)
            await asyncio.to_thread(backend.close, 0.0)
            with pytest.raises(EngineFailed, match="restarting"):
                async for update in iterator:
                    assert not isinstance(update, GenerationResult | RequestFailed)

    asyncio.run(main())


def test_while_closing_a_cancel_still_frees_the_device(start, monkeypatch):
    """Who leaves while the others' last pictures are drawn costs them no further step."""
    gate = Gate(monkeypatch)

    async def main():
        backend = start()
        await ready(backend)
        gate.close()
        left = asyncio.create_task(updates_of(backend, admitted("a", num_inference_steps=150)))
        stays = asyncio.create_task(updates_of(backend, admitted("b", num_inference_steps=20)))
        await gate.reached()
        closing = asyncio.create_task(asyncio.to_thread(backend.close, TIMEOUT_S))
        async with asyncio.timeout(TIMEOUT_S):
            while not backend._engine_thread._is_closing:
                await asyncio.sleep(0.001)
        backend.cancel("a")
        gate.open.set()
        await closing
        return await left, await stays

    left, stays = asyncio.run(main())
    assert isinstance(left[-1].error, Cancelled)
    assert isinstance(stays[-1], GenerationResult)


def test_a_step_that_fails_while_closing_ends_the_thread(start, monkeypatch):
    gate = Gate(monkeypatch)

    async def main():
        backend = start()
        await ready(backend)
        await updates_of(backend, admitted("first"))
        gate.close()
        running = asyncio.create_task(updates_of(backend, admitted("a")))
        await gate.reached()
        monkeypatch.setattr(Engine, "step", lambda engine: {}["nothing"])
        closing = asyncio.create_task(asyncio.to_thread(backend.close, TIMEOUT_S))
        async with asyncio.timeout(TIMEOUT_S):
            while not backend._engine_thread._is_closing:
                await asyncio.sleep(0.001)
        gate.open.set()
        await closing
        with pytest.raises(EngineFailed, match="restarting"):
            await running
        return backend

    backend = asyncio.run(main())
    assert backend.status().stage is Stage.STOPPED and not backend._engine_thread.is_alive


def test_close_before_start_is_allowed(model_folder):
    InProcessBackend(Settings(model=str(model_folder))).close(1.0)
