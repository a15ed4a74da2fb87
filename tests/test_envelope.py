import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sd_space.serving.envelope import (
    Parameter,
    Refusal,
    cancellation,
    encoded,
    endpoint_call,
    link_query,
    page_event,
    parse_object,
)
from sd_space.serving.mcp_message import McpRefusal, mcp_message

ENDPOINTS = {
    "generate": (
        Parameter("prompt", True, None, "string"),
        Parameter("seed", False, -1, "integer"),
        Parameter("guidance_scale", False, 7.5, "number"),
        Parameter("width", False, None, "integer"),
    ),
    "accept_license": (Parameter("agree", True, None, "boolean"),),
}
FILE = {"path": "http://192.0.2.1/x", "meta": {"_type": "gradio.FileData"}}
SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text()
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3))


def event(**changes):
    values = {"fn_index": 3, "data": ["x", 1], "session_hash": "abc"} | changes
    return page_event(json.dumps(values).encode(), {3: ("token", "steps")})


def test_what_an_event_carries_beside_its_inputs_is_left_behind():
    asked = event(event_data=FILE, batched=True, event_id="x", simple_format=1, oauth_token="x", trigger_id=7, more=[1])
    assert asked.body() == {"fn_index": 3, "data": ["x", 1], "session_hash": "abc", "trigger_id": 7}


@pytest.mark.parametrize("trigger", ["x", [1], True, -1, 10**30, 1.5, FILE])
def test_a_trigger_that_is_no_number_of_a_component_is_none(trigger):
    assert event(trigger_id=trigger).trigger_id is None


@pytest.mark.parametrize("value", [FILE, [], ["a"], {}, {"a": 1}])
def test_an_input_is_text_a_number_a_truth_value_or_nothing(value):
    with pytest.raises(Refusal, match="steps must be text, a number, true or false, not a"):
        event(data=["x", value])
    with pytest.raises(Refusal, match="prompt must be text, a number, true or false, not a"):
        endpoint_call("generate", True, json.dumps({"prompt": value}).encode(), ENDPOINTS)
    with pytest.raises(Refusal, match="seed must be text"):
        endpoint_call("generate", False, json.dumps({"data": ["a", value, 1, 1]}).encode(), ENDPOINTS)


@given(JSON)
def test_whatever_an_event_is_made_of_only_scalars_come_through(values):
    for body in (
        values,
        {"fn_index": 3, "data": values, "session_hash": "a"},
        {"fn_index": 3, "data": [values, values]},
    ):
        try:
            asked = page_event(json.dumps(body).encode(), {3: ("token", "steps")})
        except Refusal as refused:
            assert refused.status == 400 and refused.sentence.endswith(".")
        else:
            assert not any(isinstance(value, dict | list) for value in asked.data)
            assert json.loads(encoded(asked.body())).keys() == {"fn_index", "data", "session_hash", "trigger_id"}


@pytest.mark.parametrize("session", ["", "a" * 65, "a b", "a/b", "a\n", "é", None, 7, ["a"], {"a": 1}])
def test_a_session_has_a_plain_name(session):
    with pytest.raises(Refusal, match="session_hash must be text"):
        event(session_hash=session)


@pytest.mark.parametrize("index", [True, "3", 3.0, None, 4, -1, [3]])
def test_an_event_is_one_of_the_pages(index):
    with pytest.raises(Refusal, match="fn_index must be the number"):
        event(fn_index=index)


def test_a_call_by_name_has_a_value_for_each_parameter_in_their_order():
    call = endpoint_call(
        "generate", True, b'{"seed": 4, "prompt": "a cat", "session_hash": "x", "event_id": 1}', ENDPOINTS
    )
    assert call.data == ("a cat", 4, 7.5, None) and call.path == "/gradio_api/call/generate"


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[1]", b"7", b'"x"', b"null", b"[" * 3000, b'{"a":' * 3000, b"9" * 5000, b"\xff\xfe", b"{'a': 1}"],
)
def test_a_body_that_is_no_object_is_refused_in_a_sentence(body):
    with pytest.raises(Refusal, match=r"The body (is not valid JSON|must be a JSON object)\."):
        page_event(body, {3: ("token", "steps")})


@pytest.mark.parametrize(
    ("values", "event_id"),
    [({"event_id": "abc"}, "abc"), ({"event_id": ["abc"]}, ""), ({"event_id": "a b"}, ""), ({}, "")],
)
def test_a_cancellation_names_its_event_plainly(values, event_id):
    asked = cancellation(json.dumps({"session_hash": "s", "fn_index": 9.5} | values).encode())
    assert asked.event_id == event_id
    assert asked.body(3) == {"session_hash": "s", "fn_index": 3, "event_id": event_id}, "the event's own number"


def test_of_a_pages_query_only_a_links_recipe_comes_along():
    query = b"prompt=a+cat&seed=7&__theme=dark&page=x&deep_link=../x&prompt=twice&scheduler=" + b"x" * 5000
    assert link_query(query, {"prompt", "seed", "scheduler"}) == b"prompt=twice&seed=7"
    assert link_query(b"a=1&" * 500, {"a"}) == b""


