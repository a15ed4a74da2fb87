"""Who calls: Gradio's page, whose visitors have a language, or a program, which is answered in English."""

from starlette.datastructures import Headers

from sd_space.languages import ENGLISH, language_for

# The header with which Gradio's page and its clients say what they are.
USER_HEADER, PAGE_USER = "x-gradio-user", "app"


def is_page(headers: Headers) -> bool:
    return headers.get(USER_HEADER) == PAGE_USER


def language_of(headers: Headers) -> str:
    """That in which refusals are said."""
    return language_for(headers) if is_page(headers) else ENGLISH
