"""The doctor and the app, each in a process of its own, with the stand-in as their Hub."""

import os
import re
import resource
import socket
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import torch

from sd_space.errors import CannotStart
from sd_space.model import pipeline
from sd_space.serving.certificate import OWN_DAYS, own_key
from sd_space.serving.marks import Marks
from sd_space.settings import V1_4, V1_4_REVISION, Settings
from sd_space.tools.doctor import Doctor, main

from .hub import TOKEN, StandInHub, patience_s, serving
from .server import ROOT, ended, serve, until
from .test_hub import FIXES


@pytest.fixture(autouse=True)
def nothing_is_loaded(monkeypatch):
    monkeypatch.setattr(pipeline, "_loaded", {})


@pytest.fixture
def environ(tmp_path) -> dict[str, str]:
    return {
        "SD_SPACE_RESULT_DIR": str(tmp_path / "results"),
        "SD_SPACE_HUB_TIMEOUT_S": "40",
        "SD_SPACE_RUNTIME": "torch",
    }


def examine(capsys, environ: dict[str, str], is_quick: bool = False) -> tuple[bool, dict[str, tuple[str, str]]]:
    """Whether all is well, and of each check the verdict and what is said."""
    is_well = Doctor(environ, is_quick).run()
    lines = capsys.readouterr().out.splitlines()
    told = {line[10:26].strip(): (line[:9].strip(), line[26:]) for line in lines}
    assert len(told) == len(lines) == 9, "one line a check"
    return is_well, told


def test_a_healthy_deployment_is_reported_line_by_line(capsys, environ, one_torch_thread):
    is_well, told = examine(capsys, environ | {"SD_SPACE_MODEL": "tiny", "SD_SPACE_SECRET": "s3cret"})
    assert is_well
    assert {verdict for verdict, _ in told.values()} == {"ok"}
    assert told["settings"][1] == "changed from the defaults: MODEL, SECRET, RUNTIME, HUB_TIMEOUT_S, RESULT_DIR"
    assert "cpu, float32" in told["device"][1]
    assert "Picture book" in told["model"][1]
    assert "256 x 256, 2 steps, ok, signed: yes, watermark: no: encode_prompt" in told["picture"][1]
    assert not any("s3cret" in said for _, said in told.values())
    results = Path(environ["SD_SPACE_RESULT_DIR"])
    assert not any(path.is_file() for path in results.rglob("*")), "its picture does not stay"


def test_the_quick_way_loads_nothing_and_says_so(capsys, environ, monkeypatch):
    monkeypatch.setattr(pipeline, "load_pipeline", lambda *_, **__: pytest.fail("loaded"))
    is_well, told = examine(capsys, environ | {"SD_SPACE_MODEL": "tiny"}, is_quick=True)
    assert is_well
    assert {told[name] for name in ("model", "safety checker", "picture")} == {("not done", "--quick")}


def test_a_wrong_setting_is_reported_and_ends_what_needs_it(capsys):
    is_well, told = examine(capsys, {"SD_SPACE_MAX_QUEUE": "many"})
    assert not is_well
    assert told["settings"] == ("FAILED", "SD_SPACE_MAX_QUEUE must be a whole number from 1 to 10000, not 'many'.")
    assert told["page's port"][0] == "ok"
    assert told["picture"] == ("not done", "because of what failed above")


def test_a_certificate_that_cannot_be_used_is_reported_and_stops_the_app(capsys, environ, tmp_path):
    key = own_key(tmp_path / "keys", datetime.now(UTC) - timedelta(days=OWN_DAYS + 9))
    settings = {"SD_SPACE_CERTIFICATE": key.chain_pem, "SD_SPACE_PRIVATE_KEY": key.key_pem}
    is_well, told = examine(capsys, environ | settings, is_quick=True)
    assert not is_well and told["certificate"][0] == "FAILED" and "renew it" in told["certificate"][1]
    with pytest.raises(CannotStart, match="renew it"):
        Marks.from_settings(Settings.from_env(settings))


