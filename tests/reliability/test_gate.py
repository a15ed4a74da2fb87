"""G: nothing is drawn without an acceptance of exactly this licence, and nobody gets at another visitor's run."""

import asyncio
import contextlib
import io
import json
import re
import secrets
import socket
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from urllib.parse import urlsplit

import httpx
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from itsdangerous import URLSafeSerializer
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client
from PIL import Image
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from sd_space.card import load_card
from sd_space.errors import LicenceNotAccepted
from sd_space.serving.gate import Gate

from ..generated import sampled
from . import faults, inside
from .rig import SECRET, Rig, holds_picture
from .scoreboard import Attempts, Mutant, TooSlow
from .visitor import QUICK, Answer, Visitor

LIMIT_S = 2.0
_LOST_S = 12.0  # without a word but heartbeats, which come every 15 s; a step takes less than one
TTL_S = 30 * 86_400
G = Attempts()


def gate(secret: str = SECRET, age_s: float = 0.0, card=None) -> Gate:
    """The server's own gate as it was `age_s` ago."""
    return Gate(card or load_card(), secret, TTL_S, now_s=lambda: time.time() - age_s)


def is_token(word: bytes) -> bool:
    try:
        gate().verify_token(word.decode())
    except LicenceNotAccepted:
        return False
    return True


def assert_refused(rig: Rig, answers: Iterable[Answer], is_about_licence: bool = False) -> None:
    """No answer brings a picture or a token, none is an unexplained error, and nothing has begun on the device.

    Except for what visitors who have accepted draw meanwhile, which the attempt counts in `rig.invited`.
    """
    rig.new_files()
    before, number = rig.count("asked") - rig.invited, 0
    for answer in answers:
        number += 1
        assert not holds_picture(answer.body) and b".png" not in answer.body, answer
        assert not any(map(is_token, re.findall(rb"[\w-]{20,}\.[\w-]{20,}", answer.body))), answer
        if answer.status >= 400 or answer.event == "error":
            assert answer.status < 500, answer
            assert len(answer.sentence) > 10 and "Traceback" not in answer.sentence, answer
        if is_about_licence:
            assert "/accept_license" in answer.sentence, answer
        if answer.seconds >= LIMIT_S:
            raise TooSlow(answer)
    assert number, "nothing was asked"
    assert rig.count("asked") - rig.invited == before
    assert rig.invited or not rig.new_files()


# --- tokens that are none


def signed(claims: object, secret: str = SECRET, salt: str = "licence") -> str:
    return URLSafeSerializer(secret, salt=salt).dumps(claims)


def claims_of(token: str) -> dict:
    return URLSafeSerializer(SECRET, salt="licence").loads(token)


def flipped(token: str) -> str:
    return token[:5] + ("A" if token[5] != "A" else "B") + token[6:]


def older_card():
    return replace(load_card(), gate_prompt="An earlier text.")


FORGED = {  # id -> (what, from a valid token to one that is not)
    "G01": ("an empty token", lambda token: ""),
    "G02": ("a null token", lambda token: None),
    "G03": ("random letters", lambda token: secrets.token_urlsafe(60)),
    "G04": ("a token cut by one letter", lambda token: token[:-1]),
    "G05": ("a token with one bit flipped", flipped),
    "G06": ("a token of another key", lambda token: gate("another key").issue_token(True)),
    "G07": ("a token without signature", lambda token: token.rpartition(".")[0]),
    "G08": ("a token with an empty signature", lambda token: token.rpartition(".")[0] + "."),
    "G09": ("a token that says alg none", lambda token: f"eyJhbGciOiJub25lIn0.{token}"),
    "G10": ("a token that expired a second ago", lambda token: gate(age_s=TTL_S + 1).issue_token(True)),
    "G11": ("a token of tomorrow", lambda token: gate(age_s=-86_400).issue_token(True)),
    "G12": ("a token for an older licence text", lambda token: gate(card=older_card()).issue_token(True)),
    "G13": ("a token signed for another purpose", lambda token: signed(claims_of(token), salt="session")),
    "G14": ("a token with claims left out", lambda token: signed({"at": int(time.time())})),
    "G15": ("a token whose claims are no object", lambda token: signed(["licence", "at", "visitor"])),
    "G16": ("a token between blanks", lambda token: f" {token} "),
    "G17": ("a token in look-alike letters", lambda token: token.replace("e", "е").replace("a", "а")),
    "G18": ("a list of tokens", lambda token: [token]),
    "G19": ("a token as an object", lambda token: {"token": token}),
    "G20": ("a token of 60 kB", lambda token: token * 300),
}  # fmt: skip
NO_TEXT = ("G18", "G19")  # refused for what they are, before anybody asks whether they are an acceptance
for _id, (_what, _forge) in FORGED.items():
    G.add(_id, _what, lambda rig, visitor, token, forge=_forge: [visitor.generate(acceptance_token=forge(token))])


