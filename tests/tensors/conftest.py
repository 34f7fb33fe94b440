"""Sessions whose node is one by hand."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from gridkit.client.link import Link
from gridkit.session import Session, _Core
from tests.client.rpc_peer import on_a_thread
from tests.tensors.tensor_peer import TensorPeer


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def peer() -> Iterator[TensorPeer]:
    with on_a_thread(TensorPeer()) as peer:
        assert isinstance(peer, TensorPeer)
        yield peer


@pytest.fixture
def grid(peer: TensorPeer) -> Iterator[Session]:
    with Session(_Core(Link(peer.url, "key"))) as grid:
        yield grid
