"""V: a malformed value is answered with a sentence that names it, and never with a crash, a path or nothing."""

import asyncio
import json
import math
import re
import socket
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from sd_space.request import REQUEST_FIELDS
from sd_space.serving.incoming import MAX_BODY_BYTES, MAX_PICTURE_BODY_BYTES

from ..generated import SEED, drawn, sampled
from .crowd import Crowd, take_turns
from .rig import Rig
from .scoreboard import Attempts, Mutant, TooSlow
from .test_gate import raw
from .visitor import FOR_PROGRAMMERS, QUICK, Answer, Visitor

LIMIT_S = 2.0
V = Attempts()
NAN, INF = math.nan, math.inf

REFUSED = {  # field -> values that it cannot have
    "prompt": [None, "", "   ", "\u200b\u200d", 5, 1.5, True, ["a cat"], {"text": "a cat"}, "x" * 1001, "x" * 50_000,
               "a\x00cat", "a\ud800cat", "a\x07cat", "a\x1b[31mcat"],
    "negative_prompt": [5, 1.5, False, ["dogs"], {}, "x" * 1001, "a\x00", "\udfff"],
    "num_images_per_prompt": [0, 5, 10**6, -1, "2", 1.5, True, [1], NAN],
    "num_inference_steps": [0, -1, 151, 1.5, "20", NAN, INF, 1e308, True, [], {}, 10**400],
    "guidance_scale": [-1, 0, 0.99, 20.5, 10**400, NAN, -INF, "7.5", True, [7.5]],
    "seed": [-2, 2**32, 2**63, 2**64, 1.7, True, "abc", "7", NAN, 1e308, [1]],
    "width": [0, 7, 65, 100_000, -64, 64.5, "64", NAN, True, [64]],
    "height": [0, 7, 65, 100_000, -64, 64.5, "64", NAN, True, [64]],
    "scheduler": ["Unknown", "pndm", "../x", "", 5, True, [], {}],
}  # fmt: skip
# Odd values that mean something: the answer is a picture.
TAKEN = {
    "prompt": [
        "قطة \u202eacat",
        "👩‍👩‍👧‍👦" * 60,
        "a cat\r\nINFO forged line",
        "a cat " * 90,
        "<script>alert(1)</script>",
    ],
    "negative_prompt": [None, ""],
    "seed": [-1, 7.0, None],
    "num_images_per_prompt": [1.0],
    "guidance_scale": [1, 20],
}
PAGE = {  # place in the page's form -> values that it cannot have, and the field that the page must name
    "prompt": (1, [5, None, "", ["x"]]),
    "negative_prompt": (2, [{}, 5]),
    "num_images_per_prompt": (3, [9, "x"]),
    "num_inference_steps": (4, ["9", NAN]),
    "guidance_scale": (6, [0, "x"]),
    "seed": (7, ["x", -2]),
    "scheduler": (5, ["x", 5]),
    "width": (14, ["x", "9999x64"]),
    "size": (14, [[64], {}]),
    "height": (14, ["64x", "64x64x64", "64x7"]),
}


def shown(value: object) -> str:
    text = ascii(value)
    return text if len(text) < 24 else f"{text[:20]} and {len(text)} more"


def json_body(values: dict) -> dict:
    """As a client sends it who knows of no limits: NaN, infinities and half characters included."""
    return {"content": json.dumps(values), "headers": {"Content-Type": "application/json"}}


def _api(field: str, value: object) -> Callable:
    return lambda rig, visitor, token: visitor.call(
        "generate", None, **json_body(QUICK | {"acceptance_token": token, field: value})
    )


def _page(place: int, value: object) -> Callable:
    def make(rig: Rig, visitor: Visitor, token: str) -> Answer:
        values = visitor.page_values(token)
        values[place] = value
        body = {"data": values, "fn_index": visitor.fn_index("Prompt", "Steps"), "session_hash": "values"}
        posted = visitor.send("POST", "/gradio_api/queue/join", **json_body(body))
        if posted.status != 200:
            return posted
        answer = visitor.events("/gradio_api/queue/data?session_hash=values", posted)
        note = re.search(rb'note error\\" role=\\"alert\\"[^>]*>([^<]*)<', answer.body)
        return replace(answer, status=422, event="error", data=note[1].decode() if note else "")

    return make