def events_taking(visitor: Visitor, *numbers: int) -> list[dict]:
    """The page's events with so many inputs, of which there must be one: an attempt at none of them shows nothing."""
    found = [event for event in visitor.config["dependencies"] if len(event["inputs"]) in numbers]
    assert found, f"no event of the page takes {numbers} inputs"
    return found


# --- ways round the token


@G("G21", "no token in any form of call")
def no_token(rig: Rig, visitor: Visitor, token: str):
    yield visitor.generate()
    yield visitor.call("generate", {"data": list(QUICK.values())}, version="")
    yield visitor.call("generate", {"data": ["a cat"]}, version="")


@G("G22", "the page's own Generate without a token")
def page_without_token(rig: Rig, visitor: Visitor, token: str):
    yield visitor.join(visitor.fn_index("Prompt", "Steps"), visitor.page_values(""))


@G("G23", "routes that skip the queue")
def immediate_routes(rig: Rig, visitor: Visitor, token: str):
    for path in ("run/generate", "api/generate", "run/predict", "api/predict", "predict", "run/0"):
        index = visitor.fn_index("Prompt", "Steps")
        body = {"data": visitor.page_values(""), "fn_index": index, "session_hash": "skips"}
        yield visitor.send("POST", f"/gradio_api/{path}", json=body)
        yield visitor.send("POST", f"/gradio_api/{path}", json={"data": list(QUICK.values())})


@G("G24", "every event by its number, with a form's values")
def every_event(rig: Rig, visitor: Visitor, token: str):
    for event in visitor.config["dependencies"]:
        width = len(event["inputs"])
        for values in (visitor.page_values(""), list(QUICK.values()), ["x"] * 20):
            padded = (values + [None] * 20)[:width]
            yield visitor.join(event["id"], padded)
            body = {"data": padded, "fn_index": event["id"], "session_hash": "every"}
            yield visitor.send("POST", "/gradio_api/run/predict", json=body)


@G("G25", "events by numbers that there are not")
def unknown_numbers(rig: Rig, visitor: Visitor, token: str):
    for index in (-1, 999, 10**9, "5", None, True, 1.0, [1], {}):
        yield visitor.join(index, visitor.page_values(""))


@G("G26", "a token in every place but its own")
def misplaced_token(rig: Rig, visitor: Visitor, token: str):
    body = {"json": QUICK}
    for more in (
        {"headers": {"Authorization": f"Bearer {token}"}},
        {"headers": {"Cookie": f"acceptance_token={token}; token={token}"}},
        {"params": {"acceptance_token": token}},
        {"headers": {"X-License": token}},
    ):
        yield visitor.call("generate", None, **body | more)


@G("G27", "a valid token overwritten by a later one")
def duplicate_fields(rig: Rig, visitor: Visitor, token: str):
    text = json.dumps(QUICK)[:-1] + f', "acceptance_token": "{token}", "acceptance_token": "forged"}}'
    yield visitor.call("generate", None, content=text, headers={"Content-Type": "application/json"})
    yield visitor.call("generate", None, json=QUICK | {"acceptance_token": "x"}, headers={"X-License-Token": token})


