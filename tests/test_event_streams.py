"""The end of a session's stream: it reaches the page before its next event, and again if that listens once more."""

import asyncio
import time

import pytest
from starlette.datastructures import Headers

from sd_space.serving import event_streams
from sd_space.serving.envelope import Refusal
from sd_space.serving.event_streams import HEAD_START_S, EventStreams
from sd_space.serving.incoming import IncomingRequest
from sd_space.serving.routes import Kind, Route

LAST = b'data: {"msg":"process_completed","event_id":"1"}\n\n'
END = b'data: {"msg":"close_stream"}\n\n'
CLOSED = 'data: {"msg": "close_stream", "event_id": null}\n\n'


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


class Sessions:
    """Of Gradio's queue, which forgets a session with the last of its events."""

    def __init__(self, *named: str):
        self.has_session = named.__contains__


async def to_its_end(request, receive, send) -> None:
    await send({"type": "http.response.body", "body": END})


async def listen(streams: EventStreams, session: str, forward=to_its_end) -> str:
    scope = {"query_string": f"session_hash={session}".encode()}
    request = IncomingRequest(scope, Headers(), Route(Kind.STREAM, "/", ()), None, "", is_tool_call=False)

    async def nothing(*_) -> None: ...

    answer = await streams.serve(request, nothing, nothing, forward)
    return "its stream" if answer is None else bytes(answer.body).decode()


def test_a_page_that_listens_after_the_end_hears_of_it_again(monkeypatch):
    async def scene() -> None:
        contract = Sessions("one", "another")
        streams = EventStreams(contract)
        assert await listen(streams, "one") == await listen(streams, "one") == "its stream"
        contract.has_session = "another".__eq__
        assert await listen(streams, "one") == CLOSED
        with pytest.raises(Refusal):
            await listen(streams, "stranger")
        ended = asyncio.Event()

        async def until_ended(request, receive, send) -> None:
            await ended.wait()
            await send({"type": "http.response.body", "body": END})

        contract.has_session = {"two"}.__contains__
        first, second = (asyncio.create_task(listen(streams, "two", forward=until_ended)) for _ in range(2))
        await asyncio.sleep(0)
        contract.has_session = set().__contains__
        ended.set()
        assert (await first, await second) == ("its stream", CLOSED), "it waited for the one before it"
        monkeypatch.setattr(event_streams, "LATE_LISTENER_S", 0.0)
        with pytest.raises(Refusal):
            await listen(streams, "one")

    asyncio.run(scene())
