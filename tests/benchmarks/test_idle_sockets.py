"""What an idle WebSocket costs a node."""

from __future__ import annotations

import base64
import os
import resource
import socket
from pathlib import Path

import pytest

from tests.benchmarks.test_node_memory import memory
from tests.support import TOKEN, NodeUnderTest

pytestmark = [
    pytest.mark.benchmark,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc, which only Linux has"),
]

SOCKETS = 5000
KIB = 1024


def open_socket(node: NodeUnderTest) -> socket.socket:
    """A WebSocket whose handshake is done; nothing is kept on this side but the socket."""
    plain = socket.create_connection(("127.0.0.1", node.port), timeout=30)
    key = base64.b64encode(os.urandom(16)).decode()
    lines = (
        "GET / HTTP/1.1",
        f"Host: 127.0.0.1:{node.port}",
        f"Authorization: Bearer {TOKEN}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {key}",
    )
    plain.sendall("\r\n".join([*lines, "", ""]).encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        piece = plain.recv(4096)
        assert piece, answer
        answer += piece
    assert answer.startswith(b"HTTP/1.1 101 "), answer
    return plain


def ask(plain: socket.socket) -> bytes:
    """Send one masked text frame, and read the answer's frame (both shorter than 126 bytes)."""
    text = b'{"type": "socket-ping"}'
    plain.sendall(bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text)
    opcode, length = plain.recv(2)
    while opcode == 0x89:  # the node's own ping, which may come first
        plain.recv(length)
        opcode, length = plain.recv(2)
    assert opcode == 0x81 and length < 126
    return plain.recv(length)


@pytest.mark.timeout(300)
def test_5000_idle_sockets_cost_at_most_40_kib_each_and_the_node_answers(tmp_path: Path) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    node = NodeUnderTest(tmp_path / "data")
    opened: list[socket.socket] = []
    try:
        with node.http() as http:
            opened += [open_socket(node) for _ in range(50)]  # what is made once is made
            ask(opened[0])
            before = memory(node, "VmRSS")
            opened += [open_socket(node) for _ in range(SOCKETS - len(opened))]
            each = (memory(node, "VmRSS") - before) / (SOCKETS - 50)
            print(f"\n{SOCKETS} idle WebSockets: {each / KIB:.1f} KiB each")
            assert http.get("/status/").status_code == 200
            assert all(b"alive" in ask(plain) for plain in (opened[0], opened[SOCKETS // 2], opened[-1]))
            assert each <= 40 * KIB
    finally:
        for plain in opened:
            plain.close()
        node.terminate()
