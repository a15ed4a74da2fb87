"""What helps to ask, seen without a browser: what is read of a prompt, the time it takes, settings, earlier runs."""

from dataclasses import replace

import pytest

from sd_space.schema import Outcome, PromptTokenizer, Stage
from sd_space.served_model import Limits
from sd_space.serving.picture_settings import NONE_FOUND
from sd_space.ui import aid_views

from .fakes import FakeBackend
from .test_handlers import captions, drawn
from .test_schema import INFO
from .tiny_models import make_tokenizer
from .window import Host, Window, play

TEXT = "a castle\nNegative prompt: snow\nSteps: 7, Sampler: PLMS, CFG scale: 3, Seed: 99, Size: 96x128"


def with_tokenizer() -> FakeBackend:
    backend = FakeBackend()
    backend.prompt_tokenizer = PromptTokenizer(make_tokenizer().backend_tokenizer.to_str(), 75)
    return backend


async def hand(window: Window, button: str, *words: str) -> None:
    """Presses a hidden button as the page's scripts do."""
    for name, value in zip(("handed",) if len(words) == 1 else ("run_id", "handed"), words, strict=True):
        window[name] = value
    await window.do("click", button)


def test_what_is_read_of_a_prompt_is_said_once_it_is_nearly_too_long(tmp_path):
    async def scene(host: Host):
        window = await host.visitor()
        for prompt, expected in (("cat " * 59, ""), ("cat " * 60, "60 of the 75"), ("cat " * 75, "75 of the 75")):
            window["prompt"] = prompt
            await window.do("click", "ask-reading")
            assert (expected in window["reading"]) if expected else window["reading"] == ""
        window["prompt"] = "cat " * 75 + "dog <b> a a a"
        await window.do("click", "ask-reading")
        assert "the last 5 words, from “dog &lt;b&gt; a a …” on" in window["reading"]
        await window.do("click", "withdraw")
        assert window["reading"] == "", "it quotes the prompt"

    play(tmp_path, scene, with_tokenizer())


def test_words_of_another_language_are_noticed_even_while_the_model_loads(tmp_path):
    async def scene(host: Host):
        window = await host.visitor()
        window["prompt"] = "猫 在 海滩 上"
        await window.do("click", "ask-reading")
        assert aid_views.FOREIGN in window["reading"]

    play(tmp_path, scene)


def test_before_the_click_the_page_says_how_many_wait_and_how_long_it_takes(tmp_path):
    async def scene(host: Host):
        window = await host.visitor()
        await window.do("click", "ask-outlook")
        assert "Nobody is waiting." in window["outlook"], "the time is not known yet"
        host.backend.outlook_s = 83.0
        await window.do("click", "ask-outlook")
        assert (
            "Nobody is waiting; 4 pictures with the usual settings take about 1\u00a0min 20\u00a0s."
            in window["outlook"]
        )
        host.backend.stage = Stage.LOADING
        await window.do("click", "ask-outlook")
        assert window["outlook"] == ""

    play(tmp_path, scene)


@pytest.mark.parametrize(
    "seconds, shown",
    [
        (0.2, "1\u00a0s"),
        (7.4, "7\u00a0s"),
        (23, "25\u00a0s"),
        (64, "1\u00a0min 00\u00a0s"),
        (200, "3\u00a0min 30\u00a0s"),
    ],
)
def test_a_forecast_is_no_finer_than_it_can_be(seconds, shown):
    status = replace(FakeBackend().status(), outlook_s=seconds, waiting=2)
    assert f"2 requests are waiting; 4 pictures with the usual settings take about {shown}." in aid_views.outlook(
        status
    )


@pytest.mark.parametrize("button", ["ask-reading", "ask-outlook", "ask-settings", "ask-run"])
def test_who_has_not_accepted_the_licence_gets_no_help(tmp_path, button):
    async def scene(host: Host):
        window = host.window()
        host.backend.outlook_s = 3.0
        window["token"], window["prompt"] = "e30.x", "cat " * 99
        await hand(window, button, "run", "prompt=a+dog&seed=3" if button == "ask-run" else TEXT)
        assert not window["reading"] and not window["outlook"] and not window["status"]
        assert window["prompt"] == "cat " * 99 and window["Seed"] == 0

    play(tmp_path, scene, with_tokenizer())


