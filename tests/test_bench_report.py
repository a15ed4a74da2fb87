"""The report measures what it can within its budget; what one part does costs that part alone."""

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from sd_space.tools.bench.__main__ import BENCHMARKS, main
from sd_space.tools.bench.report.parts import CPU, CUDA, MACHINE, Part, command_of, left_out, parts_for
from sd_space.tools.bench.report.process import CUT_SHORT, DONE, FAILED, LEFT_OUT, run
from sd_space.tools.bench.report.session import Session
from sd_space.tools.bench.report.summary import summary_of

ROOT = Path(__file__).parent.parent
SAVES = "import json, sys; open(sys.argv[1], 'w').write(json.dumps({'rows': [1, 2]}));"
SCRIPTS = {
    "good": SAVES + "print('| a table |'); print('{\"rows\": [1, 2]}')",
    "raises": "raise ValueError('the kernel is not there')",
    "raises late": SAVES + "raise ValueError('the kernel is not there')",
    "is killed": "import os; os.kill(os.getpid(), 9)",
    "hangs": SAVES + "import faulthandler; faulthandler.dump_traceback_later(float(sys.argv[2]), exit=True)\n"
    "def waits():\n  while True: pass\n"
    "waits()",
    "will not end": SAVES + "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)",
    "leaves a child": "import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', 'import time; "
    "time.sleep(600)']); open(sys.argv[1], 'w').write('{\"child\": %d}' % child.pid)",
}  # fmt: skip


def part(name: str, needs_s: float = 1.0, most_s: float = 30.0) -> Part:
    return Part(name, (), needs_s, most_s, f"what {name} shows")


def session(folder: Path, budget_s: float = 60.0) -> Session:
    def command(part: Part, running: Path, limit_s: float) -> list[str]:
        return [sys.executable, "-c", SCRIPTS[part.name], str(running), str(limit_s)]

    return Session(folder, budget_s, command)


def saved(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text())


