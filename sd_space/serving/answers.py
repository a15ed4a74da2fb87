"""Gradio's answers: passed on only in known forms; anything else becomes one of our sentences."""

import json
import re
from collections.abc import Callable
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import Message, Receive, Scope, Send

from sd_space.languages import Phrase, translate
from sd_space.serving.origins import MADE_UP, PUBLIC
from sd_space.serving.routes import Kind, Route

BROKEN = Phrase("Something broke on the server; please try again.")
_SENTENCES = {
    400: "The request could not be understood; please check it against the API's description.",
    401: "Please log in first: this page asks for a name and a password.",
    404: "There is nothing at this address, or not any more.",
    405: "This address does not take that method.",
    406: "The answer is not available in the form that was asked for.",
    413: "The request is too large.",
    415: "This kind of content is not accepted; send JSON.",
    416: "There is no such part of this file.",
    422: "The request could not be understood; please check it against the API's description.",
    429: "Too many calls; please try again in a minute.",
    503: "The server cannot answer right now; please try again in a minute.",
}
CANCELLED = Phrase("Cancelled before it was done.")
WRONG_PASSWORD = "The name or the password is not right."
# Ends of events that were cancelled: nothing of ours ends so.
_NOTHING, _NO_OUTPUT = b"event: complete\ndata: null", b'"output":{}'
# Headers of Gradio's answers that callers need; all others are dropped.
_PASSED = frozenset(
    [
        "content-type",
        "content-length",
        "content-encoding",
        "content-disposition",
        "cache-control",
        "etag",
        "last-modified",
        "vary",
        "set-cookie",
        "mcp-session-id",
    ]
)
_SCRIPT_STRING = re.compile(rb'"' + re.escape(MADE_UP.encode()) + rb'(["/])')


# No proxy may delay or change a stream: nginx collects answers, others compress them.
STREAM_HEADERS = ((b"cache-control", b"no-cache, no-transform"), (b"x-accel-buffering", b"no"))


def refusal(status: int, sentence: str) -> JSONResponse:
    """Our own answer. Gradio's page shows `error`, its clients `detail`."""
    return JSONResponse({"error": translate(sentence)}, status)


def known_sentence(status: int) -> str:
    return _SENTENCES.get(status, BROKEN if status >= 500 else _SENTENCES[400])


