import asyncio
from dataclasses import replace

import pytest

from sd_space.devices import Device, DeviceState
from sd_space.errors import Cancelled, EngineFailed, QueueFull, TooManyWatchers
from sd_space.schema import GenerationResult, Outcome
from sd_space.serving.limits import Capacity
from sd_space.serving.results import ResultStore
from sd_space.serving.runs import MAX_WATCHERS, Run, RunOutcome, Runs
from sd_space.settings import Settings

from .fakes import FakeBackend
from .test_schema import INFO
from .tiny_models import admitted, make_source

TIMEOUT_S = 30.0


class Scene:
    """Runs over a scripted backend, with every finished run in `done`."""

    def __init__(self, folder, backend: FakeBackend):
        self.backend, self.done, self.now_s = backend, [], 0.0
        store = ResultStore(str(folder), 100.0)
        settings = Settings(max_per_visitor=2, max_queue=6)
        self.capacity = Capacity(settings, backend.status, now_s=lambda: self.now_s)
        self.runs = Runs(backend, store, 100.0, self.capacity, self._ended, now_s=lambda: self.now_s)

    def _ended(self, run: Run, outcome: RunOutcome) -> None:
        self.done.append(run)

    def start(self, request_id: str = "r", visitor: str = "", address: str | None = None, **changes) -> Run:
        request = admitted(request_id, visitor, num_images_per_prompt=4, **changes)
        with self.capacity.claimed(None, visitor, address) as place:
            return self.runs.start(request, INFO, True, place)

    async def watched(self, run: Run, grace_s: float = 0.0) -> Run:
        async for _ in self.runs.watch(run, grace_s, every_s=0):
            pass
        return run


def play(tmp_path, scene_of, backend: FakeBackend | None = None) -> None:
    async def main():
        async with asyncio.timeout(TIMEOUT_S):
            await scene_of(Scene(tmp_path, backend or FakeBackend()))

    asyncio.run(main())


async def until(condition) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def test_a_run_ends_with_its_pictures_on_disk_in_order(tmp_path):
    async def scene(s: Scene):
        s.backend.proceed.set()
        run = await s.watched(s.start())
        assert [p.seed for p in run.finished] == list(run.admitted.request.seeds)
        assert all(p.path.is_file() for p in run.finished)
        assert isinstance(run.outcome, GenerationResult) and s.done == [run]
        assert run.outcome.images == (), "their pixels are not kept beside their files"

    play(tmp_path, scene)


def test_a_picture_that_was_brought_is_kept_no_longer_than_its_run(tmp_path):
    async def scene(s: Scene):
        run = s.start(init_image=make_source(), mask=make_source(channels=1), strength=0.5)
        await until(lambda: s.backend.started)
        assert len(s.backend.started[0].request.init_image.pixels) == 64 * 64 * 3
        s.backend.proceed.set()
        kept = (await s.watched(run)).admitted.request
        assert kept.init_image.pixels == kept.mask.pixels == b""
        assert kept.init_image.sha256 == make_source().sha256, "but where the pictures came from is known"

    play(tmp_path, scene)


def test_a_result_names_the_memory_profile_that_is_in_use_at_its_end(tmp_path):
    async def scene(s: Scene):
        run = s.start()
        s.backend.info = replace(INFO, memory_profile="sliced decode")
        s.backend.proceed.set()
        assert (await s.watched(run)).info.memory_profile == "sliced decode"

    play(tmp_path, scene)


def test_a_finished_picture_can_be_seen_while_the_others_are_under_way(tmp_path):
    async def scene(s: Scene):
        run = s.start()
        async for _ in s.runs.watch(run, 0, every_s=0):
            if run.finished:
                break
        assert not run.is_done and len(run.finished) == 1

    play(tmp_path, scene)


