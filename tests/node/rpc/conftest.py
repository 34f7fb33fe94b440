"""Two nodes for all of these tests: one as it is by default, and one that waits for nobody."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.node.rpc.tensors import Notebook
from tests.support import NodeUnderTest


def _run(factory: pytest.TempPathFactory, *limits: str) -> Iterator[NodeUnderTest]:
    node = NodeUnderTest(factory.mktemp("rpc") / "data", *(f"--limit={limit}" for limit in limits))
    yield node
    assert node.terminate() == 0
    assert "Traceback" not in "".join(node.said), "".join(node.said)


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeUnderTest]:
    yield from _run(tmp_path_factory)


@pytest.fixture(scope="session")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeUnderTest]:
    yield from _run(tmp_path_factory, "ping_seconds=0.2", "rpc_idle=1.0", "rpc_silence=1.0")


@pytest.fixture(scope="session")
def book(node: NodeUnderTest) -> Notebook:
    """One for many tests: each session has a process, which takes seconds to start."""
    return Notebook(node)
