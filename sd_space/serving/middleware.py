"""The request filter: an ASGI middleware around Gradio's whole app.

It answers health and metrics itself, lets through only the routes that this page and API need, bounds what comes in,
writes each request anew from what it has understood of it, and lets answers out only in forms that are known. What
people accept and may ask is not its business: that is `gate.py`.
"""

import asyncio
import contextlib
import logging
import posixpath
import secrets
import time
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from starlette.datastructures import Headers, QueryParams
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sd_space.errors import QueueFull
from sd_space.schema import BackendStatus
from sd_space.serving.answers import BROKEN, KnownAnswer, refusal
from sd_space.serving.envelope import (
    Endpoints,
    Refusal,
    cancellation,
    encoded,
    endpoint_call,
    link_query,
    page_event,
    session_hash,
)
from sd_space.serving.headers import (
    ADDRESS_HEADER,
    PLACE_HEADER,
    TOOL_CALL_HEADER,
    ResponseHeaders,
    request_headers,
)
from sd_space.serving.limits import RETRY_AFTER_S, Capacity, Place, RateLimiter, limit_key
from sd_space.serving.login import login_body
from sd_space.serving.mcp_message import McpRefusal, mcp_message
from sd_space.serving.metrics import Metrics
from sd_space.serving.origins import Origins
from sd_space.serving.own_answers import OwnAnswers
from sd_space.serving.recipe import LINK_KEYS
from sd_space.serving.routes import Kind, Route, Routes
from sd_space.settings import Settings

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 64 * 1024  # the longest prompts, escaped, take a fifth of it
BODY_TIMEOUT_S = 15.0
MAX_HEADER_BYTES = 32 * 1024
PAGE_FACTOR = 10  # events that answer at once come each second while the model loads
_TOOL_CALL_KEPT_S = 60.0
_STREAM_HANDOVER_S = 1.0  # a page opens its next stream at the moment in which the server closes the last one
_WORK = (Kind.JOIN, Kind.CALL, Kind.NAMED_CALL, Kind.MCP, Kind.LOGIN)


@dataclass(frozen=True, slots=True)
class AppContract:
    """What Gradio's app offers, as far as its request filter must know it."""

    endpoints: Endpoints  # the public ones
    tools: Endpoints  # the same for MCP clients, by the tools' names; empty without MCP
    inputs: Mapping[int, Sequence[str]]  # their names, of each event of the page by its number
    files: Collection[Path]  # what may be fetched: files, and folders with all that is in them
    assets: Collection[str]  # the addresses of the parts of Gradio's page
    session_of: Callable[[str], str | None]  # the session of an event that runs or whose end is still to be told
    has_session: Callable[[str], bool]  # whether there is anything to listen to
    sweep: Callable[[Collection[str]], None]  # forgets sessions that are over; those with a listener are given
    is_queue_alive: Callable[[], bool]
    draws: Collection[str | int]  # the endpoints and the events' numbers that ask for pictures
    has_login: bool
    title: str
    icon: Path


@dataclass(slots=True, eq=False)
class _ToolCall:
    """A tool call of an MCP client: Gradio's MCP server makes it again as a client of this server."""

    address: str | None
    public_address: str
    has_left: bool = False
    places: list[Place] = field(default_factory=list)

    def leave(self) -> None:
        """Its client has gone: nobody will see what is being drawn for it."""
        self.has_left = True
        for place in self.places:
            place.abandon()


@dataclass(slots=True)
class _Request:
    """A request as the filter has understood it so far."""

    scope: Scope
    headers: Headers
    route: Route
    address: str | None
    public_address: str
    tool_call: _ToolCall | None  # the one on whose behalf it comes
    query: bytes = b""
    body: bytes | None = None
    content_type: str = "application/json"
    place: Place | None = None
    extra_headers: dict[str, str] = field(default_factory=dict)