class KnownAnswer:
    """Stands between the app and a caller for one request: `send` is what the app is given.

    HTML and JSON are collected and passed on whole, streams message by message, files as they come. `started` says
    whether anything was sent to the caller.
    """

    def __init__(self, route: Route, scope: Scope, receive: Receive, send: Send, public_address: str):
        self._route = route
        self._scope = scope
        self._receive = receive
        self._send = send
        self._public_address = public_address
        self._start: Message | None = None
        self._body = bytearray()
        self._replacement: JSONResponse | None = None
        self.started = False
        self.on_json: Callable[[Any], None] = lambda values: None  # called with the JSON that answers a call

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            await self._begin(message)
        elif message["type"] == "http.response.body":
            await self._go_on(message)

    async def _begin(self, message: Message) -> None:
        status, headers = message["status"], Headers(raw=message["headers"])
        media_type = headers.get("content-type", "").partition(";")[0].strip()
        self._start = {**message, "headers": [(k, v) for k, v in message["headers"] if k.decode().lower() in _PASSED]}
        if self._route.kind is Kind.PAGE:
            self._start["headers"] += [(b"vary", b"Accept-Language")]
        if self._route.kind is Kind.LOGOUT and status == 302:
            # Relative, so that it holds wherever the page was opened; Gradio would write its own absolute address.
            self._start["headers"] += [(b"location", b"./")]
        elif status == 304 or (status == 202 and self._route.kind is Kind.MCP):  # a notification has no answer
            pass
        elif status != 200:
            self._replacement = refusal(status, known_sentence(status))
            if self._route.kind is Kind.LOGIN and status == 400:
                self._replacement = refusal(400, WRONG_PASSWORD)
        elif not any(media_type.startswith(known) for known in self._route.media_types):
            self._replacement = refusal(500, BROKEN)
        if self._replacement is None and not self._is_collected(media_type):
            if media_type == "text/event-stream":
                kept = [(name, value) for name, value in self._start["headers"] if name.lower() != b"cache-control"]
                self._start["headers"] = [*kept, *STREAM_HEADERS]
            await self._pass_on(self._start)

    def _is_collected(self, media_type: str) -> bool:
        is_text = media_type in ("text/html", "application/json")
        return is_text and self._route.kind not in (Kind.ASSET, Kind.FILE)

    async def _go_on(self, message: Message) -> None:
        body, more = message.get("body", b""), message.get("more_body", False)
        if self._start is not None and self.started and self._replacement is None:
            if self._route.kind in (Kind.STREAM, Kind.EVENT_STREAM, Kind.MCP):
                message = {**message, "body": self._rewritten(_known_events(body) if body else body)}
            await self._pass_on(message)
            return
        self._body += body
        if not more:
            await self._finish()

    async def _finish(self) -> None:
        body = bytes(self._body)
        if self._replacement is not None:
            if (sentence := _own_sentence(self._route, body)) is not None:
                self._replacement = refusal(400, sentence)
            self.started = True
            await self._replacement(self._scope, self._receive, self._send)
            return
        assert self._start is not None
        if self._route.kind in (Kind.JOIN, Kind.CALL, Kind.NAMED_CALL):
            self.on_json(json.loads(body))
        body = self._rewritten(body)
        kept = [(k, v) for k, v in self._start["headers"] if k.lower() != b"content-length"]
        if self._scope["method"] != "HEAD":
            kept.append((b"content-length", str(len(body)).encode()))
        await self._pass_on({**self._start, "headers": kept})
        await self._pass_on({"type": "http.response.body", "body": body})

    def _rewritten(self, body: bytes) -> bytes:
        """The body with the page's own address wherever the made-up one stands."""
        public = self._public_address.encode()
        if self._route.kind is Kind.PAGE:  # only the browser knows where it has opened the page
            body = _SCRIPT_STRING.sub(lambda m: b'pageRoot+"/' if m[1] == b"/" else b"pageRoot", body)
            body = body.replace(PUBLIC.encode(), public)
        elif self._route.kind in (Kind.STREAM, Kind.PREDICT):
            body = body.replace(f"{MADE_UP}/".encode(), b"")
        return body.replace(MADE_UP.encode(), public)

    async def _pass_on(self, message: Message) -> None:
        self.started = True
        await self._send(message)


def _own_sentence(route: Route, body: bytes) -> str | None:
    """The sentence of one of our handlers, from an event that answers at once: Gradio makes a 500 of every failure."""
    if route.kind is not Kind.PREDICT:
        return None
    try:
        sentence = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        return None
    return sentence if isinstance(sentence, str) and sentence != BROKEN else None


def _known_events(chunk: bytes) -> bytes:
    """The events of a stream, those of failures in our words where Gradio has put its own, or none."""
    if not any(
        mark in chunk for mark in (b"unexpected_error", b"event: error", b'"success":false', _NOTHING, _NO_OUTPUT)
    ):
        return chunk
    return b"".join(_known_event(event) + b"\n\n" for event in chunk.split(b"\n\n") if event)


def _known_event(event: bytes) -> bytes:
    if event == _NOTHING:
        event = b"event: error\ndata: " + json.dumps({"error": CANCELLED}).encode()
    lines = []
    is_error = event.startswith(b"event: error")
    for line in event.split(b"\n"):
        name, _, data = line.partition(b": ")
        lines.append(b"data: " + _known_failure(data, is_error) if name == b"data" else line)
    return b"\n".join(lines)


def _known_failure(data: bytes, is_error: bool) -> bytes:
    try:
        values = json.loads(data)
    except ValueError:
        return json.dumps({"error": BROKEN}).encode()
    if isinstance(values, dict) and values.get("msg") == "unexpected_error":
        values["message"] = BROKEN
    elif isinstance(values, dict) and values.get("success") is True and values.get("output") == {}:
        values |= {"success": False, "output": {"error": CANCELLED}}
    elif isinstance(values, dict) and values.get("success") is False:
        output = values.get("output")
        if not isinstance(output, dict) or not isinstance(output.get("error"), str):
            values["output"] = {"error": BROKEN}
    elif is_error and (not isinstance(values, dict) or not isinstance(values.get("error"), str)):
        values = {"error": BROKEN}
    return json.dumps(values).encode()
