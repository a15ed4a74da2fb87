"""The request filter: an ASGI middleware around Gradio's whole app.

It answers health and metrics itself, lets through only the routes that this page and API need, bounds what comes in,
writes each request anew from what it has parsed, and passes answers on only in known forms. The licence and the values
of requests are checked in `gate.py`.
"""

import asyncio
import logging
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from starlette.datastructures import Headers
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sd_space.errors import QueueFull
from sd_space.languages import Phrase, speaking
from sd_space.schema import BackendStatus
from sd_space.serving.answers import BROKEN, KnownAnswer
from sd_space.serving.app_contract import AppContract
from sd_space.serving.callers import language_of
from sd_space.serving.envelope import Refusal
from sd_space.serving.event_streams import EventStreams
from sd_space.serving.gate import sent_token
from sd_space.serving.headers import ADDRESS_HEADER, PLACE_HEADER, ResponseHeaders, login_cookie, request_headers
from sd_space.serving.incoming import MAX_BODY_BYTES, IncomingRequest, read_body, replay
from sd_space.serving.limits import RETRY_AFTER_S, Capacity, OpenRequests, Place, RateLimiter, client_address
from sd_space.serving.mcp_message import McpRefusal, tool_error
from sd_space.serving.metrics import Metrics
from sd_space.serving.openai_api import OpenAiApi
from sd_space.serving.openai_errors import refused_at
from sd_space.serving.origins import Origins
from sd_space.serving.own_answers import OwnAnswers
from sd_space.serving.routes import Kind, Route, Routes
from sd_space.serving.tool_calls import ToolCall, ToolCalls
from sd_space.settings import Settings

logger = logging.getLogger(__name__)

MAX_HEADER_BYTES = 32 * 1024
PAGE_FACTOR = 10  # events that answer at once come each second while the model loads
_RETRY_AFTER = {"Retry-After": str(RETRY_AFTER_S)}
_COMPRESSED = (Kind.PAGE, Kind.PUBLIC_JSON)  # nothing in them is secret: what is could be guessed from lengths
_WORK = (Kind.JOIN, Kind.CALL, Kind.NAMED_CALL, Kind.MCP, Kind.LOGIN, Kind.IMAGES)


