"""A request on its way to the app: its body is read within bounds, parsed, and written anew."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope

from sd_space.request import REQUEST_FIELDS
from sd_space.serving.app_contract import AppContract
from sd_space.serving.envelope import (
    Cancellation,
    Refusal,
    cancellation,
    encoded,
    endpoint_call,
    link_query,
    page_event,
)
from sd_space.serving.limits import Place
from sd_space.serving.login import login_body
from sd_space.serving.mcp_message import mcp_message
from sd_space.serving.openai_request import EDITS, parameters_of
from sd_space.serving.routes import Kind, Route
from sd_space.serving.source_pictures import SOURCES, UploadedPicture

MAX_BODY_BYTES = 64 * 1024  # the longest prompts, escaped, take a fifth of it
MAX_PICTURE_BODY_BYTES = 5 * 2**20 // 2
BODY_TIMEOUT_S = 15.0
PICTURE_BODY_TIMEOUT_S = 60.0  # of a phone that sends half a megabit a second
_PICTURES = (*SOURCES, "picture", "image")  # the values that are pictures


@dataclass(slots=True)
class IncomingRequest:
    """What the filter knows of a request so far. `query`, `body` and `content_type` are those that the app receives.

    `asks` is the endpoint, the tool, or the number of the page's event, that its body calls, with these `values`;
    `cancels` is the event that it ends.
    """

    scope: Scope
    headers: Headers
    route: Route
    address: str | None
    public_address: str
    is_tool_call: bool  # made by Gradio's MCP server for one of its clients, and counted when that client called
    query: bytes = b""
    body: bytes | None = None
    content_type: str = "application/json"
    asks: str | int | None = None
    session: str = ""  # of the page's event that it asks for
    values: Mapping[str, object] = field(default_factory=dict)
    cancels: str | None = None
    rpc_id: str | int | None = None  # of an MCP client's message
    place: Place | None = None
    extra_headers: dict[str, str] = field(default_factory=dict)


async def read_body(
    request: IncomingRequest, receive: Receive, contract: AppContract, count: Callable[[int], None]
) -> None:
    """Reads the body and writes it anew from what it asks for. Raises Refusal, McpRefusal and ClientDisconnect.

    `count` is called with the size so far of a body that is larger than most, and may raise.
    """
    most_bytes = _most_bytes(request.route, contract)
    _check_content(request, most_bytes)
    started_s = asyncio.get_running_loop().time()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S) as limit:
            body = bytearray()
            async for part in _parts(receive):
                body += part
                if len(body) > most_bytes:
                    raise _too_large(most_bytes)
                if len(body) > MAX_BODY_BYTES:
                    count(len(body))
                    limit.reschedule(started_s + PICTURE_BODY_TIMEOUT_S)
    except TimeoutError:
        waited_s = PICTURE_BODY_TIMEOUT_S if len(body) > MAX_BODY_BYTES else BODY_TIMEOUT_S
        raise Refusal(408, f"The body did not arrive within {waited_s:g} s; please send it again.") from None
    _parse(request, bytes(body), contract)
    _check_size(request, len(body), contract)


def _parse(request: IncomingRequest, body: bytes, contract: AppContract) -> None:
    route = request.route
    match route.kind:
        case Kind.LOGIN:
            request.body = login_body(request.headers, body)
            request.content_type = "application/x-www-form-urlencoded"
        case Kind.MCP:
            message = mcp_message(body, contract.tools)
            request.body, request.asks, request.rpc_id = encoded(message.body()), message.tool, message.id
            request.values = message.params.get("arguments", {})
        case Kind.CANCEL:
            asked, fn_index = _owned_cancellation(body, contract)
            request.body, request.cancels = encoded(asked.body(fn_index)), asked.event_id
        case Kind.JOIN | Kind.PREDICT:
            event = page_event(body, contract.inputs)
            request.session = event.session_hash
            request.body, request.asks = encoded(event.body()), event.fn_index
            request.values = dict(zip(contract.inputs[event.fn_index], event.data, strict=True))
            request.query = link_query(request.scope["query_string"], tuple(REQUEST_FIELDS))
        case Kind.CALL | Kind.NAMED_CALL:
            call = endpoint_call(route.name, route.kind is Kind.NAMED_CALL, body, contract.endpoints)
            request.body, request.asks = encoded(call.body()), call.name
            request.values = dict(zip((p.name for p in contract.endpoints[call.name]), call.data, strict=True))
            request.route = Route(Kind.CALL, call.path, route.media_types, call.name)
        case Kind.IMAGES:
            request.values, request.asks = parameters_of(route.name, request.headers, body), route.name


def replay(body: bytes, receive: Receive) -> Receive:
    """Hands the body on as one message, and then the connection's own messages, its end among them."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return waiting.pop() if waiting else await receive()

    return replayed


