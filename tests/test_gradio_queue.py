"""Gradio's private parts: that each one which is used is still there, and what is made of its queue."""

import asyncio
import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from gradio import http_server, mcp, queueing, routes, server_messages, state_holder
from spaces.utils import gradio_request_var

from sd_space.schema import BackendStatus, Stage
from sd_space.serving import gradio_queue
from sd_space.serving.environment import turn_off_analytics
from sd_space.serving.gradio_queue import UNREAD_RESULT_TTL_S, Sessions
from sd_space.serving.limits import Capacity
from sd_space.settings import Settings


def changed(whose: str, what: str, used_by: str) -> str:
    return f"Gradio {gr.__version__}'s {whose} {what}: look at {used_by} in sd_space/serving"


def in_a_loop(make: Callable[[], Any]) -> Any:
    """What `make` returns when it is called in an event loop: elsewhere Gradio opens one, and leaves it open."""

    async def main() -> Any:
        return make()

    return asyncio.run(main())


@pytest.fixture(scope="module")
def demo():
    """A page with a queue, set up as ours is; nothing is served."""

    def make() -> gr.Blocks:
        with gr.Blocks(analytics_enabled=False) as demo:
            gr.api(lambda: None, api_name="nothing")
        gradio_queue.set_up_queue(demo, Capacity(Settings(), lambda: BackendStatus(Stage.READY)))
        return demo

    return in_a_loop(make)


def new_queue() -> queueing.Queue:
    """One as Gradio makes it."""
    return in_a_loop(lambda: queueing.Queue(False, 1, 1.0, None, None))


def owner(demo: gr.Blocks, name: str) -> Any:
    demo._queue.create_event_queue_for_fn(demo.fns[0])
    (line,) = demo._queue.event_queue_per_concurrency_id.values()
    return {
        "Blocks": demo,
        "Queue": demo._queue,
        "EventQueue": line,
        "Event": queueing.Event(None, demo.fns[0], None, None),
        "App": routes.App,
        "module routes": routes,
        "module http_server": http_server,
        "SessionState": state_holder.SessionState,
        "MCP server": in_a_loop(lambda: mcp.GradioMCPServer(demo)),
    }[name]


@pytest.mark.parametrize(
    ("whose", "member", "kind", "used_by"),
    [
        ("Blocks", "_queue", queueing.Queue, "gradio_queue.set_up_queue"),
        ("Blocks", "extra_startup_events", list, "gradio_queue.keep_queue_running"),
        ("Blocks", "is_running", bool, "gradio_queue.keep_queue_running"),
        ("Blocks", "mcp_server_obj", object, "gradio_queue.mcp_tools"),
        ("Queue", "event_ids_to_events", dict, "gradio_queue.set_up_queue"),
        ("Queue", "pending_messages_per_session", dict, "gradio_queue.Sessions"),
        ("Queue", "pending_event_ids_session", dict, "gradio_queue.Sessions"),
        ("Queue", "event_queue_per_concurrency_id", dict, "gradio_queue.restart_gradio_queue"),
        ("Queue", "stopped", bool, "gradio_queue.is_queue_alive"),
        ("Queue", "start", object, "gradio_queue.restart_gradio_queue"),
        ("Queue", "active_jobs", list, "gradio_queue.drain_event_streams"),
        ("EventQueue", "queue", list, "gradio_queue.restart_gradio_queue"),
        ("EventQueue", "current_concurrency", int, "gradio_queue.restart_gradio_queue"),
        ("Event", "_id", str, "gradio_queue.restart_gradio_queue"),
        ("App", "build_middleware_stack", object, "gradio_queue.wrap_apps"),
        ("module routes", "STATIC_PATH_LIB", object, "gradio_queue.asset_addresses"),
        ("module routes", "BUILD_PATH_LIB", object, "gradio_queue.asset_addresses"),
        ("module routes", "templates", object, "gradio_queue.add_to_document"),
        ("module http_server", "start_server", object, "gradio_queue.serve_with"),
        ("SessionState", "_update_value_in_config", object, "gradio_queue.keep_no_values"),
        ("MCP server", "tool_to_endpoint", dict, "gradio_queue.mcp_tools"),
        ("MCP server", "postprocess_output_data", object, "gradio_queue.extend_mcp"),
        ("MCP server", "_execute_tool_with_progress", object, "gradio_queue.extend_mcp"),
        ("MCP server", "_execute_tool_without_progress", object, "gradio_queue.extend_mcp"),
        ("MCP server", "mcp_server", object, "gradio_queue.extend_mcp"),
    ],
)
def test_gradio_still_has_what_is_used_of_it(demo, whose, member, kind, used_by):
    its = owner(demo, whose)
    assert hasattr(its, member), changed(whose, f"has no {member} any more", used_by)
    assert isinstance(getattr(its, member), kind), changed(whose, f"{member} is no {kind.__name__} any more", used_by)