class RequestFilter:
    """Wraps the app. Refusals are JSON: {"error": sentence}. `now_s` is a monotonic clock.

    The app sees as `client` the address that calls are counted by, or none where nobody can be told from another.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        status: Callable[[], BackendStatus],
        metrics: Metrics,
        contract: AppContract,
        capacity: Capacity,
        now_s: Callable[[], float] = time.monotonic,
    ):
        self._app = app
        self._metrics = metrics
        self._contract = contract
        self._capacity = capacity
        self._trusted_proxies = settings.trusted_proxies
        self._routes = Routes(contract.endpoints, contract.assets, contract.has_login, bool(contract.tools))
        self._own = OwnAnswers(status, metrics, contract.is_queue_alive, contract.title, contract.icon)
        self._origins = Origins(settings)
        self._response_headers = ResponseHeaders(settings)
        self._limiter = RateLimiter(settings.rate_per_minute, now_s)
        self._page_limiter = RateLimiter(settings.rate_per_minute * PAGE_FACTOR, now_s)
        self._has_started = False
        self._tool_calls: dict[str, _ToolCall] = {}  # those under way, by an id that only Gradio's MCP server is given
        self._streams: dict[str, asyncio.Event] = {}  # by session; set when the stream is over

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, self._response_headers.added(scope, send))
        else:  # Gradio has no other kind
            await send({"type": "websocket.close", "code": 1008})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_begun = is_complete = False

        async def noticing(message: Message) -> None:
            nonlocal has_begun, is_complete
            has_begun = True
            is_complete = message["type"] == "http.response.body" and not message.get("more_body")
            await send(message)

        try:
            answer = await self._forward_or_refuse(scope, receive, noticing)
        except ClientDisconnect:
            return
        except Refusal as refused:
            answer = refusal(refused.status, refused.sentence)
            if refused.retry_after_s:
                answer.headers["Retry-After"] = str(round(refused.retry_after_s + 0.5))
        except McpRefusal as refused:
            answer = JSONResponse(refused.answer, refused.status)
        except Exception as error:  # whatever it is, its words are not for callers, nor for the log
            place = traceback.extract_tb(error.__traceback__)[-1]
            logger.error("a request failed: %s in %s:%s", type(error).__name__, Path(place.filename).name, place.lineno)
            answer = refusal(500, BROKEN)
        if has_begun and not is_complete:  # it broke on the way: what has been sent is all that there is
            await send({"type": "http.response.body", "body": b""})
        elif answer is not None and not has_begun:
            if answer.status_code >= 400:
                self._metrics.count_refusal(answer.status_code)
            await answer(scope, receive, send)

    async def _forward_or_refuse(self, scope: Scope, receive: Receive, send: Send) -> Response | None:
        """An answer of our own, or `None` once the app has answered. Raises Refusal and McpRefusal."""
        self._contract.sweep(self._streams)
        headers = Headers(scope=scope)
        if sum(len(name) + len(value) + 32 for name, value in headers.raw) > MAX_HEADER_BYTES:  # as HTTP/2 counts them
            raise Refusal(431, f"The headers take more than {MAX_HEADER_BYTES // 1024} KiB.")
        if (own := self._own.find(scope["method"], scope["path"])) is not None:
            return own
        tool_call = self._tool_calls.get(headers.get(TOOL_CALL_HEADER, ""))
        if tool_call is not None and tool_call.has_left:
            raise Refusal(404, "Nobody waits for this call any more.")
        if tool_call is None:
            address = self._address(scope, headers)
            public_address = self._origins.public_address(headers, scope["scheme"])
        else:
            address, public_address = tool_call.address, tool_call.public_address
        request = _Request(scope, headers, self._route(scope), address, public_address, tool_call)
        if scope["method"] == "POST":
            self._check_rate(request)
            await self._read(request, receive)
            if request.route.kind is Kind.RESET:  # clients send it along; Gradio does nothing with it either
                return JSONResponse({"success": True})
            receive = _replay(request.body or b"", receive)
        elif request.route.kind in (Kind.STREAM, Kind.EVENT_STREAM):
            await self._stream(request, receive, send)
            return None
        elif request.route.kind is Kind.FILE and not self._may_be_fetched(request.route.name):
            raise Refusal(404, "There is no such file, or not any more.")
        elif request.route.kind is Kind.STARTUP:
            if self._has_started:  # a second one would start Gradio's queue again
                raise Refusal(404, "There is nothing at this address.")
            self._has_started = True
        if request.route.kind is Kind.MCP:
            await self._forward_tool_call(request, receive, send)
        else:
            await self._forward(request, receive, send)
        return None

    def _route(self, scope: Scope) -> Route:
        method, path = scope["method"], scope["path"]
        route = self._routes.find(method, path)
        if route is None and (methods := self._routes.methods(path)) and method not in methods:
            raise Refusal(405, f"This address takes {' and '.join(methods)} only.")
        if route is None:
            raise Refusal(404, "There is nothing at this address.")
        if method == "HEAD" and route.kind not in (Kind.PAGE, Kind.FILE):
            raise Refusal(405, "This address takes GET only.")
        if method == "POST" and self._origins.is_foreign(Headers(scope=scope)):
            raise Refusal(
                403, "Another site's page may not call this server; set SD_SPACE_PUBLIC_URL if this is its own address."
            )
        return route

    def _check_rate(self, request: _Request) -> None:
        """Counts the call. A tool call has been counted when it came."""
        if request.tool_call is not None:
            return
        limiter = self._limiter if request.route.kind in _WORK else self._page_limiter
        if wait_s := limiter.seconds_to_wait(request.address):
            seconds = round(wait_s + 0.5)
            raise Refusal(429, f"Too many calls from this address; please try again in {seconds} s.", wait_s)

    async def _read(self, request: _Request, receive: Receive) -> None:
        """Reads the body, and writes it anew from what it asks for; a request for pictures takes its place."""
        route, contract = request.route, self._contract
        if request.headers.get("content-encoding", "identity") != "identity":
            raise Refusal(415, "A compressed body is not accepted; send plain JSON.")
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if route.kind is not Kind.LOGIN and media_type != "application/json":
            raise Refusal(415, "The body must be JSON; send the header Content-Type: application/json with it.")
        if (length := request.headers.get("content-length", "")).isdecimal() and int(length[:9]) > MAX_BODY_BYTES:
            raise _too_large()
        try:
            body = await asyncio.wait_for(_body(receive), BODY_TIMEOUT_S)
        except TimeoutError:
            raise Refusal(408, f"The body did not arrive within {BODY_TIMEOUT_S:g} s; please send it again.") from None
        asked: str | int | None = None
        match route.kind:
            case Kind.LOGIN:
                request.body = await login_body(request.headers, body)
                request.content_type = "application/x-www-form-urlencoded"
            case Kind.MCP:
                request.body = encoded(mcp_message(body, contract.tools).body())
            case Kind.CANCEL:
                request.body = encoded(self._owned_cancellation(body))
            case Kind.JOIN | Kind.PREDICT:
                event = page_event(body, contract.inputs)
                request.body, asked = encoded(event.body()), event.fn_index
                request.query = link_query(request.scope["query_string"], LINK_KEYS)
            case Kind.CALL | Kind.NAMED_CALL:
                call = endpoint_call(route.name, route.kind is Kind.NAMED_CALL, body, contract.endpoints)
                request.body, asked = encoded(call.body()), call.name
                request.route = Route(Kind.CALL, call.path, route.media_types, call.name)
        if asked in contract.draws:
            self._enter(request)

    def _owned_cancellation(self, body: bytes) -> dict[str, object]:
        """Only who knows an event's unguessable id may cancel it: Gradio is content with the name of the session."""
        asked = cancellation(body)
        if not asked.event_id or self._contract.session_of(asked.event_id) != asked.session_hash:
            raise Refusal(404, "There is no such run under way in this session.")
        return asked.body()

    def _enter(self, request: _Request) -> None:
        """Says no at once to those for whom there is no room: through Gradio a crowd hears so after seconds."""
        try:
            request.place = self._capacity.enter(request.address)
        except QueueFull as full:
            raise Refusal(429, str(full), RETRY_AFTER_S) from None
        request.extra_headers |= {PLACE_HEADER: request.place.id, ADDRESS_HEADER: request.public_address}
        if request.tool_call is not None:
            request.tool_call.places.append(request.place)

    async def _forward(self, request: _Request, receive: Receive, send: Send) -> None:
        """Has the app answer the request as it is written anew."""
        answer = KnownAnswer(request.route, request.scope, receive, send, request.public_address)
        place = request.place
        if place is not None:
            answer.on_json = lambda values: setattr(place, "event_id", values["event_id"])
        scope = request.scope | {
            "path": request.route.path,
            "raw_path": request.route.path.encode("utf-8", "surrogateescape"),
            "query_string": request.query,
            "headers": request_headers(request.headers, request.body, request.content_type, request.extra_headers),
            "client": (request.address, 0) if request.address else None,
            "scheme": "http",
            "root_path": "",
        }
        try:
            await self._app(scope, receive, answer.send)
        except Exception:
            if place is not None and place.event_id is None:
                self._capacity.release(place)
            raise
        if place is not None and place.event_id is None:  # it became no event
            self._capacity.release(place)

    async def _forward_tool_call(self, request: _Request, receive: Receive, send: Send) -> None:
        """Follows a message of an MCP client: when its client leaves, what it asked for is not drawn to the end."""
        call, call_id = _ToolCall(request.address, request.public_address), secrets.token_urlsafe(16)

        async def noticing() -> Message:
            message = await receive()
            if message["type"] == "http.disconnect":
                call.leave()
            return message

        self._tool_calls[call_id] = call
        request.extra_headers[TOOL_CALL_HEADER] = call_id
        try:
            await self._forward(request, noticing, send)
        finally:
            call.leave()
            # Gradio may only now be about to make the call of a client that has left already.
            asyncio.get_running_loop().call_later(_TOOL_CALL_KEPT_S, self._tool_calls.pop, call_id)

    async def _stream(self, request: _Request, receive: Receive, send: Send) -> None:
        """One listener for each session: a second one would take the first one's messages, and end its run."""
        if request.route.kind is Kind.EVENT_STREAM:
            session = self._contract.session_of(request.route.name)
            # An id that is no event's would be taken for the name of a session.
            if session is None or not self._contract.has_session(session):
                raise Refusal(404, "There is no such run under way.")
        else:
            session = session_hash(QueryParams(request.scope["query_string"]).get("session_hash"))
            if not self._contract.has_session(session):
                raise Refusal(404, "There is nothing to listen to in this session.")
            request.query = f"session_hash={session}".encode()
        if (earlier := self._streams.get(session)) is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(earlier.wait(), _STREAM_HANDOVER_S)
        if session in self._streams:
            raise Refusal(409, "Somebody listens to this session already.")
        over = self._streams[session] = asyncio.Event()
        try:
            await self._forward(request, receive, send)
        finally:
            del self._streams[session]
            over.set()

    def _address(self, scope: Scope, headers: Headers) -> str | None:
        """The caller's address: the peer's, or what the outermost trusted proxy wrote down.

        `None` for this machine's own: through a share link or a proxy that is not trusted everybody comes from there.
        """
        if self._trusted_proxies:
            hops = [hop.strip() for hop in ",".join(headers.getlist("x-forwarded-for")).split(",") if hop.strip()]
            if len(hops) >= self._trusted_proxies:
                return limit_key(hops[-self._trusted_proxies])
        key = limit_key(scope["client"][0] if scope.get("client") else "")
        return None if key is None or key.startswith("127.") or key == "::/64" else key

    def _may_be_fetched(self, name: str) -> bool:
        """Whatever Gradio itself would serve: only our results and the pictures of the page, by their plain names."""
        path = Path(name)
        is_ours = any(path == root or root in path.parents for root in self._contract.files)
        if not is_ours or posixpath.normpath(name) != name:
            return False
        try:
            return path.is_file()
        except (OSError, ValueError):  # a name that no file can have
            return False


def _too_large() -> Refusal:
    return Refusal(413, f"The body is larger than {MAX_BODY_BYTES // 1024} KiB; send a shorter prompt.")


async def _body(receive: Receive) -> bytes:
    """The whole body. Raises Refusal when it is too large, ClientDisconnect when the caller has left."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            raise _too_large()
        if not message.get("more_body"):
            return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Hands the body on as one message, and then the connection's own messages, its end among them."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return waiting.pop() if waiting else await receive()

    return replayed
