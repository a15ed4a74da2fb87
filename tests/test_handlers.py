"""What the page shows after each of its events, seen without a browser."""

import html
import re
from dataclasses import replace

import pytest

from sd_space.errors import EngineFailed, QueueFull
from sd_space.schema import BackendStatus, Outcome, PictureFinished, RequestFailed, Stage
from sd_space.serving.limits import FULL
from sd_space.serving.results import GONE
from sd_space.ui.form import CARD_DEFAULTS
from sd_space.ui.layout import ABOUT, DRAW

from .fakes import FakeBackend
from .test_schema import INFO
from .window import Host, Window, play

ALERT = 'role="alert"'
EMBED = "Save prompt and settings inside the PNG"
NEW_SEED = "Surprise me (new seed each time)"


async def drawn(window: Window, **form) -> None:
    """Fills the form and presses Generate; the pictures are ready at once."""
    window.host.backend.proceed.set()
    for name, value in ({"prompt": "a cat"} | form).items():
        window[name] = value
    await window.do("click", "generate")


def captions(window: Window) -> list[str]:
    return [picture["caption"] for picture in window["gallery"] or []]


# --- the gate


def test_a_newcomer_sees_the_gate_and_nothing_behind_it(tmp_path):
    async def scene(host: Host):
        window = host.window()
        await window.open()
        assert window.shows("gate") and not window.shows("workspace") and not window.shows("leave")
        assert window.shows("about") and window.prop("tabs", "selected") == ABOUT

    play(tmp_path, scene)


def test_a_remembered_acceptance_opens_the_workspace(tmp_path):
    async def scene(host: Host):
        window = await host.visitor()
        assert window.shows("workspace") and window.shows("leave") and not window.shows("gate")
        assert window.prop("tabs", "selected") == DRAW

    play(tmp_path, scene)


def test_accepting_opens_the_workspace_and_gives_a_valid_token(tmp_path):
    async def scene(host: Host):
        window = host.window()
        window["agree"] = True
        await window.do("click", "accept")
        assert window.shows("workspace") and host.gate.verify_token(window["token"])

    play(tmp_path, scene)


@pytest.mark.parametrize("agree", [False, "true", 1, None])
def test_anything_but_true_accepts_nothing(tmp_path, agree):
    async def scene(host: Host):
        window = host.window()
        window["agree"] = agree
        await window.do("click", "accept")
        assert window["token"] == "" and not window.shows("workspace")

    play(tmp_path, scene)


def test_generate_without_a_valid_token_draws_nothing_and_shows_the_gate(tmp_path):
    async def scene(host: Host):
        window = await host.visitor()
        window["token"] = "e30.x"
        await drawn(window)
        assert window.shows("gate") and not window.shows("workspace")
        assert ALERT in window["status"] and host.backend.started == []

    play(tmp_path, scene)


def test_withdrawing_clears_the_page_ends_the_run_and_the_token(tmp_path):
    async def scene(host: Host):
        window = await host.visitor()
        window["prompt"], window["Negative prompt"], window["agree"] = "a secret garden", "weeds", True
        token = window["token"]
        async for _ in window.follow("click", "generate"):
            if "waiting" in (window["waiting"] or ""):
                await window.do("click", "withdraw")
                break
        assert window.shows("gate") and not window.shows("workspace") and not window.shows("results")
        assert window.shows("about") and window.prop("tabs", "selected") == ABOUT
        for name in ("token", "run_id", "shown_id", "prompt", "Negative prompt", "status", "waiting", "recipe"):
            assert window[name] == "", name
        assert not window["agree"] and window.prop("accept", "interactive") is False and captions(window) == []
        (request,) = host.backend.started
        assert host.backend.cancelled[request.request_id].is_set()
        window["token"] = token
        await window.open()
        assert window.shows("gate"), "the old token opens nothing any more"

    play(tmp_path, scene)


