"""Readers of settings: each turns a variable's text into a value, or raises ValueError that says what it must be."""

import os
import re
import unicodedata
from collections.abc import Callable


def short_repr(text: str, chars: int = 80) -> str:
    """A value as a refusal repeats it: on one line, and its beginning where it is long."""
    return repr(text if len(text) <= chars else f"{text[:chars]}…")


def whole(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not re.fullmatch(r"[0-9]+", text) or not low <= int(text) <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return int(text)

    return read


def positive(text: str) -> float:
    if not re.fullmatch(r"[0-9]+(\.[0-9]+)?", text) or float(text) <= 0:
        raise ValueError("a number above 0")
    return float(text)


def amount(text: str) -> float:
    if not re.fullmatch(r"[0-9]+(\.[0-9]+)?", text):
        raise ValueError("a number of 0 or more")
    return float(text)


def switch(text: str) -> bool:
    if text.lower() not in ("0", "1", "off", "on", "false", "true"):
        raise ValueError("0 or 1")
    return text.lower() in ("1", "on", "true")


def one_of(*choices: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text.lower() not in choices:
            raise ValueError("one of " + ", ".join(choices))
        return text.lower()

    return read


def line(text: str) -> str:
    """Text that stands whole in a sentence of the log."""
    if len(text) > 1000 or any(unicodedata.category(c) == "Cc" for c in text):
        raise ValueError("a line of at most 1000 characters, none of them a control character")
    return text


def path(text: str) -> str:
    """Shells replace ~ and $; a file of environment variables is read without one."""
    path = os.path.expanduser(line(text))
    if path.startswith(("~", "$")):
        raise ValueError("a path that is written out: here ~ stands for a home, and $ for nothing")
    return path


def pem_or_path(text: str) -> str:
    """A secret of a Space is the text itself, elsewhere it is a file."""
    return text if text.startswith("-----BEGIN ") else path(text)


def address(text: str) -> str:
    parts = re.fullmatch(r"(https?://[a-z0-9.-]+)(:[0-9]{1,5})?(/[A-Za-z0-9._~/-]*)?", _with_small_host(text))
    if not parts or not 0 < int((parts[2] or ":1")[1:]) < 65_536:
        raise ValueError("an address such as https://example.org or https://example.org/demo")
    return parts[0].rstrip("/")


def _with_small_host(address: str) -> str:
    """Browsers write schemes and hosts in small letters."""
    return re.sub(r"^[^/]*//[^/]*", lambda start: start[0].lower(), address)


def devices(text: str) -> str:
    numbers = [number for number in text.split(",") if number]
    is_known = re.fullmatch("all|[1-9][0-9]{0,2}|([0-9]{1,3},)+([0-9]{1,3})?", text.lower())
    if not is_known or len(set(map(str.lower, numbers))) < len(numbers):
        raise ValueError("all, a number such as 2, or a list with commas such as 0,2, each GPU once")
    return text.lower()


# What may stand in `frame-ancestors`: https://www.w3.org/TR/CSP3/#directive-frame-ancestors
_FRAME_SOURCE = re.compile(
    r"\*|https?:|(https?://)?(\*\.)?[a-z0-9-]+(\.[a-z0-9-]+)*(:([0-9]{1,5}|\*))?(/[a-z0-9._/~-]*)?", re.IGNORECASE
)


def frame_sources(text: str) -> str:
    sources = text.split()
    are_known = all(source == "'self'" or _FRAME_SOURCE.fullmatch(source) for source in sources)
    lacks_quotes = {"self", "none"} & {source.lower() for source in sources}  # it would be a host of that name
    if sources != ["'none'"] and (lacks_quotes or not are_known):
        raise ValueError("addresses with blanks between them, such as https://example.org, or 'self', or 'none' alone")
    return " ".join(sources)
