"""A node for the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.node.grid import serve
from tests.support import NodeUnderTest


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeUnderTest]:
    """With the model "good"; after everything it is well, and nothing went wrong inside it."""
    limits = [f"--limit={name}" for name in ("wrong_rate=100000", "anonymous_rate=100000")]
    node = NodeUnderTest(tmp_path_factory.mktemp("node") / "data", *limits)
    with node.http() as http:
        assert serve(http, "good").status_code == 200
    yield node
    with node.http() as http:
        assert http.get("/status/").json()["status"] == "ok"
        assert "good" in http.get("/models/").json()["models"]
    node.terminate()
    assert "Traceback" not in "".join(node.said)


@pytest.fixture
def http(node: NodeUnderTest) -> Iterator[httpx.Client]:
    with node.http() as http:
        yield http