@G("G28", "an agreement that is none")
def no_agreement(rig: Rig, visitor: Visitor, token: str):
    index = visitor.fn_index("I have read the licence and accept it")
    accepts = [event for event in visitor.config["dependencies"] if event["inputs"] == _inputs(visitor, index)]
    for agree in (False, None, "true", "yes", 1, 1.0, [], [True], {"agree": True}):
        yield visitor.call("accept_license", {"agree": agree})
        for event in accepts:
            body = {"data": [agree], "fn_index": event["id"], "session_hash": "agrees"}
            yield visitor.send("POST", "/gradio_api/run/predict", json=body)


def _inputs(visitor: Visitor, index: int) -> list[int]:
    return next(event["inputs"] for event in visitor.config["dependencies"] if event["id"] == index)


@G("G29", "more values than there are inputs")
def extra_values(rig: Rig, visitor: Visitor, token: str):
    yield visitor.call("generate", {"data": [*QUICK.values(), "", token]}, version="")
    yield visitor.join(visitor.fn_index("Prompt", "Steps"), [*visitor.page_values(""), token, {"accepted": True}])


@G("G30", "the session of a visitor who has accepted")
def accepted_session(rig: Rig, visitor: Visitor, token: str):
    index = visitor.fn_index("Prompt", "Steps")
    accept = visitor.fn_index("I have read the licence and accept it")
    visitor.send(
        "POST", "/gradio_api/run/predict", json={"data": [True], "fn_index": accept, "session_hash": "accepted"}
    )
    yield visitor.join(index, visitor.page_values(""), session="accepted")
    for session in ("", "x" * 5000, None, 5, ["accepted"]):
        yield visitor.join(index, visitor.page_values(""), session=session if session is not None else {})


@G("G31", "another visitor's finished run without an acceptance")
def another_run(rig: Rig, visitor: Visitor, token: str):
    run_id = _finished_run(rig, visitor, token)
    for event in events_taking(visitor, *RESUMING):
        for forged in ("", "x", flipped(token), f"{token.partition('.')[0]}.x"):
            yield visitor.join(event["id"], [forged, run_id, run_id, "", ""][: len(event["inputs"])])


RESUMING = 2, 5  # inputs of the events that are about a run: the token and the run come first


def _finished_run(rig: Rig, visitor: Visitor, token: str) -> str:
    """The id of a run of the page, as its visitor's browser keeps it."""
    answer = visitor.join(visitor.fn_index("Prompt", "Steps"), visitor.page_values(token))
    assert answer.is_complete
    rig.invited += 1
    return re.search(rb'"output":\{"data":\["([\w-]{20,})"', answer.body)[1].decode()


@G("G32", "flags of the body that change how it is run")
def body_flags(rig: Rig, visitor: Visitor, token: str):
    index = visitor.fn_index("Prompt", "Steps")
    for more in (
        {"batched": True},
        {"simple_format": True},
        {"event_data": {"token": token}, "trigger_id": 1},
        {"event_id": "0" * 32},
        {"oauth_token": token},
        {"request": {"headers": {"x-license-token": token}}},
    ):
        yield visitor.join(index, visitor.page_values(""), **more)
        yield visitor.call("generate", {"data": ["a cat"]} | more, version="")


@G("G33", "a run's data replaced, or its end brought about, while it is drawn")
def swapped_data(rig: Rig, visitor: Visitor, token: str):
    with Victim(rig, token, "victim33") as victim:
        for path in (f"stream/{victim.event_id}", f"stream/{victim.event_id}/close", f"stream/{'0' * 32}"):
            answer = visitor.send("POST", f"/gradio_api/{path}", json={"data": visitor.page_values("", "another cat")})
            assert answer.status == 404, "the event's data may be replaced"
            yield answer
        victim.assert_served()


@G("G34", "the parts of components that run on the server")
def component_servers(rig: Rig, visitor: Visitor, token: str):
    for component in visitor.config["components"][:8]:
        for name in ("ls", "preprocess", "postprocess", "__init__"):
            body = {"data": None, "component_id": component["id"], "session_hash": "parts", "fn_name": name}
            yield visitor.send("POST", "/gradio_api/component_server", json=body)
    for path in ("deep_link?session_hash=x", "gradio_api/deep_link?session_hash=x"):
        yield visitor.send("GET", f"/{path}")


