"""Everything that touches Gradio's private parts: its queue, the sessions in it, and how it serves its app.

Gradio promises nothing about them: where a new version has changed one, a test of this file says which, and where it
is used.
"""

import asyncio
import functools
import logging
import re
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import gradio as gr
import jinja2
from fastapi import FastAPI
from gradio import http_server, routes, state_holder
from gradio.context import LocalContext
from gradio.routes import templates
from gradio.server_messages import ProcessCompletedMessage
from starlette.requests import Request
from starlette.types import ASGIApp, Scope

from sd_space.card import ModelCard
from sd_space.languages import Phrase, language_for, speaking
from sd_space.serving import mcp_offers, mcp_results
from sd_space.serving.document import Document, link_preview
from sd_space.serving.limits import Capacity
from sd_space.serving.own_answers import THEME_COLOR

logger = logging.getLogger(__name__)

QUEUE_CHECK_INTERVAL_S = 0.5
UNREAD_RESULT_TTL_S = 300.0  # a result may be fetched for that long after it is there
INTERRUPTED = Phrase("The server's queue failed and was started again; please try again.")
_EVICT_INTERVAL_S = 1.0
_UNLIMITED = 10**7
_OWN_LOADER: Any = templates.env.loader
# Where the browser has opened the page; the request filter puts it where Gradio would write an absolute address.
_PAGE_ROOT_JS = "<script>const pageRoot = new URL('.', document.baseURI).href.replace(/[/]$/, '')</script>"


def set_up_queue(demo: gr.Blocks, capacity: Capacity) -> None:
    """Gives `demo` a queue that refuses nobody and runs each event at once.

    The engine decides the order of service, and `capacity` who may wait.
    """
    demo.queue(api_open=False, max_size=None, default_concurrency_limit=None)
    capacity.events = demo._queue.event_ids_to_events.keys
    # Gradio keeps the messages of 2,000 sessions, and its queue stops when one of more sessions gets a message.
    # `Sessions` forgets those that are over.
    demo._queue.pending_messages_per_session.max_size = _UNLIMITED


def sessions_of(demo: gr.Blocks) -> "Sessions":
    """The sessions of the queue that `set_up_queue` has given to `demo`."""
    return Sessions(demo._queue)


def is_queue_alive(demo: gr.Blocks) -> bool:
    return not demo._queue.stopped


def keep_queue_running(demo: gr.Blocks) -> None:
    """If the loop of Gradio's queue fails, it never restarts by itself; from the launch on, a task restarts it."""
    demo.extra_startup_events.append(functools.partial(_start_queue_watch, demo))


async def _start_queue_watch(demo: Any) -> None:
    async def watch() -> None:
        while demo.is_running:
            await asyncio.sleep(QUEUE_CHECK_INTERVAL_S)
            if demo._queue.stopped and demo.is_running:
                logger.error("Gradio's queue had stopped and is started again")
                restart_gradio_queue(demo._queue)

    demo._queue_watch = asyncio.get_running_loop().create_task(watch())  # the loop itself holds tasks weakly


def restart_gradio_queue(queue: Any) -> None:
    """Starts the queue. Events that wait in it are served; those that were being served end with a sentence."""
    waiting = {event._id for line in queue.event_queue_per_concurrency_id.values() for event in line.queue}
    queue.stopped = False
    queue.start()
    for line in queue.event_queue_per_concurrency_id.values():
        line.current_concurrency = 0
    for session, event_ids in queue.pending_event_ids_session.items():
        messages = queue.pending_messages_per_session.get(session)
        for event_id in event_ids - waiting if messages else ():
            output = {"error": INTERRUPTED}
            messages.put_nowait(ProcessCompletedMessage(event_id=event_id, output=output, success=False))