def test_gradios_queue_still_bounds_the_sessions_whose_messages_it_keeps():
    kept = new_queue().pending_messages_per_session
    problem = changed("Queue", "bounds pending_messages_per_session in another way", "gradio_queue.set_up_queue")
    assert getattr(kept, "max_size", None) == 2_000, problem


def test_gradio_still_has_the_message_that_ends_an_event():
    fields = server_messages.ProcessCompletedMessage.model_fields
    problem = changed("ProcessCompletedMessage", "has other fields", "gradio_queue.restart_gradio_queue")
    assert {"event_id", "output", "success"} <= fields.keys(), problem


def test_gradio_still_starts_its_server_through_the_function_that_is_replaced():
    problem = changed("launch", "does not call http_server.start_server any more", "gradio_queue.serve_with")
    assert "http_server.start_server(" in inspect.getsource(gr.Blocks.launch), problem


@pytest.mark.parametrize(
    "piece",
    [
        'lang="en"',
        "{{ config | toorjson }}",
        'href="/manifest.json"',
        "<script>window.gradio_config",
        "</head>",
        "<gradio-app",
        '<meta property="og:title"',
    ],
)
def test_gradios_page_still_has_what_is_replaced_in_it(piece):
    template, *_ = gradio_queue._OWN_LOADER.get_source(routes.templates.env, "frontend/index.html")
    assert piece in template, changed("page", f"has no {piece} any more", "gradio_queue.add_to_document")


def test_gradios_queue_refuses_nobody_and_keeps_everybodys_messages(demo):
    assert demo._queue.max_size is None
    assert demo._queue.pending_messages_per_session.max_size > 10**6
    assert demo._queue.default_concurrency_limit is None


def test_what_a_session_sends_and_is_sent_is_kept_nowhere(monkeypatch):
    """Else the last sessions' prompts and pictures would stay in memory."""
    own = state_holder.SessionState._update_value_in_config
    monkeypatch.setattr(state_holder.SessionState, "_update_value_in_config", own)  # and restored afterwards
    gradio_queue.keep_no_values()

    def echo(text: str) -> str:
        return text

    async def main() -> None:
        with gr.Blocks(analytics_enabled=False) as demo:
            gr.api(echo)
        session = state_holder.SessionState(demo)
        answer = await demo.process_api(demo.fns[0], ["words of a visitor"], state=session)
        assert answer["data"] == ["words of a visitor"]
        assert "words of a visitor" not in repr(session.config_values)

    asyncio.run(main())


def test_a_caller_of_our_own_routes_is_known_where_zerogpu_looks():
    """What it reads is the variable `gradio_request_var` of the package `spaces`."""

    async def call() -> str:
        gradio_queue.introduce(
            {"type": "http", "headers": [(b"x-ip-token", b"a quota")], "path": "/", "method": "POST"}
        )
        return gradio_request_var().get().headers["x-ip-token"]

    assert asyncio.run(call()) == "a quota"


