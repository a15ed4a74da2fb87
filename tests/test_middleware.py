import asyncio
import json
import time
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.testclient import TestClient

from sd_space.recorded import ICON, LINK_PREVIEW
from sd_space.schema import BackendStatus, Stage
from sd_space.serving import limits
from sd_space.serving.app_contract import AppContract
from sd_space.serving.callers import PAGE_USER, USER_HEADER
from sd_space.serving.envelope import Parameter
from sd_space.serving.incoming import MAX_BODY_BYTES, MAX_PICTURE_BODY_BYTES
from sd_space.serving.limits import Capacity
from sd_space.serving.metrics import Metrics
from sd_space.serving.middleware import RequestFilter
from sd_space.settings import Settings

from .fakes import Clock

GENERATE = "/gradio_api/call/v2/generate"
ENDPOINTS = {
    "generate": (
        Parameter("prompt", True, None, "string"),
        Parameter("seed", False, -1, "integer"),
        Parameter("init_image", False, "", "string"),
    ),
    "model": (),
}


MAX_OPEN = 40
IS_JSON = {"content-type": "application/json"}


class App:
    """Stands for Gradio's app behind the filter: says what reached it, or takes it for an event that goes on."""

    def __init__(self):
        self.reached: list[str] = []
        self.callers: list[str | None] = []
        self.under_way: set[str] | None = None
        self.reply: Response | None = None
        self.app = Starlette()
        self.app.add_route("/{path:path}", self.answer, methods=["GET", "POST", "DELETE", "PUT"])

    async def answer(self, request):
        self.reached.append(f"{request.method} {request.url.path}")
        self.callers.append(request.client.host if request.client else None)
        self.headers, self.query, self.body = dict(request.headers), str(request.url.query), await request.body()
        if self.reply is not None:
            return self.reply
        if request.method == "POST" and "mcp" not in request.url.path:
            event_id = f"event{len(self.reached)}"
            if self.under_way is not None:
                self.under_way.add(event_id)
            return JSONResponse({"event_id": event_id})
        path = request.url.path
        media_type = "image/png" if "file=" in path else "text/event-stream" if path.count("/") > 3 else "text/html"
        return Response("ok", media_type="application/json" if path in JSON else media_type)


JSON = ("/config", "/gradio_api/info", "/gradio_api/startup-events", "/gradio_api/mcp/")


class Filtered:
    """That app behind the filter. `results` is the folder of files that may be fetched."""

    def __init__(self, results: Path, has_login: bool = True, **settings):
        self.waits_for_its_end, self.is_alone = False, True
        settings = {"max_per_visitor": 1000, **settings}
        self.status = BackendStatus(Stage.READY)
        self.is_queue_alive, self.listening, self.heard = True, [], False
        self.behind, self.clock = App(), Clock()
        contract = AppContract(
            endpoints=ENDPOINTS,
            tools=ENDPOINTS,
            inputs={3: ("token",), 4: ("picture",)},
            files=[results],
            assets={"/assets/x.js"},
            visitor_of={"a token": "a visitor"}.get,
            running={"event": ("mine", 3)}.get,
            is_alone=lambda event_id: self.is_alone,
            session_of={"event": "mine"}.get,
            has_session=lambda session: session == "mine" and not self.heard,
            evict_idle=self.listening.append,
            is_queue_alive=lambda: self.is_queue_alive,
            body_bytes={"generate": MAX_PICTURE_BODY_BYTES, 4: 2**20},
            draws={"generate", 3},
            has_login=has_login,
            title="A page",
            icon=ICON,
            link_preview=LINK_PREVIEW,
        )
        given = Settings(**settings)
        status = lambda: self.status  # noqa: E731
        self.capacity = Capacity(given, status, lambda: self.behind.under_way or set(), now_s=self.clock)
        self.filter = RequestFilter(
            self.behind.app, given, status, Metrics(status), contract, self.capacity, MAX_OPEN, now_s=self.clock
        )
        self.client = TestClient(self.filter, client=("192.0.2.1", 1))

    def post(self, path: str = GENERATE, **options):
        return self.client.post(path, **(options or {"json": {"prompt": "a cat"}}))