_EXPECTED: dict[str, str] = {}  # id -> what the sentence must name, or "" where a picture must come


def _fill() -> None:
    rows = [(field, value, field, _api(field, value)) for field, values in REFUSED.items() for value in values]
    rows += [(field, value, "", _api(field, value)) for field, values in TAKEN.items() for value in values]
    for field, (place, values) in PAGE.items():
        for value in values:  # the page names a field by its label; what no page can send does not come so far
            is_known = field in REQUEST_FIELDS and not isinstance(value, dict)
            expected = REQUEST_FIELDS[field].label.lower() if is_known else field
            rows.append((f"page {field}", value, expected, _page(place, value)))
    for number, (field, value, expected, make) in enumerate(rows, start=1):
        _EXPECTED[f"V{number:03d}"] = expected
        V.add(f"V{number:03d}", f"{field} {shown(value)}", make)


_fill()

# --- what the values come in

_TYPE = {"Content-Type": "application/json"}


def _body(content: bytes | str | list[bytes], **headers: str) -> Callable:
    return lambda rig, visitor, token: visitor.call("generate", None, content=content, headers=_TYPE | headers)


def _in_parts(*parts: bytes) -> Callable:
    """A body that comes in chunks: no header says how long it is."""
    return lambda rig, visitor, token: visitor.call("generate", None, content=iter(parts), headers=_TYPE)


def _post(path: str, body: Any) -> Callable:
    return lambda rig, visitor, token: visitor.send("POST", path, json=body)


def _raw(line: str, body: bytes = b"", headers: str = "") -> Callable:
    return lambda rig, visitor, token: raw(rig, line, body, headers)