@G("G35", "consoles, uploads, proxies and documentation of the framework")
def consoles(rig: Rig, visitor: Visitor, token: str):
    gets = [
        "monitoring",
        "monitoring/summary",
        "openapi.json",
        "docs",
        "redoc",
        "gradio_api/openapi.json",
        "gradio_api/runs",
        "gradio_api/run-history/records",
        "gradio_api/vibe-code",
        "gradio_api/profiling/traces",
        "gradio_api/upload_progress",
        "gradio_api/dev/reload",
        "gradio_api/custom_component/x/client/component/index.js",
        "gradio_api/startup-events",
        "gradio_api/proxy=https://huggingface.co/",
        "gradio_api/stream/x/0/0/playlist.m3u8",
    ]
    posts = [
        "upload",
        "vibe-code",
        "vibe-edit",
        "undo-vibe-edit",
        "vibe-starter-queries",
        "process_recording",
        "profiling/clear",
        "run-history/connect",
        "component_server",
    ]
    for path in gets:
        answer = visitor.send("GET", f"/{path}")
        assert answer.status == 404, path
        yield answer
    for path in posts:
        answer = visitor.send("POST", f"/gradio_api/{path}", files={"files": ("cat.png", b"no picture")})
        assert answer.status == 404, path
        yield answer


@G("G36", "files that are no results")
def other_files(rig: Rig, visitor: Visitor, token: str):
    here = str(rig.results)
    paths = [
        "/etc/passwd", "app.py", f"{here}/", here, f"{here}/../x.log", f"{here}/x/../../server0.log", f"{here}//x",
        "http://127.0.0.1/", "https://huggingface.co/", ".gradio/cached_examples/0/log.csv", str(rig.log_path),
    ]  # fmt: skip
    for path in [*paths, *(path.replace("/", "%2f") for path in paths), *(p.replace(".", "%2e") for p in paths)]:
        answer = visitor.send("GET", f"/gradio_api/file={path}")
        assert answer.status == 404, path
        yield answer


@G("G37", "other methods, and other spellings of the paths")
def other_methods(rig: Rig, visitor: Visitor, token: str):
    for method in ("PUT", "PATCH", "DELETE", "TRACE", "PROPFIND"):
        yield visitor.send(method, "/gradio_api/call/v2/generate", json=QUICK)
    for header in ("X-HTTP-Method-Override", "X-Method-Override"):
        yield visitor.send("GET", "/gradio_api/run/generate", headers={header: "POST"})
    for path in ("//gradio_api/run/generate", "/gradio_api//run/generate", "/gradio_api/./run/generate",
                 "/gradio_api%2frun%2fgenerate", "/gradio_api/run/generate/", "/GRADIO_API/run/generate",
                 "/gradio_api/run/generate;x", "/x/../gradio_api/run/generate"):  # fmt: skip
        yield raw(rig, f"POST {path} HTTP/1.1", json.dumps({"data": list(QUICK.values())}).encode())


SWITCHED = b"HTTP/1.1 101"  # what comes then is no HTTP any more


def raw(
    rig: Rig,
    line: str,
    body: bytes = b"",
    headers: str = "",
    length: int | None = None,
    connection_is: str = "close",
) -> Answer:
    """What a client that follows no rules gets: the bytes go out as they are, as `length` of them or in parts."""
    address = urlsplit(rig.url)
    began_s = time.monotonic()
    with socket.create_connection((address.hostname, address.port), timeout=LIMIT_S + 0.5) as connection:
        head = f"{line}\r\nHost: {address.netloc}\r\nConnection: {connection_is}\r\n"
        head += f"Content-Type: application/json\r\n{headers}"
        if "Transfer-Encoding" not in headers:
            head += f"Content-Length: {length or len(body)}\r\n"
        connection.sendall(f"{head}\r\n".encode() + body)
        received = b""
        while not received.startswith(SWITCHED) and (chunk := connection.recv(65536)):
            received += chunk
    head, _, body = received.partition(b"\r\n\r\n")
    return Answer(int(head.split()[1]), body, time.monotonic() - began_s)


