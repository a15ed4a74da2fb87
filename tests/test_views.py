from dataclasses import replace
from pathlib import Path

import pytest

from sd_space.errors import Cancelled, EngineFailed, InvalidRequest
from sd_space.recorded import load_recorded
from sd_space.schema import BackendStatus, GenerationResult, Outcome, Preview, Progress, Stage
from sd_space.serving.gate import USE_RESTRICTIONS
from sd_space.serving.results import SavedPicture
from sd_space.serving.runs import Run
from sd_space.ui import run_views, views

from .test_schema import INFO
from .tiny_models import admitted

HOSTILE = "<img src=x onerror=alert(1)>"


def run_of(outcomes=(), pictures: int = 4, **changes) -> Run:
    """A run whose first pictures have these outcomes."""
    run = Run(admitted("r", num_images_per_prompt=pictures), INFO, True, [None] * pictures)
    for k, outcome in enumerate(outcomes):
        run.pictures[k] = SavedPicture(Path(f"/results/x/seed-{k}.png"), k, outcome, f"Seed {k}")
    for name, value in changes.items():
        setattr(run, name, value)
    return run


def result(truncated: str = "") -> GenerationResult:
    return GenerationResult("r", (), {"total": 8.2}, truncated)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "under a second"),
        (1.2, "1\u00a0s"),
        (59.4, "59\u00a0s"),
        (60, "1\u00a0min 00\u00a0s"),
        (200, "3\u00a0min 20\u00a0s"),
    ],
)
def test_seconds_are_said_as_people_say_them(seconds, words):
    assert views.duration(seconds) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(45, "45 seconds"), (60, "1 minute"), (3600, "1 hour"), (5400, "90 minutes"), (172_800, "2 days")],
)
def test_how_long_pictures_are_kept_is_said_in_whole_units(seconds, words):
    assert f"deletes pictures {words} after" in views.deleted(seconds)


@pytest.mark.parametrize("stage", [Stage.STARTING, Stage.IMPORTING, Stage.LOADING, Stage.CHECKING, Stage.WARMING_UP])
def test_the_banner_says_how_far_loading_is(stage):
    assert str(stage) in views.banner(BackendStatus(stage))


def test_the_banner_says_why_nothing_can_be_drawn():
    banner = views.banner(BackendStatus(Stage.FAILED, reason="The model cannot be loaded."))
    assert "The model cannot be loaded." in banner and 'role="alert"' in banner


def test_the_picture_book_is_labelled_for_what_it_is():
    info = replace(INFO, is_picture_book=True, fallback_reason="v1-4 could not be loaded.")
    banner = views.banner(BackendStatus(Stage.READY, info))
    assert "stand-in" in banner and views.V1_4_URL in banner and "v1-4 could not be loaded." in banner
    assert "No graphics card" not in banner, "there is one"
    without_gpu = views.banner(BackendStatus(Stage.READY, replace(info, fallback_reason="")))
    assert "No graphics card" in without_gpu
    assert "<code>" not in banner + without_gpu, "visitors give no commands"
    assert "stand-in" not in views.banner(BackendStatus(Stage.READY, INFO))


def test_all_eleven_restrictions_are_one_click_away():
    assert views.restrictions().count("<li>") == len(USE_RESTRICTIONS) == 11


def test_the_recordings_say_when_by_what_and_on_what_they_were_made():
    note = views.recorded_note(load_recorded())
    for example in load_recorded():
        assert example.recorded_on in note and example.model in note and example.device in note
    assert views.recorded_note([]) == ""


@pytest.mark.parametrize(
    ("progress", "says"),
    [
        (None, "Joining the line"),
        (
            Progress("r", 3, 0, 51, 0, 4, seconds_left=70.0),
            "You are number 3 in line · about 1\u00a0min 10\u00a0s left",
        ),
        (Progress("r", 0, 12, 51, 0, 4, seconds_left=9.0), "Step 12 of 51 · about 9\u00a0s left"),
        (Progress("r", 0, 12, 51, 0, 4, seconds_left=47.4), "about 45\u00a0s left"),
        (Progress("r", 0, 12, 51, 1, 4), "1 of 4 ready · Step 12 of 51<"),
        (Progress("r", 1, 0, 51, 1, 4, fraction_done=0.25), "1 of 4 ready · taking turns with other visitors<"),
        (Progress("r", 0, 1, 51, 0, 4, note="It takes longer."), "Step 1 of 51. It takes longer."),
    ],
)
def test_the_progress_says_place_step_and_seconds_left(progress, says):
    assert says in run_views.progress_html(run_of(progress=progress))