@pytest.mark.parametrize("button", ["cancel", "withdraw"])
def test_who_ends_a_run_may_have_an_acceptance_that_has_expired_meanwhile(tmp_path, button):
    async def scene(host: Host):
        window = await host.visitor()
        window["prompt"] = "a cat"
        async for _ in window.follow("click", "generate"):
            if "waiting" in (window["waiting"] or ""):
                host.gate._token_ttl_s = -1
                assert host.gate.visitor_of(window["token"]) is None
                await window.do("click", button)
                break
        (request,) = host.backend.started
        assert host.backend.cancelled[request.request_id].is_set()

    play(tmp_path, scene)


# --- the model loads


def loading() -> FakeBackend:
    backend = FakeBackend()
    backend.stage = Stage.LOADING
    return backend


def test_while_the_model_loads_the_banner_says_so_each_second(tmp_path):
    async def scene(host: Host):
        window = await host.visitor()
        assert str(Stage.LOADING) in window["banner"] and window.prop("clock", "active") is True
        host.backend.stage = Stage.CHECKING
        await window.do("tick", "clock")
        assert str(Stage.CHECKING) in window["banner"] and window.prop("clock", "active") is True

    play(tmp_path, scene, loading())


def test_once_the_model_is_ready_what_nobody_touched_becomes_its_own(tmp_path):
    async def scene(host: Host):
        host.backend.info = replace(INFO, limits=replace(INFO.limits, max_steps=30, schedulers=("PNDM", "Euler")))
        window = await host.visitor()
        window["Guidance scale"] = 9.0
        host.backend.stage = Stage.READY
        await window.do("tick", "clock")
        own = INFO.defaults
        assert (window["Steps"], window.prop("Steps", "maximum")) == (own.num_inference_steps, 30)
        assert window["Guidance scale"] == 9.0, "it was chosen"
        assert window["Size"] == f"{own.width}x{own.height}"
        assert [value for _, value in window.prop("Noise scheduler", "choices")] == ["PNDM", "Euler"]
        assert INFO.title in window["banner"] and window.prop("clock", "active") is False

    play(tmp_path, scene, loading())


def test_what_a_link_asks_for_stays_when_the_model_is_ready(tmp_path):
    async def scene(host: Host):
        window = await host.visitor(num_inference_steps=str(CARD_DEFAULTS.num_inference_steps))
        host.backend.stage = Stage.READY
        await window.do("tick", "clock")
        assert window["Steps"] == CARD_DEFAULTS.num_inference_steps
        assert window["Guidance scale"] == INFO.defaults.guidance_scale

    play(tmp_path, scene, loading())


def test_who_asks_early_waits_and_gets_the_models_own_values(tmp_path):
    async def scene(host: Host):
        window = await host.visitor()
        window["prompt"], window["Steps"] = "a cat", 7
        host.backend.proceed.set()
        said = []
        async for _ in window.follow("click", "generate"):
            said.append(window["status"])
            host.backend.stage = Stage.READY
        assert "Your pictures come next" in said[0]
        (admitted,) = host.backend.started
        asked, own = admitted.request, INFO.defaults
        assert (asked.num_inference_steps, asked.guidance_scale, asked.width) == (7, own.guidance_scale, own.width)

    play(tmp_path, scene, loading())


def test_a_model_that_cannot_be_loaded_is_reported_on_the_banner_and_to_who_asks(tmp_path):
    class Failed(FakeBackend):
        def status(self) -> BackendStatus:
            return BackendStatus(Stage.FAILED, reason="The model cannot be loaded.")

    async def scene(host: Host):
        window = await host.visitor()
        assert "The model cannot be loaded." in window["banner"]
        await window.do("tick", "clock")
        assert window.prop("clock", "active") is False and window.prop("generate", "interactive") is False
        await drawn(window)
        assert ALERT in window["status"] and "The model cannot be loaded." in window["status"]

    play(tmp_path, scene, Failed())