GENERATE = "POST /gradio_api/call/v2/generate HTTP/1.1"
ENVELOPES: dict[str, tuple[str, Callable]] = {  # what -> (what the sentence must name, how it is sent)
    "no prompt at all": ("prompt", _body('{"seed": 5}')),
    "a body cut short": ("JSON", _body('{"prompt": "a c')),
    "an empty body": ("JSON", _body("")),
    "a list for a body": ("object", _body("[1]")),
    "a text for a body": ("object", _body('"a cat"')),
    "a number for a body": ("object", _body("5")),
    "null for a body": ("object", _body("null")),
    "an unknown field": ("unknown parameter", _body('{"prompt": "a cat", "steps": 5}')),
    "a field named like a method": ("unknown parameter", _body('{"__class__": "x"}')),
    "a body 5,000 levels deep": ("JSON", _body('{"prompt": ' + "[" * 5000 + "]" * 5000 + "}")),
    "text that is not UTF-8": ("JSON", _body(b'{"prompt": "\xff\xfe"}')),
    "a body of 1 MB": ("64 KiB", _body('{"prompt": "' + "x" * 10**6 + '"}')),
    "a body a byte too long": ("64 KiB", _body(b'{"prompt": "a cat"}' + b" " * MAX_BODY_BYTES)),
    "a body in parts, a byte too long": ("2.5 MB", _in_parts(b" " * MAX_PICTURE_BODY_BYTES, b" ")),
    "a body that says gzip": ("compressed", _body(b"\x1f\x8b", **{"Content-Encoding": "gzip"})),
    "a body that says br": ("compressed", _body(b"x", **{"Content-Encoding": "br"})),
    "no data": ("data", _post("/gradio_api/call/generate", {})),
    "a text for data": ("data", _post("/gradio_api/call/generate", {"data": "a cat"})),
    "an object for data": ("data", _post("/gradio_api/call/generate", {"data": {"prompt": "a cat"}})),
    "too few data": ("data", _post("/gradio_api/call/generate", {"data": ["a cat"]})),
    "too many data": ("data", _post("/gradio_api/call/generate", {"data": ["a cat"] * 30})),
    "an unknown endpoint": ("/generate", _post("/gradio_api/call/paint", {"data": []})),
    "an unknown endpoint by name": ("/generate", _post("/gradio_api/call/v2/paint", {})),
    "no fn_index": ("fn_index", _post("/gradio_api/queue/join", {"data": [], "session_hash": "x"})),
    "an unknown fn_index": ("fn_index", _post("/gradio_api/queue/join", {"data": [], "fn_index": 999})),
    "a text for fn_index": ("fn_index", _post("/gradio_api/run/predict", {"data": [], "fn_index": "1"})),
    "no session": ("session_hash", lambda rig, visitor, token: visitor.send(
        "POST", "/gradio_api/queue/join",
        json={"fn_index": visitor.fn_index("Prompt", "Steps"), "data": visitor.page_values(token)})),
    "a cancel of nothing": ("session_hash", _post("/gradio_api/cancel", {})),
    "a cancel with a number": ("session_hash", _post("/gradio_api/cancel", {"event_id": 5, "session_hash": 5})),
    "a stream of nothing": ("session", lambda rig, visitor, token: visitor.send("GET", "/gradio_api/queue/data")),
    "an upload": ("nothing at this address", lambda rig, visitor, token: visitor.send(
        "POST", "/gradio_api/upload", files={"files": ("x.png", b"\x89PNG")})),
    "a header of 100 kB": ("headers", _raw(GENERATE, b"{}", f"X-Long: {'x' * 100_000}\r\n")),
    "10,000 headers": ("headers", _raw(GENERATE, b"{}", "X: y\r\n" * 10_000)),
    "a length that is none": ("", _raw(GENERATE, b"{}", "Content-Length: -5\r\n")),
    "two lengths": ("", _raw(GENERATE, b"{}", "Content-Length: 7\r\n")),
    "a bad chunk": ("", _raw(GENERATE, b"zz\r\n", "Transfer-Encoding: chunked\r\n")),
    "a line that is no request": ("", _raw("HELLO")),
    "a path of odd bytes": ("nothing at this address", _raw("GET /%ff%fe%00 HTTP/1.1")),
    "a path of 20 kB": ("nothing at this address", _raw(f"GET /{'x' * 20_000} HTTP/1.1")),
    "an unknown method": ("takes GET only", _raw("PURGE / HTTP/1.1")),
    "HTTP 1.0 without a body": ("JSON", _raw("POST /gradio_api/call/v2/generate HTTP/1.0")),
    "a file in 30,000 folders": ("no such file", _raw(f"GET /gradio_api/file=/{'a/' * 30_000} HTTP/1.1")),
    "a cookie of 15,000 quotes": ("licence", _body('{"prompt": ""}', Cookie='a="' + '\\"' * 15_000 + '"')),
}  # fmt: skip
for _number, (_what, (_names, _make)) in enumerate(ENVELOPES.items(), start=201):
    V.add(f"V{_number}", _what, _make)
    _EXPECTED[f"V{_number}"] = _names


@V("V301", "a body that never comes")
def slow_body(rig: Rig, visitor: Visitor, token: str) -> Answer:
    with rig.patched("sd_space.serving.incoming:BODY_TIMEOUT_S", _half_a_second):
        try:
            return raw(rig, GENERATE, b"{", length=50)
        except TimeoutError:
            raise AssertionError("the body is waited for") from None


def _half_a_second(_: float) -> float:
    return 0.5


@V("V302", "200 connections that say nothing")
def silent_connections(rig: Rig, visitor: Visitor, token: str) -> Answer:
    address = urlsplit(rig.url)
    held = [socket.create_connection((address.hostname, address.port), timeout=5) for _ in range(200)]
    for connection in held:
        connection.sendall(b"POST /gradio_api/call")
    try:
        return visitor.generate(acceptance_token=token)
    finally:
        for connection in held:
            connection.close()


