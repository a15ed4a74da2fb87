"""A form in parts (multipart/form-data), read in memory: only what browsers and clients write."""

import re

# RFC 7578. A parser of more believes any charset that a part names, and there are some that take seconds; one of web
# frameworks writes what it reads to disk.
_CHARSET = r'(?: *; *charset="?utf-?8"?)?'
_BOUNDARY = re.compile(
    rf'multipart/form-data{_CHARSET} *; *boundary="?([\w\'()+,./:=?-]{{1,70}})"?{_CHARSET}', re.ASCII | re.IGNORECASE
)
_NAME = re.compile(
    rb'content-disposition: *form-data; *name="?(\w{1,64}(?:\[\])?)"?(?: *; *filename[^\r\n]{0,1000})?', re.IGNORECASE
)
_MAX_HEAD_BYTES = 4096


def form_parts(content_type: str, body: bytes, most_parts: int) -> list[tuple[str, bytes]]:
    """The names and values of its parts, in order. Raises ValueError."""
    boundary = _BOUNDARY.fullmatch(content_type.strip())
    if boundary is None:
        raise ValueError("no boundary")
    before, *parts, after = (b"\r\n" + body).split(b"\r\n--" + boundary[1].encode(), most_parts + 1)
    if before or not parts or after.rstrip() != b"--":
        raise ValueError("no parts")
    return list(map(_named, parts))


def _named(part: bytes) -> tuple[str, bytes]:
    """Its name and its value. Raises ValueError."""
    head, blank_line, value = part.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n") if blank_line and len(head) <= _MAX_HEAD_BYTES else []
    names = [name[1] for line in lines if (name := _NAME.fullmatch(line.rstrip()))]
    if len(names) != 1:
        raise ValueError("no part of a form")
    return names[0].decode(), value