# --- a link


def test_a_link_hides_its_values_behind_the_hash(tmp_path):
    async def scene(host: Host):
        window = await host.visitor()
        await drawn(window, Steps=11, **{NEW_SEED: False, "Seed": 5})
        link = html.unescape(re.search(r'href="#([^"]+)"', window["recipe"])[1])
        linked = host.window()
        await linked.open(token=window["token"], link=link)
        assert (linked["prompt"], linked["Seed"], linked["Steps"], linked[NEW_SEED]) == ("a cat", 5, 11, False)
        for hostile in ("x=\ud800&%ff", "=&=&&", "prompt", None, 5, ["prompt=x"]):
            await host.window().open(token=window["token"], link=hostile)

    play(tmp_path, scene)


def test_a_links_values_fill_the_form(tmp_path):
    async def scene(host: Host):
        link = {"prompt": "a robot", "seed": "42", "num_inference_steps": "12", "width": "96", "height": "104"}
        window = await host.visitor(**link)
        assert (window["prompt"], window["Seed"], window["Steps"], window["Size"]) == ("a robot", 42, 12, "96x104")
        assert window[NEW_SEED] is False
        assert ("96 × 104", "96x104") in map(tuple, window.prop("Size", "choices"))
        await drawn(window, prompt="a robot")
        asked = host.backend.started[0].request
        assert (asked.seed, asked.num_inference_steps, asked.width, asked.height) == (42, 12, 96, 104)

    play(tmp_path, scene)


# --- a run


def test_while_a_run_goes_on_it_can_be_cancelled_and_says_how_far_it_is(tmp_path):
    async def scene(host: Host):
        window = await host.visitor()
        window["prompt"] = "a cat"
        async for _ in window.follow("click", "generate"):
            assert window.shows("cancel") != window.shows("generate")
            if "Step 1 of 51" in (window["waiting"] or ""):
                assert window.shows("waiting") and window.shows("cancel") and not window.shows("results")
                host.backend.proceed.set()
        assert window.shows("generate") and not window.shows("waiting")

    play(tmp_path, scene)


def test_after_a_run_the_pictures_their_seeds_and_their_recipe_are_there(tmp_path):
    async def scene(host: Host):
        window = await host.visitor()
        await drawn(window, **{NEW_SEED: False, "Seed": 5, "Steps": 7, "Size": "64x96"})
        assert captions(window) == ["Seed 5", "Seed 6", "Seed 7", "Seed 8"] and window.shows("results")
        assert "4 pictures in" in window["status"] and "seed=5" in window["recipe"]
        assert window["download-all"]["path"].endswith(".zip") and window.shows("download-all")
        asked = host.backend.started[0].request
        assert (asked.prompt, asked.num_inference_steps, asked.width, asked.height) == ("a cat", 7, 64, 96)

    play(tmp_path, scene)


def test_each_run_has_a_new_seed_unless_the_visitor_wants_his_own(tmp_path):
    async def scene(host: Host):
        window = await host.visitor()
        await drawn(window)
        await drawn(window)
        first, second = (admitted.request.seed for admitted in host.backend.started)
        assert first != second == window["Seed"]

    play(tmp_path, scene)


def test_a_seed_that_is_typed_unticks_the_box_and_one_that_the_server_fills_in_does_not(tmp_path):
    async def scene(host: Host):
        window = await host.visitor()
        (typed,) = window.triggered("input", "Seed")
        assert [block.label for block in typed.outputs] == [NEW_SEED] and typed.js == "() => false"
        assert window.triggered("change", "Seed") == []

    play(tmp_path, scene)