@V("V303", "a body that is too long and does not end")
def endless_body(rig: Rig, visitor: Visitor, token: str) -> Answer:
    size = MAX_PICTURE_BODY_BYTES + 1
    try:
        return raw(rig, GENERATE, b"%x\r\n%s\r\n" % (size, b" " * size), "Transfer-Encoding: chunked\r\n")
    except TimeoutError:
        raise AssertionError("its end is waited for") from None


_EXPECTED |= {"V301": "body", "V302": "", "V303": "2.5 MB"}


def assert_clear(answer: Answer, names: str) -> None:
    assert answer.status < 500, answer
    assert answer.status >= 400 or answer.event == "error", answer
    assert names.lower() in answer.sentence.lower(), answer
    if names:  # what is no HTTP is answered by the server below, in a word
        assert len(answer.sentence) > 10 and not FOR_PROGRAMMERS.search(answer.sentence), answer
    if answer.seconds >= LIMIT_S:
        raise TooSlow(answer)


def assert_answered(rig: Rig, make: Callable[[], Answer], names: str) -> None:
    """What `make` asks gets pictures, or where it must not, a sentence with `names` in it, and nothing is drawn."""
    asked = rig.count("asked")
    answer = make()
    if answer.is_complete:
        assert not names, answer
        assert rig.count("asked") == asked + 1
        return
    assert_clear(answer, names)
    assert rig.count("asked") == asked


@pytest.mark.parametrize("attempt", list(V), ids=str)
def test_a_malformed_value_gets_a_sentence(rig, visitor, token, attempt):
    assert_answered(rig, lambda: attempt.make(rig, visitor, token), _EXPECTED[attempt.id])


def test_words_beyond_77_tokens_are_reported_and_not_refused(visitor, token):
    answer = visitor.generate(acceptance_token=token, prompt="a cat " * 90)
    assert "cat" in answer.data[1]["truncated_prompt"]


_leaf = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
_json = st.recursive(
    _leaf, lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(max_size=8), v, max_size=4), max_leaves=8
)
_typed = {  # about half of them in range
    "prompt": st.sampled_from(["a cat", "", " "]),
    "num_inference_steps": st.integers(-1, 3),
    "num_images_per_prompt": st.integers(0, 2),
    "guidance_scale": st.floats(0, 21),
    "seed": st.integers(-2, 2**33),
    "width": st.sampled_from([64, 63, 72, 0]),
    "height": st.sampled_from([64, 63, 72, 0]),
    "scheduler": st.sampled_from(["PNDM", "Euler a", "x"]),
    "negative_prompt": st.text(max_size=20),
}
_near = {name: value | _json for name, value in _typed.items()}  # so that not every body falls at its first field
_bodies = (
    st.fixed_dictionaries({}, optional=_typed)
    | st.fixed_dictionaries({}, optional=_near)
    | st.dictionaries(st.text(max_size=10), _json, max_size=5)
    | _json
)