def drain_event_streams(demo: gr.Blocks, deadline_s: float) -> None:
    """Returns when no event runs any more and all listeners have read the end of theirs, or at the deadline."""
    queue = demo._queue
    while any(queue.active_jobs) and time.monotonic() < deadline_s:
        time.sleep(0.02)
    deadline_s = min(deadline_s, time.monotonic() + 1.0)  # some events have no listener, and never will
    while any(queue.pending_event_ids_session.values()) and time.monotonic() < deadline_s:
        time.sleep(0.02)


class Sessions:
    """The sessions of a `gradio.queueing.Queue`, which forgets none of them by itself.

    Belongs to the queue's event loop. `now_s` is a monotonic clock.
    """

    def __init__(self, queue: Any, now_s: Callable[[], float] = time.monotonic):
        self._queue = queue
        self._now_s = now_s
        self._unread_since_s: dict[str, float] = {}
        self._next_s = 0.0

    def running(self, event_id: str) -> tuple[str, int] | None:
        """The session of an event that waits or runs, and the number by which the page knows the event."""
        event = self._queue.event_ids_to_events.get(event_id)
        return None if event is None else (event.session_hash, event.fn._id)

    def is_alone(self, event_id: str) -> bool:
        """Whether its session has no other event of the same number: Gradio's own cancellation would end them all."""
        events = self._queue.event_ids_to_events
        return [self.running(other) for other in list(events)].count(self.running(event_id)) <= 1

    def of(self, event_id: str) -> str | None:
        """The session of an event that runs or whose end is unread."""
        ids_of = self._queue.pending_event_ids_session
        return next((session for session, ids in ids_of.items() if event_id in ids), None)

    def has(self, session: str) -> bool:
        """Whether the session has, or will have, anything to read."""
        messages = self._queue.pending_messages_per_session.get(session)
        return messages is not None and (
            bool(self._queue.pending_event_ids_session.get(session)) or not messages.empty()
        )

    def evict_idle(self, connected: Collection[str]) -> None:
        """Drops the sessions whose results were read, and those whose results are unread for `UNREAD_RESULT_TTL_S`.

        `connected` are the sessions with a listener; they stay. Does nothing within a second of the last call.
        """
        now_s = self._now_s()
        if now_s < self._next_s:
            return
        self._next_s = now_s + _EVICT_INTERVAL_S
        messages, ids_of = self._queue.pending_messages_per_session, self._queue.pending_event_ids_session
        unread_since_s = {}
        for session in (messages.keys() | ids_of.keys()) - set(connected):
            ids = ids_of.get(session, ())
            if any(event_id in self._queue.event_ids_to_events for event_id in ids):
                continue  # waits or runs
            since_s = self._unread_since_s.get(session, now_s)
            if ids and _may_be_fetched(since_s, now_s):
                unread_since_s[session] = since_s
            else:
                messages.pop(session, None)
                ids_of.pop(session, None)
        self._unread_since_s = unread_since_s


def _may_be_fetched(since_s: float, now_s: float) -> bool:
    return now_s < since_s + UNREAD_RESULT_TTL_S


def serve_with(start_server: Callable[..., Any]) -> None:
    """`start_server` takes the place of Gradio's own from the next launch on; there is no setting for it."""
    http_server.start_server = start_server


def wrap_apps(wrapped: Callable[[ASGIApp], ASGIApp]) -> None:
    """Puts something around all of Gradio's apps from now on.

    Middleware that `launch` is given stands within Gradio's own, which answers other sites' pages by itself.
    """

    def build_middleware_stack(self: FastAPI) -> ASGIApp:
        return wrapped(FastAPI.build_middleware_stack(self))

    routes.App.build_middleware_stack = build_middleware_stack  # type: ignore[method-assign]  # it is meant


def keep_no_values() -> None:
    """Gradio keeps what each session has sent and been sent, for links to it, which the request filter has closed.

    Among it are prompts and whole pictures, those of the last `SESSION_CAPACITY` sessions.
    """
    state_holder.SessionState._update_value_in_config = lambda self, key, value: None  # type: ignore[method-assign]


