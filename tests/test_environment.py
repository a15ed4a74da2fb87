"""What libraries read from the environment ends in a sentence or is mended, before they read it."""

import io
import os
import sys

import httpx
import pytest

from sd_space.errors import CannotStart
from sd_space.serving import console
from sd_space.serving.environment import check_environment
from sd_space.serving.listening import Address, start_server

from .connections_app import app
from .server import free_port


def refusal(environ: dict[str, str]) -> str:
    with pytest.raises(CannotStart) as refused:
        check_environment(environ, "127.0.0.1")
    (sentence,) = str(refused.value).splitlines()
    return sentence


@pytest.mark.parametrize("name", ["GRADIO_NUM_PORTS", "GRADIO_ANALYTICS_MAX_EVENTS", "HF_HUB_DOWNLOAD_TIMEOUT"])
def test_numbers_that_libraries_read_are_numbers_or_left_out(name):
    assert refusal({name: "many"}) == f"{name} must be a whole number, not 'many'; leave it out for the default."
    assert len(refusal({name: "many" * 1250})) < 250
    environ = {name: " ", "PATH": "/bin"}
    check_environment(environ, "127.0.0.1")
    assert environ == {"PATH": "/bin"}


@pytest.mark.parametrize("name", ["PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir"])
def test_figures_are_those_of_one_process_and_no_files(name):
    environ = {name: "/nowhere"}
    check_environment(environ, "127.0.0.1")
    assert name not in environ


def test_an_ordinary_environment_stays_as_it_is():
    environ = {"PATH": "/bin", "GRADIO_NUM_PORTS": "7", "HF_HUB_ETAG_TIMEOUT": "10", "no_proxy": "example.org"}
    check_environment(before := dict(environ), "0.0.0.0")
    assert before == environ


@pytest.mark.parametrize("name", ["http_proxy", "HTTPS_PROXY", "all_proxy"])
@pytest.mark.parametrize("value", [":::", "ftp://user:hunter2@x", "http://x:port", "socks9://y"])
def test_a_proxy_that_cannot_be_used_is_reported_without_its_password(name, value):
    said = refusal({name: value})
    assert said.startswith(f"{name} cannot be used (") and "hunter2" not in said


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_certificates_that_cannot_be_read_are_reported(name, tmp_path):
    if name == "SSL_CERT_FILE":
        (tmp_path / "none.pem").write_text("no certificate")
        assert "SSL_CERT_FILE cannot be read (" in refusal({name: str(tmp_path / "none.pem")})
        assert refusal({name: "/nowhere/x.pem"}).startswith("SSL_CERT_FILE cannot be read (No such file or directory);")
    check_environment({name: ""}, "127.0.0.1")


@pytest.mark.parametrize("spelling", ["http_proxy", "HTTP_PROXY", "ALL_PROXY"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "::"])
def test_a_proxy_is_not_asked_for_this_machine(monkeypatch, spelling, host):
    """Gradio asks its own server whether it is up; the proxy here refuses every connection."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv(spelling, f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("NO_PROXY", "example.org")
    address = Address.from_env({"GRADIO_SERVER_NAME": host, "GRADIO_SERVER_PORT": str(free_port())})
    _, _, url, server = start_server(address, 1024, app)
    try:
        with pytest.raises(httpx.ConnectError):
            httpx.get(url, timeout=10)
        check_environment(os.environ, host)
        assert httpx.get(url, timeout=10).text == "ok"
        assert os.environ["no_proxy"].startswith("example.org,")
    finally:
        server.close()
        os.environ.pop("no_proxy", None)


@pytest.mark.parametrize("listed", ["[::1]", "::1/128", "::::", "ü.de,example.org", "x:port, 10.0.0.0/8,", "*"])
def test_names_that_need_no_proxy_never_keep_a_client_from_being_made(monkeypatch, listed):
    """httpx falls over them, proxy or not."""
    monkeypatch.setenv("no_proxy", listed)
    check_environment(os.environ, "127.0.0.1")
    httpx.Client(verify=False).close()
    left = os.environ["no_proxy"]
    assert ("example.org" in left, "10.0.0.0/8" in left) == ("example.org" in listed, "10.0.0.0/8" in listed)
    assert "*" not in listed or left == "*"
    os.environ.pop("NO_PROXY", None)


def test_a_place_without_anything_writable_is_reported(monkeypatch):
    def nowhere() -> str:
        raise FileNotFoundError("No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr("tempfile.gettempdir", nowhere)
    assert refusal({}) == "No temporary file can be written; set TMPDIR to a folder that can be."


def test_a_folder_that_is_gone_is_reported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "getcwd", lambda: os.stat(tmp_path / "gone"))
    assert refusal({}) == "The folder that this was started in is gone; start it in another one."


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "gbk", "latin-1", "utf-8"])
def test_a_console_that_lacks_signs_shows_their_numbers(monkeypatch, encoding):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(raw, encoding=encoding))
    console.make_printable()
    console.say("🔨 größer 日本 \udcff")
    print("🔨 größer 日本 \udcff", file=sys.stderr, flush=True)
    said = raw.getvalue().decode(encoding)
    assert said.count("udcff") == 2 and (encoding == "utf-8" or "1f528" in said)


def test_a_console_that_is_closed_is_replaced(monkeypatch):
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    console.make_printable()
    console.say("nobody reads this")
    print("nor this", file=sys.stderr)
    assert sys.stdin.read() == "" and not sys.stdout.isatty()
    for name in ("stdin", "stdout", "stderr"):
        getattr(sys, name).close()
