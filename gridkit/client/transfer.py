"""Large bytes to and from a node: in pieces of at most a MiB, gone on with after a cut, compared by SHA-256.

The bytes go over a plain `http.client` connection in a thread of their own, three times as fast as over the async
client, and without holding up the loop that everything else of a session runs on. Nothing is copied on the way out,
and at most two pieces are in memory on the way in.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import http.client
import json
import random
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeVar
from urllib.parse import urlencode, urlsplit

from gridkit.client.link import Link, error_of, impatient
from gridkit.errors import (
    ConflictError,
    ErrorCode,
    GridkitError,
    NodeError,
    NodeUnreachable,
    NotFoundError,
    WireError,
)
from gridkit.wire.safetensors import Packed

T = TypeVar("T")
Told = Callable[[int, int], None]
"""told, on the event loop, how many bytes of how many are there"""

PIECE = 1 << 20
TIMEOUT = 60.0
PATIENCE = 10.0
"""seconds without a byte for which even a link without patience tries to go on"""


@dataclass(frozen=True, slots=True)
class Received:
    """What came.

    Attributes:
        size: bytes.
        digest: SHA-256 in hex; it is the one that the node told.
        headers: of the answer, names in lower case.
    """

    size: int
    digest: str
    headers: Mapping[str, str]


async def upload(link: Link, source: Packed, told: Told = lambda done, size: None) -> str:
    """Send these bytes to a node, and return the id under which another call may use them.

    Raises:
        NodeError: the node refused them.
        NodeUnreachable: no byte came through for the link's patience (10 s at least).
        WireError: `DIGEST_MISMATCH`, the node has other bytes than were sent.

    >>> upload_id = await upload(link, pack_model(plan, state))      # doctest: +SKIP
    """
    sender = Sender(source, _on_loop(told))
    path, offset = "", 0

    async def attempt() -> dict[str, Any]:
        nonlocal path, offset
        state: dict[str, Any] = {}
        if path:
            with contextlib.suppress(NotFoundError):  # the node started again, and knows no uploads
                state = await link.json("GET", path)
        if not state:
            state = await link.json("POST", "/uploads", json={"size": source.size})
            path = f"/uploads/{state['upload_id']}"
        offset = int(state["offset"])
        if offset < source.size:
            state = await _threaded(link, lambda wire: _send_rest(wire, path, sender, offset))
        return state

    try:
        state = await persist(link, attempt, lambda: offset)
        sender.compare(str(state["sha256"]))
    except BaseException:
        if path:
            with contextlib.suppress(GridkitError), impatient():
                await link.request("DELETE", path)
        raise
    return str(state["upload_id"])


async def hand_over(
    link: Link,
    sources: Sequence[Packed],
    use: Callable[[list[str]], Awaitable[T]],
    told: Told = lambda done, size: None,
) -> T:
    """Upload these, and `use` their ids, which ends the uploads; if that is refused they are deleted.

    A node that was started again in between knows no uploads: then all of it goes once more.

    Raises:
        NodeError, NodeUnreachable, WireError: as `upload` and `use` do.
    """
    for last in (False, True):
        ids: list[str] = []
        try:
            for source in sources:
                ids.append(await upload(link, source, told))
            return await use(ids)
        except BaseException as error:
            for upload_id in ids:
                with contextlib.suppress(GridkitError), impatient():
                    await link.request("DELETE", f"/uploads/{upload_id}")
            if last or not isinstance(error, NotFoundError):
                raise
    raise AssertionError("unreachable")


async def download(
    link: Link,
    path: str,
    to: BinaryIO,
    told: Told = lambda done, size: None,
    *,
    params: Mapping[str, Any] | None = None,
) -> Received:
    """Fetch what a node has under `path` into a file, from its place 0 on.

    Args:
        path: percent-encoded; the node answers with octets, ranges and an ETag that is their SHA-256.
        to: open for writing; calls of it happen in a thread.

    Raises:
        NodeError: the node refused.
        NodeUnreachable: as `upload`.
        WireError: `DIGEST_MISMATCH`, other bytes came than the node has.

    >>> with open("model.gkm", "w+b") as file:                      # doctest: +SKIP
    ...     received = await download(link, "/get_model/digits", file)
    """
    receiver = Receiver(to, _on_loop(told))
    full = f"{path}?{urlencode(params)}" if params else path
    headers = await persist(
        link, lambda: _threaded(link, lambda wire: _receive_rest(wire, full, receiver)), lambda: receiver.done
    )
    return Received(receiver.done, receiver.compare(), headers)


# ---- what is the same over HTTP and over a WebSocket


class Sender:
    """The bytes that go, and the digest of those that went so far."""

    def __init__(self, source: Packed, told: Told) -> None:
        self._source = source
        self.size = source.size
        self._told = told
        self._hash = hashlib.sha256()
        self._hashed = 0

    def pieces(self, offset: int) -> Iterator[bytes | memoryview]:
        """From `offset` on, at most a MiB each; small tensors go together. What goes again isn't hashed again."""
        with ThreadPoolExecutor(1, "gridkit-transfer") as behind:  # hashes a piece while it goes
            for piece in _joined(self._source.pieces(offset, PIECE)):
                hashing = behind.submit(self._take, piece, offset)
                yield piece
                hashing.result()
                offset += len(piece)
                self._told(offset, self.size)

    def _take(self, piece: bytes | memoryview, offset: int) -> None:
        end = offset + len(piece)
        if end > self._hashed:
            self._hash.update(memoryview(piece)[self._hashed - offset :])
            self._hashed = end

    def compare(self, digest: str) -> None:
        """Pass if this is the digest of all that went."""
        if digest != self._hash.hexdigest():
            raise _mismatch("the node received other bytes than were sent")