def test_withheld_and_broken_pictures_are_explained(tmp_path):
    outcomes = (Outcome.OK, Outcome.WITHHELD, Outcome.BROKEN, Outcome.OK)

    async def scene(host: Host):
        window = await host.visitor()
        await drawn(window)
        assert "held back 1 of 4" in window["status"] and "1 of 4 could not be calculated" in window["status"]
        assert [caption.partition(": ")[2] for caption in captions(window)] == [
            "", "withheld by the safety checker", "failed numerically", "",
        ]  # fmt: skip

    play(tmp_path, scene, FakeBackend(outcomes))


def test_a_run_that_fails_says_why_and_keeps_what_was_finished(tmp_path):
    async def scene(host: Host):
        window = await host.visitor()
        await drawn(window)
        assert ALERT in window["status"] and "The device was lost." in window["status"]
        assert len(captions(window)) == 1 and window.shows("generate")

    play(tmp_path, scene, FakeBackend(error=EngineFailed("The device was lost.")))


def test_cancel_frees_the_device_and_says_so(tmp_path):
    async def scene(host: Host):
        window = await host.visitor()
        window["prompt"] = "a cat"
        async for _ in window.follow("click", "generate"):
            if "Step 1 of 51" in (window["waiting"] or "") and not host.backend.proceed.is_set():
                await window.do("click", "cancel")
        (cancelled,) = host.backend.cancelled.values()
        assert cancelled.is_set() and "Stopped." in window["status"]
        assert window.shows("generate") and not window.shows("cancel")

    play(tmp_path, scene)


class SlowToStart(FakeBackend):
    """Makes no picture before it may go on."""

    async def generate(self, admitted):
        async for update in super().generate(admitted):
            if self.proceed.is_set() or not isinstance(update, PictureFinished):
                yield update


def test_a_run_without_pictures_leaves_those_of_the_run_before_also_after_a_reload(tmp_path):
    async def scene(host: Host):
        window = await host.visitor()
        await drawn(window)
        before = captions(window), window["recipe"]
        host.backend.proceed.clear()
        window["prompt"] = "a dog"
        async for _ in window.follow("click", "generate"):
            if "Step 1 of 51" in (window["waiting"] or "") and not host.backend.proceed.is_set():
                await window.do("click", "cancel")
        assert "Stopped." in window["status"] and "earlier pictures are still here" in window["status"]
        assert (captions(window), window["recipe"]) == before and window.shows("results")
        reloaded = host.window()
        await reloaded.open(token=window["token"], run_id=window["run_id"], shown_id=window["run_id"])
        assert captions(reloaded) == before[0] and reloaded.shows("results")

    play(tmp_path, scene, SlowToStart())


def test_a_run_cancelled_after_a_reload_leaves_those_of_the_run_before(tmp_path):
    async def scene(host: Host):
        window = await host.visitor()
        await drawn(window)
        host.backend.proceed.clear()
        async for _ in window.follow("click", "generate"):
            if "Step 1 of 51" in (window["waiting"] or ""):
                break
        reloaded = host.window()
        reloaded["token"], reloaded["run_id"], reloaded["shown_id"] = (
            window[name] for name in ("token", "run_id", "shown_id")
        )
        async for _ in reloaded.follow("load"):
            if "Step 1 of 51" in (reloaded["waiting"] or "") and not host.backend.proceed.is_set():
                await reloaded.do("click", "cancel")
        assert captions(reloaded) == captions(window) and reloaded.shows("results")

    play(tmp_path, scene, SlowToStart())


def test_who_waits_for_the_model_can_cancel_at_once(tmp_path):
    async def scene(host: Host):
        window = await host.visitor()
        window["prompt"] = "a cat"
        async for _ in window.follow("click", "generate"):
            if "Your pictures come next" in (window["status"] or ""):
                assert window.shows("cancel") and not window.shows("generate")
                await window.do("click", "cancel")
        assert "Stopped." in window["status"] and window.shows("generate") and not window.shows("cancel")
        assert host.backend.started == [] and len(host.capacity) == 0

    play(tmp_path, scene, loading())


