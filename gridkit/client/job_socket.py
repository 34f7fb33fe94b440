"""The WebSocket of data holders: ``{"type", "data", "request_id"}`` out, an answer of the same type or id in.

Source: the syft.js protocol with the envelope of its later releases; where a node doesn't echo the id, type and order
tell.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gridkit.client.link import Link, error_of
from gridkit.errors import GridkitError, NodeError, NodeUnreachable

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

ANSWER_SECONDS = 10.0
"""for an answer, from the moment on in which the message has been sent; the original's"""
MAX_ANSWER = 16 << 20
_STATUS = {
    "UNAUTHENTICATED": 401,
    "BAD_KEY": 401,
    "FORBIDDEN": 403,
    "NOT_FOUND": 404,
    "CYCLE_CLOSED": 409,
    "ALREADY_REPORTED": 409,
    "TOO_LARGE": 413,
    "TOO_MANY": 429,
    "NO_ROOM": 507,
}


@dataclass(frozen=True, slots=True, eq=False)
class _Question:
    type: str
    answer: asyncio.Future[dict[str, Any] | GridkitError]
    """what was answered, or why nothing comes: an error as a value, for nobody may be there any more to raise it"""


class JobSocket:
    """Opened when it is first needed, and again when the node has closed it: a worker is an identity, not a socket.

    Args:
        link: to the same node; gives the address and the TLS context.
    """

    def __init__(self, link: Link) -> None:
        self.url = "ws" + link.url.removeprefix("http")
        self._tls = link.tls
        self._socket: ClientConnection | None = None
        self._reader: asyncio.Task[None] | None = None
        self._opening = asyncio.Lock()
        self._questions: dict[str, _Question] = {}
        self._ids = itertools.count(1)

    def __repr__(self) -> str:
        return f"JobSocket({self.url!r})"

    @property
    def is_open(self) -> bool:
        """Whether the next message goes through the socket that is open, not through a new one."""
        return self._reader is not None and not self._reader.done()

    async def ask(self, type: str, data: dict[str, Any]) -> dict[str, Any]:
        """Send a message and return the data of its answer.

        Raises:
            NodeError: the answer is an error.
            NodeUnreachable: no answer within `ANSWER_SECONDS`, or the connection was cut.
        """
        from websockets.exceptions import ConnectionClosed

        socket = await self._open()
        id = f"{next(self._ids)}"
        question = _Question(type, asyncio.get_running_loop().create_future())
        self._questions[id] = question
        try:
            await socket.send(json.dumps({"type": type, "data": data, "request_id": id}))
            answer = await asyncio.wait_for(question.answer, ANSWER_SECONDS)
        except ConnectionClosed as error:
            raise self._unreachable(f"the connection was closed ({error.rcvd or 'cut'})") from None
        except TimeoutError:
            raise self._unreachable(f"response timeout: no answer to '{type}' in {ANSWER_SECONDS:g} s") from None
        finally:
            del self._questions[id]
        if isinstance(answer, GridkitError):
            raise answer
        found = answer.get("data")
        found = found if isinstance(found, dict) else answer
        if found.get("error"):
            raise error_of(_STATUS.get(str(found.get("code")), 400), "", json.dumps(found).encode())
        return found

    async def close(self) -> None:
        """Close the socket. Asking again opens another."""
        socket, self._socket = self._socket, None
        if socket is not None:
            await socket.close()

    async def _open(self) -> ClientConnection:
        from websockets.asyncio.client import connect
        from websockets.exceptions import InvalidHandshake, InvalidStatus

        async with self._opening:
            if self._socket is not None and self.is_open:
                return self._socket
            try:
                self._socket = await connect(self.url, ssl=self._tls, compression=None, proxy=None, max_size=MAX_ANSWER)
            except InvalidStatus as error:
                raise error_of(error.response.status_code, error.response.reason_phrase, b"") from None
            except (OSError, TimeoutError, InvalidHandshake) as error:
                raise self._unreachable(str(error) or type(error).__name__) from None
            self._reader = asyncio.create_task(self._read(self._socket))
            return self._socket

    async def _read(self, socket: ClientConnection) -> None:
        from websockets.exceptions import ConnectionClosed

        reason = "the connection was closed"
        try:
            async for frame in socket:
                self._take(frame)
        except ConnectionClosed as error:
            reason = f"the connection was cut ({error})"
        finally:
            for question in self._questions.values():
                if not question.answer.done():
                    question.answer.set_result(self._unreachable(reason))

    def _take(self, frame: str | bytes) -> None:
        """An answer goes to the question of its id, else to the oldest one of its type; other frames are nobody's."""
        try:
            answer = json.loads(frame)
        except (ValueError, RecursionError):
            answer = None
        waiting = [question for question in self._questions.values() if not question.answer.done()]
        if not isinstance(answer, dict):
            if len(waiting) == 1:
                waiting[0].answer.set_result(NodeError(f"{self.url} answered with something else than JSON"))
            return
        if answer.get("request_id") is not None:  # perhaps late: nobody waits for it any more
            found = self._questions.get(str(answer["request_id"]))
        else:
            found = next((question for question in waiting if question.type == answer.get("type")), None)
            if found is None and answer.get("error") and len(waiting) == 1:  # an error without a type
                found = waiting[0]
        if found is not None and not found.answer.done():
            found.answer.set_result(answer)

    def _unreachable(self, reason: str) -> NodeUnreachable:
        return NodeUnreachable(
            f"no answer from the node at {self.url}: {reason}", "check that it runs and that the address is right"
        )
