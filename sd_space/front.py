"""The front door: an ASGI middleware before Gradio's app.

It answers health and metrics itself, lets through only the routes that this page and API need, bounds what comes in,
and puts security headers on what goes out. What people accept and may ask is not its business: that is `gate.py`.
"""

import json
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sd_space.metrics import Metrics
from sd_space.schema import BackendStatus
from sd_space.settings import Settings

MAX_BODY_BYTES = 64 * 1024  # the longest prompts, escaped, take a fifth of it
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
_WORK = re.compile(r"/gradio_api/(queue/join|call/.+|mcp.*)")
_CALL = re.compile(r"/gradio_api/call/(v2/)?([^/]+)/?")
_EVENTS = ("/gradio_api/queue/join", "/gradio_api/run/predict")  # the page's own: queued ones and immediate ones
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


class Front:
    """Wraps the app. `endpoints` are the public ones with their parameters, `fn_indices` Gradio's event numbers.

    Refusals are JSON: {"error": sentence}. `now_s` is a monotonic clock.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        status: Callable[[], BackendStatus],
        is_queue_alive: Callable[[], bool],
        metrics: Metrics,
        endpoints: Mapping[str, Collection[str]],
        fn_indices: Collection[int],
        now_s: Callable[[], float] = time.monotonic,
    ):
        self._app = app
        self._status = status
        self._is_queue_alive = is_queue_alive
        self._metrics = metrics
        self._endpoints = endpoints
        self._fn_indices = frozenset(fn_indices)
        self._trusted_proxies = settings.trusted_proxies
        self._limiter = RateLimiter(settings.rate_per_minute, now_s)
        self._has_started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        send = _with_headers(scope["path"], send)
        answer = self._own_answer(scope["method"], scope["path"]) or self._refusal(scope)
        if answer is None and scope["method"] == "POST":
            body = await _read(receive)
            answer = self._body_refusal(scope["path"], body)
            receive = _replay(body, receive)
        if answer is not None:
            await answer(scope, receive, send)
            return
        await self._app(scope, receive, send)

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
        if not reason and not self._is_queue_alive():
            reason = "The queue of the page has stopped; restart the Space."
        answer = {"status": "unready" if reason else "ready", "stage": str(status.stage), "reason": reason}
        if status.replicas:
            answer["replicas"] = dict(status.replicas)
        return JSONResponse(answer, 503 if reason else 200)

    def _refusal(self, scope: Scope) -> Response | None:
        method, path, headers = scope["method"], scope["path"], Headers(scope=scope)
        if path == _STARTUP and method == "GET" and not self._has_started:
            self._has_started = True  # Gradio's own call while it launches; a second one would start its queue again
            return None
        pattern = {"GET": _GET, "HEAD": _GET, "POST": _POST, "DELETE": re.compile(r"/gradio_api/mcp/?")}.get(method)
        if method != "OPTIONS" and (pattern is None or not pattern.fullmatch(path)):
            return _refuse(404, "There is nothing at this address.")
        if method != "POST":
            return None
        if headers.get("content-encoding", "identity") != "identity":
            return _refuse(415, "A compressed body is not accepted; send plain JSON.")
        if _WORK.fullmatch(path):
            wait_s = self._limiter.seconds_to_wait(self._address(scope, headers))
            if wait_s:
                answer = _refuse(429, f"Too many calls from this address; please try again in {round(wait_s + 0.5)} s.")
                answer.headers["Retry-After"] = str(round(wait_s + 0.5))
                return answer
        return None

    def _address(self, scope: Scope, headers: Headers) -> str:
        """The caller's address: the peer's, or what the outermost trusted proxy wrote down."""
        if self._trusted_proxies:
            hops = [hop.strip() for hop in ",".join(headers.getlist("x-forwarded-for")).split(",") if hop.strip()]
            if len(hops) >= self._trusted_proxies:
                return hops[-self._trusted_proxies]
        return scope["client"][0] if scope.get("client") else ""

    def _body_refusal(self, path: str, body: bytes | None) -> Response | None:
        """What is wrong with a call, in a sentence: Gradio would answer 500 to most of it."""
        if body is None:
            return _refuse(413, f"The body is larger than {MAX_BODY_BYTES // 1024} KiB; send a shorter prompt.")
        call = _CALL.fullmatch(path)
        if not call and path not in _EVENTS:
            return None
        try:
            values = json.loads(body)
        except (ValueError, RecursionError):
            return _refuse(400, "The body is not valid JSON.")
        if not isinstance(values, dict):
            return _refuse(400, "The body must be a JSON object.")
        if not call:
            if not isinstance(values.get("data"), list) or values.get("fn_index") not in self._fn_indices:
                return _refuse(400, "The body must name a known fn_index and a list of data.")
            return None
        is_named, name = call.groups()
        if name not in self._endpoints:
            known = ", ".join(f"/{name}" for name in self._endpoints)
            return _refuse(404, f"There is no such endpoint; there are {known}.")
        parameters = self._endpoints[name]
        takes = f"/{name} takes {', '.join(parameters) or 'no parameters'}."
        if is_named:
            values = {key: value for key, value in values.items() if key != "session_hash"}
            return None if set(values) <= set(parameters) else _refuse(400, f"There is an unknown parameter: {takes}")
        data = values.get("data")
        if not isinstance(data, list) or len(data) > len(parameters):
            return _refuse(400, f"data must be a list of at most {len(parameters)} values: {takes}")
        return None


class RateLimiter:
    """A token bucket for each address, and one for all together: `per_minute` calls, and as many at once.

    Remembers the last 10,000 addresses, in memory only.
    """

    def __init__(self, per_minute: int, now_s: Callable[[], float]):
        self._per_minute = per_minute
        self._now_s = now_s
        self._buckets: OrderedDict[str | None, tuple[float, float]] = OrderedDict()  # address -> (tokens, when)

    def seconds_to_wait(self, address: str) -> float:
        """0 if a call may go ahead now, and counts it; else the seconds after which one may."""
        waits = [self._wait(key, rate) for key, rate in self._rates(address)]
        if not any(waits):
            for key, rate in self._rates(address):
                self._buckets[key] = (self._tokens(key, rate) - 1, self._now_s())
                self._buckets.move_to_end(key)
            while len(self._buckets) > MAX_ADDRESSES:
                self._buckets.popitem(last=False)
        return max(waits)

    def _rates(self, address: str) -> tuple[tuple[str | None, int], ...]:
        return ((address, self._per_minute), (None, self._per_minute * GLOBAL_FACTOR))

    def _tokens(self, key: str | None, rate: int) -> float:
        tokens, at_s = self._buckets.get(key, (rate, self._now_s()))
        return min(rate, tokens + (self._now_s() - at_s) * rate / 60)

    def _wait(self, key: str | None, rate: int) -> float:
        return max(0.0, (1 - self._tokens(key, rate)) * 60 / rate)


def _refuse(status: int, sentence: str) -> JSONResponse:
    return JSONResponse({"error": sentence}, status)


async def _read(receive: Receive) -> bytes | None:
    """The whole body, or `None` when it is too large; a caller who left early leaves an empty one."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return b""
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
            if path.startswith("/gradio_api/file="):
                headers["Cache-Control"] = "private, no-store"
        await send(message)

    return sending


def endpoint_parameters(info: Mapping[str, Any]) -> dict[str, list[str]]:
    """Public endpoint -> its parameters, from Gradio's description of an app (`Blocks.get_api_info`)."""
    return {
        name.removeprefix("/"): [parameter["parameter_name"] for parameter in endpoint["parameters"]]
        for name, endpoint in info["named_endpoints"].items()
    }
