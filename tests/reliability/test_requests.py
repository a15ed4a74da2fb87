"""Requests that no list holds: drawn from a grammar of Gradio's and MCP's own routes, and each gets a plain answer."""

import contextlib
import gc
import json
import os
import random
import re
import socket
from pathlib import Path
from typing import Any

import httpx
import pytest

from ..generated import drawn
from . import inside
from .rig import Rig
from .visitor import FOR_PROGRAMMERS, QUICK

LIMIT_S = 5.0
MARK = "qX7zTracer"  # in whatever is sent, and in no answer
MARKED_ID = f'{{"jsonrpc":"2.0","id":"{MARK}",'.encode()  # but here: a JSON-RPC answer has its request's id
METHODS = ["GET"] * 6 + ["POST"] * 10 + ["HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "FOO"]
NAMES = ["generate", "accept_license", "model", "open_page", "tick", "resume", "x" * 300, "..", "%2e%2e", "é", MARK, ""]
WORDS = [
    MARK,
    "",
    "a",
    "x" * 300,
    "../../etc/passwd",
    "%00",
    "null",
    "undefined",
    "0",
    "-1",
    "9" * 400,
    "a b",
    "\u202e",
    "a/b",
]
PATHS = [
    "/", "//", "/./", "/config", "/config/", "/theme.css", "/favicon.ico", "/robots.txt", "/manifest.json", "/healthz",
    "/readyz", "/metrics", "/login", "/logout", "/monitoring", "/monitoring/summary", "/monitoring/{word}", "/docs",
    "/openapi.json", "/redoc", "/pwa_icon", "/pwa_icon/{number}", "/static/{word}", "/assets/{word}", "/svelte/{word}",
    "/{word}", "/gradio_api",
    "/gradio_api/", "/gradio_api/{word}", "/gradio_api/info", "/gradio_api/info/",
    "/gradio_api/app_id",
    "/gradio_api/user", "/gradio_api/token", "/gradio_api/login_check", "/gradio_api/startup-events",
    "/gradio_api/queue/join", "/gradio_api/queue/data", "/gradio_api/queue/status", "/gradio_api/cancel",
    "/gradio_api/reset", "/gradio_api/run/predict", "/gradio_api/run/{name}", "/gradio_api/api/{name}",
    "/gradio_api/call/{name}", "/gradio_api/call/v2/{name}", "/gradio_api/call/{name}/{word}",
    "/gradio_api/call/v2/{name}/{word}", "/gradio_api/heartbeat/{word}", "/gradio_api/file={word}",
    "/gradio_api/file=http://192.0.2.1/x.png", "/gradio_api/file=/etc/passwd", "/gradio_api/file/{word}",
    "/gradio_api/proxy=http://192.0.2.1/", "/gradio_api/upload", "/gradio_api/upload_progress",
    "/gradio_api/stream/{word}",
    "/gradio_api/stream/{word}/{word}/{number}/playlist.m3u8", "/gradio_api/component_server",
    "/gradio_api/component_server/", "/gradio_api/deep_link", "/gradio_api/dev/reload", "/gradio_api/runs",
    "/gradio_api/run-history/connect", "/gradio_api/run-history/records",
    "/gradio_api/vibe-edit/", "/gradio_api/vibe-code",
    "/gradio_api/process_recording", "/gradio_api/profiling/traces", "/gradio_api/openapi.json",
    "/gradio_api/custom_component/{word}/client/{word}/{word}", "/gradio_api/mcp", "/gradio_api/mcp/",
    "/gradio_api/mcp/http",
    "/gradio_api/mcp/sse", "/gradio_api/mcp/schema", "/gradio_api/mcp/messages/", "/gradio_api/mcp/{word}",
]  # fmt: skip
MCP_METHODS = ["initialize", "ping", "tools/list", "tools/call", "resources/read", "prompts/get", "completion/complete",
               "notifications/initialized", "notifications/cancelled", MARK, "", "logging/setLevel"]  # fmt: skip
HEADERS = {
    "Range": ["bytes=0-", "bytes=-1", "bytes=5-2", "bytes=a-b", "bytes=0-1,2-3", f"bytes={'0-1,' * 500}", "lines=1"],
    # A name that can be a host's stands in the addresses of the page; this one cannot.
    "Host": ["", "a b", f"{MARK}_", "[::", "x:99999", "evil.example", "x" * 5000],
    "X-Forwarded-Host": [f"{MARK}_", "a b", "http://evil.example", "[", "x:1:2", "é", ","],
    "X-Forwarded-Proto": ["https", MARK, "javascript"],
    "X-Forwarded-For": [MARK, "1.2.3.4", "::1", "1.2.3.4:99999", "," * 50],
    "X-Gradio-Server": ["http://192.0.2.1", MARK],
    "X-Gradio-User": ["mcp", "app", MARK],
    "X-License-Token": [MARK, "x" * 4000, ""],
    "Content-Type": ["application/json", "application/json; charset=utf-7", "text/plain", "multipart/form-data",
                     "multipart/form-data; boundary=x", "application/x-www-form-urlencoded", "", MARK],
    "Content-Encoding": ["gzip", "br", "identity", MARK],
    "Content-Length": ["0"],
    "Accept": ["text/event-stream", "application/json", MARK, "", "*/*"],
    "Accept-Encoding": ["gzip", "br", MARK, "identity;q=0"],
    "If-None-Match": [MARK, "*"],
    "If-Modified-Since": [MARK, "Thu, 01 Jan 1970 00:00:00 GMT"],
    "Cookie": [f"access-token-x={MARK}", "=;=;", "\x7f", "a=" + "x" * 4000],
    "Origin": ["null", "https://evil.example", MARK],
    "Sec-Fetch-Site": ["cross-site", "same-origin", MARK],
    "Authorization": [f"Bearer {MARK}"],
    "Mcp-Session-Id": [MARK, "x" * 300],
    "Mcp-Protocol-Version": ["2025-06-18", "1999-01-01", MARK],
    "Last-Event-ID": [MARK],
    "Expect": ["100-continue"],
    "Upgrade": ["websocket", "h2c"],
    "Connection": ["close", "close, Upgrade"],
    "X-SD-Space-Place": [MARK],
    "X-SD-Space-Tool-Call": [MARK],
}  # fmt: skip


def a_value(r: random.Random, depth: int = 0) -> Any:
    file = {"path": r.choice(["http://192.0.2.1/x", "/etc/passwd", MARK]), "meta": {"_type": "gradio.FileData"}}
    plain = [None, True, False, 0, -1, 7, 2**31, 2**63, 2**64, 10**400, 1.5, float("nan"), float("inf"), 1e308, "",
             MARK, "x" * 2000, "\ud800", "a\x00b", "<script>alert(1)</script>", "PNDM", "64x64", file,
             {"__type__": "update"}, "data:image/png;base64,AAAA", "http://192.0.2.1/"]  # fmt: skip
    if depth < 3 and r.random() < 0.15:
        return [a_value(r, depth + 1) for _ in range(r.randrange(4))]
    if depth < 3 and r.random() < 0.15:
        return {r.choice([MARK, "path", "url", "meta", "a"]): a_value(r, depth + 1) for _ in range(r.randrange(4))}
    return r.choice(plain)


def a_path(r: random.Random) -> str:
    def word(match: re.Match[str]) -> str:
        known = {"name": NAMES, "number": ["192", "512", "9000", "0", "-1", "1.5", "9" * 30], "word": WORDS}
        return r.choice(known[match[1]])

    path = re.sub(r"\{(\w+)\}", word, r.choice(PATHS))
    if r.random() < 0.15:
        path = r.choice([path.upper(), path + "/", "/" + path, path.replace("/", "//"), path + ";x=1", path + "%20"])
    query = [f"{r.choice([*QUICK, 'session_hash', 'page', 'deep_link', '__theme', 'tools', MARK])}={r.choice(WORDS)}"
             for _ in range(r.choice([0, 0, 1, 3]))]  # fmt: skip
    return path + "?" * bool(query) + "&".join(query)


def a_body(r: random.Random, path: str) -> bytes:
    known: dict[str, Any]
    if "mcp" in path:
        arguments = {r.choice([*QUICK, MARK]): a_value(r) for _ in range(r.randrange(5))}
        params = {"name": r.choice(NAMES), "arguments": r.choice([arguments, a_value(r)]), "_meta": a_value(r)}
        known = {
            "jsonrpc": "2.0",
            "id": r.choice([1, "a", a_value(r)]),
            "method": r.choice(MCP_METHODS),
            "params": params,
        }
    elif "call/v2" in path:
        known = {name: a_value(r) if r.random() < 0.4 else value for name, value in QUICK.items()}
        known |= {"acceptance_token": a_value(r)} if r.random() < 0.3 else {}
    elif "/call/" in path:
        known = {"data": [a_value(r) for _ in range(r.choice([0, 1, 10]))]}
    else:
        data = [a_value(r) for _ in range(r.choice([0, 1, 2, 3, 4, 11]))]
        session = r.choice(["abc123", a_value(r)])
        known = {"fn_index": r.choice([*range(22), a_value(r)]), "data": data, "session_hash": session}
    envelope = ["session_hash", "event_id", "event_data", "trigger_id", "batched", "simple_format", "oauth_token",
                "fn_index", "data", "username", "password", MARK]  # fmt: skip
    for name in r.sample(envelope, r.choice([0, 0, 1, 3])):
        known[name] = a_value(r)
    for name in [name for name in known if r.random() < 0.05]:
        del known[name]
    body = json.dumps(known).encode()
    shape = r.random()
    if shape < 0.85:
        return body
    deep = r.choice([b"[", b'{"a":']) * r.choice([50, 3000])
    return r.choice(
        [b"", body[: r.randrange(len(body))], b"null", b"[]", deep, b"\xff\xfe" + body, body * 100, b"9" * 5000]
    )


def a_request(r: random.Random) -> bytes:
    """A whole HTTP/1.1 request: a client library would mend half of these."""
    method, path = r.choice(METHODS), a_path(r)
    headers = {"Host": "127.0.0.1", "Connection": "close"}
    body = a_body(r, path) if method not in ("GET", "HEAD") or r.random() < 0.1 else b""
    if body:
        headers["Content-Type"] = "application/json"
    for name in r.sample(list(HEADERS), r.choice([0, 0, 1, 2, 5])):
        headers[name] = r.choice(HEADERS[name])
    if body and "Content-Length" not in headers:
        headers["Content-Length"] = str(len(body))
    lines = [f"{method} {path.replace(' ', '%20')} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogatepass") + body


def sent(url: str, request: bytes) -> bytes:
    """What comes back until the server closes, or up to the first event of a stream."""
    address = httpx.URL(url)
    answer = b""
    with socket.create_connection((address.host, address.port), timeout=LIMIT_S) as connection:
        connection.sendall(request)
        with contextlib.suppress(ConnectionResetError):  # by a server that has answered, and reads no more
            while data := connection.recv(65536):
                answer += data
                if b"text/event-stream" in answer and b"\r\n\r\n" in answer:
                    break
    return answer


def sentence_of(body: bytes) -> str:
    """What an answer tells people; the whole of one that is no JSON of ours."""
    try:
        error = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        return body.decode("utf-8", "replace")
    return error["message"] if isinstance(error, dict) else error


@pytest.fixture
def quiet_rig(rigs):
    """A server of its own: what it has kept and said is the point."""
    return rigs.start(SD_SPACE_RATE_PER_MINUTE="100000")


def memory_and_files() -> tuple[int, int]:
    """In the server: the bytes of its own memory, and the number of its open files."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir("/proc/self/fd"))


def foreign_hosts() -> set[str]:
    return inside.foreign_hosts


@drawn(500, nightly=5_000)
def test_no_request_breaks_the_server_or_makes_it_fetch_keep_or_tell_anything(quiet_rig: Rig, attempts):
    rig = quiet_rig
    for warm in range(20):
        sent(rig.url, a_request(random.Random(warm)))
    memory, _ = rig.do(memory_and_files)
    lines = len(rig.log.splitlines())
    for attempt in attempts:
        with attempt:
            request = attempt.asks(a_request(attempt.random))
            answer = sent(rig.url, request)
            assert answer, "no answer"
            head, _, body = answer.partition(b"\r\n\r\n")
            status = int(head.split()[1])
            assert status < 500, answer
            assert MARK.encode() not in answer.replace(MARKED_ID, b""), answer
            if status >= 400 and body:
                assert not FOR_PROGRAMMERS.search(sentence_of(body)), answer
            attempt.came_to(status)
    attempts.assert_held(200, 400, 404, 405)
    assert httpx.get(f"{rig.url}/readyz", timeout=10).status_code == 200
    assert rig.do(foreign_hosts) == set()
    log = rig.log.splitlines()[lines:]
    assert not any("Traceback" in line or MARK in line for line in log), log
    assert len(log) <= len(attempts.numbers), "at most a line for each"
    gradios = rig.folder / "gradio"
    assert not gradios.exists() or not [path for path in gradios.rglob("*") if path.is_file()], "Gradio has kept a file"
    now, files = rig.do(memory_and_files)
    assert now - memory < 64 * 2**20 and files < 100
