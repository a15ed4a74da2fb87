"""The name and password of a login, from either form in which browsers and clients send them, always in UTF-8."""

import re
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers

from sd_space.serving.envelope import Refusal

_FIELDS = ("username", "password")
_MAX_FIELDS = 4
_MAX_CHARS = 1000
# Of a form in parts, only what browsers and clients write (RFC 7578): a parser of more believes any charset that a
# part names, and there are some that take seconds.
_BOUNDARY = re.compile(r'multipart/form-data *; *boundary="?([\w\'()+,./:=?-]{1,70})"?', re.ASCII | re.IGNORECASE)
_NAME = re.compile(rb'content-disposition: *form-data; *name="?(\w{1,64})"?', re.IGNORECASE)


def login_body(headers: Headers, body: bytes) -> bytes:
    """The form, written anew as application/x-www-form-urlencoded. Raises Refusal."""
    content_type = headers.get("content-type", "")
    media_type = content_type.partition(";")[0].strip().lower()
    try:
        if media_type == "multipart/form-data":
            form = _parts(content_type, body)
        elif media_type == "application/x-www-form-urlencoded":
            form = dict(parse_qsl(body.decode(), errors="strict", max_num_fields=_MAX_FIELDS))
        else:
            raise Refusal(415, "A login must come as a form with the fields username and password.")
    except ValueError:
        raise Refusal(400, "The login form could not be read; send its fields in UTF-8.") from None
    values = {}
    for field in _FIELDS:
        value = form.get(field, "")
        if not 0 < len(value) <= _MAX_CHARS:
            raise Refusal(400, f"{field} must be text of 1 to {_MAX_CHARS} characters.")
        values[field] = value
    return urlencode(values).encode()


def _parts(content_type: str, body: bytes) -> dict[str, str]:
    """The fields of a form in parts. Raises ValueError."""
    boundary = _BOUNDARY.fullmatch(content_type.strip())
    if boundary is None:
        raise ValueError("no boundary")
    before, *parts, after = (b"\r\n" + body).split(b"\r\n--" + boundary[1].encode(), _MAX_FIELDS + 1)
    if before or not parts or after.rstrip() != b"--":
        raise ValueError("no parts")
    return dict(map(_field, parts))


def _field(part: bytes) -> tuple[str, str]:
    """Its name and its value. Raises ValueError."""
    head, blank_line, value = part.partition(b"\r\n\r\n")
    names = [name[1] for line in head.split(b"\r\n") if (name := _NAME.fullmatch(line.rstrip()))]
    if not blank_line or len(names) != 1:
        raise ValueError("no field")
    return names[0].decode(), value.decode()