@G("G38", "a websocket")
def websocket(rig: Rig, visitor: Visitor, token: str):
    rig.do(open_websocket)
    upgrade = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw==\r\n"
    for path in (WEBSOCKET, "/queue/join", "/gradio_api/queue/join", "/"):
        answer = raw(rig, f"GET {path} HTTP/1.1", headers=upgrade, connection_is="Upgrade, close")
        assert answer.status in (200, 400, 403, 404, 405, 426), "a websocket is let in"
        assert answer.status != 200 or path == "/", "and the page is all that there is"
        yield replace(answer, body=b"", status=200)  # refused before there is a place for a sentence


WEBSOCKET = "/gradio_api/echo"


def open_websocket() -> None:
    """Puts one where Gradio's app would have it, so that there is something to reach."""

    async def accept(socket: WebSocket) -> None:
        await socket.accept()

    inside.gradio_queue().server_app.router.routes.insert(0, WebSocketRoute(WEBSOCKET, accept))


@G("G39", "MCP clients without an acceptance")
def mcp_without_acceptance(rig: Rig, visitor: Visitor, token: str):
    async def tools() -> list[str]:
        async with (
            streamable_http_client(f"{rig.url}/gradio_api/mcp/") as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            names = [tool.name for tool in (await session.list_tools()).tools]
            assert sorted(names) == ["accept_license", "compare", "generate", "model", "verify"]
            calls = [
                ("generate", QUICK),
                ("generate", QUICK | {"acceptance_token": flipped(token)}),
                ("on_generate", {}),
            ]
            return [str((await session.call_tool(name, arguments)).content) for name, arguments in calls]

    for text in asyncio.run(tools()):
        assert "accept" in text or "on_generate" in text
        yield Answer(200, text.encode(), 0.0)


@G("G40", "gradio_client without an acceptance")
def gradio_client_without_acceptance(rig: Rig, visitor: Visitor, token: str):
    client = Client(rig.url, verbose=False)
    for more in ({}, {"acceptance_token": flipped(token)}):
        with pytest.raises(AppError, match="/accept_license") as refusal:
            client.predict(**QUICK, **more, api_name="/generate")
        yield Answer(200, str(refusal.value).encode(), 0.0)


@G("G41", "fifty calls at once with a forged token")
def fifty_at_once(rig: Rig, visitor: Visitor, token: str):
    def call(_: int) -> Answer:
        return replace(visitor.generate(acceptance_token=flipped(token)), seconds=0.0)  # fifty share two cores

    with ThreadPoolExecutor(10) as pool:
        yield from pool.map(call, range(50))


@G("G42", "a pickled, compressed or foreign body")
def other_bodies(rig: Rig, visitor: Visitor, token: str):
    text = json.dumps(QUICK).encode()
    for headers, content in (
        ({"Content-Type": "application/x-www-form-urlencoded"}, b"prompt=cat&acceptance_token=x"),
        ({"Content-Type": "multipart/form-data; boundary=x"}, b"--x--"),
        ({"Content-Encoding": "gzip"}, text),
        ({"Content-Type": "application/json; charset=utf-16"}, text.decode().encode("utf-16")),
        ({}, b"\x80\x04\x95"),
    ):
        yield visitor.call("generate", None, content=content, headers=headers)


# --- what belongs to another visitor


class Victim:
    """An accepted visitor with a long run on the page, in the session `session`, who listens or has yet to."""

    def __init__(self, rig: Rig, token: str, session: str, listens: bool = True):
        rig.invited += 1
        self._visitor = Visitor(rig.url)
        self._visitor.http.timeout = 20  # between two words of the server, of which there are several a second
        index = self._visitor.fn_index("Prompt", "Steps")
        values = self._visitor.page_values(token, seed=99)
        values[3:5] = [2, 150]  # pictures, steps
        self.fn_index, self.session, self.answer = index, session, None
        body = {"fn_index": index, "data": values, "session_hash": session}
        self._posted = self._visitor.send("POST", "/gradio_api/queue/join", json=body)
        self.event_id = json.loads(self._posted.body)["event_id"]
        self._is_running = threading.Event()
        self._heard_s = time.monotonic()
        self._thread = threading.Thread(target=self._follow)
        if listens:
            self.listen()
            assert self._is_running.wait(30)

    def listen(self) -> None:
        self._thread.start()

    def _follow(self) -> None:
        path = f"/gradio_api/queue/data?session_hash={self.session}"
        with contextlib.suppress(httpx.TransportError):  # where a mutant lets the attempt succeed
            self.answer = self._visitor.events(path, self._posted, until=self._notice)

    def _notice(self, line: str) -> bool:
        """Whether there is nothing more to wait for: a lost run has nothing but heartbeats."""
        if line and "heartbeat" not in line:
            self._heard_s = time.monotonic()
        if "Step " in line:
            self._is_running.set()
        return time.monotonic() - self._heard_s > _LOST_S

    def __enter__(self) -> "Victim":
        return self

    def __exit__(self, *_) -> None:
        self._visitor.close()
        if self._thread.ident:
            self._thread.join(60)

    def assert_served(self) -> None:
        self._thread.join(60)
        if self._thread.is_alive():
            raise TooSlow("the victim is still served")
        is_served = self.answer is not None and self.answer.is_complete and b"seed-99.png" in self.answer.body
        assert is_served, "the victim lost its run"


@G("G43", "cancelling another's run by the session's name")
def cancel_by_session(rig: Rig, visitor: Visitor, token: str):
    with Victim(rig, token, "victim43") as victim:
        answers = []
        for event_id in ("", "0" * 32, None, "victim43"):
            body = {"session_hash": victim.session, "fn_index": victim.fn_index, "event_id": event_id}
            answers.append(visitor.send("POST", "/gradio_api/cancel", json=body))
        answers.append(visitor.send("POST", "/gradio_api/reset", json={"event_id": "0" * 32}))
        for event in events_taking(visitor, 1):
            body = {"data": [victim.session], "fn_index": event["id"], "session_hash": victim.session}
            answers.append(visitor.send("POST", "/gradio_api/run/predict", json=body))
        victim.assert_served()
        yield from answers


@G("G44", "listening in on another's run")
def second_listener(rig: Rig, visitor: Visitor, token: str):
    nothing = Answer(200, b"", 0.0)
    brief = rig.patched("sd_space.serving.event_streams:HANDOVER_S", partial(faults.value, new=0.2))
    with brief, Victim(rig, token, "victim44") as victim:
        path = f"/gradio_api/queue/data?session_hash={victim.session}"
        answer = visitor.events(path, nothing, until=lambda line: True)
        assert answer.status == 409, "a second one listens"
        yield answer
        victim.assert_served()
    with Victim(rig, token, "unheard44", listens=False) as victim:
        for name in (victim.session, "0" * 32):  # not an event's
            answer = visitor.events(f"/gradio_api/call/generate/{name}", nothing, until=lambda line: True)
            assert answer.status == 404, "a session's name is as good as an event's"
            yield answer
        victim.listen()
        victim.assert_served()


@G("G45", "ending another's session by its heartbeat")
def anothers_heartbeat(rig: Rig, visitor: Visitor, token: str):
    with Victim(rig, token, "victim45") as victim:
        for _ in range(3):
            answer = visitor.events(f"/gradio_api/heartbeat/{victim.session}", Answer(200, b"", 0.0), lambda line: True)
            assert answer.status == 404, "a stream without an end"
            yield answer
        victim.assert_served()


@G("G46", "another's run through an accepted visitor's own page")
def anothers_run(rig: Rig, visitor: Visitor, token: str):
    run_id, other = _finished_run(rig, visitor, token), visitor.token()

    def answer_to(event: dict, by: str, asked: object) -> Answer:
        return visitor.join(event["id"], [by, asked, asked, "", ""][: len(event["inputs"])])

    asked = rig.count("asked")
    # Those that draw what is asked for show its visitor a picture of whatever that is.
    events = [one for one in events_taking(visitor, *RESUMING) if b".png" not in answer_to(one, token, "a cat").body]
    own = [answer_to(event, token, run_id) for event in events]
    assert any(b".png" in answer.body for answer in own), "not even its own visitor is shown the run"
    rig.invited += rig.count("asked") - asked  # by one who has accepted
    for event in events:
        for guessed in (run_id, "", "0", "../", secrets.token_urlsafe(16), None, 5, ["x"]):
            yield answer_to(event, other, guessed)


@G("G47", "an acceptance that was withdrawn on the page")
def withdrawn(rig: Rig, visitor: Visitor, token: str):
    own = visitor.token()
    for event in events_taking(visitor, 1):
        body = {"data": [own], "fn_index": event["id"], "session_hash": "leaves"}
        visitor.send("POST", "/gradio_api/run/predict", json=body)
    yield visitor.generate(acceptance_token=own)


# --- the routes of OpenAI's clients

PAINTED = {"prompt": "a cat", "num_inference_steps": 1, "size": "64x64"}
GENERATIONS, EDITS = "/v1/images/generations", "/v1/images/edits"


def painted(visitor: Visitor, path: str = GENERATIONS, key: bytes | None = None, **options) -> Answer:
    """A request for a picture in OpenAI's shape, with that key."""
    if key is not None:
        options["headers"] = {b"Authorization": b"Bearer " + key}
    if path == EDITS:
        form = {"data": {name: str(value) for name, value in PAINTED.items()}, "files": {"image": ("a.png", SPECK)}}
        return visitor.send("POST", path, **form | options)
    return visitor.send("POST", path, **{"json": PAINTED} | options)


def speck() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 64)).save(file, "PNG")
    return file.getvalue()


