"""Backward passes and steps of remote tensors: what waits for them, and what it is told when they fail."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest
import torch

from gridkit.errors import GridkitError, NodeUnreachable, NotFoundError, PlanError, RunError, UsageError
from gridkit.session import Session
from tests.client.rpc_peer import Asked
from tests.tensors.tensor_peer import TensorPeer


class Slow:
    """Holds a method of the peer until it is let go, and tells how far it is, every so many seconds."""

    def __init__(self, peer: TensorPeer, method: str, beat: float = 60.0) -> None:
        self.begun, self.free, self.beat = threading.Event(), threading.Event(), beat
        self._do = peer.methods[method]
        peer.methods[method] = self

    async def __call__(self, asked: Asked) -> Any:
        beaten = -self.beat
        while not self.free.is_set():
            if asyncio.get_running_loop().time() - beaten >= self.beat:
                beaten = asyncio.get_running_loop().time()
                asked.session.beat(asked.id, done=2, total=5)
            self.begun.set()
            await asyncio.sleep(0.005)
        return self._do(asked)


def test_gradients(grid: Session) -> None:
    x = grid.tensor([1.0, 2.0], requires_grad=True)
    w = grid.tensor([3.0, 4.0], requires_grad=True)
    assert x.grad is None
    begun = ((x + x) * w).backward([1.0, 10.0])
    begun.wait()
    assert (begun.over, begun.error, repr(begun)) == (True, None, "<pass 1, done>")
    assert torch.equal(x.grad.get(), torch.tensor([6.0, 80.0]))
    assert torch.equal(w.grad.get(), torch.tensor([2.0, 40.0]))
    (x * x).sum().backward()
    assert torch.equal(x.grad.get(), torch.tensor([8.0, 84.0])), "it is added"
    x.grad = None
    assert x.grad is None
    x.grad = w
    assert torch.equal(x.grad.get(), torch.tensor([3.0, 4.0]))


def test_a_read_waits_for_its_pass_and_others_dont(grid: Session, peer: TensorPeer) -> None:
    x = grid.tensor([1.0], requires_grad=True)
    y = (x * 3).sum()
    y.get()
    slow = Slow(peer, "run_backward")
    begun = y.backward()
    assert slow.begun.wait(10)
    assert y.get().item() == 3 and not begun.over
    for _ in range(200):
        if "40 %" in repr(x):
            break
        time.sleep(0.01)
    assert repr(x).endswith("requires grad, pending (pass 1, 40 %)>") and repr(begun) == "<pass 1, 40 %>"
    found: list[Any] = []
    reader = threading.Thread(target=lambda: found.append(x.grad.get()))
    reader.start()
    reader.join(0.1)
    assert reader.is_alive() and not found
    slow.free.set()
    reader.join(10)
    assert found[0].item() == 3 and begun.over


def test_weak_spot_6_a_read_waits_as_long_as_its_pass_lives(grid: Session, peer: TensorPeer) -> None:
    """Three seconds were the limit, whatever the node said. Without a sign of life it ends, with the reason."""
    x = grid.tensor([1.0], requires_grad=True)
    (x * 3).sum().backward().wait()
    client = x._core.world.client.rpc
    client.default_timeout = 1.0
    try:
        slow = Slow(peer, "run_backward", beat=0.02)
        y = (x * 3).sum()  # held: this peer does what comes meanwhile at once
        y.backward()
        assert slow.begun.wait(10)
        threading.Timer(2.0, slow.free.set).start()
        assert x.grad.get().item() == 6
        Slow(peer, "run_backward")
        z = (x * 3).sum()
        z.backward()
        with pytest.raises(GridkitError, match="nor any sign that it is worked on"):
            _ = x.grad
    finally:
        client.default_timeout = 30.0


def test_weak_spot_16_edges_of_the_graph_are_refused_before_anything_is_sent(grid: Session, peer: TensorPeer) -> None:
    """They were documented, and broke where they were written down. `Edge` is how a client of its own names one."""
    x = grid.tensor([1.0, 2.0], requires_grad=True)
    y = x * 3
    z = y.prod()
    z.get()
    before = len(peer.took)
    with pytest.raises(UsageError, match="gradients of remote tensors need remote tensors"):
        z.backward(inputs=[torch.autograd.graph.get_gradient_edge(y)])
    with pytest.raises(UsageError, match="gradients of remote tensors need remote tensors"):
        torch.autograd.grad(z, [torch.autograd.graph.get_gradient_edge(y)])
    assert len(peer.took) == before
    (gradient,) = torch.autograd.grad(z, [y])  # the same, by the tensor
    assert gradient.get().tolist() == [6.0, 3.0]


def test_a_failed_pass_ends_the_reads_that_wait_for_it(grid: Session) -> None:
    x = grid.tensor([1.0], requires_grad=True)
    other = grid.tensor([1.0], requires_grad=True)
    (other * 2).sum().backward()
    y = (x * x).sum()
    y.backward()
    assert x.grad.get().item() == 2
    again = y.backward()  # torch has freed the graph
    with pytest.raises(PlanError, match="a second time"):
        again.wait()
    with pytest.raises(RunError, match="a second time"):
        _ = x.grad
    assert repr(again) == "<pass 3, failed>"
    assert other.grad.get().item() == 2, "it had nothing to do with it"
    (x * 5).sum().backward()
    assert x.grad.get().item() == 7


def test_a_pass_whose_root_failed(grid: Session) -> None:
    x = grid.tensor([[-1.0]], requires_grad=True)
    begun = torch.linalg.cholesky(x).sum().backward()
    with pytest.raises(PlanError, match="positive-definite"):
        begun.wait()
    with pytest.raises(RunError, match="positive-definite"):
        _ = x.grad


def test_a_pass_can_be_cancelled(grid: Session, peer: TensorPeer) -> None:
    x = grid.tensor([1.0], requires_grad=True)
    slow = Slow(peer, "run_backward")
    y = (x * 3).sum()  # held: this peer does what comes meanwhile at once
    begun = y.backward()
    assert slow.begun.wait(10)
    begun.cancel()
    with pytest.raises(RunError, match="pass 1 was cancelled"):
        begun.wait()
    assert repr(begun) == "<pass 1, cancelled>"
    for _ in range(200):
        if peer.cancelled:
            break
        time.sleep(0.01)
    assert len(peer.cancelled) == 1
    slow.free.set()
    assert x.grad.get().item() == 3, "it came too late: the node had done it"


def test_a_lost_session_ends_all_reads(grid: Session, peer: TensorPeer) -> None:
    x = grid.tensor([1.0], requires_grad=True)
    slow = Slow(peer, "run_backward")
    begun = (x * 3).sum().backward()
    assert slow.begun.wait(10)
    peer.restart()
    for read in (begun.wait, lambda: x.grad, x.get):
        with pytest.raises((NotFoundError, RunError, PlanError, NodeUnreachable)):
            read()
    fresh = grid.tensor([2.0])
    assert fresh.get().item() == 2, "another session began"


def test_after_close(grid: Session) -> None:
    x = grid.tensor([1.0])
    x.get()
    grid.close()
    with pytest.raises(NotFoundError, match="closed"):
        x.get()
    assert "remote tensor" in repr(x + 1)


def test_mistakes_that_are_found_here(grid: Session) -> None:
    x = grid.tensor([1.0, 2.0], requires_grad=True)
    with pytest.raises(RuntimeError, match="scalar outputs"):
        (x * 2).backward()
    with pytest.raises(RuntimeError, match="does not require grad"):
        x.detach().sum().backward()
    with pytest.raises(RuntimeError, match="shape"):
        (x * 2).backward([1.0, 2.0, 3.0])
    with pytest.raises(UsageError, match="remote"):
        x.grad = torch.ones(2)


def test_autograd_grad(grid: Session) -> None:
    local = torch.tensor([1.0, 2.0], requires_grad=True)
    x, unused = grid.tensor([1.0, 2.0], requires_grad=True), grid.tensor([1.0], requires_grad=True)
    (home,) = torch.autograd.grad((local**3).sum(), local, create_graph=True)
    (first,) = torch.autograd.grad((x**3).sum(), x, create_graph=True)
    assert first.requires_grad and torch.equal(first.get(), home.detach())
    (home,) = torch.autograd.grad(home, local, torch.ones(2))
    (second,) = torch.autograd.grad(first, x, torch.ones(2))
    assert torch.equal(second.get(), home) and not second.requires_grad and x.grad is None
    found = torch.autograd.grad((x * 2).sum(), [x, unused], allow_unused=True)
    assert found[1] is None and torch.equal(found[0].get(), torch.tensor([2.0, 2.0]))


def test_gradients_in_between(grid: Session) -> None:
    x = grid.tensor([1.0, 2.0], requires_grad=True)
    y = x * 3
    y.retain_grad()
    (y * y).sum().backward()
    assert torch.equal(y.grad.get(), torch.tensor([6.0, 12.0]))
    with torch.no_grad():
        assert not (x * 2).requires_grad
    z = grid.tensor([1.0]).requires_grad_()
    (z * z).sum().backward(inputs=[z])
    assert z.grad.get().item() == 2


def test_a_step_that_fails_is_told_to_who_reads_a_parameter(grid: Session, peer: TensorPeer) -> None:
    x = grid.tensor([1.0], requires_grad=True)
    optimizer = grid.optimizer("SGD", [x], lr=0.5)
    (x * 2).sum().backward()
    peer.tensors.step = lambda id: (_ for _ in ()).throw(PlanError("no step today"))  # type: ignore[method-assign]
    begun = optimizer.step()
    with pytest.raises(GridkitError, match="no step today"):
        begun.wait()
    assert x.grad.get().item() == 2, "it is not a gradient that failed"


def test_an_optimizer(grid: Session) -> None:
    x = grid.tensor([1.0], requires_grad=True)
    optimizer = grid.optimizer("SGD", [{"params": [x], "lr": 0.5}], momentum=0.9)
    assert optimizer.options[0]["lr"] == 0.5 and "SGD" in repr(optimizer)
    (x * 2).sum().backward()
    optimizer.step()
    assert x.get().item() == 0
    optimizer.set_options(0, lr=0.1)
    assert optimizer.options[0]["lr"] == 0.1
    ((kept,),) = [list(values) for values in optimizer.state().values()]
    assert kept == "momentum_buffer"
    optimizer.zero_grad()
    assert x.grad is None
    with pytest.raises(PlanError, match="no optimizer"):
        grid.optimizer("Newton", [x])
    with pytest.raises(PlanError, match="learning rate"):
        grid.optimizer("SGD", [x], lr=-1.0)
    with pytest.raises(UsageError, match="remote"):
        grid.optimizer("SGD", [torch.ones(1)], lr=0.1)
    with pytest.raises(UsageError, match="needs parameters"):
        grid.optimizer("SGD", [], lr=0.1)
