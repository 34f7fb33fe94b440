"""Nodes that know each other: `/identity/`, `/connect-node`, `/workers/`. What may be called: test_outbound.py."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import NodeUnderTest


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[NodeUnderTest, NodeUnderTest]]:
    """One that may call loopback, and another with an id of its own."""
    folder = tmp_path_factory.mktemp("nodes")
    caller = NodeUnderTest(folder / "a", "--allow-target", "127.0.0.1")
    other = NodeUnderTest(folder / "b", "--id", "hospital b")
    yield caller, other
    caller.terminate()
    other.terminate()


def test_the_identity_is_told_to_everybody_and_kept(tmp_path: Path) -> None:
    node = NodeUnderTest(tmp_path / "data")
    with node.http(None) as http:
        first = http.get("/identity/").json()
        assert first["success"] is True and http.get("/identity").json() == first
    node.terminate()
    node.start()
    with node.http(None) as http:
        assert http.get("/identity/").json() == first
    node.terminate()


def test_connecting_again_is_fine_and_forgetting_takes_it_away(nodes: tuple[NodeUnderTest, NodeUnderTest]) -> None:
    caller, other = nodes
    with caller.http() as http:
        for address in (other.url, other.url.replace("http://", "ws://") + "/"):
            answer = http.post("/connect-node", json={"address": address, "id": "hospital b"})
            assert (answer.status_code, answer.json()["status"]) == (200, "Succesfully connected.")
        known = http.get("/workers/").json()
        assert known == {
            "success": True,
            "workers": ["hospital b"],
            "nodes": [{"id": "hospital b", "address": other.url}],
        }
        assert http.delete("/workers/hospital%20b").status_code == 200
        assert http.delete("/workers/hospital%20b").status_code == 404
        assert http.get("/workers/").json()["workers"] == []


def test_a_node_that_is_another_one_than_was_said(nodes: tuple[NodeUnderTest, NodeUnderTest]) -> None:
    caller, other = nodes
    with caller.http() as http:
        answer = http.post("/connect-node", json={"address": other.url, "id": "somebody else"})
        assert answer.status_code == 409 and "another one than 'somebody else'" in answer.json()["error"]
        assert http.get("/workers/").json()["workers"] == []


@pytest.mark.parametrize("token", [None, "wrong"])
def test_only_the_owner_connects_nodes(nodes: tuple[NodeUnderTest, NodeUnderTest], token: str | None) -> None:
    caller, other = nodes
    with caller.http(token) as http:
        assert http.post("/connect-node", json={"address": other.url}).status_code == 401
        assert http.get("/workers/").status_code == 401


def test_w10_a_node_calls_neither_itself_nor_what_isnt_allowed(nodes: tuple[NodeUnderTest, NodeUnderTest]) -> None:
    caller, other = nodes
    with caller.http() as http:
        for address in (caller.url, "http://169.254.169.254/latest/meta-data", "http://[::1]:80", "file:///etc/passwd"):
            answer = http.post("/connect-node", json={"address": address})
            assert answer.status_code in (400, 403), answer.text
        assert http.get("/workers/").json()["workers"] == []
    with other.http() as http:  # started without --allow-target
        refused = http.post("/connect-node", json={"address": caller.url})
    assert refused.status_code == 403 and refused.json()["code"] == "TARGET_REFUSED"
    assert "--allow-target" in refused.json()["hint"]


@contextmanager
def somebody(body: bytes, status: int = 200) -> Iterator[str]:
    """A web server that answers everything with this."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"OpenGrid", 200),
        (b'{"success": true, "identity": 5}', 200),
        (b'{"success": true, "identity": "a\\nb"}', 200),
        (b'["identity"]', 200),
        (b'{"success": true, "identity": "x"}', 500),
        (b"x" * 5000, 200),
    ],
)
def test_w10_what_isnt_a_grid_node_is_not_remembered_and_its_words_not_repeated(
    nodes: tuple[NodeUnderTest, NodeUnderTest], body: bytes, status: int
) -> None:
    with somebody(body, status) as address, nodes[0].http() as http:
        answer = http.post("/connect-node", json={"address": address})
        assert answer.status_code in (400, 502)
        assert "OpenGrid" not in answer.text
        assert http.get("/workers/").json()["workers"] == []
