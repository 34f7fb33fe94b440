"""One WebSocket to a grid node: a frame out, a frame in, as PyGrid's clients and nodes talk to each other."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, overload
from urllib.parse import urlsplit

from gridkit.errors import ErrorCode, GridClientError, NodeUnreachable, UsageError

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

_SCHEMES = {"http": False, "ws": False, "https": True, "wss": True}


def parse_address(address: str) -> tuple[bool, str, int | None]:
    """Whether an address is one for TLS (``https`` or ``wss``), its host, and its port where it has one.

    Raises:
        UsageError: it isn't a node's address.

    >>> parse_address("http://127.0.0.1:5000")
    (False, '127.0.0.1', 5000)
    """
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except (ValueError, AttributeError):  # the latter of what is no text
        host = port = None
    if host is None or parts.scheme not in _SCHEMES:
        raise UsageError(f"{address!r} isn't a node's address", 'pass one such as "http://127.0.0.1:5000"')
    return _SCHEMES[parts.scheme], host, port


class GridSocket:
    """Asks one thing after the other; opens the socket when it is first needed, and again when the node has closed it.

    Args:
        url: ``ws://host:port`` or ``wss://host:port`` (whose certificate is verified).
        max_size: bytes that an answer may have.

    Attributes:
        token: sent with the handshake as `Authorization: Bearer`; None sends none. Not in the repr.
    """

    def __init__(self, url: str, max_size: int) -> None:
        self.url = url
        self.token: str | None = None
        self._max_size = max_size
        self._socket: ClientConnection | None = None
        self._turn = asyncio.Lock()

    def __repr__(self) -> str:
        return f"GridSocket({self.url!r})"

    async def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """Send a JSON message and return the answer, be it an error.

        Raises:
            NodeUnreachable: no answer.
            GridClientError: the answer is no JSON object.
        """
        text = await self.exchange(json.dumps(message, ensure_ascii=False))
        try:
            answer = json.loads(text)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise GridClientError(f"{self.url} answered '{message.get('type')}' with something else than a JSON object")
        return answer

    @overload
    async def exchange(self, frame: bytes) -> bytes: ...
    @overload
    async def exchange(self, frame: str) -> str | bytes: ...
    async def exchange(self, frame: str | bytes) -> str | bytes:
        """Send one frame and return the one that answers it.

        Raises:
            NodeUnreachable: nobody is there, or the connection was cut.
            GridClientError: the handshake was refused; or a binary frame was answered by text.
        """
        from websockets.exceptions import ConnectionClosed

        async with self._turn:
            socket = await self._open()
            answered = False
            try:
                await socket.send(frame)
                answer = await socket.recv()
                answered = True
            except ConnectionClosed as error:
                raise self._unreachable(_reason(error)) from None
            finally:
                if not answered:  # cancelled, for one: an answer that comes now would be taken for the next one's
                    self._socket = None
                    socket.transport.abort()
        if isinstance(frame, bytes) and isinstance(answer, str):
            raise GridClientError(f"{self.url} answered a binary message with text: {answer[:200]}")
        return answer

    async def act_as(self, token: str) -> None:
        """Open a socket anew, with this token; if that is refused, nothing changes.

        Raises:
            NodeUnreachable: nobody is there.
            GridClientError: the handshake was refused.
        """
        async with self._turn:
            former, self.token, self._socket = (self.token, self._socket), token, None
            try:
                await self._open()
            except BaseException:
                self.token, self._socket = former
                raise
            if former[1] is not None:
                await former[1].close()

    async def close(self) -> None:
        """Close the socket. Asking again opens another."""
        socket, self._socket = self._socket, None
        if socket is not None:
            await socket.close()

    async def _open(self) -> ClientConnection:
        from websockets.asyncio.client import connect
        from websockets.exceptions import InvalidHandshake, InvalidStatus
        from websockets.protocol import State

        if self._socket is not None and self._socket.state is State.OPEN:
            return self._socket
        headers = {} if self.token is None else {"authorization": f"Bearer {self.token}"}
        try:
            self._socket = await connect(
                self.url, additional_headers=headers, compression=None, proxy=None, max_size=self._max_size
            )
        except InvalidStatus as error:
            status = error.response.status_code
            raise GridClientError(
                f"the node at {self.url} refused the connection ({status})",
                "check the token, and that nothing stands in between",
                code=ErrorCode.UNAUTHENTICATED if status in (401, 403) else ErrorCode.BUSY,
                status=status,
            ) from None
        except (OSError, TimeoutError, InvalidHandshake) as error:
            raise self._unreachable(str(error) or type(error).__name__) from None
        return self._socket

    def _unreachable(self, reason: str) -> NodeUnreachable:
        return NodeUnreachable(
            f"no answer from the node at {self.url}: {reason}", "check that it runs and that the address is right"
        )


def _reason(error: Any) -> str:
    """Why a connection ended: the node's own words where it closed it, else ours."""
    for closing, who in ((error.rcvd, "it closed the connection"), (error.sent, "the connection was closed")):
        if closing is not None:
            return f"{who} ({closing.code}{': ' + closing.reason if closing.reason else ''})"
    return "the connection was cut"
