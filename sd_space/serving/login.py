"""The name and password of a login, from either form in which browsers and clients send them, always in UTF-8."""

from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers

from sd_space.serving.envelope import Refusal
from sd_space.serving.form_parts import form_parts

_FIELDS = ("username", "password")
_MAX_FIELDS = 4
_MAX_CHARS = 1000


def login_body(headers: Headers, body: bytes) -> bytes:
    """The form, written anew as application/x-www-form-urlencoded. Raises Refusal."""
    content_type = headers.get("content-type", "")
    media_type = content_type.partition(";")[0].strip().lower()
    try:
        if media_type == "multipart/form-data":
            form = {name: value.decode() for name, value in form_parts(content_type, body, _MAX_FIELDS)}
        elif media_type == "application/x-www-form-urlencoded":
            form = dict(parse_qsl(body.decode(), errors="strict", max_num_fields=_MAX_FIELDS))
        else:
            raise Refusal(415, "A login must come as a form with the fields username and password.")
    except ValueError:
        raise Refusal(
            400, "The login form could not be read; send username and password as its only fields, in UTF-8."
        ) from None
    values = {}
    for field in _FIELDS:
        value = form.get(field, "")
        if not 0 < len(value) <= _MAX_CHARS:
            raise Refusal(400, f"{field} must be text of 1 to {_MAX_CHARS} characters.")
        values[field] = value
    return urlencode(values).encode()
