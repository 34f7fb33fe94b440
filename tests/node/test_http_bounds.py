"""What a connection may send that is no body: header lines, chunk extensions, trailers. Each is bounded."""

from __future__ import annotations

import contextlib
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gridkit.wire.safetensors import pack_tensors
from tests.support import TOKEN, NodeUnderTest, tiny_model


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeUnderTest]:
    node = NodeUnderTest(tmp_path_factory.mktemp("node") / "data")
    yield node
    node.terminate()


def endless(node: NodeUnderTest, start: str, more: bytes, pieces: int = 4000) -> tuple[int, bytes]:
    """Send `more` again and again; how many bytes went until the node ended the connection, and its answer."""
    answer = b""
    with socket.create_connection(("127.0.0.1", node.port), timeout=10) as connection:
        sent = 0
        with contextlib.suppress(ConnectionError):
            connection.sendall(start.encode())
            for _ in range(pieces):
                connection.sendall(more)
                sent += len(more)
            pytest.fail("the node took it all")
        with contextlib.suppress(ConnectionError):
            answer = connection.recv(4096)
    return sent, answer


CHUNKED = "POST /model-centric/authenticate HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
PIECES = {
    "request line": ("GET /", b"a" * 8192),
    "header line": ("GET /status/ HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: ", b"a" * 8192),
    "header lines": ("GET /status/ HTTP/1.1\r\nHost: 127.0.0.1\r\n", b"X-A: a\r\n" * 1000),
    "chunk extension": (CHUNKED + "5;", b"a" * 8192),
    "trailer": (CHUNKED + "2\r\n{}\r\n0\r\nX-A: ", b"a" * 8192),
    "trailers": (CHUNKED + "2\r\n{}\r\n0\r\n", b"X-A: a\r\n" * 1000),
}


@pytest.mark.parametrize("what", PIECES)
def test_w13_c7_what_is_no_body_is_bounded(node: NodeUnderTest, what: str) -> None:
    start, more = PIECES[what]
    before = resident(node)
    sent, _ = endless(node, start, more)
    assert sent < 16_000_000  # what the sockets between us hold; the node itself saw far less
    assert resident(node) - before < 8_000_000
    with node.http() as http:
        assert http.get("/status/").status_code == 200


def resident(node: NodeUnderTest) -> int:
    lines = Path(f"/proc/{node.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


def test_w13_a_header_that_comes_slowly_is_told_why(node: NodeUnderTest) -> None:
    with socket.create_connection(("127.0.0.1", node.port), timeout=10) as connection:
        connection.sendall(b"GET /status/ HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: " + b"a" * 40_000)
        answer = connection.recv(4096)
        assert answer.startswith(b"HTTP/1.1 431 ")
        assert b"TOO_LARGE" in answer


def test_w13_two_lengths_and_a_length_beside_chunks_are_refused(node: NodeUnderTest) -> None:
    start = f"POST /uploads HTTP/1.1\r\nHost: 127.0.0.1:{node.port}\r\nAuthorization: Bearer {TOKEN}\r\n"
    for lines in (
        "Content-Length: 10\r\nContent-Length: 5\r\n",
        "Content-Length: 10\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Content-Length: +10\r\n",
        "Content-Length : 10\r\n",
    ):
        with socket.create_connection(("127.0.0.1", node.port), timeout=10) as connection:
            connection.sendall((start + lines + "\r\n").encode() + b'{"size":1}')
            assert connection.recv(4096).startswith(b"HTTP/1.1 400 "), lines


def test_w13_requests_behind_one_another_are_answered_in_order(node: NodeUnderTest) -> None:
    head = f"HTTP/1.1\r\nHost: 127.0.0.1:{node.port}\r\n"
    body = '{"size": 5}'
    upload = f"POST /uploads {head}Authorization: Bearer {TOKEN}\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    asked = f"GET /status/ {head}\r\n" + upload + f"GET /nowhere {head}Connection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", node.port), timeout=10) as connection:
        connection.sendall(asked.encode())
        answer = b""
        while data := connection.recv(65536):
            answer += data
    assert re.findall(rb"HTTP/1\.1 (\d+) ", answer) == [b"200", b"201", b"404"]


def test_c7_a_large_body_that_comes_slowly_holds_up_no_small_ones(node: NodeUnderTest) -> None:
    inputs = pack_tensors([np.ones((2, 4), np.float32)]).tobytes()
    head = f"POST /run-inference/m HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n"
    with node.http() as http, socket.create_connection(("127.0.0.1", node.port)) as slow:
        wish = {"model_id": "m", "allow_remote_inference": "True"}
        assert http.post("/serve-model/", data=wish, files={"model": ("m", tiny_model())}).status_code == 200
        slow.sendall(f"{head}Content-Length: {256 << 20}\r\n\r\nxx".encode())  # all that may be in memory at a time
        time.sleep(0.3)  # until the node has read this
        assert http.post("/run-inference/m", content=inputs).status_code == 200
