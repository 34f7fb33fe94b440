"""JSON-RPC 2.0 messages: what may be said, read strictly, and what is answered to text that is none.

Two ends that answer each other's mistakes must not do so for ever. So what has no ``method`` is never answered, which
an error is not either, whatever its id. Only text that can't be read at all, or is no object, is answered with an error
of id null, as JSON-RPC has it.

Source: https://www.jsonrpc.org/specification. Ours: params are passed by name, an id is a text or a whole number, a
request with the id null is a notification, batches are refused, and an error always has an object as its `data`.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from gridkit.errors import ErrorCode, UsageError, WireError
from gridkit.wire import strict_json

MAX_NAME = 200
"""characters of a method or an id"""
MAX_EVENTS = 10_000
"""notifications in one `events`"""
EVENTS: Final = "events"

Id = str | int
Params = dict[str, Any]


class Profile(enum.StrEnum):
    """How the two ends speak; `V1` is also the WebSocket's subprotocol."""

    PLAIN = "plain"
    V1 = "gridkit.v1"


class RpcCode(enum.IntEnum):
    """JSON-RPC's own error codes. Those from -32099 to -32000 are ours: see `gridkit.wire.rpc.failures`."""

    PARSE_ERROR = -32700
    INVALID_REQUEST = -32600
    METHOD_NOT_FOUND = -32601
    INVALID_PARAMS = -32602
    INTERNAL_ERROR = -32603


@dataclass(slots=True)
class Request:
    """Do this and answer."""

    method: str
    params: Params
    id: Id


@dataclass(slots=True)
class Notification:
    """Do this; nothing is answered, not even that it failed."""

    method: str
    params: Params = field(default_factory=dict)


@dataclass(slots=True)
class Reply:
    """The result of a request. The id null is that of the plain profile's first message, which answers no request."""

    id: Id | None
    result: Any


@dataclass(slots=True)
class Failure:
    """The error of a request, or of a text of which no id could be read (id None).

    Attributes:
        data: what is known beside the message: ``exception``, ``code``, ``hint``, ``type``, ``traceback``, ….
    """

    id: Id | None
    code: int
    message: str
    data: dict[str, Any] = field(default_factory=dict)


Message = Request | Notification | Reply | Failure


class InvalidMessage(WireError):
    """What came is no message, or one that can't be done. The connection may stay.

    Attributes:
        answer: what to send back; None when nothing must be.
    """

    def __init__(self, message: str, answer: Failure | None, *, code: ErrorCode = ErrorCode.BAD_REQUEST) -> None:
        super().__init__(message, code=code)
        self.answer = answer


# ---- reading


def parse(text: str | bytes, profile: Profile = Profile.V1) -> Message:
    """The message in one frame's text.

    By the rules of `gridkit.wire.strict_json`; the plain profile has NaN and infinity as numbers (see `values` for how
    these travel in `Profile.V1`).

    Raises:
        InvalidMessage: it is none; `answer` is what to send back.

    >>> parse('{"jsonrpc": "2.0", "method": "echo", "params": {"n": 1}, "id": 7}')
    Request(method='echo', params={'n': 1}, id=7)
    """
    value = _read(text, profile)
    if not isinstance(value, dict):
        what = "a batch, which is not taken" if isinstance(value, list) else "no object"
        raise _invalid(RpcCode.INVALID_REQUEST, f"the message is {what}", None)
    return _call(value) if "method" in value else _outcome(value)


def unbatched(message: Message) -> Sequence[Message]:
    """The notifications of one `events` message, in their order; of any other, itself.

    Raises:
        InvalidMessage: an `events` message that holds something else.
    """
    if not isinstance(message, Request | Notification) or message.method != EVENTS:
        return (message,)
    asked = message.id if isinstance(message, Request) else None
    events = message.params.get("events")
    if asked is not None or message.params.keys() != {"events"} or not isinstance(events, list):
        raise _wrong_params("events is a notification with one member, a list 'events'", asked)
    if len(events) > MAX_EVENTS:
        raise _wrong_params(f"{len(events):,} events; at most {MAX_EVENTS:,} are taken in one message", None)
    return [_event(event) for event in events]


def _event(event: object) -> Notification:
    match event:
        case {"method": str(method), "params": dict(params), **others} if not others and method != EVENTS:
            return Notification(method, params)
    raise _wrong_params("an event has a method, which isn't 'events' again, and params", None)