def test_a_run_is_cancelled_when_its_last_watcher_has_left(tmp_path):
    async def scene(s: Scene):
        run = s.start()
        first, second = s.runs.watch(run, 0, every_s=0), s.runs.watch(run, 0, every_s=0)
        await anext(first), await anext(second)
        await first.aclose()
        await until(lambda: run.finished)
        assert not s.backend.cancelled["r"].is_set()
        await second.aclose()
        await until(lambda: run.is_done)
        assert isinstance(run.outcome, Cancelled) and len(run.finished) == 1, "what was finished is kept"

    play(tmp_path, scene)


def test_all_that_a_visitor_has_under_way_can_be_cancelled_and_no_others(tmp_path):
    async def scene(s: Scene):
        for number in range(4):
            s.start(f"r{number}", visitor=f"visitor {number // 2}")
        await until(lambda: len(s.backend.cancelled) == 4)
        s.runs.cancel_all("visitor 1")
        assert [s.backend.cancelled[f"r{number}"].is_set() for number in range(4)] == [False, False, True, True]
        s.runs.cancel_all("visitor 0")
        await until(lambda: len(s.done) == 4)

    play(tmp_path, scene)


def test_whoever_comes_back_in_time_finds_the_run_going_on(tmp_path):
    async def scene(s: Scene):
        run = s.start()
        watch = s.runs.watch(run, grace_s=0.05, every_s=0)
        await anext(watch)
        await watch.aclose()
        back = s.runs.watch(s.runs.get("r", run.admitted.visitor), grace_s=0, every_s=0)
        await anext(back)
        await asyncio.sleep(0.1)  # past the grace of the watcher who left
        assert not s.backend.cancelled["r"].is_set()
        s.backend.proceed.set()
        async for _ in back:
            pass
        assert len(run.finished) == 4

    play(tmp_path, scene)


@pytest.mark.parametrize("request_id", ["nobody's", "", None, 7, ["r"]])
def test_an_id_that_nobody_was_given_leads_nowhere(tmp_path, request_id):
    async def scene(s: Scene):
        s.start("r", visitor="one")
        assert s.runs.get(request_id, "one") is None
        s.backend.proceed.set()

    play(tmp_path, scene)


def test_a_run_belongs_to_its_visitor(tmp_path):
    async def scene(s: Scene):
        run = s.start("r", visitor="one")
        assert s.runs.get("r", "another") is None and s.runs.get("r", "one") is run
        s.backend.proceed.set()
        await s.watched(run)

    play(tmp_path, scene)


def test_a_run_has_only_so_many_watchers(tmp_path):
    async def scene(s: Scene):
        run = s.start()
        watches = [s.runs.watch(run, 0, every_s=0) for _ in range(MAX_WATCHERS)]
        for watch in watches:
            await anext(watch)
        with pytest.raises(TooManyWatchers, match="open in 8 windows"):
            await s.watched(run)
        await watches[0].aclose()
        s.backend.proceed.set()
        assert (await s.watched(run)).outcome.images == (), "there is room again"
        for watch in watches[1:]:
            await watch.aclose()

    play(tmp_path, scene)


def test_what_nobody_waits_for_does_not_begin(tmp_path):
    async def scene(s: Scene):
        with pytest.raises(Cancelled), s.capacity.claimed(None, "one") as place:
            place.abandon()
            s.runs.start(admitted("r", "one"), INFO, True, place)
        assert not len(s.capacity) and s.backend.started == []

    play(tmp_path, scene)


def test_a_run_ends_when_its_place_is_abandoned(tmp_path):
    async def scene(s: Scene):
        run = s.start("r", visitor="one")
        await until(lambda: run.finished)
        (place,) = s.capacity._places.values()
        place.abandon()
        assert isinstance((await s.watched(run)).outcome, Cancelled)
        assert not len(s.capacity)

    play(tmp_path, scene)


def test_a_refusal_of_the_backend_is_the_runs_error(tmp_path):
    class Full(FakeBackend):
        async def generate(self, admitted):
            raise QueueFull("20 requests are waiting already.")
            yield

    async def scene(s: Scene):
        assert isinstance((await s.watched(s.start())).outcome, QueueFull)

    play(tmp_path, scene, Full())