def test_nobody_cancels_another_visitors_run(tmp_path):
    async def scene(host: Host):
        window, other = await host.visitor(), await host.visitor()
        window["prompt"] = "a cat"
        async for _ in window.follow("click", "generate"):
            if "Step 1 of 51" in (window["waiting"] or "") and not host.backend.proceed.is_set():
                other["run_id"] = window["run_id"]
                await other.do("click", "cancel")
                host.backend.proceed.set()
        assert len(captions(window)) == 4

    play(tmp_path, scene)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("prompt", " ", "Prompt must not be empty"),
        ("Steps", "9", "Steps must be a whole number from 1 to 150"),
        ("Guidance scale", 0, "Guidance scale must be a number from 1 to 20"),
        ("Size", "64x", "Height must be a whole number"),
        ("Noise scheduler", "x", "Noise scheduler must be one of"),
    ],
)
def test_a_bad_value_is_refused_in_a_sentence_that_names_it_as_the_page_does(tmp_path, name, value, says):
    async def scene(host: Host):
        window = await host.visitor()
        await drawn(window, **{name: value})
        assert ALERT in window["status"] and says in window["status"] and host.backend.started == []

    play(tmp_path, scene)


def test_a_full_house_says_so_and_the_form_stays_as_it_is(tmp_path):
    async def scene(host: Host):
        window, late = await host.visitor(), await host.visitor()
        window["prompt"] = late["prompt"] = "a cat"
        async for _ in window.follow("click", "generate"):
            if not host.backend.proceed.is_set():
                places = []
                with pytest.raises(QueueFull):
                    while True:
                        places.append(host.capacity.enter(None))
                await late.do("click", "generate")
                assert FULL in late["status"] and ALERT in late["status"]
                assert late.shows("generate") and late["prompt"] == "a cat"
                for place in places:
                    host.capacity.release(place)
                host.backend.proceed.set()

    play(tmp_path, scene, max_queue=1, max_batch_size=1)


def test_a_visitor_who_asks_for_too_much_at_once_gets_a_sentence(tmp_path):
    async def scene(host: Host):
        window = await host.visitor()
        again = host.window()
        await again.open(token=window["token"])
        window["prompt"] = again["prompt"] = "a cat"
        async for _ in window.follow("click", "generate"):
            if not host.backend.proceed.is_set():
                await again.do("click", "generate")
                assert "of your requests are under way already" in again["status"]
                host.backend.proceed.set()

    play(tmp_path, scene, max_per_visitor=1)


@pytest.mark.parametrize(("wanted", "is_written"), [(True, True), (False, False), ("yes", False)])
def test_a_files_recipe_is_written_only_for_who_wants_it(tmp_path, wanted, is_written):
    async def scene(host: Host):
        window = await host.visitor()
        await drawn(window, **{EMBED: wanted})
        for path in host.store.root.rglob("*.png"):
            assert (b"a cat" in path.read_bytes()) == is_written

    play(tmp_path, scene)


# --- a reload


def test_the_last_run_and_its_values_are_there_after_a_reload(tmp_path):
    async def scene(host: Host):
        window = await host.visitor()
        await drawn(window, Steps=11, Size="64x96")
        reloaded = host.window()
        await reloaded.open(token=window["token"], run_id=window["run_id"], shown_id=window["run_id"])
        assert captions(reloaded) == captions(window) and reloaded["status"] == window["status"]
        assert (reloaded["prompt"], reloaded["Steps"], reloaded["Size"]) == ("a cat", 11, "64x96")

    play(tmp_path, scene)


def test_a_run_goes_on_through_a_reload(tmp_path):
    async def scene(host: Host):
        window = await host.visitor()
        window["prompt"] = "a cat"
        async for _ in window.follow("click", "generate"):
            if "Step 1 of 51" in (window["waiting"] or ""):
                break
        reloaded = host.window()
        reloaded["token"], reloaded["run_id"] = window["token"], window["run_id"]
        async for _ in reloaded.follow("load"):
            if "Step 1 of 51" in (reloaded["waiting"] or ""):
                host.backend.proceed.set()
        assert len(captions(reloaded)) == 4 and len(host.backend.started) == 1

    play(tmp_path, scene)


