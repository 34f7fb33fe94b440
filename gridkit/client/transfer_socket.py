"""Large bytes to and from a node over its WebSocket: as `gridkit.client.transfer`, where only a socket gets through.

Each frame is answered before the next goes, so this is slower than HTTP, most of all far from the node.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, BinaryIO

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus, WebSocketException

from gridkit.client.link import Link, error_of, impatient
from gridkit.client.transfer import PIECE, Receiver, Sender, Told, persist
from gridkit.errors import ErrorCode, GridkitError, NodeError, NotFoundError
from gridkit.wire.safetensors import Packed


async def upload(link: Link, source: Packed, told: Told = lambda done, size: None) -> str:
    """As `gridkit.client.transfer.upload`; the same errors, and the id is good for every other call too."""
    sender = Sender(source, told)
    upload_id, offset = "", 0

    async def attempt() -> str:
        nonlocal upload_id, offset
        async with _opened(link) as socket:
            state: dict[str, Any] = {}
            if upload_id:
                with contextlib.suppress(NotFoundError):  # the node started again, and knows no uploads
                    state = await _ask(socket, {"type": "upload-model", "upload_id": upload_id})
            if not state:
                state = await _ask(socket, {"type": "upload-model", "size": source.size})
                upload_id = str(state["upload_id"])
            offset = int(state["offset"])
            for piece in sender.pieces(offset):
                await socket.send(piece)
                state = _object(await socket.recv())
                offset = int(state["offset"])
            return str(state["sha256"])

    try:
        sender.compare(await persist(link, attempt, lambda: offset))
    except BaseException:
        if upload_id:
            with contextlib.suppress(GridkitError), impatient():
                await link.request("DELETE", f"/uploads/{upload_id}")
        raise
    return upload_id


async def download_model(
    link: Link, model_id: str, to: BinaryIO, told: Told = lambda done, size: None, *, version: int | None = None
) -> int:
    """A model's bytes into a file, from its place 0 on, compared by their digest; returns the version.

    Raises:
        NotFoundError: there is no such model.
        AccessError: it isn't for download.
        WireError: `DIGEST_MISMATCH`, other bytes came than the node has.
    """
    receiver = Receiver(to, told)
    wish: dict[str, Any] = {"type": "model-chunk", "model_id": model_id}

    async def attempt() -> int:
        async with _opened(link) as socket:
            about = await _ask(socket, wish if version is None else {**wish, "version": version})
            if about["sha256"] != receiver.digest:
                receiver.begin(int(about["size"]), str(about["sha256"]))
            receiver.rewind()
            asked = {**wish, "version": about["version"], "length": PIECE}
            while receiver.done < receiver.size:
                await socket.send(json.dumps({**asked, "offset": receiver.done}))
                piece = await socket.recv()
                if isinstance(piece, str):
                    _object(piece)
                    raise NodeError("the node answered with something else than a piece of the model")
                receiver.take(piece)
            return int(about["version"])

    found = await persist(link, attempt, lambda: receiver.done)
    receiver.compare()
    return found


@asynccontextmanager
async def _opened(link: Link) -> AsyncIterator[ClientConnection]:
    """A connection; its accidents are `NodeUnreachable`."""
    try:
        async with connect(
            "ws" + link.url.removeprefix("http") + "/",
            additional_headers=link.credentials,
            ssl=link.tls,
            compression=None,
            proxy=None,
            max_size=2 * PIECE,
            close_timeout=1,
        ) as socket:
            yield socket
    except InvalidStatus as error:
        raise error_of(error.response.status_code, error.response.reason_phrase, b"") from None
    except (OSError, WebSocketException) as error:
        raise link.unreachable(error) from None


async def _ask(socket: ClientConnection, message: dict[str, Any]) -> dict[str, Any]:
    await socket.send(json.dumps(message))
    return _object(await socket.recv())


def _object(text: str | bytes) -> dict[str, Any]:
    """The JSON object of an answer, or the error that it is."""
    value = json.loads(text)
    if not isinstance(value, dict):
        raise NodeError("the node's answer is no JSON object", code=ErrorCode.MALFORMED)
    if "error" in value:
        raise error_of(_STATUS.get(value.get("code", ""), 400), "", text if isinstance(text, bytes) else text.encode())
    return value


_STATUS = {
    "UNAUTHENTICATED": 401,
    "FORBIDDEN": 403,
    "NOT_ALLOWED": 403,
    "NOT_FOUND": 404,
    "WRONG_OFFSET": 409,
    "TOO_LARGE": 413,
    "TOO_MANY": 429,
    "NO_ROOM": 507,
}
"""messages have no status of their own"""