def test_a_port_that_is_taken_is_reported(capsys, environ):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        _, told = examine(capsys, environ | {"GRADIO_SERVER_PORT": port}, is_quick=True)
    assert told["page's port"][0] == "FAILED"
    assert f"Port {port} of 127.0.0.1 is taken" in told["page's port"][1]


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"GRADIO_SERVER_PORT": ""}, "GRADIO_SERVER_PORT must be a whole number from 1 to 65535, not ''"),
        ({"GRADIO_SERVER_PORT": "http"}, "GRADIO_SERVER_PORT must be a whole number from 1 to 65535, not 'http'"),
        ({"GRADIO_SERVER_NAME": "192.0.2.1"}, "GRADIO_SERVER_NAME must be an address of this machine"),
        ({"https_proxy": ":::"}, "https_proxy cannot be used"),
        ({"HF_HUB_ETAG_TIMEOUT": "soon"}, "HF_HUB_ETAG_TIMEOUT must be a whole number"),
    ],
)
def test_what_would_end_the_apps_start_is_reported_in_the_apps_words(capsys, environ, changed, says):
    _, told = examine(capsys, environ | changed, is_quick=True)
    assert told["page's port"][0] == "FAILED" and says in told["page's port"][1]


def test_an_address_of_the_sixth_version_is_as_good_as_any(capsys, environ):
    _, told = examine(capsys, environ | {"GRADIO_SERVER_NAME": "[::1]"}, is_quick=True)
    assert told["page's port"][0] == "ok" and "[::1]:" in told["page's port"][1]


def test_a_link_in_place_of_the_result_folder_is_reported(capsys, environ, tmp_path):
    (tmp_path / "results").symlink_to(tmp_path)
    _, told = examine(capsys, environ, is_quick=True)
    assert told["result folder"][0] == "FAILED" and "is a symbolic link" in told["result folder"][1]


def test_a_result_folder_that_cannot_be_is_reported(capsys, environ, tmp_path):
    (tmp_path / "file").write_text("in the way")
    folder = str(tmp_path / "file" / "results")
    _, told = examine(capsys, environ | {"SD_SPACE_RESULT_DIR": folder}, is_quick=True)
    assert told["result folder"] == (
        "FAILED",
        f"{folder} cannot be written (Not a directory); set SD_SPACE_RESULT_DIR to a folder that can be.",
    )


def test_a_device_that_is_not_there_is_reported(capsys, environ):
    if torch.cuda.is_available():
        environ["SD_SPACE_DEVICE"] = "mps"
    _, told = examine(capsys, {"SD_SPACE_DEVICE": "cuda"} | environ, is_quick=True)
    assert told["device"][0] == "FAILED"
    assert "but PyTorch finds none" in told["device"][1]


@pytest.mark.parametrize("fault", [fault for fault in StandInHub.FAULTS if fault not in ("truncated", "short")])
def test_each_fault_of_the_hub_is_reported_before_anything_is_fetched(capsys, environ, standin, fault, monkeypatch):
    if "account" in fault:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
    standin.fault = fault
    environ |= {"SD_SPACE_MODEL": V1_4, "SD_SPACE_HUB_TIMEOUT_S": str(patience_s(fault))}
    _, told = examine(capsys, environ, is_quick=True)
    verdict, said = told["model's files"]
    assert verdict == "FAILED"
    assert FIXES[fault].replace("check the network", "HF_ENDPOINT") in said
    assert TOKEN not in said
    assert not standin.fetched


@pytest.mark.parametrize("fault", ["truncated", "short"])
def test_files_that_come_incomplete_are_reported_when_they_are_loaded(capsys, environ, standin, fault):
    standin.fault = fault
    environ |= {"SD_SPACE_MODEL": V1_4, "SD_SPACE_HUB_TIMEOUT_S": str(patience_s(fault))}
    is_well, told = examine(capsys, environ)
    assert not is_well
    assert (
        f"{V1_4} at {V1_4_REVISION} is open to us without a token; 4 MB have to be fetched" in told["model's files"][1]
    )
    assert told["model"][0] == "FAILED"
    assert FIXES[fault] in told["model"][1]


def test_a_check_that_breaks_off_does_not_end_the_others(capsys, environ, monkeypatch):
    monkeypatch.setattr(Doctor, "check_results", lambda self: [][0])
    is_well, told = examine(capsys, environ | {"SD_SPACE_MODEL": "tiny"}, is_quick=True)
    assert not is_well
    assert "IndexError" in told["result folder"][1]
    assert told["device"][0] == "ok"


def test_a_picture_that_is_no_number_fails(capsys, environ, monkeypatch, one_torch_thread):
    stock = Doctor.check_safety

    def spoilt(self):
        said = stock(self)
        with torch.no_grad():
            self.loaded.pipeline.vae.decoder.conv_out.bias.fill_(float("nan"))
        return said

    monkeypatch.setattr(Doctor, "check_safety", spoilt)
    is_well, told = examine(capsys, environ | {"SD_SPACE_MODEL": "tiny"})
    assert not is_well
    assert "no number" in told["picture"][1]


