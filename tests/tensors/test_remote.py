"""Remote tensors: functions of torch on them, at once; values, by `get` only."""

from __future__ import annotations

import copy
import gc
import pickle
import time
import weakref
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from gridkit.client.link import Link
from gridkit.errors import ErrorCode, GridkitError, PlanError, UsageError
from gridkit.session import Session, _Core
from gridkit.tensors import parts
from tests.tensors.tensor_peer import TensorPeer


def test_arithmetic_is_done_on_the_node(grid: Session, peer: TensorPeer) -> None:
    x = grid.tensor([1.0, 2.0], requires_grad=True)
    w = grid.tensor([3.0, 4.0], requires_grad=True)
    y = (x + x) * w
    assert (y.shape, y.dtype, y.requires_grad, y.is_leaf, x.is_leaf) == ((2,), torch.float32, True, False, True)
    assert torch.equal(y.get(), torch.tensor([6.0, 16.0]))
    assert type(y) is type(x) and type(y.get()) is torch.Tensor and not y.get().requires_grad
    assert peer.took == ["create_variable", "create_variable", "run_function", "run_function", *["get_variable"] * 3]


def test_nothing_is_waited_for(grid: Session, peer: TensorPeer) -> None:
    """The node does nothing at all, and a hundred operations are asked for."""
    grid.rpc.connect()
    peer.hold = True
    answer = peer.methods.pop("run_function")
    peer.methods["run_function"] = lambda asked: time.sleep(0.01) or answer(asked)
    y = x = grid.tensor(torch.ones(3))
    for _ in range(100):
        y = y * 1.5
    assert peer.took.count("run_function") < 100
    assert "pending" in repr(y)
    expected = torch.ones(3)
    for _ in range(100):
        expected = expected * 1.5
    peer.hold = False
    assert torch.equal(y.get(), expected) and torch.equal(x.get(), torch.ones(3))


FUNCTIONS: list[Any] = [
    lambda x: x.T @ x,
    lambda x: x[1:, ..., None].sum(),
    lambda x: x.max(dim=1).values,
    lambda x: torch.stack([x, 2 / x]).mean((0, 1)),
    lambda x: torch.where(x > 0, x, -x),
    lambda x: F.softmax(x.to(torch.float64), -1),
    lambda x: torch.cat(x.split(2)),
    lambda x: x.sort(descending=True).indices,
    lambda x: x.new_zeros(2).add_(x[0, 0]),
    lambda x: torch.zeros_like(x, device=x.device).to("cpu"),
    lambda x: torch.einsum("ij,kj->ik", x, x),
    lambda x: sum(row.sum() for row in x),
    lambda x: x.clamp(min=float("-inf"), max=0.5).data,
    lambda x: x[torch.tensor([2, 0])],
    lambda x: x.to(torch.bfloat16) * 3,
    lambda x: torch.ones(4) - x,
    lambda x: x.reshape(torch.Size((12,))).contiguous(memory_format=torch.contiguous_format),
    # what has a size that hangs on values
    lambda x: x[x > 0],
    lambda x: (x > 0).nonzero(),
    lambda x: torch.masked_select(x, x < 0),
    lambda x: torch.unique((x > 0).long(), return_counts=True)[1],
    lambda x: (x > 0).long().flatten().bincount(minlength=3),
]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_results_are_those_of_torch(grid: Session, function: Any) -> None:
    local = torch.randn(3, 4, generator=torch.Generator().manual_seed(3))
    expected = function(local)
    result = function(grid.tensor(local))
    assert (result.shape, result.dtype) == (expected.shape, expected.dtype)
    assert torch.equal(result.get(), expected) and result.get().dtype == expected.dtype


def test_changes_in_place(grid: Session) -> None:
    x = grid.tensor(torch.arange(6.0).reshape(2, 3))
    view = x[0]
    same = x.mul_(2)
    assert same is x
    x[1] = 7
    x[x == 2] = -1.0
    x += torch.ones(3)
    view.zero_()
    assert x.get().tolist() == [[0, 0, 0], [8, 8, 8]]
    assert x._version == 5


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.float64])
def test_every_dtype_travels_both_ways(grid: Session, dtype: torch.dtype) -> None:
    local = torch.tensor([[0.0, 1.5, 3.0]]).to(dtype)
    remote = grid.tensor(local)
    assert remote.dtype == dtype
    assert torch.equal(remote.get(), local) and remote.get().dtype == dtype