def bodies(count: int) -> list[tuple[Any, bool]]:
    """So many bodies by Hypothesis, and whether each goes to the endpoint or to an event of the page."""
    made = []

    @seed(SEED)
    @settings(max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(_bodies, st.booleans())
    def remember(body, by_name):
        made.append((body, by_name))

    remember()
    return made


@drawn(200, nightly=2_000)
def test_no_generated_body_breaks_the_server(rig, token, record_property, attempts):
    """No HTTP 5xx, no error without words."""
    crowd, made = Crowd(rig.url), bodies(attempts.count)

    async def send(number: int) -> None:
        body, by_name = made[number % len(made)]  # there may be fewer that differ
        if isinstance(body, dict) and by_name:
            body = QUICK | body | {"acceptance_token": token}
        elif isinstance(body, dict):
            body = {"data": [*body.values()], "fn_index": 1, "session_hash": "generated"} | body
        with attempts[number] as attempt:
            attempt.asks((by_name, body))
            path = "/gradio_api/run/predict"
            answer = await (crowd.call("generate", body) if by_name else crowd.send("POST", path, body))
            assert answer.status < 500, answer
            assert answer.event != "error" or answer.sentence, answer
            assert not FOR_PROGRAMMERS.search(answer.sentence), answer
            attempt.came_to(answer.event or answer.status)

    asyncio.run(take_turns(send, attempts.numbers, 3))  # fewer than a visitor may have under way
    record_property("V", f"{len(attempts.failures)} of {attempts.count:,} drawn bodies broken")
    attempts.assert_held("error", "complete", 400)


# What must fall: that a picture came, that the sentence names the field, that it is no crash.
TAKEN, NAMED, CRASH = "assert not names", "names.lower() in", "answer.status < 500"
FIELDS, ENVELOPE = "sd_space.fields:", "sd_space.serving.envelope:"
FILTER, INCOMING = "sd_space.serving.middleware:RequestFilter", "sd_space.serving.incoming:"


def _by_name(what: str) -> str:
    return next(attempt.id for attempt in V if attempt.what == what)


MUTANTS = [
    Mutant(f"{FIELDS}Text.check", "not isinstance(value, str)", "False", _by_name("negative_prompt 5"), NAMED),
    Mutant(
        f"{FIELDS}Text.check", "len(value) > self.max_chars", "False", _by_name(f"prompt {shown('x' * 1001)}"), TAKEN
    ),
    Mutant(f"{FIELDS}Text.check", 'in ("Cc", "Cs")', "in ()", _by_name(f"prompt {shown('a' + chr(7) + 'cat')}"), TAKEN),
    Mutant(f"{FIELDS}Real.check", "isinstance(value, bool) or ", "", _by_name("guidance_scale True"), TAKEN),
    Mutant(f"{FIELDS}Real.check", "or not low <= value <= high", "", _by_name("guidance_scale 20.5"), TAKEN),
    Mutant(f"{FIELDS}Whole.check", "isinstance(value, bool) or", "", _by_name("num_images_per_prompt True"), TAKEN),
    Mutant(f"{FIELDS}Whole.check", "not isinstance(value, int) or", "", _by_name("num_inference_steps '20'"), NAMED),
    Mutant(f"{FIELDS}Whole.check", "or not low <= value <= high", "", _by_name("num_images_per_prompt 5"), TAKEN),
    Mutant(
        "sd_space.serving.middleware:read_body",
        "len(body) > most_bytes",
        "False",
        _by_name("a body that is too long and does not end"),
        "its end is waited for",
    ),
    Mutant(f"{ENVELOPE}parse_object", "not isinstance(values, dict)", "False", _by_name("a number for a body"), CRASH),
    Mutant(
        f"{INCOMING}endpoint_call",
        "not least <= len(data) <= len(parameters)",
        "False",
        _by_name("too few data"),
        "answer.status >= 400",
    ),
    Mutant(
        f"{ENVELOPE}known_endpoint",
        "name not in endpoints",
        "False",
        _by_name("an unknown endpoint by name"),
        CRASH,
    ),
    Mutant(
        f"{ENVELOPE}named_data", "not set(values) - set(ignored) <= known", "False", _by_name("an unknown field"), NAMED
    ),
    Mutant(f"{FILTER}._forward_or_refuse", "> MAX_HEADER_BYTES", "> 10**9", _by_name("a header of 100 kB"), NAMED),
    Mutant(f"{INCOMING}_check_content", '!= "identity"', "is None", _by_name("a body that says br"), NAMED),
    Mutant(
        "sd_space.serving.middleware:read_body",
        "timeout(BODY_TIMEOUT_S)",
        "timeout(None)",
        _by_name("a body that never comes"),
        "the body is waited for",
    ),
]


@pytest.mark.parametrize("mutant", sampled(MUTANTS, 1), ids=str)
def test_without_a_guard_a_value_gets_through(rig, visitor, token, mutant):
    with rig.without(mutant.target, mutant.old, mutant.new), mutant.caught():
        attempt = V.named(mutant.caught_by)
        assert_answered(rig, lambda: attempt.make(rig, visitor, token), _EXPECTED[attempt.id])
    rig.wait_until_idle()
