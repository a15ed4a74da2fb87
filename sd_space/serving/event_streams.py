"""Event streams: each session has one listener at a time. A second would take its messages, and end its run."""

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from typing import TypeAlias

from starlette.datastructures import QueryParams
from starlette.responses import Response
from starlette.types import Message, Receive, Send

from sd_space.serving.app_contract import AppContract
from sd_space.serving.envelope import Refusal, session_hash
from sd_space.serving.incoming import IncomingRequest
from sd_space.serving.routes import Kind

# A page opens its next stream at the moment in which the server closes the last one. On a refusal Gradio loads the page
# anew, so this outlasts what holds up a busy server.
HANDOVER_S = 5.0
# A page that learns of its next event before it has read that its stream is at its end would not listen again. Both are
# on their way at once, each on a connection of its own.
HEAD_START_S = 0.25
# All of an event may be in a stream that was open before: a page that reads this late listens once more, to nothing. On
# a refusal Gradio would hear of no event any more.
LATE_LISTENER_S = 30.0
_END = 'data: {"msg": "close_stream", "event_id": null}\n\n'


Forward: TypeAlias = Callable[[IncomingRequest, Receive, Send], Awaitable[None]]


class EventStreams:
    """The streams that are open now. Belongs to the server's event loop."""

    def __init__(self, contract: AppContract):
        self._contract = contract
        self._closed: dict[str, asyncio.Event] = {}  # by session; set when its stream is closed
        self._ended_at_s: dict[str, float] = {}  # by session, for `LATE_LISTENER_S`

    @property
    def sessions(self) -> Collection[str]:
        """Those with a listener."""
        return self._closed.keys()

    async def serve(self, request: IncomingRequest, receive: Receive, send: Send, forward: Forward) -> Response | None:
        """Passes a stream on to the only listener of its session, or ends at once one that has just ended.

        Raises Refusal.
        """
        async with self.only_listener(request) as session:
            if self._has_just_ended(session):  # while it waited for the listener before it, or before
                return Response(_END, media_type="text/event-stream")
            await forward(request, receive, self.noting_its_end(session, send))
        return None

    def _has_just_ended(self, session: str) -> bool:
        return self._since_its_end_s(session) < LATE_LISTENER_S and not self._contract.has_session(session)

    def _since_its_end_s(self, session: str) -> float:
        return time.monotonic() - self._ended_at_s.get(session, -math.inf)

    @contextlib.asynccontextmanager
    async def only_listener(self, request: IncomingRequest) -> AsyncIterator[str]:
        """Makes the request the listener of its session, which it yields, while the block runs. Raises Refusal."""
        session = self._session(request)
        if (earlier := self._closed.get(session)) is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(earlier.wait(), HANDOVER_S)
        if session in self._closed:
            raise Refusal(409, "Somebody listens to this session already.")
        closed = self._closed[session] = asyncio.Event()
        try:
            yield session
        finally:
            del self._closed[session]
            closed.set()

    def noting_its_end(self, session: str, send: Send) -> Send:
        """Passes on the stream of the session's listener."""

        async def noted(message: Message) -> None:
            if b'"close_stream"' in message.get("body", b""):
                now_s = time.monotonic()
                self._ended_at_s = {k: at_s for k, at_s in self._ended_at_s.items() if at_s + LATE_LISTENER_S > now_s}
                self._ended_at_s[session] = now_s
            await send(message)

        return noted

    def after_its_end(self, request: IncomingRequest, send: Send) -> Send:
        """Passes on the answer, to the page's event some time after its session's stream if that has just ended."""
        if request.route.kind is not Kind.JOIN:
            return send

        async def late(message: Message) -> None:
            await asyncio.sleep(max(0.0, HEAD_START_S - self._since_its_end_s(request.session)))
            await send(message)

        return late

    def _session(self, request: IncomingRequest) -> str:
        if request.route.kind is Kind.EVENT_STREAM:
            session = self._contract.session_of(request.route.name)
            # Gradio would take an id that is no event's for the name of a session.
            if session is None or not self._contract.has_session(session):
                raise Refusal(404, "There is no such run under way.")
            return session
        session = session_hash(QueryParams(request.scope["query_string"]).get("session_hash"))
        if not self._contract.has_session(session) and not self._has_just_ended(session):
            raise Refusal(404, "There is nothing to listen to in this session.")
        request.query = f"session_hash={session}".encode()
        return session