def test_gradios_analytics_are_off_by_its_own_variables(monkeypatch):
    environ = {}
    turn_off_analytics(environ)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    queue = new_queue()
    problem = changed("Queue", "reads other variables for its analytics", "environment.turn_off_analytics")
    assert queue.ANALYTICS_MAX_EVENTS == 1 and queue.ANAYLTICS_CACHE_FREQUENCY > 10**8, problem


class Scene:
    """What Gradio's queue holds, as a visitor's call puts it there; reliability/test_soak.py has the queue itself."""

    def __init__(self):
        self.queue = SimpleNamespace(
            pending_messages_per_session={}, pending_event_ids_session={}, event_ids_to_events={}
        )
        self.now_s = 0.0
        self.sessions = Sessions(self.queue, now_s=lambda: self.now_s)

    def begin(self, session: str, event_id: str) -> None:
        self.queue.pending_messages_per_session.setdefault(session, [])
        self.queue.pending_event_ids_session.setdefault(session, set()).add(event_id)
        self.queue.event_ids_to_events[event_id] = None

    def end(self, event_id: str) -> None:
        del self.queue.event_ids_to_events[event_id]

    def read(self, session: str, event_id: str) -> None:
        self.queue.pending_event_ids_session[session].remove(event_id)

    def evict(self, after_s: float = 2.0, connected=()) -> set[str]:
        """Which sessions are left."""
        self.now_s += after_s
        self.sessions.evict_idle(connected)
        return set(self.queue.pending_messages_per_session)


@pytest.fixture
def scene():
    return Scene()


def test_an_event_is_its_sessions_until_its_end_is_read(scene):
    scene.begin("mine", "event")
    assert scene.sessions.of("event") == "mine" and scene.sessions.of("other") is None
    scene.end("event")
    assert scene.sessions.of("event") == "mine"
    scene.read("mine", "event")
    assert scene.sessions.of("event") is None


def test_a_session_whose_results_were_read_is_forgotten(scene):
    scene.begin("mine", "event")
    scene.end("event")
    scene.read("mine", "event")
    assert scene.evict() == set()


def test_a_session_with_a_running_event_stays_however_long_it_takes(scene):
    scene.begin("mine", "event")
    assert scene.evict() == {"mine"} == scene.evict(10 * UNREAD_RESULT_TTL_S)


def test_an_unread_result_is_kept_for_a_while(scene):
    scene.begin("mine", "event")
    scene.end("event")
    assert scene.evict() == {"mine"} == scene.evict(UNREAD_RESULT_TTL_S - 1)
    assert scene.evict() == set()


def test_a_result_is_kept_from_the_last_event_on(scene):
    scene.begin("mine", "first")
    scene.end("first")
    scene.evict()
    scene.begin("mine", "second")
    assert scene.evict(2 * UNREAD_RESULT_TTL_S) == {"mine"}
    scene.end("second")
    assert scene.evict() == {"mine"} == scene.evict(UNREAD_RESULT_TTL_S - 1)


def test_nothing_is_taken_from_a_listener(scene):
    scene.begin("mine", "event")
    scene.end("event")
    scene.evict(connected={"mine"})
    assert scene.evict(10 * UNREAD_RESULT_TTL_S, connected={"mine"}) == {"mine"}


def test_a_visitor_who_left_in_the_middle_leaves_nothing(scene):
    """Gradio then drops the messages and keeps the event's id."""
    scene.begin("mine", "event")
    del scene.queue.pending_messages_per_session["mine"]
    scene.end("event")
    scene.evict()
    scene.evict(UNREAD_RESULT_TTL_S)
    assert not scene.queue.pending_event_ids_session


def test_calls_in_quick_succession_share_an_eviction(scene):
    scene.evict()
    scene.begin("mine", "event")
    scene.end("event")
    scene.read("mine", "event")
    assert scene.evict(0.5) == {"mine"}
    assert scene.evict(0.6) == set()
