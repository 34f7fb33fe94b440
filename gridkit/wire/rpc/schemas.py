"""Which methods there are, and what each takes, by direction and profile."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Final

from gridkit.errors import ErrorCode
from gridkit.wire.rpc import plain, v1
from gridkit.wire.rpc.members import Members, read_params
from gridkit.wire.rpc.messages import Failure, InvalidMessage, Notification, Profile, Request, RpcCode
from gridkit.wire.rpc.values import Body


class Direction(enum.Enum):
    """Who is asked."""

    TO_NODE = "node"
    TO_CLIENT = "client"


SCHEMAS: Final[dict[tuple[Profile, Direction], dict[str, type[Members]]]] = {
    (Profile.PLAIN, Direction.TO_NODE): plain.TO_NODE,
    (Profile.PLAIN, Direction.TO_CLIENT): plain.TO_CLIENT,
    (Profile.V1, Direction.TO_NODE): v1.TO_NODE,
    (Profile.V1, Direction.TO_CLIENT): v1.TO_CLIENT,
}


def schema(method: str, direction: Direction, profile: Profile = Profile.V1) -> type[Members] | None:
    """What a method takes; None when there is no such method."""
    return SCHEMAS[profile, direction].get(method)


def checked(
    message: Request | Notification,
    direction: Direction,
    profile: Profile = Profile.V1,
    bodies: Sequence[Body] = (),
) -> Members:
    """The params of a message, decoded.

    Args:
        bodies: those of its frame.

    Raises:
        InvalidMessage: there is no such method (-32601), or the params aren't what it takes (-32602).

    >>> checked(Request("run_step", {"optimizer_id": "o", "step_id": "1"}, 7), Direction.TO_NODE)
    RunStep(optimizer_id='o', step_id='1')
    """
    kind = schema(message.method, direction, profile)
    if kind is not None:
        return read_params(kind, message, None if profile is Profile.PLAIN else bodies)
    text = f"Method '{message.method}' not found."
    if isinstance(message, Notification):
        raise InvalidMessage(text, None, code=ErrorCode.UNKNOWN_TYPE)
    data = {"exception": text, "code": str(ErrorCode.UNKNOWN_TYPE), "method": message.method}
    answer = Failure(message.id, int(RpcCode.METHOD_NOT_FOUND), text, data)
    raise InvalidMessage(text, answer, code=ErrorCode.UNKNOWN_TYPE)
