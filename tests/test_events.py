"""Errors of events: sentences for visitors, and a log without their words."""

import asyncio
import inspect
import logging

import gradio as gr
import pytest

from sd_space.errors import InvalidRequest
from sd_space.serving.headers import ADDRESS_HEADER, PLACE_HEADER
from sd_space.ui.events import address_of, place_id_of, public_address_of, translate_errors

from .window import request_of

GENERIC = "Something broke on the server; please try again."


def function(error: Exception) -> None:
    raise error


async def coroutine(error: Exception) -> None:
    raise error


async def stream(error: Exception):
    yield "first"
    raise error


def fail(handler, error: Exception) -> None:
    """Calls it, and reads it to its end where it is a stream."""
    answer = translate_errors(handler)(error)

    async def finish() -> None:
        if inspect.isasyncgen(answer):
            async for _ in answer:
                pass
        else:
            await answer

    if answer is not None:
        asyncio.run(finish())


@pytest.mark.parametrize("handler", [function, coroutine, stream])
def test_what_visitors_may_read_reaches_them(handler):
    with pytest.raises(gr.Error) as shown:
        fail(handler, InvalidRequest("seed", "seed must be whole."))
    assert shown.value.message == "seed must be whole." and shown.value.print_exception is False


@pytest.mark.parametrize("handler", [function, coroutine, stream])
def test_anything_else_is_one_sentence_and_its_words_are_not_logged(handler, caplog):
    with caplog.at_level(logging.ERROR), pytest.raises(gr.Error) as shown:
        fail(handler, ValueError("a secret prompt"))
    assert shown.value.message == GENERIC
    assert "ValueError" in caplog.text and "secret" not in caplog.text


def test_a_caller_who_leaves_closes_the_handler():
    closed = []

    async def endless():
        try:
            while True:
                yield None
        finally:
            closed.append(True)

    async def main():
        answers = translate_errors(endless)()
        await anext(answers)
        await answers.aclose()
        assert closed == [True]

    asyncio.run(main())


@pytest.mark.parametrize("handler", [function, coroutine, stream])
def test_gradio_sees_the_handlers_own_name_signature_and_kind(handler):
    translated = translate_errors(handler)
    assert translated.__name__ == handler.__name__ and inspect.signature(translated) == inspect.signature(handler)
    assert inspect.isasyncgenfunction(translated) == inspect.isasyncgenfunction(handler)
    assert inspect.iscoroutinefunction(translated) == inspect.iscoroutinefunction(handler)


def test_a_caller_is_known_by_what_the_request_filter_has_written():
    request = request_of({}, {PLACE_HEADER: "p", ADDRESS_HEADER: "https://example.org"})
    assert (address_of(request), place_id_of(request)) == ("192.0.2.1", "p")
    assert public_address_of(request) == "https://example.org"
    assert address_of(None) is None and place_id_of(None) is None and public_address_of(None) == ""
