"""What all events share: who calls, and how failures become errors that visitors may read."""

import functools
import inspect
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

import gradio as gr

from sd_space.errors import SpaceError
from sd_space.languages import ENGLISH, language_for, speaking, translate
from sd_space.runtime_errors import traceback_without_message
from sd_space.serving.answers import BROKEN
from sd_space.serving.gradio_queue import caller_headers
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


def _shown(sentence: str, language: str) -> gr.Error:
    with speaking(language):
        return gr.Error(translate(sentence), title=translate("Error"), print_exception=False)


@contextmanager
def _as_gradio_errors(language: str) -> Iterator[None]:
    """Turns what visitors may read into Gradio's errors; of anything else the log gets type and place only."""
    try:
        yield
    except SpaceError as error:
        raise _shown(error.message, language) from None
    except Exception as error:
        logger.error("an event failed:\n%s", traceback_without_message(error))
        raise _shown(BROKEN, language) from None


def translate_errors(handler: Callable) -> Callable:
    """The handler of an event, its exceptions translated by `_as_gradio_errors`: Gradio would log the inputs."""
    return _wrapped(handler, lambda: ENGLISH)


def page_event(handler: Callable) -> Callable:
    """The same for an event of the page, which speaks the visitor's language."""
    return _wrapped(handler, lambda: language_for(caller_headers()))


def _wrapped(handler: Callable, language_now: Callable[[], str]) -> Callable:
    @functools.wraps(handler)
    async def stream(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        language = language_now()
        with _as_gradio_errors(language):
            async with aclosing(handler(*args, **kwargs)) as updates:
                while True:
                    try:
                        with speaking(language):  # for each step: Gradio may take them in different contexts
                            update = await anext(updates)
                    except StopAsyncIteration:
                        return
                    yield update

    @functools.wraps(handler)
    async def coroutine(*args: Any, **kwargs: Any) -> Any:
        language = language_now()
        with _as_gradio_errors(language), speaking(language):
            return await handler(*args, **kwargs)

    @functools.wraps(handler)
    def function(*args: Any, **kwargs: Any) -> Any:
        language = language_now()
        with _as_gradio_errors(language), speaking(language):
            return handler(*args, **kwargs)

    if inspect.isasyncgenfunction(handler):
        return stream
    return coroutine if inspect.iscoroutinefunction(handler) else function
