"""Each benchmark runs on a small model, prints its table, and ends with one JSON object."""

import json
from pathlib import Path

import numpy as np
import pytest

from sd_space.backends import engine_slot
from sd_space.model.noise_schedulers import SCHEDULER_TABLE
from sd_space.tools.bench.__main__ import BENCHMARKS, main
from sd_space.tools.bench.figures import plain

from .forked import forking_context
from .generated import taking_turns


def bench(capsys, *arguments: str) -> dict:
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("| ") for line in lines[:-1]), "a table for people"
    figures = json.loads(lines[-1])
    assert figures["benchmark"] == arguments[0] in BENCHMARKS
    assert figures["seed"] == 0 and figures["cores"] >= 1 and figures["torch_threads"] >= 1
    assert {"python", "torch", "diffusers", "transformers"} <= set(figures["versions"])
    return figures


def bench_kept(capsys, kept: Path, *arguments: str) -> dict:
    assert main(["--figures", str(kept), *arguments]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.nightly
def test_engine_beside_the_queue(capsys, model_folder):
    options = ("--visitors", "1", "3", "--repeats", "3", "--width", "4", "--stagger", "0")
    figures = bench(capsys, "engine", "--model", str(model_folder), *options)
    assert (figures["model"], figures["width"], figures["steps"]) == ("noise-painter", 4, 4)
    one, three = figures["rows"]
    assert (one["visitors"], three["visitors"]) == (1, 3)
    assert one["largest_pixel_difference"] == 0, "both ways draw the same picture"
    assert three["largest_pixel_difference"] <= 1
    for way in ("queue", "engine"):
        row = three[way]
        assert 0 < row["mean_first_preview_s"] <= row["worst_first_preview_s"] < row["worst_latency_s"]
        assert row["pictures_per_s"] == pytest.approx(3 / row["worst_latency_s"], rel=0.5)
    assert three["queue"]["forecast_error"] is None
    assert set(one["to_queue"]) == {"engine", "engine, no previews"}


def test_engine_waits_for_visitors_who_are_not_there_yet(capsys, model_folder):
    options = ("--visitors", "2", "--repeats", "1", "--width", "2", "--stagger", "3")
    (row,) = bench(capsys, "engine", "--model", str(model_folder), *options)["rows"]
    for way in ("queue", "engine"):
        assert row[way]["worst_latency_s"] < 3 / row[way]["pictures_per_s"], "measured from each one's arrival"


@pytest.mark.nightly
def test_recipe(capsys, model_folder):
    figures = bench(capsys, "recipe", "--model", str(model_folder), "--steps", "6", "--repeats", "1")
    recipe, space, turbo, openvino = figures["rows"]
    assert figures["unet_calls"] == 7
    assert space["largest_difference"] == 0, "this Space draws what the recipe draws"
    assert 0 < turbo["mean_difference"] < 128
    assert openvino["largest_difference"] <= 1
    for row in (recipe, space):
        assert 0 < row["of_the_limit"] < 1
        assert row["step_ms"] == pytest.approx(1e3 * row["picture_s"] / 7)


def test_batch(capsys, model_folder):
    figures = bench(capsys, "batch", "--model", str(model_folder), "--pictures", "1", "2", "--repeats", "2")
    assert [(row["pictures"], row["rows"]) for row in figures["rows"]] == [(1, 2), (2, 4)]
    assert all(row["step_ms"] > row["ms_per_picture"] * 0.99 > 0 for row in figures["rows"])
    assert figures["calibrated_width"] in (1, 2, 4, 8)


def test_size(capsys, model_folder):
    figures = bench(capsys, "size", "--model", str(model_folder), "--sizes", "64", "96", "--repeats", "2")
    assert [row["size"] for row in figures["rows"]] == [64, 96]
    for row in figures["rows"]:
        assert row["picture_s"] * 1e3 > 4 * row["step_ms"] + row["decode_ms"]


@taking_turns(1)
def test_exactness(capsys, model_folder):
    figures = bench(capsys, "exactness", "--model", str(model_folder), "--steps", "3")
    assert [row["scheduler"] for row in figures["rows"]] == list(SCHEDULER_TABLE)
    assert {row["alone"] for row in figures["rows"]} == {row["two_pictures"] for row in figures["rows"]} == {0}
    assert all(row["in_a_crowd"] <= 1 for row in figures["rows"])


def test_a_strip_shares_calls_and_has_the_pictures_of_its_requests_alone(capsys, model_folder):
    figures = bench(capsys, "strip", "--model", str(model_folder), "--steps", "2", "--repeats", "2")
    assert len(figures["rows"]) == 2 and figures["largest_difference"] <= 1
    assert set(figures["median"]) == set(figures["rows"][0])


@pytest.mark.nightly
def test_mixed_cases_are_equal_where_torch_draws_both(capsys, model_folder):
    figures = bench(capsys, "mixed", "--model", str(model_folder), "--runtime", "torch", "--cases", "8")
    assert [row["scheduler"] for row in figures["rows"]] == list(SCHEDULER_TABLE)
    of_all = figures["summary"]["all"]
    assert (of_all["equal"], of_all["worst"]) == (1, 0) and set(figures["summary"]) == {"all", *SCHEDULER_TABLE}
    assert of_all["pictures"] == sum(row["num_images_per_prompt"] for row in figures["rows"])


def test_schedulers(capsys, model_folder):
    options = ("--pictures", "1", "2", "--repeats", "2", "--scheduler", "Heun")
    rows = bench(capsys, "schedulers", "--model", str(model_folder), *options)["rows"]
    assert [(row["scheduler"], row["pictures"]) for row in rows] == [("Heun", 1), ("Heun", 2)]
    assert all(row["step_ms"] >= row["host_ms"] > 0 and row["host_waits"] is None for row in rows)


def test_clock(capsys, model_folder):
    rows = bench(capsys, "clock", "--model", str(model_folder), "--steps", "20", "--repeats", "1")["rows"]
    assert [row["previews"] for row in rows] == ["on", "off"]
    for row in rows:
        assert 20 * row["true_step_ms"] < 1e3 * row["picture_s"], "the decode comes after the steps"
        assert 0 < row["counted_of_true"] <= 1, "a step is counted from within the time that it takes"


def test_picture(capsys, model_folder, tmp_path):
    figures = bench(capsys, "picture", "--model", str(model_folder), "--steps", "2", "--out", str(tmp_path / "one.png"))
    assert figures["outcome"] == "ok"
    assert figures["first_picture_s"] == pytest.approx(sum(figures["stages_s"].values()))
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")


def test_machine(capsys):
    assert main(["machine", "--device", "cpu", "--rounds", "1"]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["kind"] == "cpu" and figures["versions"]["torch"]
    assert all(row["reached"] > 0 for row in figures["rows"])


def test_the_figures_so_far_are_kept_in_a_file(capsys, model_folder, tmp_path):
    kept = tmp_path / "figures.json"
    figures = bench_kept(capsys, kept, "size", "--model", str(model_folder), "--sizes", "64", "--repeats", "1")
    assert json.loads(kept.read_text()) == figures
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]


def test_what_is_no_number_is_null_in_json():
    figures = {"rows": [{"a": float("nan"), 1: np.float32(0.5)}, (float("inf"), None, True)], "path": Path("x")}
    assert plain(figures) == {"rows": [{"a": None, "1": 0.5}, [None, None, True]], "path": "x"}


def test_overhead(capsys, model_folder):
    figures = bench(capsys, "overhead", "--model", str(model_folder), "--visitors", "1", "10", "--repeats", "1")
    one, ten = figures["rows"]
    assert (one["running"], one["waiting"]) == (1, 0)
    assert ten["running"] + ten["waiting"] == 10
    for row in (one, ten):
        parts = row["unet"] + row["schedulers"] + row["previews"] + row["overhead"]
        assert row["step"] == pytest.approx(parts) and row["overhead"] > 0


@pytest.mark.slow
@pytest.mark.nightly
def test_startup(capsys, model_folder):
    rows = bench(capsys, "startup", "--model", str(model_folder), "--steps", "2", "--repeats", "1")["rows"]
    space = rows["this Space"]
    assert 0 < space["page_s"] < space["ready_s"] < space["first_picture_s"]
    assert rows["bare Gradio page"]["page_s"] > 0
    assert rows["plain recipe"]["first_picture_s"] > 0
    assert rows["this Space, no page"]["first_picture_s"] > 0


@pytest.mark.nightly
def test_processes(capsys, model_folder, monkeypatch):
    monkeypatch.setattr(engine_slot, "CONTEXT", forking_context())
    options = ("--threads", "2", "--width", "2", "--pictures", "4", "--rounds", "2", "--steps", "4", "--no-page")
    figures = bench(capsys, "processes", "--model", str(model_folder), *options)
    several, *others = figures["rounds"].values()
    assert len(others) == 3 and len(several) == 2
    for row in figures["rows"].values():
        assert 0 < row["delay_ms"] <= row["delay_p99_ms"] and row["alone_s"] > 0
    assert all(ratio > 0 for ratio in figures["ratios"].values())


def test_an_unknown_benchmark_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["nonsense"])
    assert "startup" in capsys.readouterr().err