def test_a_run_that_the_page_has_not_heard_of_is_there_after_a_reload(tmp_path):
    async def scene(host: Host):
        window = await host.visitor()
        await drawn(window)
        before, window["prompt"] = window["run_id"], "a dog"
        host.backend.proceed.clear()
        async for _ in window.follow("click", "generate"):
            if len(host.backend.started) == 2:
                break
        reloaded = host.window()
        reloaded["token"], reloaded["run_id"], reloaded["shown_id"] = window["token"], before, before
        async for _ in reloaded.follow("load"):
            host.backend.proceed.set()
        assert len(captions(reloaded)) == 4 and len(host.backend.started) == 2
        assert reloaded["run_id"] == host.backend.started[1].request_id

    play(tmp_path, scene)


def test_words_that_are_being_written_survive_a_reload(tmp_path):
    async def scene(host: Host):
        window = await host.visitor()
        await drawn(window, Steps=11)
        reloaded = host.window()
        await reloaded.open(
            token=window["token"], run_id=window["run_id"], shown_id=window["run_id"], prompt="something new"
        )
        assert reloaded["prompt"] == "something new" and reloaded["Steps"] == 11

    play(tmp_path, scene)


def test_a_link_wins_over_the_visitors_own_last_run(tmp_path):
    async def scene(host: Host):
        window = await host.visitor()
        await drawn(window, Steps=11)
        linked = host.window(prompt="a robot", seed="42", num_inference_steps="12")
        await linked.open(token=window["token"], run_id=window["run_id"], shown_id=window["run_id"])
        assert captions(linked) == captions(window)
        assert (linked["prompt"], linked["Seed"], linked["Steps"]) == ("a robot", 42, 12)

    play(tmp_path, scene)


def test_nobody_sees_another_visitors_run(tmp_path):
    async def scene(host: Host):
        window, other = await host.visitor(), await host.visitor()
        await drawn(window)
        await other.open(run_id=window["run_id"], shown_id=window["run_id"])
        assert captions(other) == [] and not other.shows("results")

    play(tmp_path, scene)


def test_pictures_that_were_deleted_are_reported_and_the_others_shown(tmp_path):
    async def scene(host: Host):
        window = await host.visitor()
        await drawn(window)
        sorted(host.store.root.rglob("*.png"))[0].unlink()
        reloaded = host.window()
        await reloaded.open(token=window["token"], run_id=window["run_id"], shown_id=window["run_id"])
        assert len(captions(reloaded)) == 3 and GONE in reloaded["status"]
        for picture in host.store.root.rglob("*.png"):
            picture.unlink()
        await reloaded.open()
        assert "1 hour after" in reloaded["status"]

    play(tmp_path, scene)


def test_a_run_that_is_gone_is_reported_once(tmp_path):
    async def scene(host: Host):
        window = await host.visitor()
        await window.open(run_id="of-yesterday", shown_id="of-yesterday")
        assert "deletes pictures 2 hours after" in window["status"] and window["run_id"] == ""
        await window.open()
        assert window["status"] == ""

    play(tmp_path, scene, result_ttl_s=7200)


def test_a_run_that_made_no_pictures_has_lost_none(tmp_path):
    class Refusing(FakeBackend):
        async def generate(self, admitted):
            yield RequestFailed(admitted.request_id, EngineFailed("The device was lost."))

    async def scene(host: Host):
        window = await host.visitor()
        await drawn(window)
        reloaded = host.window()
        await reloaded.open(token=window["token"], run_id=window["run_id"], shown_id=window["run_id"])
        assert window["run_id"] and reloaded["status"] == ""

    play(tmp_path, scene, Refusing())
