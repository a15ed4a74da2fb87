"""The addresses that the page and its clients use, with the media types of their answers; all others are closed."""

import re
from dataclasses import dataclass
from enum import Enum, auto

from sd_space.serving.app_contract import AppContract

API = "/gradio_api"
FILE = f"{API}/file="
MCP = f"{API}/mcp/"
IMAGES, MODELS = "/v1/images/", "/v1/models"
STARTUP = f"{API}/startup-events"
LINK_PREVIEW = "/link-preview.png"
_EVENT = re.compile(rf"{API}/call/(?:v2/)?([a-z_]{{1,64}})/([A-Za-z0-9_-]{{1,64}})")
_CALL = re.compile(rf"{API}/call/(v2/)?([^/]{{1,200}})")


class Kind(Enum):
    """What a route is, as far as requests to it are checked and its answers rewritten."""

    PAGE = auto()  # the HTML page
    PUBLIC_JSON = auto()  # JSON for any caller, with the public address in it
    STREAM = auto()  # of a session: the page's, or a client's that speaks as the page does
    EVENT_STREAM = auto()  # of one event of an endpoint
    FILE = auto()  # a result, or a picture of the page
    ASSET = auto()  # a part of Gradio's page
    STARTUP = auto()  # Gradio's own call while it launches
    LOGOUT = auto()
    LOGIN = auto()
    JOIN = auto()  # an event of the page, through the queue
    PREDICT = auto()  # an event of the page that answers at once
    CALL = auto()  # of an endpoint, its values in order
    NAMED_CALL = auto()  # of an endpoint, its values by name
    CANCEL = auto()
    RESET = auto()
    MCP = auto()
    IMAGES = auto()  # pictures, as OpenAI's clients ask for them
    MODELS = auto()


@dataclass(frozen=True, slots=True)
class Route:
    """An open address. `path` is the one spelling of it that Gradio sees; `name` is what it has in it: an endpoint,
    an event's id, a file's path. `media_types` are those that its answers may have."""

    kind: Kind
    path: str
    media_types: tuple[str, ...]
    name: str = ""


_FIXED = {
    "/": (Kind.PAGE, "text/html"),
    "/config": (Kind.PUBLIC_JSON, "application/json"),
    "/theme.css": (Kind.ASSET, "text/css"),
    "/robots.txt": (Kind.ASSET, "text/plain"),
    f"{API}/theme.css": (Kind.ASSET, "text/css"),
    f"{API}/info": (Kind.PUBLIC_JSON, "application/json"),
    f"{API}/app_id": (Kind.PUBLIC_JSON, "application/json"),
    f"{API}/mcp/schema": (Kind.PUBLIC_JSON, "application/json"),
    f"{API}/queue/data": (Kind.STREAM, "text/event-stream"),
    STARTUP: (Kind.STARTUP, "application/json"),
}
_POSTED = {
    f"{API}/queue/join": Kind.JOIN,
    f"{API}/run/predict": Kind.PREDICT,
    f"{API}/cancel": Kind.CANCEL,
    f"{API}/reset": Kind.RESET,
    f"{API}/mcp": Kind.MCP,
    f"{API}/mcp/http": Kind.MCP,
}


class Routes:
    """The open addresses of one page."""

    def __init__(self, contract: AppContract, has_openai: bool):
        self._endpoints = contract.endpoints
        self._assets = contract.assets
        self._link_preview = contract.link_preview
        self._has_login = contract.has_login
        self._has_mcp = bool(contract.tools)
        self._has_openai = has_openai

    def find(self, method: str, path: str) -> Route | None:
        """The route, or `None` where nothing is open to this method at this address."""
        plain = path if path == "/" else path.removesuffix("/")
        if method in ("GET", "HEAD"):
            return self._get(path, plain)
        return self._post(plain) if method == "POST" else None

    def methods(self, path: str) -> list[str]:
        """Those that this address is open to."""
        return [method for method in ("GET", "POST") if self.find(method, path)]

    def _get(self, path: str, plain: str) -> Route | None:
        if plain in _FIXED:
            kind, media_type = _FIXED[plain]
            is_there = self._has_mcp or not plain.startswith(MCP)
            return Route(kind, plain, (media_type,)) if is_there else None
        if path in self._assets:
            return Route(Kind.ASSET, path, ("",))
        if plain == LINK_PREVIEW:
            path = f"{FILE}{self._link_preview}"
        if path.startswith(FILE):
            return Route(Kind.FILE, path, ("image/png", "application/zip"), path.removeprefix(FILE))
        if (match := _EVENT.fullmatch(path)) and match[1] in self._endpoints:
            return Route(Kind.EVENT_STREAM, f"{API}/call/{match[1]}/{match[2]}", ("text/event-stream",), match[2])
        if plain == "/logout" and self._has_login:
            return Route(Kind.LOGOUT, plain, ())
        if self._has_openai and (plain == MODELS or plain.startswith(f"{MODELS}/")):
            return Route(Kind.MODELS, plain, (), plain.removeprefix(MODELS)[1:])
        return None

    def _post(self, plain: str) -> Route | None:
        json = ("application/json",)
        if plain == "/login" and self._has_login:
            return Route(Kind.LOGIN, plain, json)
        if kind := _POSTED.get(plain):
            if kind is not Kind.MCP:
                return Route(kind, plain, json)
            return Route(kind, MCP, (*json, "text/event-stream")) if self._has_mcp else None
        if self._has_openai and plain in (f"{IMAGES}generations", f"{IMAGES}edits"):
            return Route(Kind.IMAGES, plain, (), plain.removeprefix(IMAGES))
        if match := _CALL.fullmatch(plain):
            kind = Kind.NAMED_CALL if match[1] else Kind.CALL
            return Route(kind, f"{API}/call/{match[2]}", json, match[2])
        return None