SPECK = speck()


@G("G48", "OpenAI's clients with keys that are none")
def forged_keys(rig: Rig, visitor: Visitor, token: str):
    for id, (_, forge) in FORGED.items():
        if id in (*NO_TEXT, "G01", "G02", "G16"):  # no header can hold them
            continue
        for path in (GENERATIONS, EDITS):
            answer = painted(visitor, path, forge(token).encode())
            assert answer.status == (401 if id != "G20" else 431), "another answer than that the key is none"
            yield answer
        for more in ({"stream": True, "partial_images": 3}, {"response_format": "url"}):
            yield painted(visitor, key=forge(token).encode(), json=PAINTED | more)


@G("G49", "OpenAI's clients with a key in every place but its own")
def misplaced_key(rig: Rig, visitor: Visitor, token: str):
    for more in (
        {},
        {"headers": {"Authorization": f"Basic {token}"}},
        {"headers": {"Authorization": token}},
        {"headers": {"X-Api-Key": token, "Api-Key": token}},
        {"headers": {"Cookie": f"acceptance_token={token}; Authorization=Bearer {token}"}},
        {"params": {"acceptance_token": token, "api_key": token}},
        {"json": PAINTED | {"acceptance_token": token}},
        {"json": PAINTED | {"api_key": token, "user": token}},
    ):
        yield painted(visitor, **more)
        answer = visitor.send("GET", "/v1/models", **{k: v for k, v in more.items() if k != "json"})
        assert answer.status == 401, "the list is for anybody"
        yield answer


