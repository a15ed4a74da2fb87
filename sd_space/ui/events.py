"""What all events share: whose call it is, and how failures are told."""

import functools
import inspect
import logging
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager

import gradio as gr

from sd_space.errors import SpaceError
from sd_space.runtime_errors import traceback_without_message
from sd_space.serving.headers import ADDRESS_HEADER, PLACE_HEADER

logger = logging.getLogger(__name__)


def address_of(request: gr.Request | None) -> str | None:
    """The address that the caller is counted by, as the request filter has written it down."""
    return request.client.host if request and request.client else None


def place_id_of(request: gr.Request | None) -> str | None:
    """The place that a request for pictures took when it came in."""
    return request.headers.get(PLACE_HEADER) if request else None


def public_address_of(request: gr.Request | None) -> str:
    """Where the caller has reached the page; empty where the request filter has not said so."""
    return request.headers.get(ADDRESS_HEADER, "") if request else ""


@contextmanager
def _refusals() -> Iterator[None]:
    """Turns what visitors may read into Gradio's errors; of anything else the log gets type and place only."""
    try:
        yield
    except SpaceError as error:
        raise gr.Error(str(error), print_exception=False) from None
    except Exception as error:
        logger.error("an event failed:\n%s", traceback_without_message(error))
        raise gr.Error("Something broke on the server; please try again.", print_exception=False) from None


def careful(handler: Callable) -> Callable:
    """The handler of an event, with its failures told as `_refusals` tells them: Gradio would log what came in."""
    if inspect.isasyncgenfunction(handler):

        @functools.wraps(handler)
        async def careful(*args, **kwargs):
            with _refusals():
                async with aclosing(handler(*args, **kwargs)) as updates:
                    async for update in updates:
                        yield update
    elif inspect.iscoroutinefunction(handler):

        @functools.wraps(handler)
        async def careful(*args, **kwargs):
            with _refusals():
                return await handler(*args, **kwargs)
    else:

        @functools.wraps(handler)
        def careful(*args, **kwargs):
            with _refusals():
                return handler(*args, **kwargs)

    return careful
