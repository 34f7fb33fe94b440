"""JSON-RPC messages: what is read, what is refused, and what is answered. S6, S7."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gridkit.errors import ErrorCode, UsageError, WireError
from gridkit.wire.rpc.messages import (
    MAX_EVENTS,
    Failure,
    InvalidMessage,
    Message,
    Notification,
    Profile,
    Reply,
    Request,
    batched,
    pack,
    parse,
    unbatched,
)

PLAIN, V1 = Profile.PLAIN, Profile.V1
MESSAGES: list[Message] = [
    Request("echo", {"n": 1, "größe": [None, True, "∇f 🧮"]}, 7),
    Request("echo", {}, "e7c1"),
    Notification("heartbeat", {"id": 7}),
    Reply(7, {"n": 1}),
    Reply("x", None),
    Failure(7, -32601, "Method 'x' not found.", {"method": "x"}),
    Failure(None, -32700, "no JSON", {}),
]


def refusal(text: str | bytes, profile: Profile = V1) -> InvalidMessage:
    with pytest.raises(InvalidMessage) as refused:
        parse(text, profile)
    return refused.value


def call(**members: Any) -> str:
    return json.dumps({"jsonrpc": "2.0", "method": "echo", "params": {}, "id": 7} | members)


@pytest.mark.parametrize("profile", Profile)
@pytest.mark.parametrize("message", MESSAGES, ids=repr)
def test_messages_come_as_they_went(message: Message, profile: Profile) -> None:
    assert parse(pack(message, profile), profile) == message
    assert parse(pack(message, profile).encode(), profile) == message


def test_the_texts_are_json_rpc() -> None:
    assert json.loads(pack(MESSAGES[0])) == {
        "jsonrpc": "2.0",
        "method": "echo",
        "params": {"n": 1, "größe": [None, True, "∇f 🧮"]},
        "id": 7,
    }
    assert json.loads(pack(Notification("m"))) == {"jsonrpc": "2.0", "method": "m", "params": {}}
    assert json.loads(pack(Reply(1, 2))) == {"jsonrpc": "2.0", "id": 1, "result": 2}
    error = {"code": -32601, "message": "Method 'x' not found.", "data": {"method": "x"}}
    assert json.loads(pack(MESSAGES[5])) == {"jsonrpc": "2.0", "id": 7, "error": error}


NOT_JSON = {
    "depth 100k": b"[" * 100_000,
    "depth 100k, of objects": b'{"a":' * 100_000,
    "depth 5k, closed": b"[" * 5000 + b"]" * 5000,
    "a name twice": b'{"jsonrpc": "2.0", "method": "a", "method": "b", "id": 1}',
    "a name twice, escaped": b'{"jsonrpc": "2.0", "method": "a", "params": {"a": 1, "\\u0061": 2}, "id": 1}',
    "a number of 1M digits": b'{"a": ' + b"9" * 1_000_000 + b"}",
    "not UTF-8": b'{"a": "\xff"}',
    "a surrogate in UTF-8": b'{"a": "\xed\xa0\x80"}',
    "a lone surrogate": b'{"a": "\\ud800"}',
    "a lone surrogate for a name": b'{"\\udfff": 1}',
    "a BOM": b"\xef\xbb\xbf{}",
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "a control character": b'{"a": "\n"}',
    "an unknown escape": b'{"a": "\\x41"}',
    "single quotes": b"{'a': 1}",
    "a comma too many": b'{"a": 1,}',
    "two objects": b"{}{}",
    "nothing": b"",
    "a NUL": b"\0",
}


@pytest.mark.parametrize("profile", Profile)
@pytest.mark.parametrize("why", NOT_JSON)
def test_s6_what_is_not_json_is_a_parse_error(why: str, profile: Profile) -> None:
    refused = refusal(NOT_JSON[why], profile)
    assert refused.code is ErrorCode.BAD_JSON and len(str(refused)) < 300
    assert refused.answer is not None and refused.answer.id is None and refused.answer.code == -32700
    assert refused.answer.data["code"] == "BAD_JSON"
    parse(pack(refused.answer, profile), profile)  # and can be sent


def test_s6_text_may_come_as_text_too() -> None:
    assert refusal("[" * 100_000).answer == refusal(b"[" * 100_000).answer
    assert refusal('{"a": "\ud800"}').code is ErrorCode.BAD_JSON


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_s6_numbers_that_json_has_not_are_for_the_plain_profile_only(number: str) -> None:
    text = f'{{"jsonrpc": "2.0", "method": "echo", "params": {{"x": {number}}}, "id": 7}}'
    assert refusal(text).answer == refusal(text.encode()).answer
    got = parse(text, PLAIN)
    assert isinstance(got, Request) and repr(got.params["x"]) == {"NaN": "nan", "-Infinity": "-inf"}.get(number, "inf")
    assert repr(parse(pack(got, PLAIN), PLAIN)) == repr(got)
    with pytest.raises(UsageError, match="the params of 'echo'"):
        pack(got, V1)


@pytest.mark.parametrize("deep", [99, 100, 101, 900])
def test_s6_depth_is_counted_where_the_parser_still_can(deep: int) -> None:
    """Then the id is known, and the answer finds its way."""
    text = call(params={"a": "HERE"}).replace('"HERE"', "[" * (deep - 2) + "]" * (deep - 2))
    if deep <= 100:
        assert isinstance(parse(text), Request)
    else:
        answer = refusal(text).answer
        assert answer is not None and (answer.code, answer.id) == (-32700, 7)


def test_s6_a_string_of_brackets_is_not_deep() -> None:
    got = parse(call(params={"text": "[" * 10_000}))
    assert isinstance(got, Request) and len(got.params["text"]) == 10_000


def test_s6_a_lone_surrogate_in_a_request_is_answered_by_its_id() -> None:
    answer = refusal(call(params={"a": "HERE"}).replace("HERE", "\\ud800"), PLAIN).answer
    assert answer is not None and (answer.code, answer.id) == (-32700, 7)
    assert isinstance(parse(call(params={"a": "HERE"}).replace("HERE", "\\ud83e\\uddee")), Request)


INVALID = {
    "no version": ({"jsonrpc": None}, 7),
    "another version": ({"jsonrpc": "1.0"}, 7),
    "the version as a number": ({"jsonrpc": 2.0}, 7),
    "a method that is no text": ({"method": 1}, 7),
    "no name": ({"method": ""}, 7),
    "a long name": ({"method": "m" * 201}, 7),
    "params that are a text": ({"params": "a"}, 7),
    "params that are null": ({"params": None}, 7),
    "an id that is true": ({"id": True}, None),
    "an id that is a list": ({"id": [1]}, None),
    "an id that is an object": ({"id": {}}, None),
    "an id with a fraction": ({"id": 1.5}, None),
    "an id that is too large": ({"id": 1 << 63}, None),
    "an id that is too long": ({"id": "i" * 201}, None),
    "a method and a result": ({"result": 1}, 7),
    "a method and an error": ({"error": {}}, 7),
}


@pytest.mark.parametrize("why", INVALID)
def test_s7_requests_that_are_none(why: str) -> None:
    members, asked = INVALID[why]
    answer = refusal(call(**members)).answer
    assert answer is not None and (answer.code, answer.id) == (-32600, asked)
    assert answer.data["exception"] == answer.message


@pytest.mark.parametrize("text", ["[]", "[" + ",".join([call()] * 10_000) + "]", "1", "null", '"text"', "true"])
def test_s7_batches_and_what_is_no_object(text: str) -> None:
    answer = refusal(text).answer
    assert answer is not None and (answer.code, answer.id) == (-32600, None)


def test_s7_params_by_place_are_refused() -> None:
    answer = refusal(call(params=[1, 2])).answer
    assert answer is not None and (answer.code, answer.id) == (-32602, 7)


def test_an_id_of_null_or_none_is_a_notification() -> None:
    assert parse(call(id=None)) == Notification("echo", {})
    assert parse('{"jsonrpc": "2.0", "method": "echo"}') == Notification("echo", {})
    assert refusal('{"jsonrpc": "2.0", "method": "echo", "params": []}').answer is None


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"id": 7},
        {"id": 7, "result": 1, "error": {"code": 1, "message": ""}},
        {"id": {}, "result": 1},
        {"id": True, "error": {"code": 1, "message": ""}},
        {"id": 7, "error": None},
        {"id": 7, "error": {"code": "1", "message": ""}},
        {"id": 7, "error": {"code": True, "message": ""}},
        {"id": 7, "error": {"code": 1}},
        {"jsonrpc": "1.0", "id": 7, "result": 1},
    ],
)
def test_s7_what_has_no_method_is_never_answered(members: dict[str, Any]) -> None:
    assert refusal(json.dumps({"jsonrpc": "2.0"} | members)).answer is None


def test_s7_answers_to_mistakes_end() -> None:
    """afnio's client answers an error of id null with another one; so may any peer, and be one of ours."""
    for text in (b"{", b"[]", b"1", call(id={}).encode(), call(method=1).encode()):
        answer = refusal(text).answer
        assert answer is not None
        assert isinstance(parse(pack(answer)), Failure)  # which nobody answers
    assert parse('{"jsonrpc": "2.0", "id": null, "error": {"code": -32600, "message": "?"}}') == Failure(
        None, -32600, "?", {}
    )


