"""What all events share: who calls, and how failures become errors that visitors may read."""

import functools
import inspect
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

import gradio as gr

from sd_space.errors import SpaceError
from sd_space.runtime_errors import traceback_without_message
from sd_space.serving.headers import ADDRESS_HEADER, PLACE_HEADER

logger = logging.getLogger(__name__)


def address_of(request: gr.Request | None) -> str | None:
    """The address that the caller counts as; the request filter writes it into the request."""
    return request.client.host if request and request.client else None


def place_id_of(request: gr.Request | None) -> str | None:
    """The id of the `Place` that the request filter took for this request for pictures."""
    return request.headers.get(PLACE_HEADER) if request else None


def public_address_of(request: gr.Request | None) -> str:
    """The page's address as the caller sees it; empty where no request filter stands in front."""
    return request.headers.get(ADDRESS_HEADER, "") if request else ""


@contextmanager
def _as_gradio_errors() -> Iterator[None]:
    """Turns what visitors may read into Gradio's errors; of anything else the log gets type and place only."""
    try:
        yield
    except SpaceError as error:
        raise gr.Error(str(error), print_exception=False) from None
    except Exception as error:
        logger.error("an event failed:\n%s", traceback_without_message(error))
        raise gr.Error("Something broke on the server; please try again.", print_exception=False) from None


def translate_errors(handler: Callable) -> Callable:
    """The handler of an event, its exceptions translated by `_as_gradio_errors`: Gradio would log the inputs."""

    @functools.wraps(handler)
    async def stream(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        with _as_gradio_errors():
            async with aclosing(handler(*args, **kwargs)) as updates:
                async for update in updates:
                    yield update

    @functools.wraps(handler)
    async def coroutine(*args: Any, **kwargs: Any) -> Any:
        with _as_gradio_errors():
            return await handler(*args, **kwargs)

    @functools.wraps(handler)
    def function(*args: Any, **kwargs: Any) -> Any:
        with _as_gradio_errors():
            return handler(*args, **kwargs)

    if inspect.isasyncgenfunction(handler):
        return stream
    return coroutine if inspect.iscoroutinefunction(handler) else function
