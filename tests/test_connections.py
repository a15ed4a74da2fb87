"""A real server under attack by connections, with what is there without extras and with httptools and uvloop."""

import contextlib
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx
import pytest

from sd_space.errors import CannotStart
from sd_space.serving import connections

from .server import ROOT, free_port

HALF_A_HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n"
ANSWER_LIMIT_S = 2.0


@dataclass
class Small:
    url: str
    process: subprocess.Popen
    log: object  # a file

    def connect(self) -> socket.socket:
        at = urlsplit(self.url)
        return socket.create_connection((at.hostname, at.port), timeout=10)

    def answer(self) -> httpx.Response:
        with httpx.Client(verify=False, timeout=ANSWER_LIMIT_S) as visitor:
            return visitor.get(self.url)


@contextlib.contextmanager
def served(tmp_path, kind: str, *patches: str, handles: int = 256) -> Iterator[Small]:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (handles, handles))

    with (tmp_path / "log").open("w+b") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.connections_app", kind, str(free_port()), *patches],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            preexec_fn=limit,
        )
        try:
            yield Small(process.stdout.readline().decode().strip(), process, log)
        finally:
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()


def read_to_end(connection: socket.socket) -> bytes:
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while more := connection.recv(65536):
            data += more
    return data


KINDS = pytest.mark.parametrize("kind", ["plain", "fast"])


@KINDS
def test_few_handles_and_hundreds_of_half_sent_heads_keep_nobody_out(tmp_path, kind):
    with served(tmp_path, kind) as server, contextlib.ExitStack() as stack:
        slowest_s = 0.0
        for number in range(300):
            half = stack.enter_context(server.connect())
            with contextlib.suppress(OSError):  # closed already, to make room
                half.sendall(HALF_A_HEAD)
            if number % 10 == 9:
                began_s = time.monotonic()
                assert server.answer().text == "ok"
                slowest_s = max(slowest_s, time.monotonic() - began_s)
        assert slowest_s < ANSWER_LIMIT_S
        assert server.log.seek(0, 2) < 10_000, "no line for each of them"


@KINDS
def test_a_burst_of_connections_beyond_the_handles_is_outlived(tmp_path, kind):
    """All at once, so that they are accepted before any of them is looked at."""
    with served(tmp_path, kind) as server, contextlib.ExitStack() as stack:
        at = urlsplit(server.url)
        for _ in range(600):
            flood = stack.enter_context(socket.socket())
            flood.setblocking(False)
            flood.connect_ex((at.hostname, at.port))
        for _ in range(5):
            assert server.answer().text == "ok"
        assert server.log.seek(0, 2) < 10_000


@KINDS
def test_a_head_that_never_ends_gets_a_sentence_and_is_closed(tmp_path, kind):
    with served(tmp_path, kind, "HEAD_TIMEOUT_S=0.3") as server, server.connect() as late, server.connect() as silent:
        late.sendall(HALF_A_HEAD)
        assert read_to_end(late).startswith(b"HTTP/1.1 408 ")
        assert read_to_end(silent).startswith(b"HTTP/1.1 408 ")


@KINDS
def test_the_second_head_of_a_connection_is_bounded_too_and_a_long_answer_is_not(tmp_path, kind):
    with served(tmp_path, kind, "HEAD_TIMEOUT_S=0.3") as server, server.connect() as second, server.connect() as long:
        long.sendall(HALF_A_HEAD.replace(b"/", b"/never", 1) + b"\r\n")
        second.sendall(HALF_A_HEAD + b"\r\n")
        answer = b""
        while not answer.endswith(b"ok"):
            answer += second.recv(65536)
        second.sendall(HALF_A_HEAD)
        assert read_to_end(second).startswith(b"HTTP/1.1 408 ")
        long.settimeout(1.0)
        with pytest.raises(TimeoutError):
            long.recv(1)


@KINDS
def test_the_rest_of_a_body_that_was_answered_before_it_came_is_no_head(tmp_path, kind):
    body = b"x" * 2 * connections.MAX_HEAD_BYTES
    with served(tmp_path, kind) as server, server.connect() as connection:
        for _ in range(2):
            connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body))
            answer = b""
            while not answer.endswith(b"ok"):
                answer += connection.recv(65536)
            assert answer.startswith(b"HTTP/1.1 200")
            connection.sendall(body)
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert read_to_end(connection).startswith(b"HTTP/1.1 200")


CHUNKED = b"POST %s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


@KINDS
def test_what_follows_a_body_in_chunks_is_no_header(tmp_path, kind):
    with served(tmp_path, kind) as server, server.connect() as connection:
        connection.sendall(CHUNKED % b"/last" + b"2\r\n{}\r\n0\r\nAuthorization: Bearer late\r\n\r\n")
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answers = read_to_end(connection)
        assert answers.count(b"HTTP/1.1 200") == 2 and b"chunked" in answers and b"late" not in answers