class Receiver:
    """The bytes that came, in a file, and their digest.

    Attributes:
        done: how many.
        size, digest: what the node told of them.
    """

    def __init__(self, target: BinaryIO, told: Told) -> None:
        self._target = target
        self._told = told
        self.size = -1
        self.digest = ""
        self.begin(0, "")

    def begin(self, size: int, digest: str) -> None:
        """Start from nothing."""
        self.size, self.digest = size, digest
        self.done = 0
        self._hash = hashlib.sha256()
        self.rewind()

    def rewind(self) -> None:
        """Forget what was written but not counted, so that the next piece is put in its place."""
        self._target.seek(self.done)
        self._target.truncate()

    def take(self, piece: bytes | memoryview) -> None:
        try:
            self._target.write(piece)
        except OSError as error:
            raise GridkitError(f"what comes from the node can't be written: {error}", "make room on the disk") from None
        self._hash.update(piece)
        self.done += len(piece)
        self._told(self.done, self.size)

    def compare(self) -> str:
        """The digest of all that came, if it is the one that was told."""
        if self._hash.hexdigest() != self.digest:
            self.begin(0, "")
            raise _mismatch("other bytes came than the node has")
        return self.digest


async def persist(link: Link, attempt: Callable[[], Awaitable[T]], position: Callable[[], int]) -> T:
    """Attempt until it is done; give up when no byte came through for the link's patience, 10 s at least."""
    patience = None if link.patience is None else max(PATIENCE, link.patience)
    clock = asyncio.get_running_loop().time
    reached, since, pauses = position(), clock(), 0
    while True:
        try:
            return await attempt()
        except NodeUnreachable:
            if position() > reached:
                reached, since, pauses = position(), clock(), 0
            if patience is not None and clock() - since > patience:
                raise
        except ConflictError as error:  # the node hadn't yet read all that an earlier connection sent
            if error.code is not ErrorCode.WRONG_OFFSET or clock() - since > PATIENCE:
                raise
        await asyncio.sleep(random.uniform(0.5, 1.0) * min(1.0, 0.02 * 2**pauses))
        pauses = min(pauses + 1, 10)


def _joined(pieces: Iterator[memoryview]) -> Iterator[bytes | memoryview]:
    """Small pieces together, large ones as they are."""
    held = bytearray()
    for piece in pieces:
        if held and len(held) + len(piece) > PIECE:
            yield bytes(held)
            held.clear()
        if len(piece) >= PIECE // 4:
            if held:
                yield bytes(held)
                held.clear()
            yield piece
        else:
            held += piece
    if held:
        yield bytes(held)


