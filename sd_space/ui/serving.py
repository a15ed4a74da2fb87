"""Serving the page: behind its front door, with Gradio's queue watched, and with its name and pictures in links."""

import asyncio
import functools
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import jinja2
from fastapi import FastAPI
from gradio import routes
from gradio.block_function import BlockFunction
from gradio.routes import templates
from gradio.server_messages import ProcessCompletedMessage
from starlette.types import ASGIApp

from sd_space.backends import Backend
from sd_space.recorded import CONTACT_SHEET, ICON, RecordedExample
from sd_space.serving.envelope import Endpoints, Parameter
from sd_space.serving.gallery import ResultStore
from sd_space.serving.limits import Capacity
from sd_space.serving.metrics import Metrics
from sd_space.serving.middleware import AppContract, RequestFilter
from sd_space.serving.origins import PUBLIC
from sd_space.serving.sessions import Sessions
from sd_space.settings import Settings
from sd_space.ui import views
from sd_space.ui.assets import script, style_sheet
from sd_space.ui.layout import THEME

logger = logging.getLogger(__name__)

QUEUE_LOOK_S = 0.5  # how often Gradio's queue is looked at
INTERRUPTED = "The server's queue failed and was started again; please try again."
SESSION_CAPACITY = 200  # sessions whose changed components Gradio remembers, about 20 kB each
_GENERATE = "generate"  # the name of both handlers that ask for pictures

_TEMPLATES = templates.env.loader  # Gradio's own
# Where the browser has opened the page; the request filter puts it where Gradio would write an absolute address.
_PAGE_ROOT_JS = "<script>const pageRoot = new URL('.', document.baseURI).href.replace(/[/]$/, '')</script>"


def set_up_queue(demo: gr.Blocks, settings: Settings, capacity: Capacity) -> None:
    """Makes Gradio's queue hand on what comes, as fast as it comes."""
    # The engine owns the order of service, and `capacity` the bound on who waits: Gradio's own queue must not
    # serialise before it.
    demo.queue(api_open=False, max_size=_most_events(settings), default_concurrency_limit=None)
    capacity.events = demo._queue.event_ids_to_events.keys
    # Gradio keeps the messages of 2,000 sessions, first in first out: more visitors than that would stop its queue.
    # `Sessions` forgets those that are over.
    demo._queue.pending_messages_per_session.max_size = 10**7
    # It would also keep the last 10,000 events, and count them anew after each, for a console that is not served.
    demo._queue.ANALYTICS_MAX_EVENTS, demo._queue.ANAYLTICS_CACHE_FREQUENCY = 1, 10**18


def _most_events(settings: Settings) -> int:
    """Room in Gradio for everybody who may wait here, for several pages each, and for what answers at once."""
    return settings.max_queue * 4 + 40


def served_files(store: ResultStore, recorded: Sequence[RecordedExample]) -> list[Path]:
    """Everything that visitors may fetch as a file."""
    return [store.root, CONTACT_SHEET, *(example.path for example in recorded)]


def launch(
    demo: gr.Blocks,
    settings: Settings,
    backend: Backend,
    metrics: Metrics,
    capacity: Capacity,
    files: Sequence[Path],
    **options: Any,
) -> str:
    """Serves `demo` in the background and returns its local address. `options` are those of `gr.Blocks.launch`."""

    def filtered(app: ASGIApp) -> ASGIApp:
        contract = _contract(demo, files, has_login=bool(options.get("auth")))
        return RequestFilter(app, settings, backend.status, metrics, contract, capacity)

    _wrap_apps(filtered)
    _introduce()
    demo.extra_startup_events.append(functools.partial(_start_queue_watch, demo))
    _, url, _ = demo.launch(
        prevent_thread_lock=True,
        quiet=True,
        show_error=False,
        run_history=False,
        enable_monitoring=False,
        mcp_server=not options.get("auth"),  # a client of this server itself, and has no password
        ssr_mode=False,
        max_threads=_most_events(settings),
        state_session_capacity=SESSION_CAPACITY,
        pwa=False,
        favicon_path=ICON,
        strict_cors=True,
        footer_links=["api"],
        theme=THEME,
        css=style_sheet(),
        js=script(),
        root_path="",
        app_kwargs={"openapi_url": None},
        **options,
    )
    if demo.mcp_server_obj:
        _give_pictures_to_mcp(demo)
    return url


def _wrap_apps(wrapped: Callable[[ASGIApp], ASGIApp]) -> None:
    """Puts something around all of Gradio's apps from now on.

    A middleware that `launch` is given stands within Gradio's own, which answers other sites' pages by itself.
    """

    def build_middleware_stack(app: routes.App) -> ASGIApp:
        return wrapped(FastAPI.build_middleware_stack(app))

    routes.App.build_middleware_stack = build_middleware_stack


