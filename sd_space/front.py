"""The front door: an ASGI middleware before Gradio's app.

It answers health and metrics itself, lets through only the routes that this page and API need, bounds what comes in,
and puts security headers on what goes out. What people accept and may ask is not its business: that is `gate.py`.
"""

import asyncio
import contextlib
import ipaddress
import json
import posixpath
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sd_space.metrics import Metrics
from sd_space.schema import BackendStatus
from sd_space.settings import Settings

MAX_BODY_BYTES = 64 * 1024  # the longest prompts, escaped, take a fifth of it
BODY_TIMEOUT_S = 15.0
MAX_HEADER_BYTES = 32 * 1024
MAX_ADDRESSES = 10_000
GLOBAL_FACTOR = 20  # all addresses together may call this many times as often as one

# What the page, gradio_client, curl and MCP clients ask for. Uploads, streams, proxies and consoles are not among it.
_GET = re.compile(
    r"/|/config/?|/theme\.css|/favicon\.ico|/robots\.txt|/manifest\.json|/pwa_icon(/\d+)?|/logout"
    r"|/(assets|static|svelte)/.+"
    r"|/gradio_api/(info/?|app_id/?|theme\.css|user/?|token/?|login_check/?|queue/data|queue/status"
    r"|heartbeat/[^/]+|file=.+|call/[^/]+/[^/]+|mcp/?|mcp/.+)"
)
_POST = re.compile(
    r"/login/?|/gradio_api/(queue/join|run/predict|call/[^/]+/?|call/v2/[^/]+/?|cancel|reset/?|mcp/?|mcp/.+)"
)
_WORK = re.compile(r"/login/?|/gradio_api/(queue/join|call/.+|mcp.*)")
_CALL = re.compile(r"/gradio_api/call/(v2/)?([^/]+)/?")
_EVENTS = ("/gradio_api/queue/join", "/gradio_api/run/predict")  # the page's own: queued ones and immediate ones
_CANCEL = "/gradio_api/cancel"
_FILE = "/gradio_api/file="
_STREAM = re.compile(r"/gradio_api/(queue/data|call/[^/]+/([^/]+))")
_MCP = "/gradio_api/mcp"
_VOUCHER = b"x-sd-space-caller"
_STREAM_HANDOVER_S = 1.0  # a page opens its next stream at the moment in which the server closes the last one
_STARTUP = "/gradio_api/startup-events"

# Gradio's page needs inline styles and scripts; nothing needs another host. The Hub shows Spaces in a frame.
_POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; object-src 'none'; base-uri 'self'; "
    "frame-ancestors 'self' https://huggingface.co https://*.huggingface.co https://*.hf.space"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


@dataclass(frozen=True, slots=True)
class Surface:
    """What Gradio's app offers, as far as its front door must know it."""

    endpoints: Mapping[str, Mapping[str, bool]]  # the public ones -> their parameters -> whether one must be given
    num_inputs: Mapping[int, int]  # of each event of the page, by its number
    files: Collection[Path]  # what may be fetched: files, and folders with all that is in them
    session_of: Callable[[str], str | None]  # the session of an event that runs or whose end is still to be told
    sweep: Callable[[Collection[str]], None]  # forgets sessions that are over; those with a listener are given
    is_queue_alive: Callable[[], bool]
    draws: Collection[str | int]  # the endpoints and the events' numbers that ask for pictures
    under_way: Callable[[], Collection[str]]  # the ids of events


@dataclass(slots=True, eq=False)
class _Call:
    """A call for pictures on its way to Gradio's queue, and then the event that it is there."""

    event_id: str | None = None