def test_the_data_of_an_error_is_an_object() -> None:
    for data in (None, "text", [1], 3):
        text = json.dumps({"jsonrpc": "2.0", "id": 1, "error": {"code": 5, "message": "m", "data": data}})
        assert parse(text) == Failure(1, 5, "m", {})


@pytest.mark.parametrize("value", [{1, 2}, b"bytes", object(), "\ud800", {"\ud800": 1}, 10**5000], ids=type)
def test_what_has_no_form_in_json_is_told_to_its_sender(value: object) -> None:
    for message in (Request("m", {"a": value}, 1), Notification("m", {"a": value}), Reply(1, value)):
        with pytest.raises(UsageError, match="can't be sent as JSON"):
            pack(message)
    with pytest.raises(UsageError, match="an error's data"):
        pack(Failure(1, 2, "m", {"a": value}))


def test_a_list_in_itself() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(UsageError):
        pack(Reply(1, loop))


# ---- many notifications in one


def test_events_come_apart_in_their_order() -> None:
    events = [Notification("create_node", {"node_id": n, "name": "AddBackward0"}) for n in range(2000)]
    assert list(unbatched(parse(pack(batched(events))))) == events
    assert list(unbatched(batched([]))) == []
    for message in MESSAGES:
        assert list(unbatched(message)) == [message]


