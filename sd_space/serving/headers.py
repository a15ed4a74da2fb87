"""Headers: which ones of a request reach the app, and which ones every answer gets."""

import re
from collections.abc import Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import Message, Scope, Send

from sd_space.serving.callers import USER_HEADER
from sd_space.serving.origins import HUB, MADE_UP
from sd_space.serving.routes import FILE
from sd_space.settings import Settings

PLACE_HEADER = "x-sd-space-place"  # of a request for pictures, for its handler
ADDRESS_HEADER = "x-sd-space-address"  # where its caller has reached the page
TOOL_CALL_HEADER = "x-sd-space-tool-call"  # the MCP client's call for which Gradio's MCP server makes a request
# `x-ip-token` is how ZeroGPU knows whose quota a call takes.
_PASSED = [
    "accept",
    "accept-encoding",
    "accept-language",
    "if-modified-since",
    "if-none-match",
    "mcp-protocol-version",
    "user-agent",
    USER_HEADER,
    "x-ip-token",
    "x-license-token",
]
# Gradio names a login's cookie twice: once for HTTPS alone, and once for any connection.
_LOGIN_COOKIE = re.compile(r"(?<![^; ])access-token-(unsecure-)?([A-Za-z0-9_-]{1,64})=([A-Za-z0-9_-]{1,64})(?=;|$)")
# Gradio's page needs inline styles and scripts; nothing needs another host.
_POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; object-src 'none'; base-uri 'self'; frame-ancestors "
)


def login_cookie(headers: Headers) -> str:
    """The tokens of logins, each by the one name that all of Gradio's routes look for, even over plain HTTP.

    Nothing else of a cookie is passed on: Python's parser of cookies takes seconds for some.
    """
    found = _LOGIN_COOKIE.findall("; ".join(headers.getlist("cookie")))
    tokens = {app: token for _, app, token in sorted(found, key=lambda pair: pair[0], reverse=True)}
    return "; ".join(f"access-token-{app}={token}" for app, token in tokens.items())


def request_headers(
    headers: Headers, body: bytes | None, content_type: str, cookie: str, extra: Mapping[str, str]
) -> list[tuple[bytes, bytes]]:
    """A request's headers written anew. The app sees one host, whatever proxies and callers name."""
    written = {"host": MADE_UP.removeprefix("http://")}
    written |= {name: headers[name] for name in _PASSED if name in headers}
    if cookie:
        written["cookie"] = cookie
    if body is not None:
        written |= {"content-type": content_type, "content-length": str(len(body))}
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in (written | dict(extra)).items()]


class ResponseHeaders:
    """The headers that keep other pages from misusing this one."""

    def __init__(self, settings: Settings):
        self._headers = {
            "Content-Security-Policy": _POLICY + settings.frame_ancestors,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "same-origin",
            "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
        }

    def added(self, scope: Scope, send: Send) -> Send:
        """`send`, with these headers at every answer; only the Hub's pages may read answers beside our own."""
        is_file = scope.get("path", "").startswith(FILE)
        is_hubs = Headers(scope=scope).get("origin") == HUB

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(self._headers)
                if is_file:
                    headers["Cache-Control"] = "private, no-store"
                if is_hubs:
                    headers["Access-Control-Allow-Origin"] = HUB
                    headers.add_vary_header("Origin")
            await send(message)

        return sending