@G("G50", "bodies of OpenAI's clients that are sent before the key")
def keyless_bodies(rig: Rig, visitor: Visitor, token: str):
    for path in (GENERATIONS, EDITS):
        for content in (b"", b"{", b"x" * 10**5, json.dumps(PAINTED).encode(), b"--x--\r\n"):
            answer = painted(visitor, path, content=content, data=None, files=None, json=None)
            assert answer.status == 401, "read before the key"
            yield answer


@pytest.mark.parametrize("attempt", list(G), ids=str)
def test_nothing_is_drawn(rig, visitor, token, attempt):
    rig.invited = 0
    assert_refused(
        rig, attempt.make(rig, visitor, token), is_about_licence=attempt.id in FORGED and attempt.id not in NO_TEXT
    )


PICTURE, KEY = "not holds_picture(answer.body)", "another answer than that the key is none"
VERIFY, SIGNED = "sd_space.serving.gate:Gate.verify_token", "sd_space.serving.gate:Gate._signed"
FILTER = "sd_space.serving.middleware:RequestFilter"
ROUTES = "sd_space.serving.routes:Routes"
STREAMS = "sd_space.serving.event_streams:EventStreams"
MUTANTS = (
    Mutant(
        SIGNED,
        "raise LicenceNotAccepted(HOW_TO_ACCEPT)",
        "return self._digest, Acceptance('', self._now_s())",
        "G01",
        PICTURE,
    ),
    Mutant(
        SIGNED,
        "self._serializer.loads(token)",
        "self._serializer.loads_unsafe(token)[1]",
        "G06",
        PICTURE,
    ),
    Mutant(VERIFY, "<= self._token_ttl_s", "< float('inf')", "G10", PICTURE),
    Mutant(VERIFY, "-_CLOCK_SKEW_S <=", "float('-inf') <", "G11", PICTURE),
    Mutant(VERIFY, "licence != self._digest", "False", "G12", PICTURE),
    Mutant(
        SIGNED,
        "except (BadSignature, KeyError, TypeError, ValueError)",
        "except BadSignature",
        "G14",
        "answer.status < 500",
    ),
    Mutant(VERIFY, "acceptance.visitor in self._withdrawn", "False", "G47", PICTURE),
    Mutant("sd_space.serving.gate:Gate.issue_token", "agree is not True", "not agree", "G28", "map(is_token"),
    Mutant(
        SIGNED,
        "self._serializer.loads(token)",
        "self._serializer.loads_unsafe(token)[1]",
        "G31",
        PICTURE,
    ),
    Mutant(f"{ROUTES}._get", "return None", 'return Route(Kind.ASSET, path, ("",))', "G35", "answer.status == 404"),
    Mutant(f"{ROUTES}._post", "return None", "return Route(Kind.LOGOUT, plain, json)", "G33", "may be replaced"),
    Mutant(f"{FILTER}._forward_get", "if self._has_started:", "if False:", "G35", "answer.status == 404"),
    Mutant(
        f"{FILTER}._forward_get",
        "not self._contract.may_be_fetched(request.route.name)",
        "False",
        "G36",
        "answer.status == 404",
    ),
    Mutant(
        "sd_space.serving.incoming:page_event",
        "type(index) is not int or index not in inputs",
        "False",
        "G25",
        "answer.status < 500",
    ),
    Mutant(
        "sd_space.serving.incoming:_owned_cancellation",
        "or (None, 0)",
        "or (asked.session_hash, __import__('json').loads(body)['fn_index'])",
        "G43",
        "the victim lost its run",
    ),
    Mutant(f"{STREAMS}.only_listener", "if session in self._closed:", "if False:", "G44", "a second one listens"),
    Mutant(
        f"{STREAMS}._session",
        "self._contract.session_of(request.route.name)",
        "request.route.name",
        "G44",
        "as good as an event's",
    ),
    Mutant(SIGNED, "self._serializer.loads(token)", "self._serializer.loads_unsafe(token)[1]", "G48", KEY),
    Mutant("sd_space.serving.openai_api:_key", 'if scheme.lower() == "bearer"', "if True", "G49", PICTURE),
    Mutant(f"{FILTER}._forward_get", "self._openai.check_key(request.headers)", "pass", "G49", "for anybody"),
    Mutant(f"{FILTER}._forward_checked", "self._openai.check_key(headers)", "pass", "G50", "read before the key"),
    Mutant("sd_space.serving.runs:Runs.get", "and run.admitted.visitor == visitor", "", "G46", PICTURE),
)


@pytest.mark.parametrize("mutant", sampled(MUTANTS, 1), ids=str)
def test_without_a_guard_an_attempt_gets_through(rig, visitor, token, mutant):
    attempt, rig.invited = G.named(mutant.caught_by), 0
    with rig.without(mutant.target, mutant.old, mutant.new), mutant.caught():
        assert_refused(rig, attempt.make(rig, visitor, token), is_about_licence=attempt.id in FORGED)
    rig.wait_until_idle()


def test_an_accepted_visitor_is_served_after_all_that(rig, visitor, token):
    assert visitor.generate(acceptance_token=token).is_complete
    assert visitor.generate(acceptance_token=visitor.token(), seed=1).is_complete