def test_a_pictures_settings_fill_the_form_and_draw_it_again(tmp_path):
    async def scene(host: Host):
        window = await host.visitor()
        await hand(window, "ask-settings", TEXT)
        assert (window["prompt"], window["Negative prompt"], window["Size"]) == ("a castle", "snow", "96x128")
        assert window["Surprise me (new seed each time)"] is False and aid_views.FILLED in window["status"]
        await drawn(window, prompt=window["prompt"])
        asked = host.backend.started[0].request
        assert (asked.seed, asked.num_inference_steps, asked.scheduler, asked.height) == (99, 7, "PNDM", 128)

    play(tmp_path, scene)


def test_what_the_served_model_cannot_do_is_said_beside_what_it_can(tmp_path):
    async def scene(host: Host):
        host.backend.info = replace(INFO, limits=Limits(min_size=256, max_size=768, max_steps=5))
        window = await host.visitor()
        steps, size = window["Steps"], window["Size"]
        await hand(window, "ask-settings", TEXT.replace("Seed: 99", "Seed: 99, Clip skip: 2"))
        assert (window["Steps"], window["Size"], window["Seed"]) == (steps, size, 99)
        for words in ("Steps must be", "from 1 to 5, not 7.", "Width must be", "no setting for: Clip skip."):
            assert words in window["status"]

    play(tmp_path, scene)


def test_a_picture_without_settings_changes_nothing(tmp_path):
    async def scene(host: Host):
        window = await host.visitor()
        window["prompt"] = "a cat"
        await hand(window, "ask-settings", "")
        assert NONE_FOUND in window["status"] and window["prompt"] == "a cat"

    play(tmp_path, scene)


@pytest.mark.parametrize("value", [None, 7, True, "&" * 999 + "=", "seed=\ud800", "\ud800" * 2000])
def test_nothing_that_is_handed_over_breaks_an_event(tmp_path, value):
    async def scene(host: Host):
        window = await host.visitor()
        for button in ("ask-reading", "ask-outlook", "ask-settings", "ask-run"):
            window["prompt"] = window["handed"] = window["run_id"] = value
            await window.do("click", button)

    play(tmp_path, scene, with_tokenizer())


def test_an_earlier_run_comes_back_with_its_pictures_while_they_exist(tmp_path):
    async def scene(host: Host):
        window = await host.visitor()
        await drawn(window, prompt="a cat")
        run_id, seen = window["run_id"], captions(window)
        recipe = f"prompt=a+cat&seed={window['Seed']}"
        await drawn(window, prompt="a dog")
        await hand(window, "ask-run", run_id, recipe)
        assert window["prompt"] == "a cat" and captions(window) == seen and window["run_id"] == run_id
        assert f'data-run="{run_id}"' in window["record"]
        reloaded = host.window()
        await reloaded.open(token=window["token"], run_id=run_id, shown_id=run_id)
        assert reloaded["run_id"] == run_id, "the one that was brought back, not the last"
        host.store.close()
        await hand(window, "ask-run", run_id, recipe + "&num_inference_steps=9")
        assert window["Steps"] == 9 and aid_views.DRAW_AGAIN in window["status"]
        assert window["Surprise me (new seed each time)"] is False

    play(tmp_path, scene)


def test_nobody_brings_back_the_run_of_another(tmp_path):
    async def scene(host: Host):
        window, other = await host.visitor(), await host.visitor()
        await drawn(window)
        await hand(other, "ask-run", window["run_id"], "prompt=a+cat")
        assert captions(other) == [] and aid_views.DRAW_AGAIN in other["status"]

    play(tmp_path, scene)


def test_only_pictures_that_may_be_seen_are_to_be_remembered(tmp_path):
    async def scene(host: Host):
        window = await host.visitor()
        await drawn(window)
        assert window["record"].count(".png") == 2 and len(captions(window)) == 4
        assert "withheld" not in window["record"] and "broken" not in window["record"]

    play(tmp_path, scene, FakeBackend((Outcome.OK, Outcome.WITHHELD, Outcome.BROKEN, Outcome.OK)))


@pytest.mark.parametrize("history", [True, False])
def test_the_operator_decides_whether_browsers_keep_pictures(tmp_path, history):
    async def scene(host: Host):
        values = [getattr(block, "value", None) for block in host.demo.blocks.values()]
        assert any('id="history"' in value for value in values if isinstance(value, str)) is history

    play(tmp_path, scene, history=history)