def _contract(demo: gr.Blocks, files: Sequence[Path], has_login: bool) -> AppContract:
    queue, sessions = demo._queue, Sessions(demo._queue)
    endpoints = endpoint_parameters(demo.get_api_info())
    mcp = demo.mcp_server_obj
    return AppContract(
        endpoints=endpoints,
        tools={tool: endpoints[name.removeprefix("/")] for tool, name in mcp.tool_to_endpoint.items()} if mcp else {},
        inputs={index: _input_names(event) for index, event in demo.fns.items() if event.fn is not None},
        files=files,
        assets=_assets(),
        session_of=sessions.of,
        has_session=sessions.has,
        sweep=sessions.sweep,
        is_queue_alive=lambda: not queue.stopped,
        draws={_GENERATE, *(index for index, event in demo.fns.items() if event.name == _GENERATE)},
        has_login=has_login,
        title=views.TITLE,
        icon=ICON,
    )


def _input_names(event: BlockFunction) -> tuple[str, ...]:
    """The names by which its handler is given them."""
    return tuple(event.input_parameter_names)


def _assets() -> frozenset[str]:
    """The addresses of the parts of Gradio's page: those of files that are there."""
    folders = {"/static/": routes.STATIC_PATH_LIB, "/assets/": routes.BUILD_PATH_LIB}
    return frozenset(
        prefix + path.relative_to(folder).as_posix()
        for prefix, folder in folders.items()
        for path in Path(folder).rglob("*")
        if path.is_file()
    )


def endpoint_parameters(info: Mapping[str, Any]) -> Endpoints:
    """The public endpoints by their names, from Gradio's description of an app (`Blocks.get_api_info`)."""
    return {
        name.removeprefix("/"): tuple(
            Parameter(
                name=p["parameter_name"],
                is_required=not p["parameter_has_default"],
                default=p["parameter_default"],
                type=next(kind["type"] for kind in p["type"].get("oneOf", [p["type"]]) if kind["type"] != "null"),
            )
            for p in endpoint["parameters"]
        )
        for name, endpoint in info["named_endpoints"].items()
    }


def _introduce() -> None:
    """What other windows show of a link, and a tab while the page loads: Gradio's templates speak of Gradio there."""
    tags = {
        "og:type": "website",
        "og:title": views.TITLE,
        "og:description": views.DESCRIPTION,
        "og:image": f"{PUBLIC}/gradio_api/file={CONTACT_SHEET}",
        "twitter:card": "summary_large_image",
    }
    metas = "".join(f'<meta property="{name}" content="{content}">' for name, content in tags.items())
    icon = '<link rel="icon" href="favicon.ico">'
    end = f"{icon}<title>{views.TITLE}</title>{{% if not config.auth_required %}}{metas}{{% endif %}}</head>"

    def load(name: str) -> str:
        template, *_ = _TEMPLATES.get_source(templates.env, name)
        template = template.replace('href="/manifest.json"', 'href="manifest.json"')
        template = template.replace("<script>window.gradio_config", f"{_PAGE_ROOT_JS}<script>window.gradio_config")
        return re.sub(r'<meta\s+(property="og:|name="twitter:)[^>]*>', "", template).replace("</head>", end)

    templates.env.loader = jinja2.FunctionLoader(load)


async def _start_queue_watch(demo: gr.Blocks) -> None:
    """Gradio's queue serves nobody once its loop has failed, and says so to nobody: it is started again."""

    async def watch() -> None:
        while demo.is_running:
            await asyncio.sleep(QUEUE_LOOK_S)
            if demo._queue.stopped and demo.is_running:
                logger.error("Gradio's queue had stopped and is started again")
                _revive(demo._queue)

    demo._queue_watch = asyncio.get_running_loop().create_task(watch())  # the loop itself holds tasks weakly


def _revive(queue: Any) -> None:
    """Starts the queue; who waits in it is served, and who was being served is told that this has ended."""
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


def wait_until_told(demo: gr.Blocks, deadline_s: float) -> None:
    """Returns when nobody's event runs any more and all who listen have read how theirs ended, or at the deadline."""
    queue = demo._queue
    while any(queue.active_jobs) and time.monotonic() < deadline_s:
        time.sleep(0.02)
    deadline_s = min(deadline_s, time.monotonic() + 1.0)  # some listen to nothing, and never will
    while any(queue.pending_event_ids_session.values()) and time.monotonic() < deadline_s:
        time.sleep(0.02)


def _give_pictures_to_mcp(demo: gr.Blocks) -> None:
    """Makes MCP clients see pictures: Gradio's server turns a list of files into the text of their server paths."""
    server = demo.mcp_server_obj
    as_content = server.postprocess_output_data

    def flattened(value: object) -> Iterator[object]:
        if isinstance(value, list | tuple):
            for part in value:
                yield from flattened(part)
        else:
            yield value

    server.postprocess_output_data = lambda data, root_url: as_content(list(flattened(data)), root_url)
