import asyncio
import json

import pytest
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse

from sd_space.serving.answers import BROKEN, CANCELLED, WRONG_PASSWORD, KnownAnswer
from sd_space.serving.origins import MADE_UP, PUBLIC
from sd_space.serving.routes import Kind, Route

MEDIA_TYPES = {
    Kind.PAGE: "text/html",
    Kind.STREAM: "text/event-stream",
    Kind.EVENT_STREAM: "text/event-stream",
    Kind.MCP: "text/event-stream",
    Kind.FILE: "image/png",
}


def passed(kind: Kind, answer: Response, method: str = "GET"):
    """What a caller sees of the app's `answer`: status, headers, body."""
    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        await asyncio.Event().wait()

    async def main():
        scope = {"type": "http", "method": method, "headers": [], "path": "/"}
        route = Route(kind, "/", (MEDIA_TYPES.get(kind, "application/json"),))
        known = KnownAnswer(route, scope, receive, send, "https://example.org/demo")
        await answer(scope, receive, known.send)

    asyncio.run(main())
    start = sent[0]
    headers = {name.decode(): value.decode() for name, value in start["headers"]}
    return start["status"], headers, b"".join(message.get("body", b"") for message in sent[1:])


def page(text: str) -> str:
    return passed(Kind.PAGE, Response(text, media_type="text/html"))[2].decode()


def test_the_page_writes_its_own_address_where_the_app_believes_in_another():
    assert page(f'{{"root":"{MADE_UP}","url":"{MADE_UP}/x"}}') == '{"root":pageRoot,"url":pageRoot+"/x"}'
    assert page(f'content="{PUBLIC}/x.png"') == 'content="https://example.org/demo/x.png"'


@pytest.mark.parametrize("kind", [Kind.STREAM, Kind.PREDICT])
def test_addresses_for_the_page_are_relative_to_it(kind):
    media_type = MEDIA_TYPES.get(kind, "application/json")
    answer = Response(json.dumps({"url": f"{MADE_UP}/gradio_api/file=x"}), media_type=media_type)
    assert json.loads(passed(kind, answer)[2]) == {"url": "gradio_api/file=x"}


def test_addresses_for_other_clients_are_whole():
    answer = passed(Kind.PUBLIC_JSON, JSONResponse({"root": MADE_UP}))
    assert json.loads(answer[2]) == {"root": "https://example.org/demo"}
    assert int(answer[1]["content-length"]) == len(answer[2])


def test_a_file_comes_as_it_is_whatever_is_in_it():
    body = f"{MADE_UP}/".encode()
    assert passed(Kind.FILE, Response(body, media_type="image/png"))[2] == body


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (PlainTextResponse("Internal Server Error", 500), 500),
        (JSONResponse({"detail": "KeyError: 'x' in /srv/app.py"}, 422), 422),
        (PlainTextResponse("Malformed Range header.", 400), 400),
        (RedirectResponse("http://elsewhere.example"), 307),
        (Response("<html>", media_type="text/html"), 500),
        (Response(b"", status_code=206, media_type="application/json"), 206),
    ],
)
def test_an_answer_of_no_known_form_becomes_one_of_our_sentences(answer, status):
    sent_status, headers, body = passed(Kind.PUBLIC_JSON, answer)
    sentence = json.loads(body)["error"]
    assert sent_status == status and sentence.endswith(".") and "location" not in headers
    assert not any(word in sentence for word in ("KeyError", "/srv", "Malformed", "Internal"))


def test_a_stopped_queue_of_gradios_is_an_outage():
    assert passed(Kind.JOIN, JSONResponse({"detail": "Queue is stopped."}, 503))[0] == 503