@pytest.fixture
def door(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    return Filtered(tmp_path)


@pytest.mark.parametrize("path", ["/", "/config", "/gradio_api/info", "/assets/x.js"])
def test_what_the_page_needs_is_let_through(door, path):
    assert door.client.get(path).status_code == 200
    assert door.behind.reached == [f"GET {path}"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/gradio_api/upload"),
        ("GET", "/gradio_api/proxy=https://huggingface.co/x"),
        ("GET", "/gradio_api/stream/x/y"),
        ("GET", "/monitoring/x"),
        ("GET", "/openapi.json"),
        ("GET", "/docs"),
        ("POST", "/gradio_api/component_server"),
        ("GET", "/pwa_icon/9000"),
        ("GET", "/pwa_icon"),
        ("GET", "/assets/y.js"),
        ("GET", "/assets/" + "x" * 300),
        ("GET", "/gradio_api/token"),
        ("GET", "/gradio_api/heartbeat/a"),
        ("GET", "/gradio_api/call/unknown/event"),
        ("GET", "/gradio_api/mcp/sse"),
    ],
)
def test_everything_else_is_not_there(door, method, path):
    assert door.client.request(method, path).status_code == 404
    assert door.behind.reached == []


@pytest.mark.parametrize(
    ("method", "path", "says"),
    [
        ("PUT", "/", "takes GET only"),
        ("PATCH", GENERATE, "takes POST only"),
        ("DELETE", GENERATE, "takes POST only"),
        ("OPTIONS", GENERATE, "takes POST only"),
        ("GET", "/gradio_api/mcp/", "takes POST only"),
        ("HEAD", "/config", ""),
    ],
)
def test_other_methods_are_refused_with_those_that_there_are(door, method, path, says):
    answer = door.client.request(method, path)
    assert answer.status_code == 405 and says in answer.text
    assert door.behind.reached == []


def test_a_call_reaches_the_app_with_a_value_for_each_parameter(door):
    assert door.post().status_code == 200
    assert json.loads(door.behind.body) == {"data": ["a cat", -1, ""]}


def test_a_list_of_values_may_end_before_those_that_came_later(door):
    """Who calls by position goes on as before when an endpoint takes more."""
    assert door.post("/gradio_api/call/generate", json={"data": ["a cat", 4]}).status_code == 200
    assert json.loads(door.behind.body) == {"data": ["a cat", 4, ""]}


def test_a_picture_may_be_larger_than_a_prompt(door):
    for path, body in ((GENERATE, {"prompt": "a cat"}), ("/gradio_api/mcp/", tool_call())):
        (body["params"]["arguments"] if "params" in body else body)["init_image"] = "x" * 10**6
        assert door.post(path, json=body).status_code == 200


def tool_call() -> dict:
    return {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": "generate", "arguments": {"prompt": "a"}},
    }


def test_the_large_bodies_in_memory_are_bounded_together(door, monkeypatch):
    monkeypatch.setattr(limits, "MAX_HELD_BYTES", 2_500_000)
    door.behind.under_way = set()
    body = {"prompt": "a cat", "init_image": "x" * 10**6}
    assert [door.post(json=body).status_code for _ in range(3)] == [200, 200, 429]
    assert door.post().status_code == 200, "a small body is not counted"
    door.behind.under_way.clear()
    assert door.post(json=body).status_code == 200, "what is over is not held"


@pytest.mark.parametrize(("size", "status"), [(100_000, 200), (2**20, 413)])
def test_what_takes_a_picture_may_have_a_larger_body_up_to_its_own_bound(door, size, status):
    event = {"fn_index": 4, "data": ["x" * size], "session_hash": "mine"}
    answer = door.post("/gradio_api/queue/join", json=event)
    assert answer.status_code == status and (status == 200 or "larger than 1 MB; send smaller" in answer.text)