def is_gone(pid: int, patience_s: float = 30.0) -> bool:
    """Whether the process ends; one that nobody has asked about since is as good as ended."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
    return False


@pytest.mark.parametrize(
    ("name", "ended", "reason", "figures"),
    [
        ("raises", FAILED, "ValueError: the kernel is not there", None),
        ("raises late", FAILED, "ValueError: the kernel is not there", {"rows": [1, 2]}),
        ("is killed", FAILED, "was ended by SIGKILL; the machine may have had no memory left", None),
        ("hangs", CUT_SHORT, "did not end within 3 s; it was in waits, <string>:", {"rows": [1, 2]}),
        ("will not end", CUT_SHORT, "did not end within 3 s", {"rows": [1, 2]}),
    ],
)
def test_a_part_that_goes_wrong_costs_itself_alone(tmp_path, capsys, name, ended, reason, figures):
    report = session(tmp_path)
    for each in (part("good"), part(name, most_s=3.0), part("good")):
        report.measure(each)
    report.finish()
    report.print_table()
    before, wrong, after = saved(tmp_path)["parts"]
    assert before["ended"] == after["ended"] == DONE and after["figures"] == {"rows": [1, 2]}
    assert (wrong["ended"], wrong["figures"]) == (ended, figures)
    assert wrong["reason"].startswith(reason) and "\n" not in wrong["reason"]
    assert wrong["reason"] in capsys.readouterr().out


def test_what_is_known_is_saved_before_the_next_part_begins(tmp_path):
    report, seen = session(tmp_path), []

    def command(part: Part, running: Path, limit_s: float) -> list[str]:
        seen.append([one["name"] for one in saved(tmp_path)["parts"]])
        return [sys.executable, "-c", SCRIPTS["good"], str(running)]

    report = Session(tmp_path, 60.0, command)
    for name in ("one", "two", "three"):
        report.measure(part(name))
    assert seen == [[], ["one"], ["one", "two"]]
    assert not saved(tmp_path)["is_finished"]
    assert not (tmp_path / "running.json").exists(), "its figures are in the report"


def test_no_part_is_begun_that_the_budget_cannot_pay(tmp_path):
    report = session(tmp_path, budget_s=20.0)
    report.measure(part("good", needs_s=30.0))
    report.measure(part("good", needs_s=1.0))
    too_long, short = saved(tmp_path)["parts"]
    assert (too_long["ended"], short["ended"]) == (LEFT_OUT, DONE)
    assert too_long["reason"].startswith("takes 30 s at least, and ")


def test_each_part_gets_its_share_and_a_shorter_form_where_there_is_no_time_for_all(tmp_path):
    asked = []

    def command(part: Part, running: Path, limit_s: float) -> list[str]:
        asked.append((part.name, part.arguments, limit_s))
        return [sys.executable, "-c", SCRIPTS["good"], str(running)]

    def parts(needs_s: float) -> list[Part]:
        return [replace(part(name, needs_s), brief=("--less",), brief_s=10.0) for name in ("one", "two", "three")]

    clock = iter(range(100))  # a second for each look
    Session(tmp_path, 90.0, command, lambda: 0.0).measure_all(parts(needs_s=30.0))
    assert [limit_s for *_, limit_s in asked] == [28.0] * 3 and {arguments for _, arguments, _ in asked} == {()}
    asked.clear()
    Session(tmp_path, 80.0, command, lambda: float(next(clock))).measure_all(parts(needs_s=30.0))
    assert {arguments for _, arguments, _ in asked} == {("--less",)}
    assert all(limit_s == 28.0 for *_, limit_s in asked[:2]), "what the first leaves, the others may take"
    assert [one["ended"] for one in saved(tmp_path)["parts"]] == [DONE] * 3


def test_the_summary_has_the_recipe_beside_this_space_and_says_what_was_not_measured(tmp_path):
    ways = ("the recipe", "this Space")
    rows = [
        {"way": way, "picture_s": 2.0 / n, "of_the_recipe": 1 / n, "of_the_limit": 0.3, "largest_difference": 0}
        for n, way in enumerate(ways, start=1)
    ]
    figures = {"size": 512, "unet_calls": 51, "scheduler": "PNDM", "rows": rows, "device": "a card", "cores": 2}
    ended = {"reason": "", "seconds": 1.0, "limit_s": 9.0, "command": []}
    report = {
        "parts": [
            ended | {"name": "recipe", "ended": DONE, "figures": figures},
            ended | {"name": "engine", "ended": LEFT_OUT, "figures": None, "reason": "takes 40 s at least"},
            ended | {"name": "ladder", "ended": LEFT_OUT, "figures": None, "reason": "needs a CUDA device"},
        ]
    }
    said = summary_of(report)
    assert said.startswith(" on a card, 2 cores of ") or "a card" in said.splitlines()[0]
    assert "| one picture, 512 × 512, 51 calls of PNDM: this Space | 1 s (0.5 of the recipe), 30 % of " in said
    assert "| engine | not measured: takes 40 s at least |" in said and "ladder" not in said


def test_the_budget_holds_whatever_a_part_does(tmp_path):
    began_s = time.monotonic()
    report = session(tmp_path, budget_s=4.0)
    for name in ("will not end", "good"):
        report.measure(part(name))
    assert time.monotonic() - began_s < 4.0 + 5.0
    assert [one["ended"] for one in saved(tmp_path)["parts"]] == [CUT_SHORT, LEFT_OUT]


def test_what_a_part_has_begun_ends_with_it(tmp_path):
    child = session(tmp_path).measure(part("leaves a child"))["child"]
    assert is_gone(child)


def test_a_report_that_is_ended_takes_its_part_along_and_keeps_what_it_knows(tmp_path):
    code = (
        "import sys; from pathlib import Path\n"
        "from sd_space.tools.bench.report import ended_by_sigterm\n"
        "from tests.test_bench_report import part, session\n"
        "report = session(Path(sys.argv[1]))\n"
        "with ended_by_sigterm():\n"
        "    report.measure(part('good'))\n"
        "    report.measure(part('will not end'))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        children: list[psutil.Process] = []
        while not (len(saved_or_none(tmp_path)) == 1 and (tmp_path / "running.json").exists()):
            assert time.monotonic() < deadline and process.poll() is None
        children = psutil.Process(process.pid).children()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 128 + signal.SIGTERM
    finally:
        process.kill()
    assert children and all(is_gone(child.pid) for child in children)
    good, ended = saved(tmp_path)["parts"]
    assert good["ended"] == DONE
    assert (ended["ended"], ended["figures"]) == (CUT_SHORT, {"rows": [1, 2]})


def saved_or_none(folder: Path) -> list:
    return saved(folder)["parts"] if (folder / "report.json").exists() else []


@pytest.mark.parametrize("kind", ["cuda", "cpu"])
def test_each_part_is_a_benchmark_with_arguments_that_it_takes(kind):
    """Also those that no machine of ours can run."""
    asked = {"model": None, "size": 64, "steps": 2, "seed": 1}
    for each in (MACHINE, *parts_for(kind)):
        parser = argparse.ArgumentParser(exit_on_error=False)
        importlib.import_module(f"sd_space.tools.bench.{each.benchmark}").add_arguments(parser)
        options = parser.parse_args(command_of(each, asked, kind))
        assert each.benchmark in BENCHMARKS
        assert each.needs_s <= each.most_s
        if "model" in each.takes:
            assert options.model == ("v1-4-random" if kind == "cuda" else "tiny")


def test_names_of_parts_are_their_own():
    for parts in (CUDA, CPU):
        assert len({one.name for one in parts}) == len(parts)


def test_what_a_machine_cannot_show_is_said_with_the_reason():
    on_cpu, on_cuda = left_out("cpu"), left_out("cuda")
    assert set(on_cpu) == {"ladder", "faults", "attention", "levers", "recordings", "gpu_tests"}
    assert set(on_cpu.values()) == {"needs a CUDA device"}
    assert set(on_cuda) == {"overhead"}


@pytest.mark.parametrize("benchmark", ["ladder", "faults", "attention"])
def test_a_benchmark_for_cuda_says_so_elsewhere(benchmark):
    with pytest.raises(SystemExit, match=f"{benchmark}: there is no CUDA device"):
        main([benchmark])


def parts_table() -> str:
    """Each part in its order, on both kinds of device."""
    rows = []
    for title, parts in (("CUDA", CUDA), ("else", CPU)):
        rows += [f"| {title} | `{one.name}` | {one.shows} | {one.needs_s:.0f} to {one.most_s:.0f} |" for one in parts]
    head = ["| on | part | what it shows | seconds: at least, at most |", "| --- | --- | --- | --- |"]
    return "\n".join(
        [*head, f"| both | `{MACHINE.name}` | {MACHINE.shows} | {MACHINE.needs_s:.0f} to {MACHINE.most_s:.0f} |", *rows]
    )


def test_the_tools_readme_lists_the_parts():
    readme = (ROOT / "sd_space" / "tools" / "README.md").read_text(encoding="utf-8")
    table = readme.split("<!-- parts -->\n")[1].split("<!-- /parts -->")[0].strip()
    assert table == parts_table(), "paste tests.test_bench_report.parts_table() into sd_space/tools/README.md"


def without(folder: Path, *packages: str) -> dict[str, str]:
    """An environment whose Python cannot find `packages`."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "from importlib.machinery import PathFinder\n"
        "find = PathFinder.find_spec\n"
        f"hidden = {packages!r}\n"
        "PathFinder.find_spec = staticmethod(lambda name, path=None, target=None: None "
        "if name.partition('.')[0] in hidden else find(name, path, target))\n"
    )
    return os.environ | {"PYTHONPATH": str(folder)}


