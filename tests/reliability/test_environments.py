"""Environments that are drawn: settings, what libraries read, file handles, consoles. It starts, or says why not."""

import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from sd_space.errors import CannotStart
from sd_space.serving.environment import check_environment
from sd_space.serving.listening import Address, check
from sd_space.serving.result_folder import ResultFolder
from sd_space.settings import Settings

from ..generated import drawn
from ..server import ROOT, free_port

STARTED, REFUSED = "started", "refused"
START_LIMIT_S = 90.0
_ODD = (
    "", " ", "0", "1", "-1", "7", "8080", "65536", "1e9", "nan", "inf", "abc", "größer 日本", "x" * 5000, "..", "/",
    "~", "/nowhere/at/all", "1_000", "٣", "true", "False", "none", "[::1]", "::", ":::", "http://x", "a,b", '"',
    "$HOME", "\udcff",
)  # fmt: skip
_NUMBERS = ("GRADIO_NUM_PORTS", "GRADIO_NODE_NUM_PORTS", "GRADIO_ANALYTICS_MAX_EVENTS", "HF_HUB_ETAG_TIMEOUT",
            "HF_HUB_DOWNLOAD_TIMEOUT", "GRADIO_ANALYTICS_CACHE_FREQUENCY")  # fmt: skip
_OTHERS = (
    "GRADIO_SERVER_NAME", "GRADIO_SERVER_PORT", "GRADIO_ROOT_PATH", "GRADIO_SSR_MODE", "GRADIO_MCP_SERVER",
    "GRADIO_NODE_SERVER_PORT", "GRADIO_NODE_PATH", "GRADIO_HEARTBEAT_INTERVAL", "GRADIO_NUM_WORKERS", "GRADIO_SHARE",
    "GRADIO_DEFAULT_CONCURRENCY_LIMIT", "GRADIO_CACHE_MODE", "GRADIO_ANALYTICS_ENABLED", "GRADIO_TEMP_DIR",
    "GRADIO_BLOCKED_PATHS", "HF_HOME", "HF_ENDPOINT", "HF_TOKEN", "TMPDIR", "HOME", "LANG", "LC_ALL", "http_proxy",
    "HTTPS_PROXY", "all_proxy", "no_proxy", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR", "WEB_CONCURRENCY",
    "FORWARDED_ALLOW_IPS", "OMP_NUM_THREADS", "COLUMNS", "TERM",
)  # fmt: skip
_SETTINGS = tuple(name for name, _, _ in Settings.table())
# Ray and ZeroGPU bring environments of their own, and take seconds to come up.
_VALID = {
    "SD_SPACE_BACKEND": ("local", "auto"),
    "PYTHONIOENCODING": ("ascii", "cp1252", "gbk"),
    "PYTHONUTF8": ("0", "1"),
}


def an_environment(draw: random.Random) -> dict[str, str]:
    names = draw.sample([*_SETTINGS, *_NUMBERS, *_OTHERS, *_VALID, "SD_SPACE_NO_SUCH"], draw.choice((1, 1, 2, 3)))
    return {name: draw.choice(_VALID.get(name, _ODD)) for name in names}


@drawn(500, nightly=5_000)
def test_every_environment_is_good_enough_or_refused_in_a_sentence(tmp_path, monkeypatch, attempts):
    """What is looked at before any library is loaded. Nothing but CannotStart comes out, and numbers are numbers."""
    monkeypatch.chdir(tmp_path)  # some folders for results are relative
    for attempt in attempts:
        with attempt:
            environ = attempt.asks(an_environment(attempt.random))
            environ.setdefault("SD_SPACE_RESULT_DIR", str(tmp_path / "results"))
            try:
                settings = Settings.from_env(environ)
                address = Address.from_env(environ)
                check_environment(environ, address.host)
                check(address)
                if not (settings.result_dir or "").startswith(("/", "~")) or str(tmp_path) in settings.result_dir:
                    folder = ResultFolder(settings.result_dir)
                    folder.claim()
                    folder.release()
            except CannotStart as error:
                (sentence,) = str(error).splitlines()
                assert sentence.endswith(".") and len(sentence) < 6_000, sentence
                attempt.came_to(REFUSED)
            else:
                assert all(environ.get(name, "1").isdigit() for name in _NUMBERS)
                attempt.came_to(STARTED)
    attempts.assert_held(STARTED, REFUSED)


def started(draw: random.Random, environ: dict[str, str], folder: Path) -> tuple[subprocess.Popen, Path, int]:
    handles, port = draw.choice((None, None, 80, 256)), free_port()
    ours = {"GRADIO_SERVER_PORT": str(port), "SD_SPACE_MODEL": "tiny", "HF_HUB_OFFLINE": "1"}
    ours |= {"SD_SPACE_RESULT_DIR": str(folder / "results"), "OMP_NUM_THREADS": "1"}

    def limit() -> None:
        if handles is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (handles, handles))

    said = folder / "said"
    with said.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, ROOT / "app.py"],
            cwd=folder,
            env=os.environ | ours | environ,
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=limit,
        )
    return process, said, port


def comes_to(process: subprocess.Popen, said: Path, url: str) -> Any:
    """Waits until it answers or has ended; ends it; and judges what it said."""
    deadline_s = time.monotonic() + START_LIMIT_S
    with httpx.Client(trust_env=False, verify=False, timeout=5) as visitor:
        is_up = False
        while process.poll() is None and not is_up:
            assert time.monotonic() < deadline_s, "it neither starts nor ends"
            try:
                is_up = visitor.get(f"{url}/healthz").status_code == 200 and "Serving on" in said.read_text("latin-1")
            except httpx.TransportError:
                time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    status, text = process.wait(30), said.read_text("latin-1")
    assert "Traceback" not in text, text
    if is_up:
        assert status == 0, text
        return STARTED
    assert status == 2 and text.splitlines()[-1].endswith("."), (status, text)
    return REFUSED


@drawn(2, nightly=300)
def test_the_app_starts_in_an_environment_or_says_why_not(tmp_path, attempts):
    """For real: what no check of ours has looked at shows here."""
    for attempt in attempts:
        with attempt:
            folder = tmp_path / str(attempt.number)
            folder.mkdir()
            environ = an_environment(attempt.random)
            process, said, port = started(attempt.random, attempt.asks(environ), folder)
            hosts = {"::": "[::1]", "[::1]": "[::1]"}
            host = hosts.get(environ.get("GRADIO_SERVER_NAME", "").strip(), "127.0.0.1")
            port = int(environ["GRADIO_SERVER_PORT"]) if environ.get("GRADIO_SERVER_PORT", "").isdecimal() else port
            try:
                attempt.came_to(comes_to(process, said, f"http://{host}:{port}"))
            finally:
                process.kill()
                process.wait()
    attempts.assert_held()
