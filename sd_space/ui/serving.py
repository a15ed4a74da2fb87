"""Launching the page: behind the request filter, with what it offers described from Gradio's own description."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.types import ASGIApp

from sd_space.backends import Backend
from sd_space.card import ModelCard
from sd_space.languages import current_language, translate
from sd_space.recorded import ICON, LINK_PREVIEW, RecordedExample
from sd_space.serving import gradio_queue, routes
from sd_space.serving.app_contract import AppContract
from sd_space.serving.credentials import Claim
from sd_space.serving.document import Document
from sd_space.serving.envelope import Endpoints, Parameter
from sd_space.serving.gate import Gate
from sd_space.serving.incoming import MAX_PICTURE_BODY_BYTES
from sd_space.serving.intake import Intake
from sd_space.serving.limits import Capacity
from sd_space.serving.metrics import Metrics
from sd_space.serving.middleware import RequestFilter
from sd_space.serving.model_description import described
from sd_space.serving.openai_api import OpenAiApi
from sd_space.serving.openai_request import EDITS
from sd_space.serving.origins import PUBLIC
from sd_space.serving.results import ResultStore
from sd_space.serving.runs import Runs
from sd_space.serving.signed_recordings import SignedRecordings
from sd_space.serving.verify import MAX_BODY_BYTES
from sd_space.settings import Settings
from sd_space.ui import views
from sd_space.ui.assets import body, head, script, style_sheet
from sd_space.ui.theme import THEME
from sd_space.ui.translation import in_language

SESSION_CAPACITY = 200  # sessions whose changed components Gradio remembers, about 20 kB each
_VERIFY = "verify"
_GENERATE = "generate"  # the name of both handlers that ask for pictures
_COMPARE = "compare"
_DRAW = "draw_"  # how the names begin of the page's other handlers that ask for pictures


def served_files(store: ResultStore, recorded: Sequence[RecordedExample]) -> list[Path]:
    """Everything that visitors may fetch as a file."""
    return [store.root, LINK_PREVIEW, *(example.path for example in recorded)]


def _signed(store: ResultStore, recorded: Sequence[RecordedExample]) -> SignedRecordings:
    """The pictures beside the examples and the link preview, which shows the same ones."""
    claims = {
        example.path: Claim(example.model, None, datetime.fromisoformat(example.recorded_on).replace(tzinfo=UTC), None)
        for example in recorded
    }
    if claims:
        claims[LINK_PREVIEW] = max(claims.values(), key=lambda claim: claim.made_at)
    return SignedRecordings(store.marks, claims)


def launch(
    demo: gr.Blocks,
    settings: Settings,
    backend: Backend,
    metrics: Metrics,
    capacity: Capacity,
    gate: Gate,
    store: ResultStore,
    recorded: Sequence[RecordedExample],
    runs: Runs,
    max_open_per_address: int,
    **options: Any,
) -> str:
    """Serves `demo` in the background and returns its local address. `options` are those of `gr.Blocks.launch`."""
    has_login = bool(options.get("auth"))
    openai = OpenAiApi(gate, backend.status, Intake(gate, backend, capacity, runs), gradio_queue.introduce)

    def filtered(app: ASGIApp) -> ASGIApp:
        contract = _contract(demo, gate, store, recorded, has_login)
        parts = (settings, backend.status, metrics, contract, capacity)
        return RequestFilter(app, *parts, max_open_per_address, openai=None if has_login else openai)

    gradio_queue.wrap_apps(filtered)
    gradio_queue.keep_no_values()
    preview = routes.LINK_PREVIEW.removeprefix("/")
    gradio_queue.add_to_document(f"{PUBLIC}/", preview, partial(_document, demo, gate.card))
    gradio_queue.keep_queue_running(demo)
    _, url, _ = demo.launch(
        prevent_thread_lock=True,
        quiet=True,
        show_error=False,
        run_history=False,
        enable_monitoring=False,
        mcp_server=not has_login,  # a client of this server itself, and has no password
        ssr_mode=False,
        max_threads=_max_running_events(settings),
        state_session_capacity=SESSION_CAPACITY,
        pwa=False,
        strict_cors=True,
        footer_links=["api"],
        theme=THEME,
        css=style_sheet(),
        js=script(settings.history),
        root_path="",
        app_kwargs={"openapi_url": None},
        **options,
    )
    gradio_queue.extend_mcp(demo, gate.card, lambda: described(backend.status()))
    return url


def _document(demo: gr.Blocks, card: ModelCard, config: Mapping[str, Any]) -> Document:
    return Document(
        language=current_language(),
        title=views.TITLE,
        description=translate(views.DESCRIPTION),
        about_image=translate("Pictures that were drawn of the example prompts"),
        head=head(),
        body=body(card),
        config=in_language(config, demo.blocks),
    )


def _max_running_events(settings: Settings) -> int:
    """Enough for all requests for pictures that `Capacity` admits, with several pages each, and for short events."""
    return settings.max_in_flight(settings.ray_max_replicas or settings.ray_replicas) * 4 + 40


def _contract(
    demo: gr.Blocks, gate: Gate, store: ResultStore, recorded: Sequence[RecordedExample], has_login: bool
) -> AppContract:
    sessions = gradio_queue.sessions_of(demo)
    endpoints = endpoint_parameters(demo.get_api_info())

    def named(name: str) -> set[str | int]:
        """An endpoint, by all that requests call it: its name, its tool's, and the numbers of its events."""
        tools = {tool for tool, endpoint in gradio_queue.mcp_tools(demo).items() if endpoint == name}
        return {name, *tools, *(index for index, event in demo.fns.items() if event.name == name)}

    drawing = named(_GENERATE) | named(_COMPARE)
    return AppContract(
        endpoints=endpoints,
        tools={tool: endpoints[name] for tool, name in gradio_queue.mcp_tools(demo).items()},
        inputs={index: _input_names(event) for index, event in demo.fns.items() if event.fn is not None},
        files=served_files(store, recorded),
        assets=gradio_queue.asset_addresses(),
        visitor_of=gate.visitor_of,
        running=sessions.running,
        is_alone=sessions.is_alone,
        session_of=sessions.of,
        has_session=sessions.has,
        evict_idle=sessions.evict_idle,
        is_queue_alive=lambda: gradio_queue.is_queue_alive(demo),
        body_bytes=dict.fromkeys(drawing, MAX_PICTURE_BODY_BYTES)
        | dict.fromkeys([*named(_VERIFY), EDITS], MAX_BODY_BYTES),
        draws=drawing | {index for index, event in demo.fns.items() if (event.name or "").startswith(_DRAW)},
        has_login=has_login,
        title=views.TITLE,
        icon=ICON,
        link_preview=LINK_PREVIEW,
        recordings=_signed(store, recorded),
    )


def _input_names(event: Any) -> tuple[str, ...]:
    """The names by which its handler is given them."""
    return tuple(event.input_parameter_names)


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