@pytest.mark.parametrize(
    ("path", "options", "status", "says"),
    [
        (GENERATE, {"json": {"prompt": "x" * MAX_BODY_BYTES}}, 413, "larger than 64 KiB"),
        (GENERATE, {"json": {"init_image": "x" * MAX_PICTURE_BODY_BYTES}}, 413, "larger than 2.5 MB; send smaller"),
        ("/gradio_api/call/model", {"json": {"data": ["x" * MAX_BODY_BYTES]}}, 413, "larger than 64 KiB"),
        ("/gradio_api/cancel", {"json": {"event_id": "x" * MAX_BODY_BYTES}}, 413, "larger than 64 KiB"),
        (GENERATE, {"content": b"{", "headers": IS_JSON}, 400, "not valid JSON"),
        (GENERATE, {"content": b"[" * 5000, "headers": IS_JSON}, 400, "not valid JSON"),
        (GENERATE, {"content": b'{"prompt": ' + b"9" * 5000 + b"}", "headers": IS_JSON}, 400, "not valid JSON"),
        (GENERATE, {"json": [1]}, 400, "must be a JSON object"),
        (GENERATE, {"json": {"colour": 1}}, 400, "/generate takes prompt, seed, init_image"),
        (GENERATE, {"json": {"seed": 1}}, 400, "prompt is missing"),
        (GENERATE, {"json": {}, "headers": {"x": "y" * 40_000}}, 431, "headers take more than 32 KiB"),
        ("/gradio_api/call/generate", {"json": {"data": [1, 2, 3, 4]}}, 400, "a value for each parameter"),
        ("/gradio_api/call/generate", {"json": {"data": "x"}}, 400, "data must be a list"),
        ("/gradio_api/call/unknown", {"json": {"data": []}}, 404, "there are /generate, /model"),
        ("/gradio_api/queue/join", {"json": {"data": [], "fn_index": 9}}, 400, "one of the page's events"),
        ("/gradio_api/queue/join", {"json": {"data": {}, "fn_index": 3}}, 400, "this event's 1 inputs"),
        ("/gradio_api/queue/join", {"json": {"data": [1], "fn_index": 3}}, 400, "session_hash must be text"),
        ("/gradio_api/queue/join", {"json": {"data": [{"path": "x"}], "fn_index": 3}}, 400, "token must be text"),
        (GENERATE, {"json": {"prompt": {"path": "x", "meta": {"_type": "gradio.FileData"}}}}, 400, "prompt must be"),
        (GENERATE, {"content": b"{}", "headers": {"content-type": "text/plain"}}, 415, "Content-Type"),
        (GENERATE, {"content": b"{}"}, 415, "must be JSON"),
        ("/login", {"json": {}}, 415, "as a form"),
        ("/gradio_api/cancel", {"json": {"session_hash": "mine"}}, 404, "no such run"),
        ("/gradio_api/cancel", {"json": {"session_hash": "other", "event_id": "event"}}, 404, "no such run"),
        (GENERATE, {"content": b"", "headers": {"content-encoding": "gzip"}}, 415, "send plain JSON"),
    ],
)
def test_a_malformed_call_is_refused_in_a_sentence(door, path, options, status, says):
    answer = door.post(path, **options)
    assert answer.status_code == status and says in answer.json()["error"]
    assert door.behind.reached == []


def test_only_gradios_own_first_startup_call_gets_through(door):
    path = "/gradio_api/startup-events"
    assert door.client.get(path).status_code == 200
    assert door.client.get(path).status_code == 404


@pytest.mark.parametrize("name", ["/etc/passwd", "{results}/../a", "{results}//a.png", "{results}/b.png", "{results}"])
def test_no_other_file_than_a_result_can_be_fetched(door, tmp_path, name):
    assert door.client.get(f"/gradio_api/file={name.format(results=tmp_path)}").status_code == 404
    assert door.behind.reached == []


@pytest.mark.parametrize("name", ["/" + "a/" * 30_000, "{results}/" + "a/" * 2_000, "{results}/" + "a" * 300])
def test_a_long_name_of_a_file_takes_no_time(door, tmp_path, name):
    """By the clock of the processor, for others use this machine too."""
    began_s = time.thread_time()
    assert not door.filter._contract.may_be_fetched(name.format(results=tmp_path))
    assert time.thread_time() - began_s < 0.05