def test_a_sentence_of_a_handler_of_ours_gets_through_as_the_callers_mistake():
    failed = JSONResponse({"error": "The licence has not been accepted.", "title": "Error"}, 500)
    status, _, body = passed(Kind.PREDICT, failed)
    assert (status, json.loads(body)) == (400, {"error": "The licence has not been accepted."})
    for said in (None, BROKEN):
        status, _, body = passed(Kind.PREDICT, JSONResponse({"error": said}, 500))
        assert (status, json.loads(body)) == (500, {"error": BROKEN})


def test_a_wrong_password_is_called_one():
    status, _, body = passed(Kind.LOGIN, JSONResponse({"detail": "Incorrect credentials."}, 400))
    assert (status, json.loads(body)) == (400, {"error": WRONG_PASSWORD})


def test_after_a_logout_the_page_opens_wherever_it_is():
    status, headers, _ = passed(Kind.LOGOUT, RedirectResponse(MADE_UP, 302))
    assert (status, headers["location"]) == (302, "./")


def stream(*events: str, kind: Kind = Kind.STREAM):
    answer = StreamingResponse(iter(events), media_type="text/event-stream", headers={"Cache-Control": "no-store"})
    return passed(kind, answer)


def test_no_proxy_may_hold_a_stream_back_or_change_it():
    _, headers, body = stream("data: 1\n\n", "data: 2\n\n")
    assert headers["x-accel-buffering"] == "no" and headers["cache-control"] == "no-cache, no-transform"
    assert body == b"data: 1\n\ndata: 2\n\n"


@pytest.mark.parametrize(
    ("kind", "event"),
    [
        (Kind.STREAM, 'data: {"msg": "unexpected_error", "message": "\'abc\' at /srv/x.py", "success": false}\n\n'),
        (Kind.STREAM, 'data: {"msg":"process_completed","success":false,"output":{"error":null}}\n\n'),
        (Kind.STREAM, 'data: {"msg":"process_completed","success":false,"output":"KeyError"}\n\n'),
        (Kind.EVENT_STREAM, "event: error\ndata: null\n\n"),
        (Kind.EVENT_STREAM, 'event: error\ndata: "list index out of range"\n\n'),
        (Kind.EVENT_STREAM, "event: error\ndata: Traceback (most recent call last)\n\n"),
    ],
)
def test_a_failure_in_a_stream_is_in_our_words(kind, event):
    body = stream("data: {}\n\n" + event, kind=kind)[2].decode()
    assert BROKEN in body and body.startswith("data: {}\n\n") and body.endswith("\n\n")
    assert not any(word in body for word in ("/srv", "KeyError", "list index", "Traceback"))


def test_a_cancelled_call_does_not_look_completed():
    body = stream("event: complete\ndata: null\n\n", kind=Kind.EVENT_STREAM)[2].decode()
    assert body == f'event: error\ndata: {{"error": "{CANCELLED}"}}\n\n'
    done = 'event: complete\ndata: ["a"]\n\n'
    assert stream(done, kind=Kind.EVENT_STREAM)[2].decode() == done


def test_a_cancelled_event_of_a_session_does_not_look_completed():
    ended = {"msg": "process_completed", "event_id": "x", "output": {}, "success": True, "title": None}
    body = stream(f"data: {json.dumps(ended, separators=(',', ':'))}\n\n")[2].decode()
    assert json.loads(body.removeprefix("data: ")) == ended | {"success": False, "output": {"error": CANCELLED}}
    done = 'data: {"msg":"process_completed","event_id":"x","output":{"data":[]},"success":true}\n\n'
    assert stream(done)[2].decode() == done
    step = 'data: {"msg":"process_starts","output":{},"x":"\\"output\\":{}"}\n\n'
    assert json.loads(stream(step)[2].decode().removeprefix("data: "))["output"] == {}


def test_a_sentence_of_ours_in_a_stream_stays_word_for_word():
    event = 'event: error\ndata: {"error": "prompt must not be empty; describe the picture you want."}\n\n'
    assert stream(event, kind=Kind.EVENT_STREAM)[2].decode() == event