def introduce(scope: Scope) -> None:
    """Says for the rest of this task who calls, as Gradio does of its own calls: ZeroGPU takes a quota from there."""
    LocalContext.request.set(gr.Request(Request(scope)))


def caller_headers() -> Mapping[str, str]:
    """The headers of the request whose event runs in this task or thread; none outside of events."""
    request = LocalContext.request.get(None)
    return request.headers if request is not None else {}


def asset_addresses() -> frozenset[str]:
    """The addresses of the parts of Gradio's page: those of files that are there."""
    folders = {"/static/": routes.STATIC_PATH_LIB, "/assets/": routes.BUILD_PATH_LIB}
    return frozenset(
        prefix + path.relative_to(folder).as_posix()
        for prefix, folder in folders.items()
        for path in Path(folder).rglob("*")
        if path.is_file()
    )


def add_to_document(url: str, image: str, in_language: Callable[[Mapping[str, Any]], Document]) -> None:
    """Makes links to the page show its own title, words and picture, and a tab its name while the page loads.

    `image` is below `url`, the page's. `in_language` is given Gradio's description of the page, in English, and makes
    the document's parts in the current language. Gradio's templates name Gradio there, and addresses that hold only
    where the page is at the root of its host.
    """
    icon = f'<link rel="icon" href="favicon.ico"><meta name="theme-color" content="{THEME_COLOR}">'
    icon += '<link rel="apple-touch-icon" href="pwa_icon/192">'
    public = f"{{% if not config.auth_required %}}{link_preview(url, image)}{{% endif %}}"
    end = f"{{{{ own.head | safe }}}}{icon}<title>{{{{ own.title }}}}</title>{public}</head>"
    first = "{% if not config.auth_required %}{{ own.body | safe }}{% endif %}<gradio-app"

    def document(request: Request, config: Mapping[str, Any]) -> Document:
        with speaking(language_for(request.headers)):
            return in_language(config)

    def load(name: str) -> str:
        template, *_ = _OWN_LOADER.get_source(templates.env, name)
        template = template.replace('href="/manifest.json"', 'href="manifest.json"')
        template = template.replace("<script>window.gradio_config", f"{_PAGE_ROOT_JS}<script>window.gradio_config")
        template = template.replace("{{ config | toorjson }}", "{{ own.config | toorjson }}")
        template = template.replace('lang="en"', 'lang="{{ own.language }}"', 1)
        return "{% set own = document(request, config) %}" + (
            re.sub(r'<meta\s+(property="og:|name="twitter:)[^>]*>', "", template)
            .replace("</head>", end)
            .replace("<gradio-app", first)
        )

    templates.env.globals["document"] = document
    templates.env.loader = jinja2.FunctionLoader(load)


def mcp_tools(demo: gr.Blocks) -> Mapping[str, str]:
    """The tools that MCP clients are offered, each with its endpoint's name; none before the launch, or without MCP."""
    server = demo.mcp_server_obj
    return {tool: name.removeprefix("/") for tool, name in server.tool_to_endpoint.items()} if server else {}


def extend_mcp(demo: gr.Blocks, card: ModelCard, model: Callable[[], Mapping[str, Any]]) -> None:
    """Makes MCP clients see pictures and progress, and read the licence, the card and the served model.

    Gradio's server makes text of a list of files, and of progress a count of messages.
    """
    server: Any = demo.mcp_server_obj
    if not server:
        return

    async def with_progress(job: Any, progress_token: str | int) -> list[Any]:
        context = server.mcp_server.request_context
        await mcp_results.followed(job, context.session, progress_token, str(context.request_id))
        result: list[Any] = await server._execute_tool_without_progress(job)
        return result

    server._execute_tool_with_progress = with_progress
    server.postprocess_output_data = lambda data, root_url: list(mcp_results.contents(data))
    mcp_offers.offer(server.mcp_server, card, model, mcp_tools(demo))