@KINDS
@pytest.mark.parametrize("path", [b"/", b"/last", b"/never"])
@pytest.mark.parametrize("flood", [b"A: " + b"x" * 10_000 + b"\r\n", b"x" * 10_000], ids=["fields", "one field"])
def test_what_stands_around_a_body_in_chunks_is_bounded(tmp_path, kind, path, flood):
    with served(tmp_path, kind) as server, server.connect() as connection:
        connection.sendall(CHUNKED % path + b"0\r\n" + b"A: " * (b":" not in flood))
        with pytest.raises(OSError):  # it is closed
            for _ in range(10_000):
                connection.sendall(flood)


@KINDS
def test_a_body_in_many_chunks_is_taken_whole(tmp_path, kind):
    with served(tmp_path, kind) as server, server.connect() as connection:
        connection.sendall(CHUNKED % b"/last")
        for _ in range(40):
            connection.sendall(b"2710\r\n" + b"x" * 10_000 + b"\r\n")
        connection.sendall(b"0\r\nA: last\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert read_to_end(connection).count(b"HTTP/1.1 200") == 2


@KINDS
def test_who_waits_for_an_answer_is_not_closed_for_newcomers(tmp_path, kind):
    most = connections.max_connections(256)
    with served(tmp_path, kind) as server, contextlib.ExitStack() as stack:
        busy = [stack.enter_context(server.connect()) for _ in range(most - 1)]
        for connection in busy:
            connection.sendall(HALF_A_HEAD.replace(b"/", b"/never", 1) + b"\r\n")
        assert server.answer().text == "ok"
        for _ in range(20):
            stack.enter_context(server.connect()).sendall(HALF_A_HEAD)
        assert server.answer().text == "ok"
        for connection in busy:
            connection.setblocking(False)
            with pytest.raises(BlockingIOError):
                connection.recv(1)
        first, _ = (stack.enter_context(server.connect()) for _ in range(2))  # for one place
        answer = read_to_end(first)
        assert answer.startswith(b"HTTP/1.1 429 ") and b"retry-after: " in answer and b'{"error": "Too many' in answer


@KINDS
@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nbad header\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 200_000,
        b"POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\nabc",
        b"POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=["no request", "no header", "TLS", "a head of 200 kB", "no encoding that is known", "no chunk"],
)
def test_what_is_no_request_gets_a_sentence_and_is_not_logged_each_time(tmp_path, kind, sent):
    with served(tmp_path, kind) as server:
        answers = []
        for _ in range(50):
            with server.connect() as odd, contextlib.suppress(ConnectionError):
                odd.sendall(sent)
                answers.append(read_to_end(odd))
        told = [answer for answer in answers if answer]  # what comes after the end of a connection may reset it
        assert told or len(sent) > connections.MAX_HEAD_BYTES
        assert all(answer.split()[1] in (b"400", b"431") and b'{"error": "The ' in answer for answer in told)
        assert server.answer().text == "ok"
        assert server.log.seek(0, 2) < 2_000


def test_an_upgrade_is_answered_like_any_request(tmp_path):
    with served(tmp_path, "plain") as server:
        assert httpx.get(server.url, headers={"Connection": "Upgrade", "Upgrade": "websocket"}).text == "ok"


def test_the_soft_limit_is_raised_and_too_few_handles_are_refused(monkeypatch):
    in_force = [(64, 5000)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: in_force[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: in_force.append(limits))
    assert connections.raise_handle_limit() == 5000
    in_force.append((64, 64))
    with pytest.raises(CannotStart, match=r"64 file handles are too few .* ulimit -n 96"):
        connections.raise_handle_limit()
    in_force.append((resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert connections.raise_handle_limit() == connections.MAX_HANDLES


@pytest.mark.parametrize("handles", [connections.MIN_HANDLES, 256, 1024, connections.MAX_HANDLES])
def test_no_address_may_hold_all_connections(handles):
    assert 6 < connections.max_open_per_address(handles) < connections.max_connections(handles)


def test_a_limit_that_may_not_be_raised_as_far_is_raised_as_far_as_it_may(monkeypatch):
    """macOS says that the hard limit is endless, and refuses more than 10,240."""
    in_force = [(256, resource.RLIM_INFINITY)]

    def set_limit(_, limits):
        if limits[0] > 10_240:
            raise ValueError("current limit exceeds maximum limit")
        in_force.append(limits)

    monkeypatch.setattr(resource, "getrlimit", lambda _: in_force[-1])
    monkeypatch.setattr(resource, "setrlimit", set_limit)
    assert connections.raise_handle_limit() == 10_240


def test_systems_that_count_handles_in_another_way_start_too(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)
    assert connections.raise_handle_limit() == connections.MAX_HANDLES
    assert connections.max_connections(connections.MAX_HANDLES) == connections.MAX_CONNECTIONS