class Front:
    """Wraps the app. Refusals are JSON: {"error": sentence}. `now_s` is a monotonic clock.

    The app sees as `client` the address that calls are counted by, or none where nobody can be told from another.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        status: Callable[[], BackendStatus],
        metrics: Metrics,
        surface: Surface,
        now_s: Callable[[], float] = time.monotonic,
    ):
        self._app = app
        self._status = status
        self._metrics = metrics
        self._surface = surface
        self._trusted_proxies = settings.trusted_proxies
        self._settings = settings
        self._limiter = RateLimiter(settings.rate_per_minute, now_s)
        self._has_started = False
        self._key = secrets.token_hex(16)
        self._calls: set[_Call] = set()  # for pictures, those that are over among them until the next is counted
        self._streams: dict[str, asyncio.Event] = {}  # by session; set when the stream is over

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        self._surface.sweep(self._streams)
        send = _with_headers(scope["path"], send)
        address, is_vouched = self._caller(scope)
        scope["client"] = (address, 0) if address else None
        if (own := self._own_answer(scope["method"], scope["path"])) is not None:
            await own(scope, receive, send)
            return
        answer = self._refusal(scope, is_vouched)
        drawn = None
        if answer is None and scope["method"] == "POST":
            try:
                body = await asyncio.wait_for(_read(receive), BODY_TIMEOUT_S)
            except TimeoutError:
                answer = _refuse(408, f"The body did not arrive within {BODY_TIMEOUT_S:g} s; please send it again.")
            except ClientDisconnect:
                return
            else:
                called = self._called(scope["path"], body)
                if isinstance(called, Response):
                    answer = called
                elif called in self._surface.draws:
                    answer = self._crowd_refusal()
                    drawn = _Call() if answer is None else None
                receive = _replay(body, receive)
        if answer is not None:
            await self._turn_away(answer, scope, receive, send)
        elif scope["method"] == "GET" and _STREAM.fullmatch(scope["path"]):
            await self._stream(scope, receive, send)
        elif drawn is not None:
            await self._draw(drawn, scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _turn_away(self, answer: Response, scope: Scope, receive: Receive, send: Send) -> None:
        self._metrics.count_refusal(answer.status_code)
        await answer(scope, receive, send)

    async def _draw(self, call: _Call, scope: Scope, receive: Receive, send: Send) -> None:
        """Counts the call from now on until its event is over."""

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.body" and call.event_id is None:
                with contextlib.suppress(ValueError, TypeError, KeyError):
                    call.event_id = json.loads(message["body"])["event_id"]
            await send(message)

        self._calls.add(call)
        try:
            await self._app(scope, receive, sending)
        finally:
            if call.event_id is None:  # it became none
                self._calls.discard(call)

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One listener for each session: a second one would take the first one's messages, and end its run."""
        event_id = _STREAM.fullmatch(scope["path"])[2]
        if event_id is None:
            session = QueryParams(scope["query_string"]).get("session_hash")
            refusal = _refuse(400, "session_hash is missing; name the session to listen to.")
        else:  # an id that is no event's would be taken for the name of a session
            session = self._surface.session_of(event_id)
            refusal = _refuse(404, "There is no such run under way.")
        if not session:
            await self._turn_away(refusal, scope, receive, send)
            return
        if (earlier := self._streams.get(session)) is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(earlier.wait(), _STREAM_HANDOVER_S)
        if session in self._streams:
            refusal = _refuse(409, "Somebody listens to this session already.")
            await self._turn_away(refusal, scope, receive, send)
            return
        over = self._streams[session] = asyncio.Event()
        try:
            await self._app(scope, receive, send)
        finally:
            del self._streams[session]
            over.set()

    def _own_answer(self, method: str, path: str) -> Response | None:
        if method not in ("GET", "HEAD"):
            return None
        if path == "/healthz":
            return JSONResponse({"status": "ok"})
        if path == "/readyz":
            return self._readiness()
        if path == "/metrics":
            return Response(self._metrics.exposition(), media_type=CONTENT_TYPE_LATEST)
        return None

    def _readiness(self) -> Response:
        status = self._status()
        detail = f" ({status.detail})" if status.detail else ""
        reason = "" if status.is_ready else status.reason or f"Getting ready: {status.stage}{detail}."
        if not reason and not self._surface.is_queue_alive():
            reason = "The queue of the page has stopped and is started again."
        answer = {"status": "unready" if reason else "ready", "stage": str(status.stage), "reason": reason}
        if status.replicas:
            answer["replicas"] = dict(status.replicas)
        return JSONResponse(answer, 503 if reason else 200)

    def _refusal(self, scope: Scope, is_vouched: bool) -> Response | None:
        method, path, headers = scope["method"], scope["path"], Headers(scope=scope)
        if sum(len(name) + len(value) + 32 for name, value in headers.raw) > MAX_HEADER_BYTES:  # as HTTP/2 counts them
            return _refuse(431, f"The headers take more than {MAX_HEADER_BYTES // 1024} KiB.")
        if path == _STARTUP and method == "GET" and not self._has_started:
            self._has_started = True  # Gradio's own call while it launches; a second one would start its queue again
            return None
        pattern = {"GET": _GET, "HEAD": _GET, "POST": _POST, "DELETE": re.compile(r"/gradio_api/mcp/?")}.get(method)
        if method != "OPTIONS" and (pattern is None or not pattern.fullmatch(path)):
            return _refuse(404, "There is nothing at this address.")
        if path.startswith(_FILE) and not self._may_be_fetched(path.removeprefix(_FILE)):
            return _refuse(404, "There is no such file, or not any more.")
        if method != "POST":
            return None
        if headers.get("content-encoding", "identity") != "identity":
            return _refuse(415, "A compressed body is not accepted; send plain JSON.")
        if _WORK.fullmatch(path) and not is_vouched:  # a tool call has been counted when it came
            wait_s = self._limiter.seconds_to_wait(scope["client"][0] if scope["client"] else None)
            if wait_s:
                answer = _refuse(429, f"Too many calls from this address; please try again in {round(wait_s + 0.5)} s.")
                answer.headers["Retry-After"] = str(round(wait_s + 0.5))
                return answer
        return None

    def _caller(self, scope: Scope) -> tuple[str | None, bool]:
        """The caller's address, and whether this front door has vouched for it before.

        Gradio's MCP server makes a tool call as a client of this server, with the headers that came: one of ours says
        whose it is.
        """
        vouchers = [value for name, value in scope["headers"] if name == _VOUCHER]
        scope["headers"] = [(name, value) for name, value in scope["headers"] if name != _VOUCHER]
        key, _, vouched = vouchers[0].decode("latin-1").partition(":") if vouchers else ("", "", "")
        if secrets.compare_digest(key.encode(), self._key.encode()):
            return vouched or None, True
        address = self._address(scope)
        if scope["path"].startswith(_MCP):
            scope["headers"].append((_VOUCHER, f"{self._key}:{address or ''}".encode("latin-1")))
        return address, False

    def _address(self, scope: Scope) -> str | None:
        """The caller's address: the peer's, or what the outermost trusted proxy wrote down.

        `None` for this machine's own: through a share link or a proxy that is not trusted everybody comes from there.
        """
        if self._trusted_proxies:
            forwarded = ",".join(Headers(scope=scope).getlist("x-forwarded-for"))
            hops = [hop.strip() for hop in forwarded.split(",") if hop.strip()]
            if len(hops) >= self._trusted_proxies:
                return hops[-self._trusted_proxies]
        peer = scope["client"][0] if scope.get("client") else ""
        with contextlib.suppress(ValueError):
            return None if ipaddress.ip_address(peer).is_loopback else peer
        return None

    def _may_be_fetched(self, name: str) -> bool:
        """Whatever Gradio itself would serve: only our results and the pictures of the page, by their plain names."""
        path = Path(name)
        is_ours = any(path == root or root in path.parents for root in self._surface.files)
        return is_ours and posixpath.normpath(name) == name and path.is_file()

    def _called(self, path: str, body: bytes | None) -> Response | str | int | None:
        """The endpoint's name or the event's number, if it is a call, or what is wrong with it, in a sentence.

        Gradio would answer 500 to most of it.
        """
        if body is None:
            return _refuse(413, f"The body is larger than {MAX_BODY_BYTES // 1024} KiB; send a shorter prompt.")
        call = _CALL.fullmatch(path)
        if not call and path not in (*_EVENTS, _CANCEL):
            return None
        try:
            values = json.loads(body)
        except (ValueError, RecursionError):
            return _refuse(400, "The body is not valid JSON.")
        if not isinstance(values, dict):
            return _refuse(400, "The body must be a JSON object.")
        if path == _CANCEL:
            return self._cancel_refusal(values)
        if not call:
            return self._event_refusal(values) or values["fn_index"]
        is_named, name = call.groups()
        if name not in self._surface.endpoints:
            known = ", ".join(f"/{name}" for name in self._surface.endpoints)
            return _refuse(404, f"There is no such endpoint; there are {known}.")
        parameters = self._surface.endpoints[name]
        takes = f"/{name} takes {', '.join(parameters) or 'no parameters'}."
        if is_named:
            given = set(values) - {"session_hash"}
            if not given <= set(parameters):
                return _refuse(400, f"There is an unknown parameter: {takes}")
            missing = [name for name, is_required in parameters.items() if is_required and name not in given]
            return _refuse(400, f"{missing[0]} is missing: {takes}") if missing else name
        data = values.get("data")
        if not isinstance(data, list) or len(data) != len(parameters):
            return _refuse(400, f"data must be a list of {len(parameters)} values: {takes}")
        return name

    def _event_refusal(self, values: dict[str, Any]) -> Response | None:
        """An event of the page needs its number, its inputs and its session; Gradio would log what it got instead."""
        index, data = values.get("fn_index"), values.get("data")
        num_inputs = self._surface.num_inputs.get(index) if type(index) is int else None
        if num_inputs is None:
            return _refuse(400, "fn_index must be the number of one of the page's events.")
        if not isinstance(data, list) or len(data) != num_inputs:
            return _refuse(400, f"data must be a list of this event's {num_inputs} inputs.")
        session = values.get("session_hash")
        if not isinstance(session, str) or not 0 < len(session) <= 64:
            return _refuse(400, "session_hash must be text of 1 to 64 characters.")
        return None

    def _crowd_refusal(self) -> Response | None:
        """Says no at once to those for whom there can be no place: through Gradio a crowd hears so after seconds."""
        status, settings = self._status(), self._settings
        places = max(settings.most_under_way(status.replicas.get("running", 1)), settings.max_queue + status.running)
        under_way = self._surface.under_way()
        self._calls = {call for call in self._calls if call.event_id is None or call.event_id in under_way}
        if len(self._calls) < places:
            return None
        return _refuse(503, "Too many visitors are waiting already; please come back in a few minutes.")

    def _cancel_refusal(self, values: dict[str, Any]) -> Response | None:
        """Only who knows the event's unguessable id may cancel it: Gradio is content with the name of the session."""
        event_id = values.get("event_id")
        session = self._surface.session_of(event_id) if isinstance(event_id, str) else None
        if session is None or session != values.get("session_hash"):
            return _refuse(404, "There is no such run under way in this session.")
        return None


