"""gridkit's errors as JSON-RPC errors, and back.

The number says of which kind an error is, ``data["code"]`` is gridkit's own `ErrorCode`, and ``data["type"]`` the name
of the class; so the error that is raised where the answer arrives is the one that was raised where the work was done.
Of other ends, which know none of this, the number and the message are enough. ``data["exception"]`` is the text that
afnio's client shows its user.
"""

from __future__ import annotations

from typing import Any, Final

from gridkit.errors import (
    AccessError,
    ConflictError,
    ErrorCode,
    GridkitError,
    LimitError,
    NodeError,
    NodeUnreachable,
    NotFoundError,
    PlanError,
    PrivacyError,
    RunError,
    UsageError,
    WireError,
)
from gridkit.wire.rpc.messages import Failure, Id, InvalidMessage, RpcCode

MAX_TEXT = 4000
"""characters of a message or a hint"""
MAX_TRACEBACK = 20_000
"""characters of a traceback; its end is kept"""

NUMBERS: Final[dict[type[GridkitError], int]] = {
    GridkitError: -32000,
    UsageError: RpcCode.INVALID_PARAMS,
    PlanError: -32001,
    WireError: -32002,
    NodeError: -32003,
    AccessError: -32004,
    NotFoundError: -32005,
    ConflictError: -32006,
    LimitError: -32007,
    NodeUnreachable: -32008,
    RunError: -32009,
    PrivacyError: -32010,
}
"""By class; a class that isn't here has the number of the nearest that it is made of."""
_STANDARD = {
    ErrorCode.BAD_JSON: RpcCode.PARSE_ERROR,
    ErrorCode.UNKNOWN_TYPE: RpcCode.METHOD_NOT_FOUND,
    ErrorCode.BAD_REQUEST: RpcCode.INVALID_PARAMS,
    ErrorCode.INTERNAL: RpcCode.INTERNAL_ERROR,
}
_CLASSES = {kind.__name__: kind for kind in NUMBERS}
_OF_NUMBER: dict[int, type[GridkitError]] = {number: kind for kind, number in NUMBERS.items()}
_OTHERS: dict[int, tuple[ErrorCode, int]] = {
    RpcCode.PARSE_ERROR: (ErrorCode.BAD_JSON, 400),
    RpcCode.INVALID_REQUEST: (ErrorCode.BAD_REQUEST, 400),
    RpcCode.METHOD_NOT_FOUND: (ErrorCode.UNKNOWN_TYPE, 404),
    RpcCode.INTERNAL_ERROR: (ErrorCode.INTERNAL, 500),
}
"""What the other numbers mean of ends that don't say it in `data`."""


def failure_of(error: GridkitError, asked: Id | None, **more: str) -> Failure:
    """The answer to the request `asked` which failed so.

    Args:
        more: further members of `data`: ``method``, ``missing_key``.

    >>> failure_of(NotFoundError("no variable 'x'", code=ErrorCode.NOT_FOUND, status=404), 7).data["code"]
    'NOT_FOUND'
    """
    if isinstance(error, InvalidMessage) and error.answer is not None:
        return error.answer
    kind = next(base for base in type(error).__mro__ if base in NUMBERS)
    data: dict[str, Any] = {"exception": _text(error.message), "type": kind.__name__, **more}
    data["code"] = None if error.code is None else str(error.code)
    if error.hint is not None:
        data["hint"] = _text(error.hint)
    if isinstance(error, NodeError):
        data["status"] = error.status
    if isinstance(error, LimitError) and error.retry_after is not None:
        data["retry_after"] = error.retry_after
    standard = None if error.code is None else _STANDARD.get(error.code)
    return Failure(asked, int(standard or NUMBERS[kind]), data["exception"], data)


def failure_of_function(error: BaseException, asked: Id, traceback: str = "") -> Failure:
    """The answer to a `run_callable` whose function raised: its author is told all that is known.

    Args:
        traceback: as text; where it was raised is what helps, so of a long one the end is sent.
    """
    data = {"exception": _text(str(error)), "type": type(error).__name__, "code": str(ErrorCode.RUN_FAILED)}
    if traceback:
        data["traceback"] = _plain(traceback[-MAX_TRACEBACK:])
    return Failure(asked, int(RpcCode.INTERNAL_ERROR), f"{data['type']}: {data['exception']}"[:MAX_TEXT], data)


def error_of(failure: Failure) -> GridkitError:
    """The error that a failure means. What isn't gridkit's own is a `NodeError` that names the type; a traceback is
    among its notes.

    >>> error_of(Failure(7, -32601, "Method 'x' not found.", {"method": "x"})).code
    <ErrorCode.UNKNOWN_TYPE: 'UNKNOWN_TYPE'>
    """
    data = failure.data
    name, said, hint = data.get("type"), data.get("exception"), data.get("hint")
    message = _text(said if isinstance(said, str) and said else failure.message)
    known = _CLASSES.get(name) if isinstance(name, str) else _OF_NUMBER.get(failure.code)
    code, status = _OTHERS.get(failure.code, (None, 500))
    if isinstance(named := data.get("code"), str) and named in ErrorCode.__members__:
        code = ErrorCode(named)
    if type(data.get("status")) is int:
        status = data["status"]
    if known is None and isinstance(name, str):
        message = f"{_text(name)}: {message}"
    error = _made(known or NodeError, message, _text(hint) if isinstance(hint, str) else None, code, status)
    if isinstance(error, LimitError) and type(data.get("retry_after")) in (int, float):
        error.retry_after = data["retry_after"]
    if isinstance(trace := data.get("traceback"), str):
        error.add_note(_plain(trace[-MAX_TRACEBACK:]))
    return error


def _made(
    kind: type[GridkitError], message: str, hint: str | None, code: ErrorCode | None, status: int
) -> GridkitError:
    if issubclass(kind, NodeError):
        return kind(message, hint, code=code, status=status)
    if code is None:  # the class has one of its own
        return kind(message, hint)
    return kind(message, hint, code=code)


def _text(text: str) -> str:
    return _plain(text[:MAX_TEXT])


def _plain(text: str) -> str:
    """Without lone surrogates, which names of files may bring and which have no UTF-8."""
    return text.encode(errors="replace").decode()