def test_a_failed_request_keeps_the_picture_that_was_finished(tmp_path):
    async def scene(s: Scene):
        s.backend.proceed.set()
        run = await s.watched(s.start())
        assert isinstance(run.outcome, EngineFailed) and [p.outcome for p in run.finished] == [Outcome.OK]

    play(tmp_path, scene, FakeBackend(error=EngineFailed("The device was lost.")))


def test_a_disk_that_is_full_ends_the_run_in_a_sentence(tmp_path):
    async def scene(s: Scene):
        (tmp_path / "taken").write_text("")
        s.runs._store.root = tmp_path / "taken"
        run = await s.watched(s.start())
        assert "could not be saved" in str(run.outcome)

    play(tmp_path, scene)


def test_a_backend_that_ends_without_a_word_is_a_failure(tmp_path):
    class Silent(FakeBackend):
        async def generate(self, admitted):
            return
            yield

    async def scene(s: Scene):
        run = await s.watched(s.start())
        assert isinstance(run.outcome, EngineFailed) and "please try again" in str(run.outcome)

    play(tmp_path, scene, Silent())


def test_a_bug_is_logged_without_the_prompt_and_shown_without_details(tmp_path, caplog):
    class Odd(FakeBackend):
        async def generate(self, admitted):
            raise ZeroDivisionError(admitted.request.prompt)
            yield

        def cancel(self, request_id):
            pass

    async def scene(s: Scene):
        run = await s.watched(s.start())
        assert "please try again" in str(run.outcome)
        assert "ZeroDivisionError" in caplog.text and "test_runs.py" in caplog.text, "an operator finds the place"
        assert run.admitted.request.prompt not in str(run.outcome) + caplog.text

    play(tmp_path, scene, Odd())


def test_a_run_was_made_on_the_devices_that_drew_it_with_their_memory_profiles(tmp_path):
    backend = FakeBackend()
    backend.devices = (
        Device("cuda:0", DeviceState.READY, memory_profile="whole"),
        Device("cuda:1", DeviceState.READY, memory_profile="offloaded"),
        Device("cuda:2", DeviceState.RESTARTING),
    )

    async def scene(s: Scene):
        backend.proceed.set()
        made_on = []
        for devices in ((), ("cuda:1",) * 4, ("cuda:0", "cuda:1", "cuda:1", "cuda:2")):
            backend.drawn_on = devices
            run = await s.watched(s.start(f"r{len(made_on)}"))
            made_on.append((run.info.device, run.info.memory_profile))
        assert made_on == [
            ("cpu", "none"),
            ("cuda:1", "offloaded"),
            ("cuda:0, cuda:1, cuda:2", "whole, offloaded, none"),
        ]

    play(tmp_path, scene, backend)


def test_a_run_is_forgotten_when_its_files_expire(tmp_path):
    async def scene(s: Scene):
        s.backend.proceed.set()
        await s.watched(s.start("old"))
        s.now_s = 101.0
        new = s.start("new")
        visitor = new.admitted.visitor
        assert s.runs.get("old", visitor) is None and s.runs.get("new", visitor) is new

    play(tmp_path, scene)


def test_a_visitor_and_an_address_have_shares_that_others_do_not_lose(tmp_path):
    async def scene(s: Scene):
        runs = [s.start("a", "one", "10.0.0.1"), s.start("b", "one", "10.0.0.1")]
        with pytest.raises(QueueFull, match="2 of your requests are under way"):
            s.start("c", "one", "10.0.0.2")
        runs.append(s.start("d", "two", "10.0.0.1"))
        with pytest.raises(QueueFull, match="3 of your requests are under way"):
            s.start("e", "three", "10.0.0.1")
        runs += [s.start("f", "four", "10.0.0.2"), s.start("g", "five"), s.start("h", "six"), s.start("i", "seven")]
        s.backend.proceed.set()
        for run in runs:
            await s.watched(run)
        runs = [s.start("j", "one", "10.0.0.1"), s.start("k", "one", "10.0.0.1")]  # what has ended counts no more
        for run in runs:
            await s.watched(run)

    play(tmp_path, scene)
