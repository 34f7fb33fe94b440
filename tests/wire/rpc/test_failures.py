"""gridkit's errors as JSON-RPC errors, and back."""

from __future__ import annotations

import traceback
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridkit import errors
from gridkit.errors import ErrorCode, GridkitError
from gridkit.wire.rpc.failures import NUMBERS, error_of, failure_of, failure_of_function
from gridkit.wire.rpc.messages import Failure, InvalidMessage, Profile, pack, parse

ERRORS: list[GridkitError] = [
    errors.UsageError("an argument is wrong", "another one"),
    errors.PlanError("torch says no", "look", code=ErrorCode.BAD_INPUT),
    errors.PlanError("no plan"),
    errors.WireError("garbage", code=ErrorCode.UNSAFE_FORMAT),
    errors.NodeError("it broke", code=ErrorCode.INTERNAL),
    errors.NodeError("no such member", code=ErrorCode.BAD_REQUEST, status=400),
    errors.AccessError("not you", "log in", code=ErrorCode.FORBIDDEN, status=403),
    errors.NotFoundError("no variable 'x'", code=ErrorCode.NOT_FOUND, status=404),
    errors.NotFoundError("the session is lost", code=ErrorCode.SESSION_LOST, status=404),
    errors.ConflictError("taken", code=ErrorCode.ALREADY_EXISTS, status=409),
    errors.LimitError("too large", code=ErrorCode.TOO_LARGE),
    errors.LimitError("too many", code=ErrorCode.TOO_MANY, status=429, retry_after=2.5),
    errors.NodeUnreachable("gone"),
    errors.RunError("it ended"),
    GridkitError("something"),
]


def through(failure: Failure) -> Failure:
    got = parse(pack(failure))
    assert isinstance(got, Failure)
    return got


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_the_error_that_is_raised_there_is_the_one_that_was_raised_here(error: GridkitError) -> None:
    failure = failure_of(error, 7)
    assert failure.id == 7 and -32768 <= failure.code <= -32000 and isinstance(failure.data["exception"], str)
    got = error_of(through(failure))
    assert type(got) is type(error)
    assert {name: value for name, value in vars(got).items()} == vars(error) and str(got) == str(error)


def test_errors_of_finer_kinds_are_of_the_nearest_that_travels() -> None:
    workers = errors.WorkersFailed("two failed", groups=((("a", "b"), "why"),))
    assert type(error_of(through(failure_of(workers, 1)))) is errors.RunError
    got = error_of(through(failure_of(errors.GridClientError("no", status=400), 1)))
    assert type(got) is errors.NodeError and got.status == 400


def test_numbers_are_one_a_kind_and_in_the_range_that_is_ours() -> None:
    assert len(set(NUMBERS.values())) == len(NUMBERS)
    ours = [number for kind, number in NUMBERS.items() if kind is not errors.UsageError]
    assert all(-32099 <= number <= -32000 for number in ours)


@pytest.mark.parametrize(
    ("code", "number"),
    [
        (ErrorCode.BAD_JSON, -32700),
        (ErrorCode.UNKNOWN_TYPE, -32601),
        (ErrorCode.BAD_REQUEST, -32602),
        (ErrorCode.INTERNAL, -32603),
    ],
)
def test_what_json_rpc_has_a_number_for_has_that(code: ErrorCode, number: int) -> None:
    failure = failure_of(errors.NodeError("no", code=code), 7)
    assert failure.code == number and type(failure.code) is int


def test_further_members_are_added_to_data() -> None:
    error = errors.NotFoundError("Method 'x' not found.", code=ErrorCode.UNKNOWN_TYPE, status=404)
    failure = failure_of(error, 7, method="x")
    assert (failure.code, failure.message, failure.data["method"]) == (-32601, "Method 'x' not found.", "x")


def test_an_invalid_message_brings_its_answer() -> None:
    answer = Failure("id", -32602, "m", {"exception": "m"})
    assert failure_of(InvalidMessage("m", answer), "other") is answer
    assert failure_of(InvalidMessage("m", None), 7).code == -32602


def test_a_function_that_raised_tells_its_type_text_and_place() -> None:
    def private_metric(pred: int) -> float:
        return pred / 0

    try:
        private_metric(1)
    except ZeroDivisionError as error:
        failure = failure_of_function(error, 7, "".join(traceback.format_exception(error)))
    assert failure.code == -32603 and failure.data["exception"] == "division by zero"
    got = error_of(through(failure))
    assert type(got) is errors.NodeError and got.code is ErrorCode.RUN_FAILED
    assert got.message == "ZeroDivisionError: division by zero"
    assert "private_metric" in got.__notes__[0]


def test_texts_that_have_no_utf8_and_long_ones_can_be_sent() -> None:
    """Names of files may hold lone surrogates."""
    error = FileNotFoundError("no file \udcff" + "x" * 100_000)
    failure = failure_of_function(error, 7, "first" + "\udcff" * 100_000 + "last")
    assert len(pack(failure)) < 60_000 and failure.data["traceback"].endswith("last")
    assert len(pack(failure_of(errors.UsageError("\udcff" * 100_000, "\udcff" * 100_000), 7))) < 20_000


@pytest.mark.parametrize(
    ("failure", "kind", "code", "text"),
    [
        (Failure(1, -32601, "Method 'x' not found.", {"method": "x"}), errors.NodeError, "UNKNOWN_TYPE", "Method 'x'"),
        (Failure(1, -32602, "m", {"missing_key": "k"}), errors.UsageError, None, "m"),
        (Failure(1, -32603, "Internal error", {"exception": "why"}), errors.NodeError, "INTERNAL", "why"),
        (Failure(1, -32700, "m"), errors.NodeError, "BAD_JSON", "m"),
        (Failure(1, -32600, "m"), errors.NodeError, "BAD_REQUEST", "m"),
        (Failure(1, -32005, "m"), errors.NotFoundError, None, "m"),
        (Failure(1, -1, "m"), errors.NodeError, None, "m"),
        (Failure(1, 5, "m", {"code": "NOT_A_CODE", "type": 3, "status": "x", "hint": 1}), errors.NodeError, None, "m"),
    ],
)
def test_failures_of_other_ends(failure: Failure, kind: type[GridkitError], code: str | None, text: str) -> None:
    got = error_of(failure)
    assert type(got) is kind and got.code == (None if code is None else ErrorCode(code)) and text in got.message


JSON = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.lists(st.integers(), max_size=2)
NAMES = st.sampled_from(["LimitError", "UsageError", "GridkitError", "WorkersFailed", "ErrorCode", "__class__", ""])


@given(
    st.integers(-32800, -31900),
    st.text(max_size=5),
    st.dictionaries(
        st.sampled_from(["exception", "code", "hint", "type", "traceback", "status", "retry_after"]),
        JSON | NAMES | st.sampled_from(list(ErrorCode)),
    ),
)
def test_any_failure_is_an_error(code: int, message: str, data: dict[str, Any]) -> None:
    got = error_of(Failure(1, code, message, data))
    assert isinstance(got, GridkitError)
    again = error_of(parse(pack(failure_of(got, 1), Profile.V1)))  # type: ignore[arg-type]
    assert type(again) is type(got) and again.message == got.message
