"""P: prompts, tokens, addresses and paths stay where they belong, and pictures go when their time is over."""

import asyncio
import logging
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client
from PIL import Image

from sd_space.recorded import ICON

from ..generated import sampled
from ..server import until
from . import faults, inside
from .rig import HUB_TOKEN, Rig, Rigs
from .scoreboard import Attempts, Mutant
from .visitor import FOR_PROGRAMMERS, QUICK, Answer, Visitor

MARKER, ADDRESS = "xyzzymarker", "203.0.113.77"
P = Attempts()


@dataclass
class Traces:
    """What a server was asked and answered with the marker in every prompt, its log at the finest level."""

    rig: Rig
    visitor: Visitor
    token: str
    served: Answer
    page: Answer
    fetched: list[int]  # the status of each picture of these two
    as_tool: str  # how MCP answered
    refused: list[Answer]
    log: str


def start(rigs: Rigs) -> Rig:
    rig = rigs.start(SD_SPACE_RESULT_TTL_S="10", SD_SPACE_TRUSTED_PROXIES="1")
    rig.do(logging.root.setLevel, logging.DEBUG)
    rig.do_in_engine(logging.root.setLevel, logging.DEBUG)
    return rig


@pytest.fixture(scope="module")
def traces(rigs):
    with traced(start(rigs)) as traces:
        yield traces


@contextmanager
def traced(rig: Rig) -> Iterator[Traces]:
    earlier = len(rig.log)
    visitor = Visitor(rig.url, headers={"X-Forwarded-For": ADDRESS})
    token = visitor.token()
    rig.new_files()
    ask = partial(visitor.generate, acceptance_token=token)
    served = ask(prompt=f"{MARKER} cat " * 60)
    values = visitor.page_values(token, prompt=MARKER, embed_recipe=False)
    page = visitor.join(visitor.fn_index("Prompt", "Steps"), values)
    fetched = [visitor.http.get(f"/gradio_api/file={path}").status_code for path in paths_in(served) + paths_in(page)]
    as_tool = asyncio.run(called_as_tool(rig, {"prompt": MARKER, "acceptance_token": token}))
    index = visitor.fn_index("Prompt", "Steps")
    refused = [
        ask(prompt=MARKER, seed=-9),
        ask(prompt=[MARKER]),
        ask(prompt=f"{MARKER}\x00"),
        ask(prompt=MARKER, scheduler=MARKER),
        visitor.generate(prompt=MARKER, acceptance_token="x" + token),
        visitor.call("generate", {"data": [MARKER]}, version=""),
        visitor.call("generate", {MARKER: MARKER}),
        visitor.join(index, [token, MARKER]),
        visitor.join(index, [*values[:5], MARKER, *values[6:]]),
        visitor.send("GET", f"/gradio_api/file={rig.results}/{MARKER}.png"),
    ]
    for target in ("encode_prompt", "denoise_step", "decode_latents"):
        with rig.patched(f"sd_space.engine.denoiser:Denoiser.{target}", partial(faults.raising, message=MARKER)):
            refused.append(ask(prompt=MARKER))
    with rig.patched("sd_space.serving.gate:Gate.admit", partial(faults.raising, message=MARKER)):
        refused.append(ask(prompt=MARKER))
    with rig.patched("sd_space.serving.results:ResultStore.save", partial(faults.raising, message=MARKER)):
        refused.append(ask(prompt=MARKER))
    try:
        yield Traces(rig, visitor, token, served, page, fetched, as_tool, refused, rig.log[earlier:])
    finally:
        visitor.close()


def paths_in(answer: Answer) -> list[str]:
    """Of the pictures that an answer names, of the page or of the endpoint."""
    return sorted(set(re.findall(r'"path": ?"([^"]+\.(?:png|webp))"', answer.body.decode())))


async def called_as_tool(rig: Rig, arguments: dict[str, str]) -> str:
    async with (
        streamable_http_client(f"{rig.url}/gradio_api/mcp/") as (read, write, _),
        ClientSession(read, write) as session,
    ):
        await session.initialize()
        return str((await session.call_tool("generate", QUICK | arguments)).content)


def get(traces: Traces, path: str) -> str:
    return traces.visitor.http.get(path).text


def file_of(traces: Traces) -> Path:
    return Path(traces.served.data[0][0]["path"])


for _id, _what, _secret in (
    ("P01", "a prompt in the log at its finest level", lambda t: MARKER),
    ("P02", "an acceptance token in the log", lambda t: t.token[:40]),
    ("P03", "a visitor's address in the log", lambda t: ADDRESS),
    ("P04", "the operator's Hub token in the log", lambda t: HUB_TOKEN),
    ("P05", "a result's name in the log", lambda t: f"{t.rig.results}/"),
):

    @P(_id, _what)
    def log_holds(traces: Traces, secret=_secret):
        assert traces.served.is_complete and traces.log
        assert len(traces.fetched) >= 2 and set(traces.fetched) == {200} and "image/png" in traces.as_tool
        assert secret(traces) not in traces.log