class RateLimiter:
    """A token bucket for each address, and one for all together: `per_minute` calls, and as many at once.

    Remembers the last 10,000 addresses, in memory only. A caller without an address counts in the common one alone.
    """

    def __init__(self, per_minute: int, now_s: Callable[[], float]):
        self._per_minute = per_minute
        self._now_s = now_s
        self._buckets: OrderedDict[str | None, tuple[float, float]] = OrderedDict()  # address -> (tokens, when)

    def seconds_to_wait(self, address: str | None) -> float:
        """0 if a call may go ahead now, and counts it; else the seconds after which one may."""
        waits = [self._wait(key, rate) for key, rate in self._rates(address)]
        if not any(waits):
            for key, rate in self._rates(address):
                self._buckets[key] = (self._tokens(key, rate) - 1, self._now_s())
                self._buckets.move_to_end(key)
            while len(self._buckets) > MAX_ADDRESSES:
                self._buckets.popitem(last=False)
        return max(waits)

    def _rates(self, address: str | None) -> list[tuple[str | None, int]]:
        own = [] if address is None else [(address, self._per_minute)]
        return [*own, (None, self._per_minute * GLOBAL_FACTOR)]

    def _tokens(self, key: str | None, rate: int) -> float:
        tokens, at_s = self._buckets.get(key, (rate, self._now_s()))
        return min(rate, tokens + (self._now_s() - at_s) * rate / 60)

    def _wait(self, key: str | None, rate: int) -> float:
        return max(0.0, (1 - self._tokens(key, rate)) * 60 / rate)


def _refuse(status: int, sentence: str) -> JSONResponse:
    return JSONResponse({"error": sentence}, status)


async def _read(receive: Receive) -> bytes | None:
    """The whole body, or `None` when it is too large. Raises ClientDisconnect when the caller has left."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            return None
        if not message.get("more_body"):
            return bytes(body)


def _replay(body: bytes | None, receive: Receive) -> Receive:
    """Hands the body on as one message, and then the connection's own messages, its end among them."""
    waiting: list[Message] = [{"type": "http.request", "body": body or b"", "more_body": False}]

    async def replayed() -> Message:
        return waiting.pop() if waiting else await receive()

    return replayed


def _with_headers(path: str, send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers.update(_HEADERS)
            if path.startswith(_FILE):
                headers["Cache-Control"] = "private, no-store"
        await send(message)

    return sending


def endpoint_parameters(info: Mapping[str, Any]) -> dict[str, dict[str, bool]]:
    """`Surface.endpoints`, from Gradio's description of an app (`Blocks.get_api_info`)."""
    return {
        name.removeprefix("/"): {p["parameter_name"]: not p["parameter_has_default"] for p in endpoint["parameters"]}
        for name, endpoint in info["named_endpoints"].items()
    }
