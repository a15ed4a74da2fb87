"""The tab "Experiments", seen without a browser."""

import csv
import io
import json
import re
import shutil
import zipfile
from html import unescape
from pathlib import Path

from PIL import Image

from sd_space.errors import Cancelled, EngineFailed
from sd_space.schema import Inspection, Outcome, Progress, RequestFailed
from sd_space.serving import runs
from sd_space.serving.results import GONE
from sd_space.serving.strip import EVALUATION
from sd_space.ui.experiment_presets import CHANGES

from .fakes import FakeBackend, picture
from .window import Host, Window, play

PICTURES, STATUS = "experiment-pictures", "experiment-status"


async def drawn(window: Window, button: str = "draw-strip", **form) -> None:
    """Fills the form and presses the button; the pictures are ready at once."""
    window.host.backend.proceed.set()
    for name, value in form.items():
        window[f"strip-{name}"] = value
    await window.do("click", button)


def captions(window: Window) -> list[str]:
    return [unescape(words) for words in re.findall("<figcaption>(.*?)</figcaption>", window[PICTURES])]


def test_the_cards_guidance_sweep_is_one_press_and_one_place(tmp_path):
    async def scene(host: Host):
        window = await host.visitor()
        assert window.shows("experiments")
        places = []
        async for _ in window.follow("click", "draw-strip"):
            places.append(len(host.capacity))
            host.backend.proceed.set()
        assert max(places) == 1
        asked = [admitted.request for admitted in host.backend.started]
        assert ", ".join(f"{r.guidance_scale:g}" for r in asked) == EVALUATION
        assert {admitted.priority for admitted in host.backend.started} == {0}
        assert {(r.seed, r.prompt, r.num_images_per_prompt) for r in asked} == {
            (1, "a photo of an astronaut riding a horse on mars", 1)
        }
        assert captions(window)[:2] == ["Guidance scale 1.5", "Guidance scale 2"] and len(captions(window)) == 8
        assert "8 pictures." in window[STATUS]
        assert window[PICTURES].count("<option") == 16 and 'id="two-compared"' in window[PICTURES]

    play(tmp_path, scene)


def test_what_is_offered_for_each_change_can_be_drawn(tmp_path):
    async def scene(host: Host):
        window = await host.visitor()
        for _, field in CHANGES:
            window["strip-field"] = field
            await window.do("input", "strip-field")
            await drawn(window)
            assert 2 <= len(captions(window)) <= 8 and "pictures." in window[STATUS], field
        assert captions(window) == ["a cat on a beach", "a robot on a beach"]

    play(tmp_path, scene)


def test_values_are_refused_in_a_sentence_and_the_last_pictures_stay(tmp_path):
    async def scene(host: Host):
        window = await host.visitor()
        await drawn(window, values="2, 3")
        for values, words in (("2", "2 to 8 of guidance_scale"), ("2, x", "must be numbers"), ("2, 99", "99")):
            await drawn(window, values=values)
            assert 'role="alert"' in window[STATUS] and words in window[STATUS]
        assert len(captions(window)) == 2 and len(host.backend.started) == 2 and len(host.capacity) == 0
        window["token"] = "e30.x"
        await drawn(window, values="2, 3")
        assert 'role="alert"' in window[STATUS] and len(host.backend.started) == 2

    play(tmp_path, scene)


def test_withheld_pictures_are_placeholders_that_are_counted_and_cannot_be_compared(tmp_path):
    async def scene(host: Host):
        window = await host.visitor()
        await drawn(window, values="2, 3")
        assert "The safety checker held back 2 of 2" in window[STATUS] and "0 pictures." in window[STATUS]
        assert window[PICTURES].count("<figure>") == 2 and "two-compared" not in window[PICTURES]

    play(tmp_path, scene, FakeBackend(outcomes=(Outcome.WITHHELD,)))


def test_stopping_keeps_what_is_finished_and_frees_the_place(tmp_path):
    async def scene(host: Host):
        window = await host.visitor()
        window["strip-values"] = "2, 3, 4"
        async for _ in window.follow("click", "draw-strip"):
            if "data-drawing" in window[PICTURES]:
                await window.do("click", "stop-experiment")
        assert "data-drawing" not in window[PICTURES] and len(host.capacity) == 0
        assert all(event.is_set() for event in host.backend.cancelled.values())

    play(tmp_path, scene)


