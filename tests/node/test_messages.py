"""JSON and schemas: typed errors for whatever comes."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridkit.errors import ErrorCode, NodeError, WireError
from gridkit.node import messages

BROKEN = {
    "depth": "[" * 100_000,
    "nan": '{"a": NaN}',
    "infinity": '{"a": -Infinity}',
    "doubled": '{"a": 1, "a": 2}',
    "digits": '{"a": ' + "1" * 1_000_000 + "}",
    "utf8": b'{"a": "\xff"}',
    "bom": b"\xef\xbb\xbf{}",
    "array": "[]",
    "cut": '{"a": ',
    "nothing": "",
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_s6_broken_json_is_refused_as_such(text: str | bytes) -> None:
    with pytest.raises(WireError) as caught:
        messages.parse_json(text)
    assert caught.value.code is ErrorCode.BAD_JSON


@given(st.binary(max_size=200))
def test_any_bytes_parse_or_are_refused(data: bytes) -> None:
    try:
        assert isinstance(messages.parse_json(data), dict)
    except WireError as error:
        assert error.code is ErrorCode.BAD_JSON


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=5,
)
NAMES = ["worker_id", "request_key", "samples", "metrics", "error", "diff", "model", "model_name", "version", "wait"]


@given(
    st.sampled_from([messages.Authenticate, messages.CycleRequest, messages.Report, messages.HostTraining]),
    st.dictionaries(st.sampled_from(NAMES), json_values),
)
def test_any_members_are_taken_or_refused(kind: type[messages.Message], data: dict[str, object]) -> None:
    try:
        messages.parse(kind, json.loads(json.dumps(data)))
    except NodeError as error:
        assert error.code is ErrorCode.BAD_REQUEST and error.status == 400


@pytest.mark.parametrize("name", ["", "x" * 201, "a\nb", "a\x00b", "\ud800"])
def test_ids_are_short_plain_text(name: str) -> None:
    with pytest.raises(NodeError):
        messages.parse(messages.ProcessName, {"name": name})


@pytest.mark.parametrize("name", ["../../etc/passwd", "C:\\x", "..%2f", "a b", "ü✓", "x" * 200])
def test_w8_any_other_text_is_just_a_name(name: str) -> None:
    assert messages.parse(messages.ProcessName, {"name": name}).name == name


@pytest.mark.parametrize("text", ["AAA", "AA==\n", "A A=", "_-==", "é"])
def test_s8_only_standard_padded_base64(text: str) -> None:
    with pytest.raises(WireError):
        messages.from_base64(text)