def test_results_are_not_stored_on_the_way_and_every_answer_is_guarded(door, tmp_path):
    result = door.client.get(f"/gradio_api/file={tmp_path}/a.png")
    assert result.status_code == 200 and result.headers["cache-control"] == "private, no-store"
    for answer in (result, door.client.get("/"), door.client.get("/docs"), door.client.get("/healthz")):
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_readiness_names_what_is_missing(door):
    assert door.client.get("/readyz").status_code == 200
    for status, says in (
        (BackendStatus(Stage.LOADING), "Getting ready: loading the model."),
        (BackendStatus(Stage.FAILED, reason="No checker."), "No checker."),
    ):
        door.status = status
        answer = door.client.get("/readyz")
        assert answer.status_code == 503 and answer.json()["reason"] == says
    door.status, door.is_queue_alive = BackendStatus(Stage.READY), False
    assert "queue" in door.client.get("/readyz").json()["reason"]
    assert door.client.get("/healthz").status_code == 200, "the process lives all the same"


def test_more_calls_than_the_rate_wait_and_a_minute_later_they_do_not(tmp_path):
    door = Filtered(tmp_path, rate_per_minute=2)
    assert [door.post().status_code for _ in range(3)] == [200, 200, 429]
    refused = door.post()
    assert refused.headers["retry-after"] == "30" and "try again in 30 s" in refused.json()["error"]
    door.clock.now_s = 30.0
    assert [door.post().status_code for _ in range(2)] == [200, 429]
    assert 'sd_space_refusals_total{status="429"} 3.0' in door.client.get("/metrics").text


def test_the_page_is_refused_in_its_visitors_language_and_a_program_in_english(tmp_path):
    door, german = Filtered(tmp_path, rate_per_minute=1), {"Accept-Language": "de"}
    door.post()
    page = door.post(headers=german | {USER_HEADER: PAGE_USER})
    assert "versuchen Sie es in" in page.json()["error"] and "try again in" in door.post(headers=german).json()["error"]


TOOL_CALL = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "tools/call",
    "params": {"name": "generate", "arguments": {"prompt": "a cat"}},
}


class ToolServer:
    """Stands for Gradio's MCP server: makes a call again as a client on this machine, with the headers that came."""

    def __init__(self, door: Filtered):
        self.door = door
        self.statuses: list[int] = []
        door.behind.app.router.routes.clear()
        door.behind.app.add_route("/gradio_api/mcp/", self.call, methods=["POST"])
        door.behind.app.add_route("/{path:path}", door.behind.answer, methods=["GET", "POST"])

    async def call(self, request):
        transport = httpx.ASGITransport(self.door.filter, client=("127.0.0.1", 2))
        headers = {name: value for name, value in request.headers.items() if name != "content-length"}
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            answer = await client.post(GENERATE, json={"prompt": "a cat"}, headers=headers)
        self.statuses.append(answer.status_code)
        while self.door.waits_for_its_end and not (await request.is_disconnected()):
            await asyncio.sleep(0)
        return JSONResponse({"jsonrpc": "2.0", "id": 1, "result": {}})


def test_a_tool_call_is_its_callers_and_counts_once(tmp_path):
    door = Filtered(tmp_path, rate_per_minute=1)
    server = ToolServer(door)
    assert door.client.post("/gradio_api/mcp/", json=TOOL_CALL).status_code == 200
    assert server.statuses == [200] and door.behind.callers == ["192.0.2.1"]
    assert door.client.post("/gradio_api/mcp/", json=TOOL_CALL).status_code == 429


