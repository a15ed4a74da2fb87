"""The bodies that callers send, parsed and written anew: nothing else of them reaches Gradio.

Gradio does with an input whatever the input asks for: an object that names a file or an address makes it fetch that.
Here an input is text, a number, a truth value or nothing, whatever the component would take.
"""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlencode

from sd_space.fields import shown
from sd_space.request import MAX_PROMPT_CHARS

Scalar = str | int | float | bool | None

_SESSION = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Refusal(Exception):
    """A refused request: the HTTP status, the sentence for its caller, and headers of the answer."""

    def __init__(self, status: int, sentence: str, headers: Mapping[str, str] | None = None):
        super().__init__(status, sentence)
        self.status = status
        self.sentence = sentence
        self.headers = dict(headers or {})


@dataclass(frozen=True, slots=True)
class EndpointCall:
    """A call of a public endpoint, with a value for each of its parameters, in their order."""

    name: str
    data: tuple[Scalar, ...]

    @property
    def path(self) -> str:
        return f"/gradio_api/call/{self.name}"

    def body(self) -> dict[str, Any]:
        return {"data": list(self.data)}


@dataclass(frozen=True, slots=True)
class PageEvent:
    """An event of the page, or of a client that speaks as the page does."""

    fn_index: int
    data: tuple[Scalar, ...]
    session_hash: str
    trigger_id: int | None

    def body(self) -> dict[str, Any]:
        return {
            "fn_index": self.fn_index,
            "data": list(self.data),
            "session_hash": self.session_hash,
            "trigger_id": self.trigger_id,
        }


@dataclass(frozen=True, slots=True)
class Cancellation:
    """The end of an event, asked for by a caller who knows its unguessable id."""

    session_hash: str
    event_id: str

    def body(self, fn_index: int) -> dict[str, Any]:
        """`fn_index` is the event's own: for another one Gradio says that it has cancelled, and goes on."""
        return {"fn_index": fn_index, "session_hash": self.session_hash, "event_id": self.event_id}


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a public endpoint. `default` stands where a call leaves it out and it need not be given."""

    name: str
    is_required: bool
    default: Scalar
    type: str  # of JSON: string, integer, number or boolean


Endpoints = Mapping[str, tuple[Parameter, ...]]
MAX_PARTS = 2**16  # as many commas and brackets as there are bytes in a body without a picture; parsing takes 0.04 s


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object that a body holds. Large ones hold a picture, which is one text, so that few parts are many."""
    if sum(map(body.count, (b",", b"[", b"{"))) > MAX_PARTS:
        raise Refusal(400, f"The body must hold at most {MAX_PARTS} values.")
    try:
        values = json.loads(body)
    except (ValueError, RecursionError):
        raise Refusal(400, "The body is not valid JSON.") from None
    if not isinstance(values, dict):
        raise Refusal(400, "The body must be a JSON object.")
    return values


def encoded(values: Mapping[str, Any]) -> bytes:
    """The body that Gradio reads, in ASCII, however the caller has spelled it."""
    return json.dumps(values).encode()


def scalar(name: str, value: object) -> Scalar:
    """The value if it is one that an input may have. `name` is what the sentence calls it."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise Refusal(400, f"{name} must be text, a number, true or false, not {shown(value)}.")


def is_whole(text: str) -> bool:
    """False for halves of characters (lone surrogates), which JSON can spell and nothing can send on."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def session_hash(value: object) -> str:
    if not isinstance(value, str) or not _SESSION.fullmatch(value):
        raise Refusal(400, "session_hash must be text of 1 to 64 letters, digits, hyphens or underscores.")
    return value


def endpoint_call(name: str, is_named: bool, body: bytes, endpoints: Endpoints) -> EndpointCall:
    """A call by name. `is_named`: parameters by name, else a list in order, in which those after the token may lack."""
    parameters = known_endpoint(name, endpoints)
    values = parse_object(body)
    takes = f"/{name} takes {', '.join(p.name for p in parameters) or 'no parameters'}."
    if is_named:
        return EndpointCall(name, named_data(values, parameters, takes, ignored=_ENVELOPE))
    data = values.get("data")
    # They were added later: callers who know nothing of them go on as before.
    least = max((k + 1 for k, p in enumerate(parameters) if p.is_required or p.name == "acceptance_token"), default=0)
    if not isinstance(data, list) or not least <= len(data) <= len(parameters):
        raise Refusal(400, f"data must be a list with a value for each parameter: {takes}")
    data += [parameter.default for parameter in parameters[len(data) :]]
    return EndpointCall(name, tuple(scalar(p.name, value) for p, value in zip(parameters, data, strict=True)))


# Fields of Gradio's own envelopes, which clients may send beside the parameters; they carry nothing that is needed.
_ENVELOPE = frozenset({"session_hash", "event_id"})


def known_endpoint(name: str, endpoints: Endpoints) -> tuple[Parameter, ...]:
    if name not in endpoints:
        known = ", ".join(f"/{name}" for name in endpoints)
        raise Refusal(404, f"There is no such endpoint; there are {known}.")
    return endpoints[name]


def named_data(
    values: Mapping[str, object], parameters: tuple[Parameter, ...], takes: str, ignored: Collection[str] = ()
) -> tuple[Scalar, ...]:
    """A value for each parameter; `takes` is the sentence that lists them."""
    known = {parameter.name for parameter in parameters}
    if not set(values) - set(ignored) <= known:
        raise Refusal(400, f"There is an unknown parameter: {takes}")
    missing = [p.name for p in parameters if p.is_required and p.name not in values]
    if missing:
        raise Refusal(400, f"{missing[0]} is missing: {takes}")
    return tuple(scalar(p.name, values[p.name]) if p.name in values else p.default for p in parameters)


def page_event(body: bytes, inputs: Mapping[int, Sequence[str]]) -> PageEvent:
    """`inputs` names those of each event of the page, by its number."""
    values = parse_object(body)
    index, data, trigger = values.get("fn_index"), values.get("data"), values.get("trigger_id")
    if type(index) is not int or index not in inputs:
        raise Refusal(400, "fn_index must be the number of one of the page's events.")
    names = inputs[index]
    if not isinstance(data, list) or len(data) != len(names):
        raise Refusal(400, f"data must be a list of this event's {len(names)} inputs.")
    return PageEvent(
        fn_index=index,
        data=tuple(scalar(name, value) for name, value in zip(names, data, strict=True)),
        session_hash=session_hash(values.get("session_hash")),
        trigger_id=trigger if type(trigger) is int and 0 <= trigger < 10**6 else None,
    )


def cancellation(body: bytes) -> Cancellation:
    values = parse_object(body)
    event_id = values.get("event_id")
    return Cancellation(
        session_hash=session_hash(values.get("session_hash")),
        event_id=event_id if isinstance(event_id, str) and _SESSION.fullmatch(event_id) else "",
    )


def link_query(query: bytes, fields: Collection[str]) -> bytes:
    """Those parts of the page's query that a link's recipe may have; events carry the query of their page along."""
    try:
        pairs = parse_qsl(query.decode("latin-1"), max_num_fields=100)
    except ValueError:
        return b""
    kept = {name: value for name, value in pairs if name in fields and len(value) <= 2 * MAX_PROMPT_CHARS}
    return urlencode(kept).encode("latin-1")
