"""The name and password of a login, from either form in which browsers and clients send them."""

from collections.abc import AsyncGenerator
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import FormData, Headers
from starlette.formparsers import MultiPartException, MultiPartParser

from sd_space.serving.envelope import Refusal

_FIELDS = ("username", "password")
_MAX_CHARS = 1000


async def login_body(headers: Headers, body: bytes) -> bytes:
    """The form, written anew as application/x-www-form-urlencoded. Raises Refusal."""
    content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    form: FormData | dict[str, str]
    try:
        if content_type == "multipart/form-data":
            form = await MultiPartParser(headers, _stream(body), max_files=0, max_fields=4).parse()
        elif content_type == "application/x-www-form-urlencoded":
            form = dict(parse_qsl(body.decode(), max_num_fields=4))
        else:
            raise Refusal(415, "A login must come as a form with the fields username and password.")
    except (MultiPartException, ValueError, KeyError):
        raise Refusal(400, "The login form could not be read.") from None
    values = {}
    for field in _FIELDS:
        value = form.get(field)
        if not isinstance(value, str) or not 0 < len(value) <= _MAX_CHARS:
            raise Refusal(400, f"{field} must be text of 1 to {_MAX_CHARS} characters.")
        values[field] = value
    return urlencode(values).encode()


async def _stream(body: bytes) -> AsyncGenerator[bytes]:
    yield body
