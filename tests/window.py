"""The page without a browser: what its events do to its components, called as Gradio's server calls them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import urlencode

import gradio as gr
from gradio.block_function import BlockFunction
from gradio.routes import App
from gradio.state_holder import SessionState
from starlette.requests import Request

from sd_space.card import load_card
from sd_space.recorded import load_recorded
from sd_space.serving.gate import Gate
from sd_space.serving.limits import Capacity
from sd_space.serving.metrics import Metrics
from sd_space.serving.results import ResultStore
from sd_space.serving.runs import Runs
from sd_space.settings import Settings
from sd_space.ui import build_demo

from .fakes import FakeBackend

TIMEOUT_S = 60.0
CARD = load_card()
RECORDED = load_recorded()


class Host:
    """The page over a scripted backend."""

    def __init__(self, folder: Path, backend: FakeBackend, **settings: Any):
        self.backend = backend
        self.settings = Settings(**settings)
        self.gate = Gate(CARD, "secret", self.settings.token_ttl_s)
        self.store = ResultStore(str(folder), self.settings.result_ttl_s)
        self.capacity = Capacity(self.settings, backend.status)
        metrics = Metrics(backend.status)
        runs = Runs(backend, self.store, self.settings.result_ttl_s, self.capacity, metrics.count_run)
        # Gradio makes a web app each time that a page changes; nothing here goes through one.
        with mock.patch.object(App, "create_app"):
            self.demo = build_demo(self.settings, CARD, self.gate, backend, self.store, RECORDED, self.capacity, runs)

    async def __aenter__(self) -> "Host":
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.backend.proceed.set()
        while len(self.capacity):
            await asyncio.sleep(0.001)

    def window(self, **query: str) -> "Window":
        return Window(self, query)

    async def visitor(self, **query: str) -> "Window":
        """The window of somebody who has accepted the licence."""
        window = self.window(**query)
        window["token"] = self.gate.issue_token(True)
        await window.open()
        return window

    def stream(self, name: str, *data: Any, **headers: str) -> AsyncIterator[list]:
        """The answers of a public endpoint, one after another."""
        (event,) = [event for event in self.demo.fns.values() if event.api_name == name]
        return answers_of(self.demo, event, list(data), request_of({}, headers), SessionState(self.demo))

    async def call(self, name: str, *data: Any, **headers: str) -> list[list]:
        """All answers of a public endpoint."""
        return [answer async for answer in self.stream(name, *data, **headers)]


class Window:
    """One opened page. Its components go by their ids and, where they have none, by their labels."""

    def __init__(self, host: Host, query: dict[str, str]):
        self.host, self._query, self._state = host, query, SessionState(host.demo)
        self._props = {id: dict(block.get_config()) for id, block in host.demo.blocks.items()}
        boxes = [id for id, block in host.demo.blocks.items() if isinstance(block, gr.Textbox)]
        hidden = [
            id for id in boxes if self._props[id].get("visible") == "hidden" and not self._props[id].get("elem_id")
        ]
        clock = [id for id, block in host.demo.blocks.items() if isinstance(block, gr.Timer)]
        self._ids = dict(zip(("token", "run_id", "shown_id", "link", "clock"), [*hidden, *clock], strict=True))
        for id, props in self._props.items():
            if name := props.get("elem_id") or props.get("label"):
                self._ids[name] = id

    def __getitem__(self, name: str) -> Any:
        return self._props[self._ids[name]].get("value")

    def __setitem__(self, name: str, value: Any) -> None:
        """The visitor's own input."""
        self._props[self._ids[name]]["value"] = value

    def prop(self, name: str, prop: str) -> Any:
        return self._props[self._ids[name]].get(prop)

    def shows(self, name: str) -> bool:
        return self.prop(name, "visible") is not False

    async def open(self, **stored: str) -> None:
        """What happens when the page loads; `stored` is what the browser has kept."""
        for name, value in stored.items():
            self[name] = value
        await self.do("load")

    async def do(self, event: str, name: str | None = None) -> None:
        async for _ in self.follow(event, name):
            pass

    def triggered(self, event: str, name: str | None = None) -> list[BlockFunction]:
        """What an event of a component, or of the page, sets off at once."""
        target = self.host.demo._id if name is None else self._ids[name]
        return [fn for fn in self.host.demo.fns.values() if (target, event) in fn.targets]

    async def follow(self, event: str, name: str | None = None) -> AsyncIterator[None]:
        """Does what follows on an event of a component, or of the page; comes back after each update."""
        triggered = self.triggered(event, name)
        for fn in triggered:
            if fn.fn is not None:
                async for _ in self._run(fn):
                    yield
            triggered += [after for after in self.host.demo.fns.values() if after.trigger_after == fn._id]

    async def _run(self, event: BlockFunction) -> AsyncIterator[None]:
        data = [self._props[block._id].get("value") for block in event.inputs]
        answers = answers_of(self.host.demo, event, data, request_of(self._query, {}), self._state)
        async for answer in answers:
            for block, update in zip(event.outputs, answer, strict=True):
                is_update = isinstance(update, dict) and update.get("__type__") == "update"
                self._props[block._id] |= update if is_update else {"value": update}
            yield


async def answers_of(
    demo: gr.Blocks, event: BlockFunction, data: list, request: gr.Request, state: SessionState
) -> AsyncIterator[list]:
    """Each answer of an event, to its end; the event is closed as Gradio closes it when its caller leaves."""
    iterator = None
    try:
        while True:
            answer = await demo.process_api(event, data, state=state, request=request, iterator=iterator)
            iterator = answer["iterator"]
            if not event.types_generator or answer["is_generating"]:
                yield answer["data"]
            if not answer["is_generating"]:
                return
    finally:
        if iterator is not None:
            await iterator.aclose()


def request_of(query: dict[str, str], headers: dict[str, str]) -> gr.Request:
    scope = {
        "type": "http",
        "headers": [(name.replace("_", "-").lower().encode(), value.encode()) for name, value in headers.items()],
        "query_string": urlencode(query).encode(),
        "client": ("192.0.2.1", 0),
    }
    return gr.Request(request=Request(scope))


def play(
    tmp_path: Path, scene: Callable[[Host], Awaitable[None]], backend: FakeBackend | None = None, **settings: Any
) -> None:
    async def main() -> None:
        async with asyncio.timeout(TIMEOUT_S), Host(tmp_path, backend or FakeBackend(), **settings) as host:
            await scene(host)

    asyncio.run(main())