def test_the_progress_has_a_tile_for_each_picture_in_its_state():
    progress = Progress("r", 0, 12, 51, 1, 3, previews=(None, Preview(1, 1, bytes(3)), None))
    tiles = run_views.progress_html(run_of([Outcome.OK], pictures=3, progress=progress))
    assert tiles.count('class="tile"') == 1 and tiles.count("tile mosaic") == 1 and tiles.count("tile empty") == 1


@pytest.mark.parametrize(
    ("run", "says"),
    [
        (run_of([Outcome.OK] * 4, outcome=result()), "4 pictures in 8\u00a0s."),
        (run_of([Outcome.OK], 1, outcome=result()), "1 picture in 8\u00a0s."),
        (run_of([Outcome.OK] * 3 + [Outcome.WITHHELD], outcome=result()), "The safety checker held back 1 of 4"),
        (run_of([Outcome.OK] * 3 + [Outcome.BROKEN], outcome=result()), "1 of 4 could not be calculated"),
        (
            run_of([Outcome.OK] * 4, outcome=result("in , the rain with umbrellas")),
            "from “in, the rain” on, was not read",
        ),
        (run_of([Outcome.OK], outcome=Cancelled("x")), "1 of 4 pictures were finished before and are kept."),
        (run_of(outcome=EngineFailed("The device was lost.")), "The device was lost."),
    ],
)
def test_the_summary_says_what_came_out(run, says):
    assert says in run_views.run_summary(run)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (InvalidRequest("num_inference_steps", "num_inference_steps must be whole."), "Steps must be whole."),
        (InvalidRequest("num_inference_steps", "This would take too long."), "This would take too long."),
        (InvalidRequest("colour", "'colour' is not a field of a request."), "'colour' is not a field of a request."),
        (EngineFailed("seed 7 was lost."), "seed 7 was lost."),
    ],
)
def test_a_refused_field_goes_by_its_label(error, says):
    assert views.refusal(error) == says


def test_a_failure_interrupts_a_screen_reader_and_a_cancel_does_not():
    assert 'role="alert"' in run_views.run_summary(run_of(outcome=EngineFailed("The device was lost.")))
    assert 'role="alert"' not in run_views.run_summary(run_of(outcome=Cancelled("Cancelled.")))


def test_a_refused_value_names_its_field_to_the_pages_script():
    refused = views.refused(InvalidRequest("seed", "seed must be whole."))
    assert 'data-field="seed"' in refused and 'role="alert"' in refused and "Seed must be whole." in refused
    assert "data-field" not in views.refused(EngineFailed("The device was lost."))


def test_who_had_pictures_withheld_is_told_why_and_offered_new_seeds():
    summary = run_views.run_summary(run_of([Outcome.WITHHELD] * 4, outcome=result()))
    assert 'href="#screened"' in summary and 'id="new-seeds"' in summary
    assert "new-seeds" not in run_views.run_summary(run_of([Outcome.OK] * 4, outcome=result()))


def test_a_broken_picture_is_not_called_withheld():
    assert "held back" not in run_views.run_summary(run_of([Outcome.BROKEN] * 4, outcome=result()))


def test_the_recipe_names_everything_that_decides_the_pictures():
    recipe = run_views.recipe(run_of(), 3600)
    for word in ("5 – 8", "1 hour", "PNDM", "7.5", "64 × 64", "Picture book", "float32", "none", "seed=5"):
        assert word in recipe, word


def test_what_visitors_write_is_never_markup():
    hostile = admitted("r", num_images_per_prompt=4, prompt=HOSTILE, negative_prompt=HOSTILE)
    run = run_of([Outcome.OK] * 4, admitted=hostile, outcome=result(HOSTILE))
    for html in (
        run_views.progress_html(run),
        run_views.run_summary(run),
        run_views.recipe(run, 3600),
        views.note(HOSTILE, "error"),
    ):
        assert "<img src=x" not in html