def test_what_a_tool_call_asks_for_is_given_up_when_its_client_leaves(tmp_path):
    door = Filtered(tmp_path)
    door.behind.under_way, door.waits_for_its_end = set(), True
    ToolServer(door)

    async def main():
        messages, leaving = [{"type": "http.request", "body": json.dumps(TOOL_CALL).encode()}], asyncio.Event()

        async def receive():
            if messages:
                return messages.pop()
            await leaving.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            pass

        headers = [(b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": "/gradio_api/mcp", "headers": headers, "scheme": "http"}
        scope |= {"query_string": b"", "client": ("192.0.2.1", 1)}
        call = asyncio.create_task(door.filter(scope, receive, send))
        while not len(door.capacity):
            await asyncio.sleep(0)
        (place,) = door.capacity._places.values()
        assert not place.is_abandoned
        leaving.set()
        await call
        return place.is_abandoned

    assert asyncio.run(main())


def test_a_tool_call_whose_client_has_left_already_is_not_begun(tmp_path):
    door = Filtered(tmp_path)
    server = ToolServer(door)

    async def late(request):
        server.headers = {name: value for name, value in request.headers.items() if name != "content-length"}
        return JSONResponse({"jsonrpc": "2.0", "id": 1, "result": {}})

    door.behind.app.router.routes.clear()
    door.behind.app.add_route("/gradio_api/mcp/", late, methods=["POST"])
    door.behind.app.add_route("/{path:path}", door.behind.answer, methods=["GET", "POST"])
    with door.client as client:
        assert client.post("/gradio_api/mcp/", json=TOOL_CALL).status_code == 200
        refused = client.post(GENERATE, json={"prompt": "a cat"}, headers=server.headers)
    assert refused.status_code == 404 and "Nobody waits" in refused.json()["error"]
    assert not len(door.capacity)


def test_a_crowd_of_tool_calls_is_refused_in_the_protocols_own_form(tmp_path):
    """Its clients take any HTTP status but 200 for a broken connection."""
    door = Filtered(tmp_path, max_queue=1)
    ToolServer(door)
    door.behind.under_way = set()
    while door.post().status_code == 200:
        pass
    refused = door.client.post("/gradio_api/mcp/", json=TOOL_CALL)
    assert (refused.status_code, refused.headers["retry-after"]) == (200, "30")
    answer = refused.json()
    assert answer["id"] == 1 and answer["result"]["isError"]
    assert "Too many visitors" in answer["result"]["content"][0]["text"]


def test_a_notification_of_an_mcp_client_is_taken_without_a_word(door):
    door.behind.reply = Response(status_code=202)
    answer = door.client.post("/gradio_api/mcp/", json={"jsonrpc": "2.0", "method": "notifications/cancelled"})
    assert (answer.status_code, answer.content) == (202, b"")


@pytest.mark.parametrize(
    ("path", "body"), [(GENERATE, {"prompt": "a cat"}), ("/gradio_api/call/generate", {"data": ["a cat", 1]})]
)
def test_a_visitors_share_is_counted_when_the_request_comes_in(tmp_path, path, body):
    door = Filtered(tmp_path, max_per_visitor=2)
    mine, forged = {"X-License-Token": "a token"}, {"X-License-Token": "another"}
    door.behind.under_way = set()
    assert [door.client.post(path, json=body, headers=mine).status_code for _ in range(3)] == [200, 200, 429]
    refused = door.client.post(path, json=body, headers=mine)
    assert refused.headers["retry-after"] == "30"
    assert "2 of your requests" in refused.json()["error"]
    assert door.client.post(path, json=body, headers=forged).status_code == 200, (
        "the gate will say what is wrong with it"
    )


def test_a_cancellation_names_the_events_own_number_and_ends_its_run_at_once(door):
    place, ended = door.capacity.enter(None), []
    place.event_id, place.runs["run"] = "event", lambda: ended.append(True)
    body = {"event_id": "event", "session_hash": "mine", "fn_index": 0}
    door.client.post("/gradio_api/cancel", json=body)
    assert json.loads(door.behind.body) == body | {"fn_index": 3}
    assert ended and place.is_abandoned
    assert door.client.post("/gradio_api/cancel", json=body | {"session_hash": "other"}).status_code == 404


def test_a_cancellation_that_would_end_another_run_too_is_not_passed_on(door):
    place, door.is_alone = door.capacity.enter(None), False
    place.event_id = "event"
    answer = door.client.post("/gradio_api/cancel", json={"event_id": "event", "session_hash": "mine"})
    assert answer.json() == {"success": True} and place.is_abandoned
    assert door.behind.reached == []


def test_a_refused_method_names_those_that_are_taken(door):
    answer = door.client.put("/gradio_api/mcp/")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert door.client.head("/assets/x.js").status_code == 200


def test_a_request_for_two_hosts_is_for_none(door):
    assert door.client.get("/", headers=[("host", "one.example"), ("host", "two.example")]).status_code == 400


def test_nobody_can_call_as_another(tmp_path):
    door = Filtered(tmp_path, rate_per_minute=1)
    for forged in ("198.51.100.7", ":198.51.100.7", "0" * 32 + ":198.51.100.7"):
        door.client.post(GENERATE, json={"prompt": "a cat"}, headers={"X-SD-Space-Tool-Call": forged})
    assert door.behind.callers == ["192.0.2.1"], "and the second call was one too many"


@pytest.mark.parametrize(("has_login", "passed"), [(True, "access-token-app=token"), (False, None)])
def test_no_cookie_but_a_logins_reaches_the_app(tmp_path, has_login, passed):
    door = Filtered(tmp_path, has_login)
    door.client.get("/", headers={"Cookie": 'a="' + '\\"' * 9000 + '"; access-token-app=token'})
    assert door.behind.headers.get("cookie") == passed


def test_an_address_that_leaves_its_answers_unread_leaves_room_for_others(door):
    async def unread(scope, receive, send):
        await asyncio.Event().wait()

    async def main():
        behind, door.filter._app = door.filter._app, unread

        def visitor(address: str) -> httpx.AsyncClient:
            transport = httpx.ASGITransport(door.filter, client=(address, 1))
            return httpx.AsyncClient(transport=transport, base_url="http://testserver")

        async with visitor("192.0.2.1") as greedy, visitor("192.0.2.2") as other:
            held = [asyncio.create_task(greedy.get("/assets/x.js")) for _ in range(MAX_OPEN)]
            while door.filter._open._open["192.0.2.1"] < MAX_OPEN:
                await asyncio.sleep(0)
            door.filter._app = behind
            refused = await greedy.get("/")
            assert refused.status_code == 429 and "open already" in refused.json()["error"]
            assert refused.headers["retry-after"] == "30"
            assert [(await greedy.get("/healthz")).status_code, (await other.get("/")).status_code] == [200, 200]
            for request in held:
                request.cancel()
            await asyncio.gather(*held, return_exceptions=True)
            assert (await greedy.get("/")).status_code == 200

    asyncio.run(main())


def test_a_logout_ends_the_callers_own_session_alone(door):
    door.behind.reply = Response(status_code=302)
    for query in ("", "?all_session=true"):
        assert door.client.get(f"/logout{query}", follow_redirects=False).status_code == 302
        assert door.behind.query == "all_session=false"


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Origin": "https://elsewhere.example"},
        {"Referer": "https://elsewhere.example/page"},
    ],
)
def test_another_sites_page_logs_nobody_out(door, headers):
    refused = door.client.get("/logout", headers=headers)
    assert refused.status_code == 403 and "Another site's page" in refused.json()["error"]
    assert door.behind.reached == []


