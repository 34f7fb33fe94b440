"""Large bodies read past the event loop: whole, cut, silent, more than there are places, and what comes after them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from gridkit.node.direct import AT_A_TIME
from tests.support import TOKEN, NodeUnderTest, wait_for

MIB = 1 << 20
DATA = os.urandom(8 * MIB + 5)


begun: list[str] = []


@pytest.fixture(autouse=True)
def ended(node: NodeUnderTest) -> Iterator[None]:
    """One owner may have so many uploads only."""
    yield
    with node.http() as http:
        while begun:
            http.delete(f"/uploads/{begun.pop()}")


def begin(node: NodeUnderTest, size: int = len(DATA)) -> str:
    with node.http() as http:
        begun.append(http.post("/uploads", json={"size": size}).json()["upload_id"])
    return begun[-1]


def state(node: NodeUnderTest, upload_id: str) -> dict[str, Any]:
    with node.http() as http:
        return dict(http.get(f"/uploads/{upload_id}").json())


def patch(node: NodeUnderTest, upload_id: str, body: bytes, length: int, offset: int = 0) -> socket.socket:
    """A request whose body may be shorter or longer than it says."""
    plain = socket.create_connection(("127.0.0.1", node.port), timeout=20)
    head = (
        f"PATCH /uploads/{upload_id}?offset={offset} HTTP/1.1\r\nHost: 127.0.0.1:{node.port}\r\n"
        f"Authorization: Bearer {TOKEN}\r\nContent-Length: {length}\r\n\r\n"
    )
    plain.sendall(head.encode() + body)
    return plain


def answer(plain: socket.socket) -> bytes:
    """All that comes until the node ends the connection."""
    whole = b""
    with contextlib.suppress(ConnectionResetError):  # bytes that nobody read
        while piece := plain.recv(65536):
            whole += piece
    plain.close()
    return whole


def test_a_large_body_is_taken_whole_and_its_connection_ends(node: NodeUnderTest) -> None:
    upload_id = begin(node)
    told = answer(patch(node, upload_id, DATA, len(DATA)))
    assert told.startswith(b"HTTP/1.1 200 ") and hashlib.sha256(DATA).hexdigest().encode() in told
    assert state(node, upload_id)["offset"] == len(DATA)


def test_a_small_body_leaves_its_connection_open(node: NodeUnderTest) -> None:
    upload_id = begin(node, 2000)
    with node.http() as http:
        for offset in (0, 1000):
            told = http.patch(f"/uploads/{upload_id}", params={"offset": offset}, content=DATA[offset : offset + 1000])
            assert told.status_code == 200 and "connection" not in told.headers


def test_what_came_before_a_cut_is_kept(node: NodeUnderTest) -> None:
    upload_id = begin(node)
    patch(node, upload_id, DATA[: 3 * MIB], len(DATA)).close()
    wait_for(lambda: state(node, upload_id)["offset"] == 3 * MIB, what="all that was sent")
    told = answer(patch(node, upload_id, DATA[3 * MIB :], len(DATA) - 3 * MIB, 3 * MIB))
    assert hashlib.sha256(DATA).hexdigest().encode() in told


def test_another_connection_takes_over_from_a_silent_one(node: NodeUnderTest) -> None:
    upload_id = begin(node)
    silent = patch(node, upload_id, DATA[: 2 * MIB], len(DATA))
    wait_for(lambda: state(node, upload_id)["offset"] == 2 * MIB, what="all that was sent")
    told = answer(patch(node, upload_id, DATA[2 * MIB :], len(DATA) - 2 * MIB, 2 * MIB))
    assert hashlib.sha256(DATA).hexdigest().encode() in told
    assert b"another connection goes on" in answer(silent)


def test_more_bodies_than_places_come_whole_too(node: NodeUnderTest) -> None:
    data = DATA[: 3 * MIB]
    uploads = [begin(node, len(data)) for _ in range(AT_A_TIME + 2)]
    halves = [patch(node, upload_id, data[:MIB], len(data)) for upload_id in uploads]
    for upload_id in uploads:
        wait_for(lambda upload_id=upload_id: state(node, upload_id)["offset"] == MIB, what="the first half")  # type: ignore[misc]
    for plain in halves:
        plain.sendall(data[MIB:])
    for plain in halves[:AT_A_TIME]:
        assert hashlib.sha256(data).hexdigest().encode() in answer(plain)
    for plain, upload_id in zip(halves[AT_A_TIME:], uploads[AT_A_TIME:], strict=True):
        wait_for(lambda upload_id=upload_id: "sha256" in state(node, upload_id), what="the rest")  # type: ignore[misc]
        plain.close()
    again = begin(node, len(data))  # the places are free again
    assert hashlib.sha256(data).hexdigest().encode() in answer(patch(node, again, data, len(data)))


def test_w13_what_comes_after_the_body_is_neither_taken_nor_answered(node: NodeUnderTest) -> None:
    upload_id = begin(node)
    smuggled = f"DELETE /uploads/{upload_id} HTTP/1.1\r\nHost: 127.0.0.1:{node.port}\r\nAuthorization: Bearer {TOKEN}"
    told = answer(patch(node, upload_id, DATA[: 2 * MIB] + smuggled.encode() + b"\r\n\r\n", 2 * MIB))
    assert told.count(b"HTTP/1.1 ") <= 1
    assert state(node, upload_id)["offset"] == 2 * MIB


def test_more_than_the_upload_has_room_for_is_refused_and_not_kept(node: NodeUnderTest) -> None:
    upload_id = begin(node, 3 * MIB)
    plain = patch(node, upload_id, b"", len(DATA))
    assert answer(plain).startswith(b"HTTP/1.1 413 ")
    assert state(node, upload_id)["offset"] == 0


def test_a_node_that_ends_lets_a_silent_sender_go(node: NodeUnderTest) -> None:
    plain = patch(node, begin(node), DATA[:MIB], len(DATA))
    assert node.terminate() == 0
    plain.close()
    node.start()
