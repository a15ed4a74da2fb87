"""Messages of MCP clients (JSON-RPC over streamable HTTP), parsed and written anew."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sd_space.serving.envelope import Parameter, Refusal, Scalar, is_whole, named_data, parse_object

_QUESTIONS = ("ping", "tools/list", "resources/list", "resources/templates/list", "prompts/list")
_NAMED = {  # method -> what it names, and how that looks
    "resources/read": ("uri", re.compile("sd-space://[a-z-]{1,64}")),
    "prompts/get": ("name", re.compile("[a-z0-9-]{1,64}")),
}
_NOTIFICATIONS = "notifications/"
_INVALID_REQUEST, _METHOD_NOT_FOUND, _INVALID_PARAMS = -32600, -32601, -32602  # JSON-RPC 2.0, section 5.1
_PYTHON_TYPES = {"string": str, "integer": int, "number": int | float, "boolean": bool}
_WORDS = {"string": "text", "integer": "a whole number", "number": "a number", "boolean": "true or false"}


class McpRefusal(Exception):
    """A refused message, with the answer that an MCP client understands, and its HTTP status."""

    def __init__(self, status: int, answer: dict[str, Any], headers: Mapping[str, str] | None = None):
        super().__init__(status)
        self.status = status
        self.answer = answer
        self.headers = dict(headers or {})


@dataclass(frozen=True, slots=True)
class McpMessage:
    """One JSON-RPC request or notification (which has no id). `tool` is the tool that it calls, if any."""

    method: str
    id: str | int | None
    params: Mapping[str, Any]
    tool: str | None = None

    def body(self) -> dict[str, Any]:
        message = {"jsonrpc": "2.0", "method": self.method, "params": dict(self.params)}
        return message if self.id is None else message | {"id": self.id}


def mcp_message(body: bytes, tools: Mapping[str, tuple[Parameter, ...]]) -> McpMessage:
    """`tools` are the tools on offer with their parameters. Raises McpRefusal."""
    try:
        values = parse_object(body)
    except Refusal as refusal:
        raise McpRefusal(400, _error(None, _INVALID_REQUEST, refusal.sentence)) from None
    method, id, params = values.get("method"), values.get("id"), values.get("params")
    if not isinstance(params, dict):
        params = {}
    if not isinstance(method, str) or not (id is None or _is_name(id)):
        raise McpRefusal(400, _error(None, _INVALID_REQUEST, "The message must have a method, and an id of its own."))
    if method.startswith(_NOTIFICATIONS):  # nothing here depends on one
        return McpMessage("notifications/initialized", None, {})
    if id is None:
        raise McpRefusal(400, _error(None, _INVALID_REQUEST, "The message must have an id, for its answer."))
    if method == "initialize":
        return McpMessage(method, id, _initialization(params))
    if method in _QUESTIONS:
        return McpMessage(method, id, {})
    if method in _NAMED:
        return McpMessage(method, id, _named(id, params, *_NAMED[method]))
    if method == "tools/call":
        return _tool_call(id, params, tools)
    raise McpRefusal(200, _error(id, _METHOD_NOT_FOUND, "This server has tools, resources and prompts alone."))


def _named(id: str | int, params: Mapping[str, Any], key: str, shape: re.Pattern[str]) -> dict[str, Any]:
    """The one parameter that is needed, where it can be a name at all: the server behind would log others."""
    name = params.get(key)
    if not isinstance(name, str) or not shape.fullmatch(name):
        raise McpRefusal(200, _error(id, _INVALID_PARAMS, f"{key} must be one of those that the list has."))
    return {key: name}


def _initialization(params: Mapping[str, Any]) -> dict[str, Any]:
    version = params.get("protocolVersion")
    return {
        "protocolVersion": version if isinstance(version, str) and len(version) <= 32 else "2025-03-26",
        "capabilities": {},
        "clientInfo": {"name": "client", "version": "1"},
    }


def _tool_call(id: str | int, params: Mapping[str, Any], tools: Mapping[str, tuple[Parameter, ...]]) -> McpMessage:
    name, arguments, meta = params.get("name"), params.get("arguments") or {}, params.get("_meta")
    try:
        if not isinstance(name, str) or name not in tools:
            raise Refusal(404, f"There is no such tool; there are {', '.join(tools)}.")
        parameters = tools[name]
        takes = f"{name} takes {', '.join(p.name for p in parameters) or 'no parameters'}."
        if not isinstance(arguments, dict):
            raise Refusal(400, f"The arguments must be an object: {takes}")
        data = named_data(arguments, parameters, takes)
        given = {p.name: _typed(p, value) for p, value in zip(parameters, data, strict=True) if p.name in arguments}
    except Refusal as refusal:
        raise McpRefusal(200, tool_error(id, refusal.sentence)) from None
    rebuilt: dict[str, Any] = {"name": name, "arguments": given}
    token = meta.get("progressToken") if isinstance(meta, dict) else None
    if _is_name(token):
        rebuilt["_meta"] = {"progressToken": token}
    return McpMessage("tools/call", id, rebuilt, tool=name)


def _is_name(value: object) -> bool:
    """Whether this may name a request: a short text of whole characters, or a number."""
    return type(value) is int or (isinstance(value, str) and len(value) <= 128 and is_whole(value))


def _typed(parameter: Parameter, value: Scalar) -> Scalar:
    """The value, if it is of the parameter's type: the server behind would repeat what came in its own words."""
    if value is None and parameter.default is None and not parameter.is_required:
        return value
    if isinstance(value, float) and value.is_integer() and parameter.type == "integer":
        return int(value)
    is_of_type = isinstance(value, _PYTHON_TYPES[parameter.type])
    is_finite = not isinstance(value, float) or math.isfinite(value)
    if not is_of_type or not is_finite or (isinstance(value, bool) and parameter.type != "boolean"):
        raise Refusal(400, f"{parameter.name} must be {_WORDS[parameter.type]}.")
    if isinstance(value, str) and not is_whole(value):
        raise Refusal(400, f"{parameter.name} must not contain halves of characters; please type it anew.")
    return value


def tool_error(id: str | int | None, sentence: str) -> dict[str, Any]:
    """What a call of a tool is answered that does not do what it was asked for (MCP 2025-03-26, Tools)."""
    content = [{"type": "text", "text": sentence}]
    return {"jsonrpc": "2.0", "id": id, "result": {"content": content, "isError": True}}


def _error(id: str | int | None, code: int, sentence: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": sentence}}