def test_a_place_cannot_be_named_by_a_caller(door):
    door.post(json={"prompt": "a cat"}, headers={"X-SD-Space-Place": "mine", "X-SD-Space-Address": "http://evil"})
    assert door.behind.headers["x-sd-space-place"] != "mine"
    assert door.behind.headers["x-sd-space-address"] == "http://testserver"


def test_reading_is_not_counted(tmp_path):
    door = Filtered(tmp_path, rate_per_minute=1)
    assert {door.client.get("/config").status_code for _ in range(5)} == {200}


@pytest.mark.parametrize(
    ("trusted", "headers", "refused"),
    [
        (0, ["1.1.1.1", "2.2.2.2"], True),  # nobody is believed: both are the peer
        (1, ["9.9.9.9, 1.1.1.1", "8.8.8.8, 1.1.1.1"], True),  # what callers write themselves does not count
        (1, ["1.1.1.1", "2.2.2.2"], False),
        (2, ["1.1.1.1, 5.5.5.5", "2.2.2.2, 5.5.5.5"], False),
    ],
)
def test_an_address_is_what_the_trusted_proxies_say(tmp_path, trusted, headers, refused):
    door = Filtered(tmp_path, rate_per_minute=1, trusted_proxies=trusted)
    answers = [
        door.post(json={"prompt": "a cat"}, headers={"x-forwarded-for": header}).status_code for header in headers
    ]
    assert answers == [200, 429 if refused else 200]


def test_a_caller_who_leaves_in_the_middle_of_a_body_harms_nobody(door):
    sent = []

    async def receive():
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": GENERATE, "headers": headers, "client": ("1.1.1.1", 1)}
    scope |= {"scheme": "http", "query_string": b""}
    asyncio.run(door.client.app(scope, receive, send))
    assert sent == [] and door.behind.reached == []