for _id, _path in (
    ("P06", "/metrics"), ("P07", "/config"), ("P08", "/gradio_api/info"), ("P09", "/readyz"), ("P10", "/"),
    ("P11", "/gradio_api/queue/status"),
):  # fmt: skip

    @P(_id, f"something of a visitor in {_path}")
    def page_holds(traces: Traces, path=_path):
        text = get(traces, path)
        assert text and not any(word in text for word in (MARKER, traces.token, ADDRESS, HUB_TOKEN))
        assert file_of(traces).parent.name not in text


@P("P12", "a path, token or place of the code in a refusal")
def refusals(traces: Traces):
    for answer in traces.refused:
        assert not FOR_PROGRAMMERS.search(answer.sentence), answer
        assert traces.token not in answer.sentence and HUB_TOKEN not in answer.sentence


@P("P13", "the prompt in a file's name or folder")
def names(traces: Traces):
    paths = [str(path) for path in traces.rig.folder.rglob("*")]
    assert paths and not any(MARKER in path for path in paths)


@P("P14", "the prompt in a picture whose visitor did not want it there")
def no_recipe(traces: Traces):
    assert traces.page.is_complete
    path = next(Path(m) for m in re.findall(r'"path":"([^"]+\.png)"', traces.page.body.decode()))
    data = path.read_bytes()
    assert MARKER.encode() not in data and b"Software" in data


@P("P15", "a path, address or user in a picture")
def chunks(traces: Traces):
    with Image.open(file_of(traces)) as picture:
        text = "".join(map(str, picture.info.values()))
    assert "/" + traces.rig.folder.name not in text and ADDRESS not in text and traces.token not in text


@P("P16", "a result kept by a cache on its way")
def no_store(traces: Traces):
    again = traces.visitor.generate(acceptance_token=traces.token)
    answer = traces.visitor.http.get(f"/gradio_api/file={again.data[0][0]['path']}")
    assert answer.status_code == 200
    kept, told = (answer.headers.get(name, "") for name in ("cache-control", "referrer-policy"))
    assert "no-store" in kept and told == "same-origin"


@P("P17", "a result's address guessed")
def unguessable(traces: Traces):
    again = [traces.visitor.generate(acceptance_token=traces.token) for _ in range(2)]
    folders = {Path(answer.data[0][0]["path"]).parent.name for answer in again}
    assert len(folders) == 2 and all(len(name) >= 22 for name in folders)  # 128 bits in base64
    assert traces.rig.results.stat().st_mode & 0o077 == 0


