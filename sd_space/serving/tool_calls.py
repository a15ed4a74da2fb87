"""Tool calls of MCP clients: Gradio's MCP server makes each of them again, as a client of this server."""

import asyncio
import contextlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import Message, Receive

from sd_space.serving.envelope import Refusal
from sd_space.serving.headers import TOOL_CALL_HEADER
from sd_space.serving.incoming import IncomingRequest
from sd_space.serving.limits import Place

_KEPT_S = 60.0  # after the end of a call: Gradio may only then make the call of a client that has left already


@dataclass(slots=True, eq=False)
class ToolCall:
    """One call: where its client is, and the place that it has if it asks for pictures."""

    address: str | None
    public_address: str
    place: Place | None
    has_left: bool = False

    def leave(self) -> None:
        """Its client has left: what is being drawn for it is abandoned."""
        self.has_left = True
        if self.place is not None:
            self.place.abandon()


class ToolCalls:
    """The calls in progress, by ids that only Gradio's MCP server is given."""

    def __init__(self) -> None:
        self._calls: dict[str, ToolCall] = {}

    def find(self, headers: Headers) -> ToolCall | None:
        """The call for which a request is made, or `None`. Raises Refusal where its client has left."""
        call = self._calls.get(headers.get(TOOL_CALL_HEADER, ""))
        if call is not None and call.has_left:
            raise Refusal(404, "Nobody waits for this call any more.")
        return call

    @contextlib.contextmanager
    def followed(self, request: IncomingRequest, receive: Receive) -> Iterator[Receive]:
        """The `receive` with which to pass on a client's message, so that the call ends when its client leaves."""
        call = ToolCall(request.address, request.public_address, request.place)
        call_id = secrets.token_urlsafe(16)

        async def watched() -> Message:
            message = await receive()
            if message["type"] == "http.disconnect":
                call.leave()
            return message

        self._calls[call_id] = call
        request.extra_headers[TOOL_CALL_HEADER] = call_id
        try:
            yield watched
        finally:
            call.leave()
            asyncio.get_running_loop().call_later(_KEPT_S, self._calls.pop, call_id)