def test_a_reload_shows_it_again_and_withdrawing_clears_it(tmp_path):
    async def scene(host: Host):
        window = await host.visitor()
        await drawn(window, values="2, 3")
        again = await host.visitor()
        again["token"] = window["token"]
        await again.open(**{"experiment-runs": window["experiment-runs"]})
        assert again[PICTURES] == window[PICTURES]
        unaware = host.window()
        await unaware.open(token=window["token"])
        assert unaware[PICTURES] == window[PICTURES], "its connection may have failed before it heard of the runs"
        stranger = await host.visitor()
        await stranger.open(**{"experiment-runs": window["experiment-runs"]})
        assert not stranger[PICTURES] and not stranger["experiment-runs"]
        await window.do("click", "withdraw")
        assert not any(window[name] for name in (PICTURES, STATUS, "experiment-runs")) and not window.shows(
            "experiments"
        )

    play(tmp_path, scene)


def test_a_strip_that_ends_after_the_withdrawal_is_not_shown(tmp_path):
    async def scene(host: Host):
        window = await host.visitor()
        async for _ in window.follow("click", "draw-strip"):
            if "data-drawing" in window[PICTURES]:
                await window.do("click", "withdraw")
        assert not window[PICTURES]

    play(tmp_path, scene)


def exported(window: Window) -> list[Path]:
    return [Path(unescape(name)) for name in re.findall('href="gradio_api/file=([^"]+)"', window["experiment-files"])]


def test_a_sheet_and_an_archive_hold_all_that_was_drawn_and_the_citation(tmp_path):
    async def scene(host: Host):
        window = await host.visitor()
        await drawn(window, values="2, 3, 4.5")
        await window.do("click", "export-experiment")
        sheet, archive = exported(window)
        with Image.open(sheet) as image:
            assert image.width > 3 * 256 and "AI-generated" in image.text["Source"]
            black = image.convert("L").point(lambda value: 255 * (value == 0)).getbbox()
            assert black[0] < 256 < 2 * 256 < black[2], "three pictures of the backend's, beside each other"
        with zipfile.ZipFile(archive) as members:
            assert {"sheet.png", "drawn.csv", "drawn.json", "citation.bib"} < set(members.namelist())
            records = list(csv.DictReader(io.StringIO(members.read("drawn.csv").decode())))
            assert [record["guidance_scale"] for record in records] == ["2.0", "3.0", "4.5"]
            assert all(record["file"] in members.namelist() for record in records)
            facts = json.loads(members.read("drawn.json"))["pictures"][0]
            assert facts["model"] == "picture-book" and facts["revision"] is None and facts["outcome"] == "ok"
            assert facts["seed"] == 1 and facts["drawn_at"].startswith("20")
            assert members.read("citation.bib").decode().startswith("@InProceedings{Rombach_2022_CVPR")

    play(tmp_path, scene)


def test_a_run_that_is_named_many_times_is_in_an_archive_once(tmp_path):
    async def scene(host: Host):
        window = await host.visitor()
        await drawn(window, values="2, 3")
        window["experiment-runs"] = " ".join([window["experiment-runs"]] * 1_000)
        await window.do("click", "export-experiment")
        _, archive = exported(window)
        with zipfile.ZipFile(archive) as members:
            assert sum(name.endswith(".png") for name in members.namelist()) == 1 + 2

    play(tmp_path, scene)


def test_an_archive_has_no_picture_that_is_not_shown(tmp_path):
    async def scene(host: Host):
        window = await host.visitor()
        await drawn(window, values="2, 3")
        await window.do("click", "export-experiment")
        with zipfile.ZipFile(exported(window)[1]) as members:
            assert [name for name in members.namelist() if name.endswith(".png")] == ["sheet.png"]
            assert members.read("drawn.csv").count(b"withheld") == 2

    play(tmp_path, scene, FakeBackend(outcomes=(Outcome.WITHHELD,)))


def test_what_was_deleted_or_is_somebody_elses_is_not_exported(tmp_path):
    async def scene(host: Host):
        window = await host.visitor()
        await drawn(window, values="2, 3")
        stranger = await host.visitor()
        stranger["experiment-runs"] = window["experiment-runs"]
        for folder in host.store.root.iterdir():
            shutil.rmtree(folder)
        for visitor in (window, stranger):
            await visitor.do("click", "export-experiment")
            assert GONE in visitor[STATUS] and not visitor["experiment-files"]
        assert list(host.store.root.iterdir()) == []

    play(tmp_path, scene)


