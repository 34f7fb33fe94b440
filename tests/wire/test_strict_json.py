"""JSON from others: what is taken can be written again."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridkit.wire import strict_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(VALUES, st.booleans())
def test_json_is_read_as_it_was_written(value: object, ascii: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii)
    assert strict_json.decode(text) == value
    strict_json.check(text, value)


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", '{"a": -Infinity}', "1e999"])
def test_numbers_that_are_none_are_taken_only_where_a_protocol_has_them(text: str) -> None:
    with pytest.raises(ValueError, match=r"not JSON|too large"):
        strict_json.decode(text)
    strict_json.decode(text, unusual=True)
    assert math.isnan(strict_json.decode("NaN", unusual=True))


@pytest.mark.parametrize("unusual", [False, True])
@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"a": 1, "a": 2}', "a name stands twice"),
        ("[" * 101 + "]" * 101, "nested too deeply"),
        ("[" * 100_000, "nested too deeply"),
        (r'"\ud800"', "surrogates not allowed"),
        ('"\ud800"', "surrogates not allowed"),
        ("{", "Expecting"),
    ],
)
def test_what_breaks_a_rule_is_named(text: str, why: str, unusual: bool) -> None:
    with pytest.raises((ValueError, RecursionError)) as raised:
        strict_json.check(text, strict_json.decode(text, unusual=unusual))
    assert why in strict_json.reason(raised.value)


def test_as_many_in_one_another_as_are_allowed() -> None:
    text = "[" * strict_json.MAX_DEPTH + "]" * strict_json.MAX_DEPTH
    strict_json.check(text, strict_json.decode(text))