def _most_bytes(route: Route, contract: AppContract) -> int:
    """The most that a body there may have, as far as that is known before it is read."""
    match route.kind:
        case Kind.JOIN | Kind.PREDICT | Kind.MCP:  # what is asked for stands in the body
            return max([MAX_BODY_BYTES, *contract.body_bytes.values()])
        case Kind.CALL | Kind.NAMED_CALL | Kind.IMAGES:
            return contract.body_bytes.get(route.name, MAX_BODY_BYTES)
    return MAX_BODY_BYTES


def _check_size(request: IncomingRequest, size: int, contract: AppContract) -> None:
    """Refuses by what the body asks for. What it says beside pictures is as short as other bodies are."""
    most_bytes = contract.body_bytes.get("" if request.asks is None else request.asks, MAX_BODY_BYTES)
    if size > most_bytes:
        raise _too_large(most_bytes)
    if size - sum(_picture_bytes(request.values.get(name)) for name in _PICTURES) > MAX_BODY_BYTES:
        raise _too_large(MAX_BODY_BYTES)


def _picture_bytes(value: object) -> int:
    if isinstance(value, UploadedPicture):
        return len(value.data)
    return len(value) if isinstance(value, str) else 0


def _check_content(request: IncomingRequest, most_bytes: int) -> None:
    """Refuses by the headers alone what need not be read."""
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Refusal(415, "A compressed body is not accepted; send plain JSON.")
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if request.route.kind is Kind.IMAGES and request.route.name == EDITS:
        if media_type != "multipart/form-data":
            raise Refusal(415, "The body must be a form with the picture as a file, multipart/form-data.")
    elif request.route.kind is not Kind.LOGIN and media_type != "application/json":
        raise Refusal(415, "The body must be JSON; send the header Content-Type: application/json with it.")
    if (length := request.headers.get("content-length", "")).isdecimal() and int(length[:9]) > most_bytes:
        raise _too_large(most_bytes)


def _owned_cancellation(body: bytes, contract: AppContract) -> tuple[Cancellation, int]:
    """Only a caller who knows an event's unguessable id may cancel it; for Gradio the session's name is enough."""
    asked = cancellation(body)
    session, fn_index = contract.running(asked.event_id) or (None, 0)
    if session != asked.session_hash:
        raise Refusal(404, "There is no such run under way in this session.")
    return asked, fn_index


async def _parts(receive: Receive) -> AsyncIterator[bytes]:
    """The body as it comes. Raises ClientDisconnect when the caller has left."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        yield message.get("body", b"")
        if not message.get("more_body"):
            return


def _too_large(most_bytes: int) -> Refusal:
    if most_bytes == MAX_BODY_BYTES:
        return Refusal(413, f"The body is larger than {MAX_BODY_BYTES // 1024} KiB; send a shorter prompt.")
    return Refusal(413, f"The body is larger than {most_bytes / 2**20:g} MB; send smaller pictures.")
