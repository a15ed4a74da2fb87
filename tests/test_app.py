"""The command as an operator meets it: wrong calls, the page before the model, passwords, being told to stop."""

import ast
import gc
import os
import resource
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest
from gradio_client import Client

from sd_space.serving.lifecycle import Lifecycle

from .server import ROOT, ended, serve


@pytest.mark.parametrize(
    ("arguments", "environ", "says"),
    [
        (["--auth", "somebody"], {}, "--auth must be USER:PASSWORD, with neither part empty."),
        ([], {"SD_SPACE_MAX_QUEUE": "many"}, "SD_SPACE_MAX_QUEUE must be a whole number from 1 to 10000, not 'many'."),
        (["--backend", "cloud"], {}, "SD_SPACE_BACKEND must be one of"),
        ([], {"SD_SPACE_MODLE": "tiny"}, "SD_SPACE_MODLE is not a setting; sd_space/README.md lists those that are."),
    ],
)
def test_a_wrong_call_ends_at_once_in_a_sentence(arguments, environ, says, tmp_path):
    status, said = ended("app", arguments, tmp_path, **environ)
    assert status == 2
    assert says in said and "Traceback" not in said


def refused(*command: str, preexec_fn=None, cwd: Path = ROOT, **environ: str) -> str:
    """What the app says when it does not start: one sentence, at once, and status 2."""
    run = subprocess.run(
        [sys.executable, *(command or ["app.py"])],
        cwd=cwd,
        env=os.environ | environ,
        capture_output=True,
        text=True,
        errors="backslashreplace",
        preexec_fn=preexec_fn,
        timeout=60,
    )
    (sentence,) = run.stderr.splitlines()
    assert run.returncode == 2 and run.stdout == "" and sentence.endswith(".")
    return sentence


def test_a_port_that_is_taken_ends_the_start_and_no_other_one_is_used():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert f"Port {port} of 127.0.0.1 is taken" in refused(GRADIO_SERVER_PORT=str(port))


def test_what_only_libraries_would_fall_over_ends_in_a_sentence_before_them(tmp_path):
    assert "GRADIO_SERVER_PORT must be a whole number" in refused(GRADIO_SERVER_PORT="")
    assert "GRADIO_SERVER_NAME must be an address" in refused(GRADIO_SERVER_NAME="192.0.2.1")
    assert "HF_HUB_DOWNLOAD_TIMEOUT must be" in refused(HF_HUB_DOWNLOAD_TIMEOUT="soon")
    assert "https_proxy cannot be used" in refused(https_proxy=":::")
    assert "GRADIO_NUM_WORKERS is not allowed here" in refused(GRADIO_NUM_WORKERS="2")
    (tmp_path / "results").symlink_to(tmp_path)
    assert "is a symbolic link" in refused(SD_SPACE_RESULT_DIR=str(tmp_path / "results"))


def test_where_nothing_can_be_written_a_sentence_says_so():
    """The kernel lets this process write no byte to any file, whoever it belongs to."""
    said = refused(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)))
    assert said == "No temporary file can be written; set TMPDIR to a folder that can be."


def test_too_few_file_handles_are_refused():
    assert "ulimit -n 96" in refused(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)))


@pytest.mark.parametrize("encoding", ["ascii", "gbk", "cp1252"])
def test_a_console_that_lacks_a_sign_shows_the_sentence_all_the_same(encoding):
    said = refused(SD_SPACE_MAX_QUEUE="größer 🔨", PYTHONIOENCODING=encoding)
    assert said.startswith("SD_SPACE_MAX_QUEUE must be a whole number from 1 to 10000, not ")


def test_a_closed_standard_output_keeps_no_sentence_back():
    said = refused(
        "-c", "import os, sys; os.close(1); os.execv(sys.executable, [sys.executable, 'app.py', '--auth', 'x'])"
    )
    assert said == "--auth must be USER:PASSWORD, with neither part empty."


@pytest.mark.parametrize("program", ["app.py", "sd_space/tools/doctor.py"])
def test_a_python_that_is_too_old_ends_in_a_sentence(program):
    """In the one file that is read first: the others are syntax errors to it."""
    pretend = f"import sys, runpy; sys.version_info = (3, 9, 18); runpy.run_path({program!r}, run_name='__main__')"
    assert refused("-c", pretend) == "This program needs Python 3.11 or newer, not 3.9; start it with one."
    for path in ("app.py", "sd_space/__init__.py"):
        ast.parse((ROOT / path).read_text(encoding="utf-8"), feature_version=(3, 7))


def test_an_interrupt_before_the_page_is_up_ends_in_a_sentence(capsys):
    def build():
        raise KeyboardInterrupt

    try:
        assert Lifecycle().run(build) == 130
    finally:
        gc.enable()
    assert capsys.readouterr().err == "Stopped before the page was up.\n"


def has_torch(process: psutil.Process) -> bool:
    return any("libtorch" in mapped.path for mapped in process.memory_maps())


def test_the_page_answers_before_the_model_is_there_and_sigterm_ends_it_well():
    with serve(is_fresh=True) as server:
        server.wait_for("/", timeout_s=60)
        early = server.get("/readyz")
        assert early.status_code == 503 and "Getting ready" in early.json()["reason"]
        assert server.get("/healthz").status_code == 200
        server.wait_for("/readyz", timeout_s=120)
        page = psutil.Process(server.process.pid)
        engines = [child for child in page.children() if has_torch(child)]
        assert len(engines) == 1 and not has_torch(page), "the page's process knows no torch"
        assert server.stop(timeout_s=30) == 0
        assert list(server.results.iterdir()) == [] and not engines[0].is_running()
        assert "Traceback" not in server.log


def test_a_password_guards_the_page_and_the_endpoints_but_not_the_health():
    with serve("--auth", "guest:a:b") as server:
        server.wait_for("/healthz", timeout_s=60)
        assert server.get("/config").status_code == 401
        body = {"agree": True}
        refused = httpx.post(f"{server.url}/gradio_api/call/v2/accept_license", json=body, timeout=30)
        assert refused.status_code == 401
        assert server.get("/gradio_api/mcp/").status_code == 404, "it could not give the password on"
        page = server.get("/").text
        assert "link-preview" not in page, "no path is shown to strangers"
        assert 'id="first-gate"' not in page, "the login comes first"
        client = Client(server.url, auth=("guest", "a:b"), verbose=False, analytics_enabled=False)
        assert client.predict(agree=True, api_name="/accept_license")
        with httpx.Client(base_url=server.url, timeout=30) as leaving, httpx.Client(base_url=server.url) as staying:
            for browser in (leaving, staying):
                assert browser.post("/login", data={"username": "guest", "password": "a:b"}).status_code == 200
            kept = {"Cookie": "; ".join(f"{name}={value}" for name, value in leaving.cookies.items())}
            assert leaving.get("/config").status_code == 200
            assert leaving.get("/logout").status_code == 302
            assert server.get("/config", headers=kept).status_code == 401, "its token is void, not only forgotten"
            assert staying.get("/config").status_code == 200


def test_a_model_that_is_not_there_leaves_the_page_up_and_says_why():
    with serve("--model", "/nowhere/secret-place") as server:
        server.wait_for("/healthz", timeout_s=60)
        reason = ""
        while "cannot be loaded" not in reason:
            reason = server.get("/readyz").json()["reason"]
        assert "secret-place" not in reason and server.get("/").status_code == 200
        assert "does not exist; correct SD_SPACE_MODEL or --model." in server.log, "the operator reads why, and the fix"
