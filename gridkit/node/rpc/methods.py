"""What can be asked of a session: the table, and the methods that are about the link and the session themselves.

Methods of a subject are a module each, with a table of its own by profile, which `METHODS` takes in.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from gridkit.errors import ErrorCode, LimitError, UsageError
from gridkit.node.rpc import methods_plain, methods_tensors
from gridkit.node.rpc.session import Asked, Method, Result
from gridkit.wire.rpc.messages import Failure, Notification, Profile

MOST_REPLIES: Final = 16 << 20
"""bytes of what a client answers to one `loopback`"""
CLOSE_CODES: Final = frozenset({1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)})
"""those that may be sent (RFC 6455, section 7.4)"""


def echo(asked: Asked) -> Result:
    """The same members, and the same bodies. A client that adds its run's id to everything doesn't get that back."""
    members = {name: value for name, value in asked.raw.items() if name != "run_uuid"}
    return Result(members, asked.bodies)


async def loopback(asked: Asked) -> dict[str, Any]:
    """Call the caller back, one call after the other: a test of that direction."""
    replies: list[dict[str, Any] | None] = []
    size = 0
    for call in asked.params.calls:
        await asyncio.sleep(call.delay)
        if call.notify:
            await asked.session.tell([Notification(call.method, call.params)])
            replies.append(None)
            continue
        answer = await asked.session.ask(call.method, call.params)
        size += answer.size
        if size > MOST_REPLIES:
            raise LimitError(f"the answers have more than {MOST_REPLIES:,} bytes", code=ErrorCode.TOO_LARGE)
        message = answer.message
        if isinstance(message, Failure):
            error = {"code": message.code, "message": message.message, "data": message.data}
            replies.append({"error": error})
        else:
            replies.append({"result": message.result})
    return {"replies": replies}


def drop_connection(asked: Asked) -> dict[str, Any]:
    """Cut the caller's own link, after the answer: a test of what follows."""
    code, link = asked.params.code, asked.session.link
    if code is not None and code not in CLOSE_CODES:
        raise UsageError(f"a WebSocket can't be closed with {code}", "take 1012, or none", code=ErrorCode.BAD_REQUEST)
    if link is not None:
        asyncio.get_running_loop().call_later(asked.params.delay, link.finish, code)
    return {}


# ---- of gridkit.v1 only


def heartbeat(asked: Asked) -> None:
    """The client works on a request of the node."""
    asked.session.heard(asked.params.id)


def cancel(asked: Asked) -> None:
    """The client doesn't want one of its requests done any more."""
    asked.session.cancel(asked.params.id)


BOTH: Final = {
    "echo": Method(echo),
    "loopback": Method(loopback),
    "drop_connection": Method(drop_connection),
}
METHODS: Final[dict[Profile, dict[str, Method]]] = {
    Profile.PLAIN: {**BOTH, **methods_plain.METHODS},
    Profile.V1: {**BOTH, **methods_tensors.METHODS, "heartbeat": Method(heartbeat), "cancel": Method(cancel)},
}