@contextmanager
def another_host() -> Iterator[tuple[str, list[str]]]:
    """Stands for any other host: the address of a picture there, and the paths that it is asked for."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Type", "image/png")
            self.end_headers()
            self.wfile.write(ICON.read_bytes())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://pictures.invalid:{server.server_port}/x.png", asked
        server.shutdown()


def found_here(original: Callable) -> Callable:
    """Every public name leads to this machine."""

    async def finds(hostname: str) -> str:
        return "127.0.0.1"

    return finds


def ask_everywhere(traces: Traces, url: str) -> None:
    """Gives every event and endpoint what Gradio takes for a file for each of its inputs, and as data of the event."""
    value = {"path": url, "url": url, "orig_name": "x.png", "meta": {"_type": "gradio.FileData"}}
    visitor, events = traces.visitor, [e for e in traces.visitor.config["dependencies"] if e["inputs"]]
    assert events, "the page has no events"
    with traces.rig.patched("safehttpx:async_validate_url", found_here):
        for event in events:
            data = [value] * len(event["inputs"])
            visitor.join(event["id"], data)
            body = {"data": data, "fn_index": event["id"], "session_hash": "files", "event_data": value}
            visitor.send("POST", "/gradio_api/run/predict", json=body)
        visitor.generate(acceptance_token=traces.token, prompt=value, negative_prompt=value)
        visitor.call("accept_license", {"agree": value})


@P("P18", "the server calls another host")
def foreign_hosts(traces: Traces):
    with another_host() as (url, asked):
        ask_everywhere(traces, url)
    assert asked == [], "it fetches what an input names"
    assert traces.rig.do(_foreign_hosts) == []


def _foreign_hosts() -> list[str]:
    return sorted(inside.foreign_hosts)


@P("P19", "an upload stays on the disk")
def uploads(traces: Traces):
    traces.rig.new_files()
    answer = traces.visitor.send("POST", "/gradio_api/upload", files={"files": ("gps.jpg", b"\xff\xd8\xff\xe1 GPS")})
    assert traces.rig.new_files() == [], "it is kept"
    assert answer.status == 404


@P("P23", "a file that an input names stays on the disk")
def named_files(traces: Traces):
    traces.rig.new_files()
    with another_host() as (url, _):
        ask_everywhere(traces, url.replace("x.png", "y.png"))
    assert traces.rig.new_files() == []


@P("P20", "an address or a prompt in the acceptance token")
def acceptance(traces: Traces):
    from .test_gate import claims_of

    assert claims_of(traces.token).keys() == {"licence", "at", "visitor"}


@P("P21", "a result that outlives its time")
def expires(traces: Traces):
    path = Path(traces.visitor.generate(acceptance_token=traces.token).data[0][0]["path"])
    traces.rig.do(faults.expire_after, 1.0)
    try:
        until(lambda: not path.parent.exists(), 5)
    finally:
        traces.rig.do(faults.expire_after, 600.0)
    assert traces.visitor.http.get(f"/gradio_api/file={path}").status_code == 404


@P("P22", "results that outlive the server")
def gone_with_the_server(traces: Traces):
    traces.visitor.generate(acceptance_token=traces.token)
    assert traces.rig.stop() == 0
    assert not list(traces.rig.results.rglob("*"))
    with pytest.raises(httpx.TransportError):
        httpx.get(traces.rig.url + "/healthz")


@pytest.mark.parametrize("attempt", list(P), ids=str)
def test_nothing_of_a_visitor_gets_out(traces, attempt):
    attempt.make(traces)


LOGGED = "secret(traces) not in"
RESULTS, HEADERS = "sd_space.serving.results:", "sd_space.serving.headers:ResponseHeaders."
MESSAGE_TOLD = ("type(current).__name__}", "type(current).__name__}: {current}", "P01", LOGGED)
MUTANTS = (  # the last one ends the server
    Mutant("sd_space.engine.engine:traceback_without_message", *MESSAGE_TOLD),
    Mutant("sd_space.serving.runs:traceback_without_message", *MESSAGE_TOLD),
    Mutant("sd_space.ui.events:traceback_without_message", *MESSAGE_TOLD),
    Mutant("sd_space.serving.gate:Gate._signed", "try:", "__import__('logging').info(token)\n    try:", "P02", LOGGED),
    Mutant("sd_space.serving.runs:Runs.start", "self._forget_expired()", "logger.info(place.address)", "P03", LOGGED),
    Mutant(f"{RESULTS}ResultStore._write", "path, part =", "logger.info(folder); path, part =", "P05", LOGGED),
    Mutant(
        "sd_space.ui.events:_as_gradio_errors",
        "traceback_without_message(error))",
        "traceback_without_message(error)); raise gr.Error(__file__)",
        "P12",
        "not FOR_PROGRAMMERS.search(answer.sentence)",
    ),
    Mutant(
        f"{RESULTS}ResultStore.save",
        'f"seed-{image.seed}"',
        "request.prompt[:20]",
        "P13",
        "not any(MARKER in path",
    ),
    Mutant("sd_space.serving.marks:Marks.write", "if embed_recipe else None", "", "P14", "MARKER.encode() not in data"),
    Mutant(f"{HEADERS}added", 'headers["Cache-Control"] = "private, no-store"', "pass", "P16", "no-store"),
    Mutant(f"{HEADERS}added", "headers.update(self._headers)", "pass", "P16", "no-store"),
    Mutant(f"{RESULTS}ResultStore._folder", "secrets.token_urlsafe(16)", "request_id[:8]", "P17", "len(folders) == 2"),
    Mutant(
        "sd_space.serving.envelope:scalar",
        "value is None or isinstance(value, str | int | float | bool)",
        "True",
        "P18",
        "it fetches what an input names",
    ),
    Mutant(
        "sd_space.serving.gate:Gate.issue_token",
        "secrets.token_urlsafe(9)}",
        "'', 'address': ''}",
        "P20",
        "claims_of(traces.token).keys()",
    ),
    Mutant(
        f"{RESULTS}ResultStore.sweep",
        "results.ended_s <= oldest_s",
        "False",
        "P21",
        "until(lambda: not path.parent.exists()",
    ),
    Mutant(
        f"{RESULTS}ResultStore.close",
        "self._result_folder.release()",
        "pass",
        "P22",
        "not list(traces.rig.results.rglob",
    ),
)


@pytest.fixture(scope="module")
def leaky(rigs):
    return start(rigs)


@pytest.mark.parametrize("mutant", sampled(MUTANTS, 1), ids=str)
def test_without_a_guard_something_gets_out(leaky, mutant):
    take_back = leaky.patch(mutant.target, partial(inside.rewritten, old=mutant.old, new=mutant.new))
    try:
        with traced(leaky) as traces, mutant.caught():
            P.named(mutant.caught_by).make(traces)
    finally:
        if leaky.process.poll() is None:
            take_back()