def _call(value: dict[str, Any]) -> Request | Notification:
    asked = value.get("id")
    if not _is_id(asked):
        raise _invalid(RpcCode.INVALID_REQUEST, "an id is a text or a whole number", None)
    method, params = value["method"], value.get("params", {})
    if value.get("jsonrpc") != "2.0":
        raise _invalid(RpcCode.INVALID_REQUEST, 'the member jsonrpc isn\'t "2.0"', asked)
    if not isinstance(method, str) or not 0 < len(method) <= MAX_NAME:
        raise _invalid(RpcCode.INVALID_REQUEST, f"a method is a text of 1 to {MAX_NAME} characters", asked)
    if "result" in value or "error" in value:
        raise _invalid(RpcCode.INVALID_REQUEST, "a message has a method, or a result, or an error", asked)
    if isinstance(params, list):
        raise _wrong_params(f"the params of '{method}' are passed by name, as an object", asked)
    if not isinstance(params, dict):
        raise _invalid(RpcCode.INVALID_REQUEST, "params are an object", asked)
    return Notification(method, params) if asked is None else Request(method, params, asked)


def _outcome(value: dict[str, Any]) -> Reply | Failure:
    """No mistake in here is answered."""
    asked = value.get("id")
    if value.get("jsonrpc") != "2.0" or not _is_id(asked) or ("result" in value) == ("error" in value):
        raise InvalidMessage("a message has a method, or a result, or an error", None)
    if "result" in value:
        return Reply(asked, value["result"])
    error = value["error"]
    if not isinstance(error, dict) or not isinstance(error.get("message"), str) or type(error.get("code")) is not int:
        raise InvalidMessage("an error has a code, a whole number, and a message", None)
    data = error.get("data")
    return Failure(asked, error["code"], error["message"], data if isinstance(data, dict) else {})


def _is_id(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= MAX_NAME
    return value is None or (type(value) is int and abs(value) < 1 << 63)


def _invalid(rpc: RpcCode, message: str, asked: Id | None, code: ErrorCode = ErrorCode.BAD_REQUEST) -> InvalidMessage:
    return InvalidMessage(
        message, Failure(asked, int(rpc), message, {"exception": message, "code": str(code)}), code=code
    )


def _wrong_params(message: str, asked: Id | None) -> InvalidMessage:
    """Of params: a notification's are not answered."""
    if asked is None:
        return InvalidMessage(message, None)
    return _invalid(RpcCode.INVALID_PARAMS, message, asked)


def _read(data: str | bytes, profile: Profile) -> Any:
    asked = None
    try:
        text = data.decode() if isinstance(data, bytes) else data
        value = strict_json.decode(text, unusual=profile is Profile.PLAIN)
        if isinstance(value, dict) and "method" in value and _is_id(value.get("id")):
            asked = value.get("id")
        strict_json.check(text, value)
    except (ValueError, RecursionError) as error:
        message = f"the message is not JSON: {strict_json.reason(error)}"
        raise _invalid(RpcCode.PARSE_ERROR, message, asked, ErrorCode.BAD_JSON) from None
    return value


# ---- writing

_ENCODERS = {
    Profile.PLAIN: json.JSONEncoder(separators=(",", ":"), ensure_ascii=False),
    Profile.V1: json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False),
}


def pack(message: Message, profile: Profile = Profile.V1) -> str:
    """The text of a message.

    Raises:
        UsageError: something in it has no form in JSON, such as NaN in `Profile.V1`.

    >>> pack(Reply(7, {"n": 1}))
    '{"jsonrpc":"2.0","id":7,"result":{"n":1}}'
    """
    value: dict[str, Any]
    match message:
        case Request(method, params, asked):
            value = {"jsonrpc": "2.0", "method": method, "params": params, "id": asked}
        case Notification(method, params):
            value = {"jsonrpc": "2.0", "method": method, "params": params}
        case Reply(asked, result):
            value = {"jsonrpc": "2.0", "id": asked, "result": result}
        case Failure(asked, code, text, data):
            value = {"jsonrpc": "2.0", "id": asked, "error": {"code": int(code), "message": text, "data": data}}
    try:
        packed = _ENCODERS[profile].encode(value)
        if not packed.isascii():
            packed.encode()  # lone surrogates have no UTF-8
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"{_of_what(message)} can't be sent as JSON: {str(error)[:200]}") from None
    return packed


def batched(events: Sequence[Notification]) -> Notification:
    """Many notifications as one message; `unbatched` is the way back.

    >>> batched([Notification("create_node", {"node_id": "1"})]).params
    {'events': [{'method': 'create_node', 'params': {'node_id': '1'}}]}
    """
    return Notification(EVENTS, {"events": [{"method": event.method, "params": event.params} for event in events]})


def _of_what(message: Message) -> str:
    match message:
        case Request(method) | Notification(method):
            return f"the params of '{method}'"
        case Reply(asked):
            return f"the result of request {asked!r}"
    return "an error's data"