def test_a_setting_that_torch_refuses_is_named(environ):
    command = [sys.executable, "-m", "sd_space.tools.doctor", "--quick"]
    torch_logs = os.environ | environ | {"TORCH_LOGS": "nonsense"}
    told = subprocess.run(command, cwd=ROOT, env=torch_logs, capture_output=True, text=True, timeout=120)
    assert "cannot be imported (ValueError); correct TORCH_LOGS or leave it out.\n" in told.stdout, told
    assert told.stderr == ""


def test_the_exit_status_is_the_verdict(monkeypatch, capsys):
    monkeypatch.setattr(Doctor, "run", lambda self: not self._is_quick)
    assert (main([]), main(["--quick"])) == (0, 1)


# --- in a process of its own


def with_hub(hub: StandInHub, home: Path) -> dict[str, str]:
    return {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "SD_SPACE_MODEL": V1_4}


def run_doctor(hub: StandInHub, home: Path, first: Callable[[], None] | None = None) -> tuple[int, str]:
    environ = with_hub(hub, home) | {"SD_SPACE_RESULT_DIR": str(home / "results")}
    return ended("sd_space.tools.doctor", [], home, first, **environ)


def run_fresh_doctor(home: Path) -> subprocess.CompletedProcess:
    environ = os.environ | {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "SD_SPACE_MODEL": V1_4}
    environ["SD_SPACE_RESULT_DIR"] = str(home / "results")
    command = [sys.executable, "-m", "sd_space.tools.doctor"]
    return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=120)


def on_a_small_disk() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))


@pytest.mark.slow
@pytest.mark.nightly
def test_v1_4_is_fetched_once_and_then_drawn_with_while_offline(repository, tmp_path):
    with serving(repository) as hub:
        status, said = run_doctor(hub, tmp_path)
        assert status == 0 and "Stable Diffusion v1-4, float32" in said, said
        checks = [name for name in vars(Doctor) if name.startswith("check_")]
        assert said.count("\n") == len(checks), "one line a check, and nothing else"
    again = run_fresh_doctor(tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"{V1_4} at {V1_4_REVISION} is cached" in again.stdout
    assert again.stderr == ""


@pytest.mark.slow
def test_a_disk_that_fills_up_half_way_is_reported(repository, tmp_path):
    """The kernel refuses to write on, as a full disk does."""
    with serving(repository) as hub:
        status, said = run_doctor(hub, tmp_path, on_a_small_disk)
    assert status == 1
    assert "FAILED    model           The disk is full (" in said
    assert "set HF_HOME" in said
    assert "Traceback" not in said


@pytest.mark.slow
@pytest.mark.nightly
def test_the_app_tells_how_much_is_fetched_and_then_serves(repository, tmp_path):
    with serving(repository) as hub:
        hub.go_on.clear()
        with serve(**with_hub(hub, tmp_path)) as server:
            server.wait_for("/healthz", timeout_s=60)
            until(lambda: "4 MB fetched" in server.get("/readyz").json()["reason"], 60)
            reason = server.get("/readyz").json()["reason"]
            assert re.fullmatch(r"Getting ready: loading the model \(\d.* of 4 MB fetched\)\.", reason)
            hub.go_on.set()
            server.wait_for("/readyz", timeout_s=60)
        log = server.log
        assert f"fetching 15 files of {V1_4}, 4 MB" in log
        assert hub.url not in log, "no addresses"


@pytest.mark.slow
@pytest.mark.nightly
def test_the_app_tells_a_fault_of_the_hub_to_its_operator_and_stays_up(repository, tmp_path):
    with serving(repository) as hub:
        hub.fault = "silent"
        with serve(**with_hub(hub, tmp_path), SD_SPACE_HUB_TIMEOUT_S="1.5") as server:
            server.wait_for("/healthz", timeout_s=60)
            until(lambda: server.get("/readyz").json()["stage"] == "failed", 60)
            answer = server.get("/readyz").json()
            assert "cannot be loaded at the moment" in answer["reason"]
            assert V1_4 not in answer["reason"] and hub.url not in answer["reason"]
            assert server.get("/").status_code == 200
        log = server.log
        assert log.count(FIXES["silent"]) == 1
        assert "Traceback" not in log