def test_a_call_is_listened_to_by_its_id_and_not_by_a_sessions_name(door):
    assert door.client.get("/gradio_api/call/generate/event").status_code == 200
    assert door.client.get("/gradio_api/call/generate/mine").status_code == 404


def test_an_app_that_breaks_in_the_middle_ends_its_answer_and_is_logged_in_a_line(door, caplog):
    async def broken(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
        raise RuntimeError("words that are not for the log")

    door.filter._app = broken
    answer = door.client.get("/gradio_api/call/generate/event")
    assert (answer.status_code, answer.text) == (200, "data: 1\n\n")
    assert len(caplog.records) == 1 and "RuntimeError in test_middleware.py" in caplog.text
    assert "words" not in caplog.text


def test_an_event_that_nobody_can_hear_of_any_more_is_not_listened_to(door):
    door.heard = True
    assert door.client.get("/gradio_api/call/generate/event").status_code == 404
    assert door.client.get("/gradio_api/queue/data?session_hash=mine").status_code == 404


def test_a_body_that_says_it_is_too_large_is_not_waited_for(door):
    headers = {"content-type": "application/json", "content-length": "9" * 30}
    assert door.post(content=iter([b"{}"]), headers=headers).status_code == 413


def test_each_request_lets_go_of_sessions_that_are_over(door):
    door.client.get("/healthz")
    door.post()
    assert len(door.listening) == 2


JOIN, EVENT = "/gradio_api/queue/join", {"data": [1], "fn_index": 3, "session_hash": "mine"}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (GENERATE, {"prompt": "a cat"}),
        ("/gradio_api/call/generate", {"data": ["a cat", 1]}),
        (JOIN, EVENT),
    ],
)
def test_a_crowd_is_refused_at_once_when_there_is_no_place(door, path, body):
    door.behind.under_way = set()
    assert {door.post(path, json=body).status_code for _ in range(28)} == {200}
    refused = door.post(path, json=body)
    assert refused.status_code == 429 and "come back in a few minutes" in refused.json()["error"]
    assert refused.headers["retry-after"] == "30"
    door.status = BackendStatus(Stage.READY, running=9)
    assert door.post(path, json=body).status_code == 200, "while 9 are drawn, 20 may wait"
    door.status = BackendStatus(Stage.READY, replicas={"running": 2})
    assert door.post(path, json=body).status_code == 200, "two replicas can draw 16"
    door.status = BackendStatus(Stage.READY)
    assert door.post(path, json=body).status_code == 429
    door.behind.under_way.clear()
    assert door.post(path, json=body).status_code == 200, "all of them are over"


def test_a_call_counts_once_on_its_way_to_the_queue_and_in_it(door):
    """Of 40 that come at once some are in Gradio's queue already when others are still on their way."""

    async def main():
        everybody_is_here, on_their_way = asyncio.Event(), []

        async def answer(request):
            is_first = not on_their_way
            on_their_way.append(f"event {len(on_their_way)}")
            if not is_first:
                await everybody_is_here.wait()
            door.behind.under_way.add(event_id := on_their_way[len(door.behind.under_way)])
            return JSONResponse({"event_id": event_id})

        door.behind.under_way = set()
        door.behind.app.router.routes.clear()
        door.behind.app.add_route("/gradio_api/call/generate", answer, methods=["POST"])
        transport = httpx.ASGITransport(door.client.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
            posts = [asyncio.create_task(client.post(GENERATE, json={"prompt": "a cat"})) for _ in range(40)]
            while sum(post.done() for post in posts) + len(on_their_way[1:]) < 40:
                await asyncio.sleep(0)
            everybody_is_here.set()
            return [answer.status_code for answer in await asyncio.gather(*posts)]

    statuses = asyncio.run(main())
    assert (statuses.count(200), statuses.count(429)) == (28, 12)


def test_a_crowd_may_ask_what_needs_no_place(door):
    door.behind.under_way = set()
    assert [door.post().status_code for _ in range(29)][-1] == 429
    assert door.post("/gradio_api/call/v2/model", json={}).status_code == 200
