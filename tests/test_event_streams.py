"""The end of a session's stream reaches the page before the answer to its next event."""

import asyncio
import time

import pytest
from starlette.datastructures import Headers

from sd_space.serving.event_streams import HEAD_START_S, EventStreams
from sd_space.serving.incoming import IncomingRequest
from sd_space.serving.routes import Kind, Route

LAST = b'data: {"msg":"process_completed","event_id":"1"}\n\n'
END = b'data: {"msg":"close_stream"}\n\n'


def event_of(session: str, kind: Kind = Kind.JOIN) -> IncomingRequest:
    request = IncomingRequest({}, Headers(), Route(kind, "/", ()), None, "", is_tool_call=False)
    request.session = session
    return request


@pytest.mark.parametrize(
    ("streamed", "request_", "waits"),
    [
        (END, event_of("one"), True),
        (LAST, event_of("one"), False),
        (END, event_of("another"), False),
        (END, event_of("one", Kind.PREDICT), False),  # such an answer needs no stream
    ],
)
def test_an_answer_waits_for_the_end_of_its_own_sessions_stream_alone(streamed, request_, waits):
    order = []

    async def send(message) -> None:
        order.append((message["body"], time.monotonic()))

    async def scene() -> None:
        streams = EventStreams(None)
        await streams.noting_its_end("one", send)({"type": "http.response.body", "body": streamed})
        await streams.after_its_end(request_, send)({"type": "http.response.body", "body": b"joined"})

    asyncio.run(scene())
    (first, then_s), (second, now_s) = order
    assert (first, second) == (streamed, b"joined")
    assert (now_s - then_s >= 0.99 * HEAD_START_S) == waits