def _on_loop(told: Told) -> Told:
    """The same, called from another thread."""
    loop = asyncio.get_running_loop()

    def tell(done: int, size: int) -> None:
        loop.call_soon_threadsafe(told, done, size)

    return tell


def _mismatch(message: str) -> WireError:
    return WireError(
        message, "try again; if it happens again, look at the machines in between", code=ErrorCode.DIGEST_MISMATCH
    )


# ---- over HTTP, in a thread


class _Wire:
    """One plain connection to a node."""

    def __init__(self, link: Link) -> None:
        parts = urlsplit(link.url)
        host = parts.hostname or ""
        self._link = link
        self._prefix = parts.path
        self._connection: http.client.HTTPConnection
        if link.tls is None:
            self._connection = http.client.HTTPConnection(host, parts.port, timeout=TIMEOUT)
        else:
            self._connection = http.client.HTTPSConnection(host, parts.port, timeout=TIMEOUT, context=link.tls)
        self._aborted = False

    def request(self, method: str, path: str, headers: Mapping[str, str]) -> None:
        self._connection.putrequest(method, self._prefix + path, skip_accept_encoding=True)
        for name, value in {**self._link.credentials, **headers}.items():
            self._connection.putheader(name, value)
        self._connection.endheaders()
        if self._aborted:
            raise ConnectionAbortedError

    def send(self, piece: bytes | memoryview) -> None:
        self._connection.send(piece)

    def response(self) -> http.client.HTTPResponse:
        """The answer, if it is a good one."""
        response = self._connection.getresponse()
        if response.status >= 300:
            raise error_of(response.status, response.reason, response.read(PIECE))
        return response

    def abort(self) -> None:
        """From another thread: whatever waits for this connection goes on with an error."""
        self._aborted = True
        if self._connection.sock is not None:
            with contextlib.suppress(OSError):
                self._connection.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._connection.close()


async def _threaded(link: Link, work: Callable[[_Wire], T]) -> T:
    """Work that blocks, on a connection of its own; its accidents are `NodeUnreachable`."""
    wire = _Wire(link)

    def run() -> T:
        try:
            return work(wire)
        except (OSError, http.client.HTTPException) as error:
            raise link.unreachable(error) from None
        finally:
            wire.close()

    with ThreadPoolExecutor(1, "gridkit-transfer") as pool:
        future = asyncio.get_running_loop().run_in_executor(pool, run)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            wire.abort()
            await asyncio.gather(future, return_exceptions=True)
            raise


def _send_rest(wire: _Wire, path: str, sender: Sender, offset: int) -> dict[str, Any]:
    length = {"content-length": str(sender.size - offset), "content-type": "application/octet-stream"}
    wire.request("PATCH", f"{path}?offset={offset}", length)
    try:
        for piece in sender.pieces(offset):
            wire.send(piece)
    except OSError:
        wire.response().read()  # a node that refuses may answer before it has read all; else this fails as well
        raise
    state = json.loads(wire.response().read())
    if not isinstance(state, dict):
        raise NodeError("the node's answer to an upload is no JSON object")
    return state


def _receive_rest(wire: _Wire, path: str, receiver: Receiver) -> dict[str, str]:
    headers = {"accept": "application/octet-stream"}
    if receiver.done:
        headers |= {"range": f"bytes={receiver.done}-", "if-range": f'"{receiver.digest}"'}
    wire.request("GET", path, headers)
    response = wire.response()
    if response.status == 206:
        receiver.rewind()
    else:  # the first answer, or the node has other bytes by now
        receiver.begin(response.length or 0, (response.headers["etag"] or "").strip('"'))
    buffers = [bytearray(PIECE), bytearray(PIECE)]
    pending: Future[None] | None = None
    with ThreadPoolExecutor(1, "gridkit-transfer") as behind:  # writes and hashes a piece while the next one comes
        while count := response.readinto(buffers[0]):
            if pending is not None:
                pending.result()
            pending = behind.submit(receiver.take, memoryview(buffers[0])[:count])
            buffers.reverse()
    if pending is not None:
        pending.result()
    if receiver.done < receiver.size:
        raise ConnectionResetError(f"cut after {receiver.done} of {receiver.size} bytes")
    return {name.lower(): value for name, value in response.headers.items()}