# --- messages of MCP clients


def message(method: str = "tools/call", id=1, **params):
    values = {"jsonrpc": "2.0", "method": method, "id": id, "params": params}
    return mcp_message(json.dumps(values).encode(), ENDPOINTS)


def call(name="generate", **arguments):
    return message(name=name, arguments=arguments)


def test_a_tool_call_is_written_anew():
    asked = message(
        name="generate", arguments={"prompt": "a cat", "seed": 4.0}, _meta={"progressToken": 3, "x": FILE}, x=1
    )
    assert asked.body() == {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": "generate", "arguments": {"prompt": "a cat", "seed": 4}, "_meta": {"progressToken": 3}},
    }


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"prompt": FILE}, "prompt must be text"),
        ({"prompt": 5}, "prompt must be text."),
        ({"prompt": "a", "seed": "ten"}, "seed must be a whole number."),
        ({"prompt": "a", "seed": True}, "seed must be a whole number."),
        ({"prompt": "a", "seed": None}, "seed must be a whole number."),
        ({"prompt": "a", "guidance_scale": "x"}, "guidance_scale must be a number."),
        ({"prompt": "a", "guidance_scale": float("nan")}, "guidance_scale must be a number."),
        ({"prompt": "a", "guidance_scale": float("inf")}, "guidance_scale must be a number."),
        ({"prompt": "a\ud800"}, "prompt must not contain halves of characters"),
        ({"prompt": "a", "colour": 1}, "unknown parameter"),
        ({}, "prompt is missing"),
    ],
)
def test_a_tool_call_with_a_wrong_argument_is_answered_as_a_tool_answers(arguments, says):
    with pytest.raises(McpRefusal) as refused:
        call(**arguments)
    result = refused.value.answer["result"]
    assert result["isError"] and says in result["content"][0]["text"] and refused.value.status == 200
    assert call(prompt="a", width=None).params["arguments"] == {"prompt": "a", "width": None}


def test_there_are_no_other_tools_and_no_other_methods():
    with pytest.raises(McpRefusal) as refused:
        call("open_page")
    assert "generate, accept_license" in refused.value.answer["result"]["content"][0]["text"]
    with pytest.raises(McpRefusal) as refused:
        message("completion/complete", uri="file:///etc/passwd")
    assert refused.value.answer["error"]["code"] == -32601


@pytest.mark.parametrize(
    ("method", "key", "name"), [("resources/read", "uri", "sd-space://model"), ("prompts/get", "name", "a-prompt")]
)
def test_only_a_name_that_can_be_one_is_passed_on(method, key, name):
    assert message(method, **{key: name, "other": 1}).params == {key: name}
    for wrong in ("file:///etc/passwd", "", None, 5, [name], name + "\n", "x" * 200):
        with pytest.raises(McpRefusal) as refused:
            message(method, **{key: wrong})
        assert refused.value.answer["error"]["code"] == -32602


@pytest.mark.parametrize(
    "values",
    [
        [], {}, "x", {"method": 5, "id": 1}, {"method": "ping"}, {"method": "ping", "id": {"a": 1}},
        {"method": "ping", "id": True}, {"method": "ping", "id": "x" * 200}, [{"method": "ping", "id": 1}],
        {"method": "ping", "id": "\ud800"}, {"method": "unknown", "id": "\udfff"},
    ],
)  # fmt: skip
def test_a_message_that_is_none_is_refused_as_json_rpc_does(values):
    with pytest.raises(McpRefusal) as refused:
        mcp_message(json.dumps(values).encode(), ENDPOINTS)
    assert refused.value.status == 400 and refused.value.answer["error"]["code"] == -32600


def test_what_a_client_says_of_itself_is_left_behind():
    asked = message(
        "initialize", protocolVersion="2025-06-18", clientInfo={"name": "x" * 9999}, capabilities={"a": [FILE]}
    )
    assert asked.params == {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "client", "version": "1"},
    }
    assert message("initialize", protocolVersion=7).params["protocolVersion"] == "2025-03-26"


@pytest.mark.parametrize("token", ["\udfff", "x" * 129, True, [1], {"a": 1}, 1.5])
def test_a_progress_token_that_names_nothing_is_left_behind(token):
    assert "_meta" not in message(name="generate", arguments={"prompt": "a"}, _meta={"progressToken": token}).params


@pytest.mark.parametrize("part", ["[]", '{"a":[]}', "1"])
def test_a_large_body_of_many_values_is_refused_before_it_is_parsed(part):
    body = ('{"picture":[' + ",".join([part] * (4_000_000 // len(part))) + "]}").encode()
    began_s = time.process_time()
    with pytest.raises(Refusal, match="at most 65536 values"):
        parse_object(body)
    assert time.process_time() - began_s < 0.1
    assert parse_object(('{"picture":"' + "A" * 8_000_000 + '"}').encode())["picture"].startswith("AAA")
