"""Remote tensors where programs use them: on threads, in functions that the node calls, under torch's optimizers."""

from __future__ import annotations

import threading

import pytest
import torch

from gridkit.session import Session
from tests.client.rpc_peer import call_back
from tests.tensors.tensor_peer import TensorPeer


def test_threads_share_a_session(grid: Session) -> None:
    x = grid.tensor(torch.ones(3))
    found: list[torch.Tensor] = []

    def work(factor: float) -> None:
        y = x
        for _ in range(50):
            y = y * factor
        found.append(y.get())

    threads = [threading.Thread(target=work, args=(factor,)) for factor in (1.0, 1.0, 1.0, 1.0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert [each.tolist() for each in found] == [[1, 1, 1]] * 4


def test_weak_spot_3_a_function_that_the_node_calls_may_use_them(grid: Session, peer: TensorPeer) -> None:
    """It creates, computes, waits for a gradient, and reads, while the cell's own call waits for it."""
    peer.methods["evaluate"] = call_back
    x = grid.tensor([1.0, 2.0], requires_grad=True)

    def metric(factor: int) -> float:
        (x * grid.tensor(float(factor))).sum().backward()
        return float(x.grad.get().sum())

    assert grid.rpc.call("evaluate", {"fn": metric, "args": [3]}) == 6.0
    (called,) = grid.rpc.called
    assert "metric" in called.function and called.result == "6.0"


def test_optimizers_of_torchs_own_take_them(grid: Session) -> None:
    """One operation after the other, in place of `grid.optimizer`'s one message."""
    local, remote = torch.tensor([1.0, 2.0], requires_grad=True), grid.tensor([1.0, 2.0], requires_grad=True)
    for x in (local, remote):
        optimizer = torch.optim.SGD([x], lr=0.1, momentum=0.9)
        for _ in range(3):
            optimizer.zero_grad()
            (x * x).sum().backward()
            optimizer.step()
    assert torch.equal(remote.get(), local.detach())


@pytest.mark.parametrize("face", ["rpc", "tensor", "module", "optimizer", "manual_seed"])
def test_what_a_session_offers(grid: Session, face: str) -> None:
    assert face in dir(grid) and getattr(type(grid), face).__doc__