@pytest.mark.nightly
@pytest.mark.slow
def test_a_real_report_without_gradio_is_whole(tmp_path, model_folder):
    """Only what a machine for computing has: no page, and nothing that a page stands on."""
    environ = without(tmp_path / "site", "gradio", "gradio_client", "starlette", "mcp", "prometheus_client", "ray")
    out, budget_s = tmp_path / "out", 120
    asked = ["--only", "machine", "exactness", "batch", "ladder", "--model", str(model_folder), "--device", "cpu"]
    command = [sys.executable, "-m", "sd_space.tools.bench", "report", "--out", str(out), "--budget", str(budget_s)]
    done = subprocess.run([*command, *asked], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert any(line.startswith("| exactness ") for line in lines), "a table for people"
    printed, kept = json.loads(lines[-1]), saved(out)
    assert printed == {"benchmark": "report"} | kept
    assert kept["is_finished"] and kept["seconds"] < budget_s
    machine, exactness, batch, ladder = kept["parts"]
    assert [one["ended"] for one in kept["parts"]] == [DONE, DONE, DONE, LEFT_OUT], (out / "errors.log").read_text()
    assert {"torch", "diffusers", "transformers"} <= set(machine["figures"]["versions"])
    assert machine["figures"]["cores"] >= 1 and machine["figures"]["kind"] == "cpu"
    figures = exactness["figures"]
    assert (figures["model"], figures["dtype"], figures["size"], figures["steps"]) == (
        "noise-painter",
        "float32",
        64,
        5,
    )
    assert {row["alone"] for row in figures["rows"]} == {0}
    assert max(row["in_a_crowd"] for row in figures["rows"]) <= 1
    assert [row["pictures"] for row in batch["figures"]["rows"]] == [1, 2, 4, 8]
    assert ladder["reason"] == "needs a CUDA device"
    assert sorted(path.name for path in out.iterdir()) == ["errors.log", "report.json", "report.log", "report.md"]


@pytest.mark.nightly
@pytest.mark.slow
def test_a_benchmark_that_is_cut_short_leaves_its_rows_and_says_where_it_was(tmp_path, model_folder):
    running = tmp_path / "running.json"
    endless = ["engine", "--model", str(model_folder), "--repeats", "1", "--width", "1", "--visitors", *["1"] * 10_000]
    own = ["--figures", str(running), "--limit", "40"]
    command = [sys.executable, "-m", "sd_space.tools.bench", *own, *endless]
    ending = run(command, 45.0, tmp_path / "log", tmp_path / "errors")
    assert ending.ended == CUT_SHORT
    assert "; it was in " in ending.reason
    figures = json.loads(running.read_text())
    assert figures["benchmark"] == "engine" and figures["rows"][0]["visitors"] == 1