def test_bfloat16_with_a_gradient(grid: Session) -> None:
    x = grid.tensor([1.0, 2.0], dtype=torch.bfloat16, requires_grad=True)
    (x * x).sum().backward()
    assert x.is_leaf and torch.equal(x.grad.get(), torch.tensor([2.0, 4.0], dtype=torch.bfloat16))


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool, torch.bfloat16])
def test_large_tensors_travel_in_parts(
    grid: Session, peer: TensorPeer, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(parts, "PART", 64)
    local = torch.arange(143).reshape(13, 11).to(dtype)
    remote = grid.tensor(local, requires_grad=dtype.is_floating_point)
    assert remote.is_leaf and torch.equal(remote.get(), local) and torch.equal(remote.T.get(), local.T)
    assert peer.took.count("create_variable") > 3 and peer.took.count("get_variable") > 20
    if dtype.is_floating_point:
        remote.sum().backward()
        assert torch.equal(remote.grad.get(), torch.ones(13, 11, dtype=dtype))


def test_what_is_sent_is_a_copy(grid: Session) -> None:
    local = torch.ones(1000)
    remote = grid.tensor(local)
    local.zero_()
    assert remote.sum().get().item() == 1000


def test_errors_that_shapes_show_come_at_once_and_are_torchs(grid: Session, peer: TensorPeer) -> None:
    x = grid.tensor(torch.ones(2, 3))
    for mistake in (lambda t: t + torch.ones(4), lambda t: t @ t, lambda t: F.linear(t, t.new_zeros(2, 5))):
        with pytest.raises(RuntimeError) as local:
            mistake(torch.ones(2, 3, device="meta"))
        with pytest.raises(RuntimeError) as remote:
            mistake(x)
        assert str(remote.value) == str(local.value)
    assert torch.equal(x.get(), torch.ones(2, 3))


VALUES: list[Any] = [bool, float, int, lambda t: t.item(), lambda t: t.tolist(), lambda t: t.numpy(), lambda t: t.cpu()]


@pytest.mark.parametrize("read", VALUES)
def test_values_leave_the_node_by_get_only(grid: Session, peer: TensorPeer, read: Any) -> None:
    x = grid.tensor(3.0)
    with pytest.raises(UsageError, match=r"(?s)on the node.*\.get\(\)"):
        read(x)
    assert x.get().item() == 3.0
    assert peer.took == ["create_variable", "get_variable"]


def test_what_isnt_allowed_is_refused_here(grid: Session, peer: TensorPeer) -> None:
    x = grid.tensor(torch.ones(2))
    for mistake in (lambda: x.set_(x), lambda: x.register_hook(print), lambda: x.apply_(abs)):
        with pytest.raises(PlanError) as caught:
            mistake()
        assert caught.value.code is ErrorCode.NOT_ALLOWED
    with pytest.raises(UsageError, match="pickle"):
        pickle.dumps(x)
    with pytest.raises(UsageError, match="CPU"):
        x.to("cuda")
    with pytest.raises(UsageError, match="requires a gradient"):
        x * torch.ones(2, requires_grad=True)
    with pytest.raises(UsageError, match="can't be a tensor"):
        grid.tensor("text")
    with pytest.raises(UsageError, match="can't be remote"):
        grid.tensor(torch.ones(2, dtype=torch.complex64))
    assert x.get().tolist() == [1, 1]


def test_a_failed_operation_is_told_where_its_result_is_read(grid: Session) -> None:
    """With the first cause, and the line that asked for it."""
    x = grid.tensor([[-1.0]])
    bad = torch.linalg.cholesky(x)  # the line
    later = (bad + 1).sum()
    for read in (later.get, bad.get, later.graph, lambda: torch.stack([x[0, 0], later]).get()):
        with pytest.raises(PlanError, match="positive-definite") as caught:
            read()
        (note,) = caught.value.__notes__
        assert "test_remote.py" in note and "# the line" in note
    assert "failed: " in repr(later)
    assert x.get().item() == -1


def test_what_failed_to_change_it_is_told_too(grid: Session) -> None:
    x = grid.tensor([5.0, 1.0])
    x.index_put_((grid.tensor([7]),), grid.tensor(1.0))
    with pytest.raises(GridkitError, match="index"):
        x.get()


def test_tensors_of_two_sessions_dont_meet(grid: Session, peer: TensorPeer) -> None:
    from gridkit.client.link import Link
    from gridkit.session import _Core

    with Session(_Core(Link(peer.url, "key"))) as other, pytest.raises(UsageError, match="two sessions"):
        grid.tensor(1.0) + other.tensor(1.0)


def test_copies(grid: Session) -> None:
    x = grid.tensor([1.0], requires_grad=True)
    twin = copy.deepcopy(x)
    twin.data.mul_(3)
    assert twin.requires_grad and twin.is_leaf and x.get().item() == 1 and twin.get().item() == 3
    with pytest.raises(UsageError, match="leaves"):
        copy.deepcopy(x * 2)


def test_representations_never_wait(grid: Session, peer: TensorPeer) -> None:
    x = grid.tensor(torch.ones(2, 3), requires_grad=True)
    took = len(peer.took)
    assert repr(x).startswith("<remote tensor v") and "float32[2, 3], requires grad" in repr(x)
    assert f"{x}" == repr(x) == str(x)
    assert "&lt;" not in x._repr_html_() and "[2, 3]" in x._repr_html_()
    x.get()
    assert "pending" not in repr(x) and "pending" not in x._repr_html_()
    assert "from ExpBackward0" in repr(x.exp())
    assert len(peer.took) <= took + 3 and "get_backprop_ids" not in peer.took


def test_what_nobody_holds_is_forgotten_on_both_sides(grid: Session, peer: TensorPeer) -> None:
    x = grid.tensor([1.0, 2.0], requires_grad=True)
    y = x
    for _ in range(300):
        y = (y * 1.01).detach()
    y.get()
    mirror = grid.rpc.mirror
    del y
    for _ in range(200):
        if len(mirror.variables) == 1 and len(peer.tensors) == 1:
            break
        time.sleep(0.02)
    assert list(mirror.variables) == [x._core.id] and len(peer.tensors) == 1
    assert 0 < peer.took.count("delete_variables") < 150, "in batches"
    assert x.get().tolist() == [1, 2]


def test_a_session_lasts_as_long_as_its_tensors(peer: TensorPeer) -> None:
    def made() -> Any:
        return Session(_Core(Link(peer.url, "key"))).tensor([1.0, 2.0])

    x = made()
    gc.collect()
    assert x.get().tolist() == [1, 2]
    y, session = x + 1, weakref.ref(x._core._session)
    del x
    assert y.get().tolist() == [2, 3]
    del y
    gc.collect()
    assert session() is None
