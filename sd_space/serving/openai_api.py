"""The image API of OpenAI, for the clients that people already have: /v1/images and /v1/models."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from sd_space.errors import SpaceError
from sd_space.schema import BackendStatus
from sd_space.serving.answers import STREAM_HEADERS
from sd_space.serving.envelope import Refusal
from sd_space.serving.gate import Gate, sent_token
from sd_space.serving.incoming import IncomingRequest
from sd_space.serving.intake import Intake
from sd_space.serving.openai_answers import images_object, sse, stream_events
from sd_space.serving.openai_errors import error_object, refused_by
from sd_space.serving.openai_request import EDITS, ImagesRequest
from sd_space.serving.runs import Run


class OpenAiApi:
    """Answers what the request filter lets through to it. The acceptance token is the API key.

    `introduce` is given each request before anything is drawn for it.
    """

    def __init__(
        self,
        gate: Gate,
        status: Callable[[], BackendStatus],
        intake: Intake,
        introduce: Callable[[Scope], None] = lambda scope: None,
    ):
        self._gate = gate
        self._status = status
        self._intake = intake
        self._introduce = introduce
        self._started_at = int(time.time())

    def check_key(self, headers: Headers) -> None:
        """Raises Refusal: who has not accepted need not send anything more."""
        try:
            self._gate.verify_token(_key(headers))
        except SpaceError as error:
            raise refused_by(error, {}, None) from None

    def models(self, name: str) -> Response:
        """The served model: in a list, or by its name where there is one. Raises Refusal."""
        try:
            model = self._status().ready_info.model
        except SpaceError as error:
            raise refused_by(error, {}, None) from None
        owner = model.partition("/")[0] if "/" in model else "sd_space"
        described = {"id": model, "object": "model", "created": self._started_at, "owned_by": owner}
        if name and name != model:
            raise Refusal(404, f"There is no such model here; there is {model}.")
        return JSONResponse(described if name else {"object": "list", "data": [described]})

    async def images(self, request: IncomingRequest, receive: Receive, send: Send) -> None:
        """Draws what is asked for, as long as its caller stays. Raises Refusal and ClientDisconnect."""
        await _unless_left(receive, self._images(request, receive, send))

    async def _images(self, request: IncomingRequest, receive: Receive, send: Send) -> None:
        try:
            asked = ImagesRequest.read(request.values)
            self._introduce(request.scope)
            run = await self._begun(request, asked)
            if asked.is_stream:
                await self._stream(request, run, asked, send)
                return
            async for _ in self._intake.watch(run):
                pass
            address = request.public_address if asked.has_urls else None
            answer = JSONResponse(await asyncio.to_thread(images_object, run, address))
        except SpaceError as error:
            raise self._refused(error, request) from None
        await answer(request.scope, receive, send)

    async def _begun(self, request: IncomingRequest, asked: ImagesRequest) -> Run:
        async with aclosing(self._intake.begin(_key(request.headers), asked.values, request.address)) as steps:
            async for step in steps:
                if isinstance(step, Run):
                    return step
        raise AssertionError("the last step is the run")

    async def _stream(self, request: IncomingRequest, run: Run, asked: ImagesRequest, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream"), *STREAM_HEADERS]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        name = "image_edit" if request.route.name == EDITS else "image_generation"
        watched = self._intake.watch(run)
        async with aclosing(watched), aclosing(stream_events(run, watched, name, asked.partial_images)) as events:
            try:
                async for event in events:
                    await send({"type": "http.response.body", "body": sse(event), "more_body": True})
            except SpaceError as error:
                end = error_object(self._refused(error, request))
                await send({"type": "http.response.body", "body": sse(end), "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    def _refused(self, error: SpaceError, request: IncomingRequest) -> Refusal:
        return refused_by(error, request.values, self._status().info)


def _key(headers: Headers) -> object:
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return sent_token(key.strip() if scheme.lower() == "bearer" else "", headers)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _unless_left(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Does the work, and ends it where its caller leaves before. Raises ClientDisconnect."""
    tasks = [asyncio.ensure_future(each) for each in (work, _left(receive))]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not tasks[0].done():
            raise ClientDisconnect
        await tasks[0]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