EVENT = {"method": "create_node", "params": {}}


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"events": {}},
        {"events": [EVENT], "more": 1},
        {"events": [EVENT] * (MAX_EVENTS + 1)},
        {"events": [1]},
        {"events": [{"method": "create_node"}]},
        {"events": [{"method": 1, "params": {}}]},
        {"events": [{"method": "m", "params": []}]},
        {"events": [EVENT | {"id": 1}]},
        {"events": [{"method": "events", "params": {"events": []}}]},
    ],
)
def test_events_that_are_none(params: dict[str, Any]) -> None:
    with pytest.raises(InvalidMessage) as refused:
        unbatched(Notification("events", params))
    assert refused.value.answer is None


def test_events_are_not_asked_for() -> None:
    with pytest.raises(InvalidMessage) as refused:
        unbatched(Request("events", {"events": []}, 3))
    assert refused.value.answer is not None and refused.value.answer.id == 3


# ---- anything at all

KEYS = st.sampled_from(["jsonrpc", "method", "params", "id", "result", "error", "code", "message", "data", "a", ""])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["2.0", "echo"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=12,
)


def outcome(data: str | bytes, profile: Profile) -> Message | Failure | None:
    """The message, or the answer; nothing but `InvalidMessage` is raised."""
    try:
        return parse(data, profile)
    except InvalidMessage as error:
        assert isinstance(error, WireError)
        return error.answer


@given(st.binary(max_size=60), st.sampled_from(Profile))
def test_s6_any_bytes(data: bytes, profile: Profile) -> None:
    outcome(data, profile)


@given(st.dictionaries(KEYS, VALUES, max_size=6), st.sampled_from(Profile))
@settings(max_examples=150)
def test_s7_any_object(value: dict[str, Any], profile: Profile) -> None:
    text = json.dumps(value)
    got = outcome(text, profile)
    if got is None:
        assert "method" not in value or value.get("id") is None
    else:  # what is taken or answered can be written, and read again as the same
        again = parse(pack(got, PLAIN), PLAIN)
        assert repr(again) == repr(got)


@given(st.data())
@settings(max_examples=200)
def test_s6_a_good_message_with_a_few_other_bytes(data: st.DataObject) -> None:
    good = bytearray(pack(data.draw(st.sampled_from(MESSAGES))).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    outcome(bytes(good), V1)


def test_s6_memory_is_that_of_the_text() -> None:
    text = b'{"a": ' + b"9" * 1_000_000 + b"}"
    refusal(text)
    tracemalloc.start()
    refusal(text)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5 * len(text)