class RequestFilter:
    """Wraps the app. Refusals are JSON: {"error": sentence}, below /v1 as OpenAI writes them. `now_s` is a monotonic
    clock.

    Sets scope["client"] to the address used for rate limits, or to None where clients share one address.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        status: Callable[[], BackendStatus],
        metrics: Metrics,
        contract: AppContract,
        capacity: Capacity,
        max_open_per_address: int,
        openai: OpenAiApi | None = None,
        now_s: Callable[[], float] = time.monotonic,
    ):
        self._app = app
        self._metrics = metrics
        self._contract = contract
        self._capacity = capacity
        self._trusted_proxies = settings.trusted_proxies
        self._openai = openai
        self._routes = Routes(contract, openai is not None)
        self._own = OwnAnswers(status, metrics, contract)
        self._origins = Origins(settings)
        self._response_headers = ResponseHeaders(settings)
        self._limiter = RateLimiter(settings.rate_per_minute, now_s)
        self._page_limiter = RateLimiter(settings.rate_per_minute * PAGE_FACTOR, now_s)
        self._open = OpenRequests(max_open_per_address)
        self._has_started = False
        self._tool_calls = ToolCalls()
        self._streams = EventStreams(contract)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            with speaking(language_of(Headers(scope=scope))):
                await self._answer(scope, receive, self._response_headers.added(scope, send))
        else:  # Gradio has no other kind
            await send({"type": "websocket.close", "code": 1008})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_begun = is_complete = False

        async def watched_send(message: Message) -> None:
            nonlocal has_begun, is_complete
            has_begun = True
            is_complete = message["type"] == "http.response.body" and not message.get("more_body")
            await send(message)

        try:
            answer = await self._forward_or_refuse(scope, receive, watched_send)
        except ClientDisconnect:
            return
        except Refusal as refused:
            answer = refused_at(scope["path"], refused)
        except McpRefusal as refused:
            answer = JSONResponse(refused.answer, refused.status, refused.headers)
        except Exception as error:  # its message may hold a prompt: neither callers nor the log get it
            place = traceback.extract_tb(error.__traceback__)[-1]
            logger.error("a request failed: %s in %s:%s", type(error).__name__, Path(place.filename).name, place.lineno)
            answer = refused_at(scope["path"], Refusal(500, BROKEN))
        if has_begun and not is_complete:  # it failed in the middle of an answer, which ends here
            await send({"type": "http.response.body", "body": b""})
        elif answer is not None and not has_begun:
            if answer.status_code >= 400:
                self._metrics.count_refusal(answer.status_code)
            await answer(scope, receive, send)

    async def _forward_or_refuse(self, scope: Scope, receive: Receive, send: Send) -> Response | None:
        """An answer of our own, or `None` once the app has answered. Raises Refusal and McpRefusal."""
        self._contract.evict_idle(self._streams.sessions)
        headers = Headers(scope=scope)
        if len(headers.getlist("host")) != 1 and scope.get("http_version") == "1.1":  # RFC 9112, section 3.2
            raise Refusal(400, "The request must have one Host header.")
        if sum(len(name) + len(value) + 32 for name, value in headers.raw) > MAX_HEADER_BYTES:  # as HTTP/2 counts them
            raise Refusal(431, f"The headers take more than {MAX_HEADER_BYTES // 1024} KiB.")
        root = self._origins.public_address(headers, scope["scheme"])
        if (own := self._own.find(scope["method"], scope["path"], root)) is not None:
            return own
        with self._open.counted(client_address(scope, headers, self._trusted_proxies)):
            return await self._forward_checked(scope, headers, receive, send)

    async def _forward_checked(self, scope: Scope, headers: Headers, receive: Receive, send: Send) -> Response | None:
        """The same for a request whose head is known to be of a sound size."""
        tool_call = self._tool_calls.find(headers)
        request = self._incoming(scope, headers, tool_call)
        if scope["method"] != "POST":
            return await self._forward_get(request, receive, send)
        self._check_rate(request)
        if request.route.kind is Kind.IMAGES and self._openai is not None:
            self._openai.check_key(headers)
        with self._capacity.reading() as count:
            return await self._forward_post(request, tool_call, receive, send, count)

    async def _forward_post(
        self,
        request: IncomingRequest,
        tool_call: ToolCall | None,
        receive: Receive,
        send: Send,
        count: Callable[[int], None],
    ) -> Response | None:
        try:
            await read_body(request, receive, self._contract, count)
        except QueueFull as full:
            raise Refusal(429, full.message, _RETRY_AFTER) from None
        if request.route.kind is Kind.RESET:  # clients send it along; Gradio does nothing with it either
            return JSONResponse({"success": True})
        if request.cancels is not None:  # at once: a page's run would wait for its page to come back
            self._capacity.abandon(request.cancels)
            if not self._contract.is_alone(request.cancels):
                return JSONResponse({"success": True})
        if request.asks in self._contract.draws:
            self._enter(request, tool_call)
        if request.route.kind is Kind.IMAGES and self._openai is not None:
            await self._openai.images(request, receive, send)
            return None
        receive = replay(request.body or b"", receive)
        if request.route.kind is Kind.MCP:
            with self._tool_calls.followed(request, receive) as followed:
                await self._forward(request, followed, send)
        else:
            await self._forward(request, receive, self._streams.after_its_end(request, send))
        return None

    def _incoming(self, scope: Scope, headers: Headers, tool_call: ToolCall | None) -> IncomingRequest:
        """The request with its route, and with the addresses of its caller: of the client where it is a tool call."""
        if tool_call is not None:
            address, public_address = tool_call.address, tool_call.public_address
        else:
            address = client_address(scope, headers, self._trusted_proxies)
            public_address = self._origins.public_address(headers, scope["scheme"])
        route = self._route(scope, headers)
        return IncomingRequest(scope, headers, route, address, public_address, is_tool_call=tool_call is not None)

    async def _forward_get(self, request: IncomingRequest, receive: Receive, send: Send) -> Response | None:
        kind = request.route.kind
        if kind is Kind.MODELS and self._openai is not None:
            self._openai.check_key(request.headers)
            return self._openai.models(request.route.name)
        if kind in (Kind.STREAM, Kind.EVENT_STREAM):
            return await self._streams.serve(request, receive, send, self._forward)
        if kind is Kind.FILE and not self._contract.may_be_fetched(request.route.name):
            raise Refusal(404, "There is no such file, or not any more.")
        if kind is Kind.FILE and (signed := await self._signed_recording(request.route.name)) is not None:
            return Response(signed, media_type="image/png")
        if kind is Kind.STARTUP:
            if self._has_started:  # a second one would start Gradio's queue again
                raise Refusal(404, "There is nothing at this address.")
            self._has_started = True
        if kind is Kind.LOGOUT:  # else Gradio ends all logins of the same name
            request.query = b"all_session=false"
        await self._forward(request, receive, send)
        return None

    async def _signed_recording(self, name: str) -> bytes | None:
        recordings = self._contract.recordings
        return await asyncio.to_thread(recordings.find, name) if recordings and name in recordings else None

    def _route(self, scope: Scope, headers: Headers) -> Route:
        method, path = scope["method"], scope["path"]
        route = self._routes.find(method, path)
        if route is None and (methods := self._routes.methods(path)) and method not in methods:
            raise _wrong_method(methods)
        if route is None:
            raise Refusal(404, "There is nothing at this address.")
        if method == "HEAD" and route.kind not in (Kind.PAGE, Kind.FILE, Kind.ASSET):
            raise _wrong_method(["GET"])
        if (method == "POST" or route.kind is Kind.LOGOUT) and self._origins.is_foreign(headers):
            raise Refusal(
                403, "Another site's page may not call this server; set SD_SPACE_PUBLIC_URL if this is its own address."
            )
        return route

    def _check_rate(self, request: IncomingRequest) -> None:
        """Counts the call. A tool call was counted when its client called."""
        if request.is_tool_call:
            return
        limiter = self._limiter if request.route.kind in _WORK else self._page_limiter
        if wait_s := limiter.seconds_to_wait(request.address):
            seconds = round(wait_s + 0.5)
            sentence = Phrase("Too many calls from this address; please try again in {seconds} s.", seconds=seconds)
            raise Refusal(429, sentence, {"Retry-After": str(seconds)})

    def _enter(self, request: IncomingRequest, tool_call: ToolCall | None) -> None:
        """Takes a place for a request for pictures. Where there is none, its caller learns so before Gradio is asked.

        Raises Refusal or McpRefusal: through Gradio's queue a crowd would get that answer after seconds.
        """
        if tool_call is not None and tool_call.place is not None:  # taken when the tool was called
            request.place = tool_call.place
        else:
            request.place = self._new_place(request)
        if len(request.body or b"") > MAX_BODY_BYTES:
            request.place.body_bytes = len(request.body or b"")
        if tool_call is not None:
            tool_call.place = request.place
        request.extra_headers |= {PLACE_HEADER: request.place.id, ADDRESS_HEADER: request.public_address}

    def _new_place(self, request: IncomingRequest) -> Place:
        token = sent_token(request.values.get("acceptance_token"), request.headers)
        try:
            return self._capacity.enter(request.address, self._contract.visitor_of(token))
        except QueueFull as full:
            if request.route.kind is Kind.MCP:  # its clients take any other status for a broken connection
                raise McpRefusal(200, tool_error(request.rpc_id, str(full)), _RETRY_AFTER) from None
            raise Refusal(429, full.message, _RETRY_AFTER) from None

    async def _forward(self, request: IncomingRequest, receive: Receive, send: Send) -> None:
        """Passes the rewritten request to the app."""
        place = request.place
        cookie = login_cookie(request.headers) if self._contract.has_login else ""
        scope = {
            **request.scope,
            "path": request.route.path,
            "raw_path": request.route.path.encode("utf-8", "surrogateescape"),
            "query_string": request.query,
            "headers": request_headers(
                request.headers, request.body, request.content_type, cookie, request.extra_headers
            ),
            "client": (request.address, 0) if request.address else None,
            "scheme": "http",
            "root_path": "",
        }

        async def known(outer: Scope, receive: Receive, send: Send) -> None:
            answer = KnownAnswer(request.route, outer, receive, send, request.public_address)
            if place is not None:
                answer.on_json = lambda values: setattr(place, "event_id", values["event_id"])
            await self._app(scope, receive, answer.send)

        app = GZipMiddleware(known) if request.route.kind in _COMPRESSED else known
        try:
            await app(request.scope, receive, send)
        finally:
            if place is not None and place.event_id is None:  # it became no event
                self._capacity.release(place)


def _wrong_method(methods: Sequence[str]) -> Refusal:
    return Refusal(405, f"This address takes {' and '.join(methods)} only.", {"Allow": ", ".join(methods)})