def test_the_steps_of_a_picture_are_shown_with_guidance_and_without(tmp_path):
    async def scene(host: Host):
        window = await host.visitor()
        host.backend.step_outcomes = (Outcome.OK, Outcome.WITHHELD)
        places = []
        async for _ in window.follow("click", "draw-steps"):
            places.append(len(host.capacity))
            host.backend.proceed.set()
        assert max(places) == 1
        assert [a.request.guidance_scale for a in host.backend.started] == [3.0, 1.0]
        assert {(a.inspection, a.request.seed) for a in host.backend.started} == {(Inspection.STEPS, 1)}
        assert captions(window) == ["Guidance scale 3", "Guidance scale 1"]
        shown = re.findall('alt="Guidance scale 1, ([^"]+): (.*?)"', window[PICTURES])
        assert shown == [("Step 1 of 51", "ready"), ("Step 2 of 51", "withheld"), ("The finished picture", "ready")]
        assert "held back 2 of 4 steps" in window[PICTURES] and "What to look at" in window[PICTURES]
        again = await host.visitor()
        again["token"] = window["token"]
        await again.open(**{"experiment-runs": window["experiment-runs"]})
        assert again[PICTURES] == window[PICTURES]

        await window.do("click", "export-experiment")
        with zipfile.ZipFile(exported(window)[1]) as members:
            names = [name for name in members.namelist() if name.endswith(".png")]
            assert names == [
                "sheet.png",
                "01-seed-1.png",
                "01-seed-1-step-01.png",
                "02-seed-1.png",
                "02-seed-1-step-01.png",
            ]

    play(tmp_path, scene)


def test_no_step_is_shown_of_a_withheld_picture_and_that_is_said(tmp_path):
    async def scene(host: Host):
        window = await host.visitor()
        host.backend.proceed.set()
        await window.do("click", "draw-steps")
        assert "Of a picture that was held back no step is decoded." in window[PICTURES]
        assert "Play" not in window[PICTURES]
        assert window[PICTURES].count("<img") == 2 and window[PICTURES].count(": withheld") == 2

    play(tmp_path, scene, FakeBackend(outcomes=(Outcome.WITHHELD,)))


class StoppedWhileDecoded(FakeBackend):
    """Its runs end once the first step of each is decoded, or before any picture is there."""

    is_early = False

    async def generate(self, admitted):
        async for update in super().generate(admitted):
            if isinstance(update, Progress) or not self.is_early:
                yield update
            if getattr(update, "of_step", None) is not None:
                break
        yield RequestFailed(admitted.request_id, Cancelled("Cancelled."))


def test_it_is_said_where_not_all_steps_were_decoded(tmp_path):
    async def scene(host: Host):
        window = await host.visitor()
        host.backend.proceed.set()
        await window.do("click", "draw-steps")
        assert "Step 1 of 51" in window[PICTURES] and "Step 1 of 1" not in window[PICTURES]
        assert "It ended before everything was decoded." in window[PICTURES]
        assert captions(window) == ["Guidance scale 3", "Guidance scale 1"]
        host.backend.is_early = True
        await window.do("click", "draw-steps")
        assert captions(window) == ["Guidance scale 3: Stopped", "Guidance scale 1: Stopped"]
        assert "It ended before" not in window[PICTURES]

    play(tmp_path, scene, StoppedWhileDecoded())


class Undecided(FakeBackend):
    """A picture that one device's checker has withheld is passed by that of the next one, which draws it again."""

    def _inspected(self, admitted, images):
        return [picture(1), picture(1)]


def test_the_first_verdict_on_a_picture_stays(tmp_path):
    async def scene(host: Host):
        window = await host.visitor()
        host.backend.proceed.set()
        await window.do("click", "draw-steps")
        assert window[PICTURES].count("<img") == 2 and window[PICTURES].count(": withheld") == 2
        assert not list(host.store.root.rglob("*step*"))

    play(tmp_path, scene, Undecided(outcomes=(Outcome.WITHHELD,)))


def test_what_the_autoencoder_makes_may_be_withheld_too(tmp_path):
    async def scene(host: Host):
        window = await host.visitor()
        host.backend.step_outcomes = (Outcome.WITHHELD,)
        host.backend.proceed.set()
        window["handed"] = "autoencoder"
        await window.do("click", "ask-limitation")
        assert len(host.backend.started) == 1
        assert "there is nothing to compare" in window[PICTURES] and window[PICTURES].count("<img") == 1

    play(tmp_path, scene)


def test_a_full_disk_is_no_verdict_on_what_the_autoencoder_makes(tmp_path, monkeypatch):
    def full(store, *arguments):
        raise EngineFailed("A picture could not be saved on the server; please try again later.")

    async def scene(host: Host):
        monkeypatch.setattr(runs, "save_difference", full)
        window = await host.visitor()
        host.backend.proceed.set()
        window["handed"] = "autoencoder"
        await window.do("click", "ask-limitation")
        assert "held back" not in window[PICTURES] and "It ended before everything was decoded." in window[PICTURES]
        assert window[PICTURES].count("<img") == 2

    play(tmp_path, scene)
