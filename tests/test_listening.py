"""Where the page is served, or why not: addresses in every spelling, ports that are taken, names that are none."""

import errno
import os
import socket

import httpx
import pytest

from sd_space.errors import CannotStart
from sd_space.serving import listening
from sd_space.serving.listening import Address, check, listen, start_server

from .connections_app import app
from .server import free_port


def address(host: str = "127.0.0.1", port: int | None = None) -> Address:
    return Address.from_env({"GRADIO_SERVER_NAME": host, "GRADIO_SERVER_PORT": str(port or free_port())})


def refusal(do, *arguments) -> str:
    with pytest.raises(CannotStart) as refused:
        do(*arguments)
    (sentence,) = str(refused.value).splitlines()
    return sentence


@pytest.fixture
def taken():
    """A port of this machine that somebody else listens on."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


@pytest.mark.parametrize(
    ("host", "reached_at"),
    [
        ("127.0.0.1", ["127.0.0.1"]),
        ("localhost", ["localhost"]),
        ("0.0.0.0", ["127.0.0.1"]),
        ("::1", ["[::1]"]),
        ("[::1]", ["[::1]"]),
        ("::", ["[::1]", "127.0.0.1"]),
        ("[::]", ["[::1]", "127.0.0.1"]),
        ("0:0:0:0:0:0:0:1", ["[::1]"]),
        (" 127.0.0.1 ", ["127.0.0.1"]),
        ("", ["127.0.0.1"]),
    ],
)
def test_every_spelling_of_an_address_serves_and_its_own_url_leads_there(host, reached_at):
    _, port, url, server = start_server(address(host), 1024, app)
    try:
        assert httpx.get(url, timeout=10).text == "ok", "Gradio asks it there whether it is up"
        for at in reached_at:
            assert httpx.get(f"http://{at}:{port}/", timeout=10).text == "ok"
    finally:
        server.close()


def test_a_port_that_was_asked_for_and_is_taken_is_reported_and_never_another_one_used(taken):
    for do in (check, listen, lambda at: start_server(at, 1024, app)):
        assert refusal(do, address(port=taken)) == (
            f"Port {taken} of 127.0.0.1 is taken; end what holds it, or set GRADIO_SERVER_PORT to another."
        )
    assert "is taken" in refusal(check, address("0.0.0.0", taken)), "everywhere is there too"


def test_where_no_port_was_asked_for_the_first_free_one_is_taken(monkeypatch, taken):
    monkeypatch.setattr(listening, "DEFAULT_PORT", taken)
    port, sockets = listen(Address.from_env({}))
    for listener in sockets:
        listener.close()
    assert taken < port < taken + 100
    assert f"Every port from {taken} to {taken}" not in (
        said := refusal(listen, Address.from_env({"GRADIO_NUM_PORTS": "1"}))
    )
    assert f"Port {taken} of 127.0.0.1 is taken" in said


@pytest.mark.parametrize(
    "text",
    ["", " ", "abc", "0", "-1", "65536", "99999999999999999999", "7860.0", "+7860", "78_60", "٧٨٦٠", "tcp://x:1"],
)
def test_a_port_that_is_none_is_reported_with_its_range(text):
    assert refusal(Address.from_env, {"GRADIO_SERVER_PORT": text}) == (
        f"GRADIO_SERVER_PORT must be a whole number from 1 to 65535, not {text!r}; leave it out for the default."
    )


@pytest.mark.parametrize(
    "host", ["192.0.2.1", "2001:db8::1", "nowhere.invalid", "http://127.0.0.1", "a" * 300, "::1::", "\udcff"]
)
def test_an_address_that_cannot_be_bound_is_reported(host):
    said = refusal(check, address(host))
    assert said.startswith(
        "GRADIO_SERVER_NAME must be an address of this machine, such as 127.0.0.1, 0.0.0.0 or ::, not "
    )
    assert len(said) < 250


@pytest.mark.parametrize("host", ["224.0.0.1", "239.255.0.1", "255.255.255.255", "127.255.255.255"])
def test_an_address_of_many_machines_is_reported(host):
    said = refusal(check, address(host))
    assert said.startswith("GRADIO_SERVER_NAME must be an address of this machine") and "many machines" in said


def test_a_port_that_needs_rights_is_reported(monkeypatch):
    def refuse(*_):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(listening, "_listener", refuse)
    assert refusal(check, address(port=80)).endswith("set GRADIO_SERVER_PORT to one from 1024 on.")


def test_a_machine_without_ipv6_serves_localhost_and_refuses_the_rest(monkeypatch):
    stock = listening._listener

    def without(family, *rest):
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return stock(family, *rest)

    monkeypatch.setattr(listening, "_listener", without)
    found = [
        (family, socket.SOCK_STREAM, 6, "", at)
        for family, at in ((socket.AF_INET6, ("::1", 0, 0, 0)), (socket.AF_INET, ("127.0.0.1", 0)))
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    assert "localhost" in check(address("localhost"))
    del found[1]
    assert "not supported" in refusal(check, address("::1"))


def test_a_server_that_ends_while_it_starts_is_reported(caplog):
    async def failing(scope, receive, send):
        await receive()
        await send({"type": "lifespan.startup.failed", "message": ""})

    assert refusal(start_server, address(), 1024, failing) == "The page's server did not start; the log says why."
