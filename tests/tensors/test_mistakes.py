"""What students do with remote tensors as if they were local: it works, or says at once what to do instead."""

from __future__ import annotations

import copy
import io
import pickle
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gridkit.errors import GridkitError, PlanError, UsageError
from gridkit.session import Session

Do = Callable[[torch.Tensor, nn.Linear], Any]

MISTAKES: list[tuple[str, Do, type[Exception], str, str]] = [
    # what is done, the error, what it says, what it advises
    ("float", lambda x, net: float(x.sum()), UsageError, "__float__", "get()"),
    ("item", lambda x, net: x.sum().item(), UsageError, "item", "get()"),
    ("if", lambda x, net: 1 if x.sum() > 3 else 0, UsageError, "__bool__", "get()"),
    ("max", lambda x, net: max(x), UsageError, "__bool__", "get()"),
    ("in", lambda x, net: 2.0 in x, UsageError, "__contains__", "get()"),
    ("range", lambda x, net: range(x.argmax()), UsageError, "__index__", "get()"),
    ("numpy", lambda x, net: x.numpy(), UsageError, "numpy", "get().numpy()"),
    ("array", lambda x, net: np.asarray(x), UsageError, "__array__", "get().numpy()"),
    ("array +", lambda x, net: x + np.ones(2), UsageError, "__array__", "grid.tensor(array)"),
    ("format", lambda x, net: f"{x.sum():.3f}", UsageError, "formats a number", "get():.3f"),
    ("cuda", lambda x, net: x.cuda(), UsageError, "node's CPU", "leave .cuda() out"),
    ("to cuda", lambda x, net: x.to("cuda"), UsageError, "node's CPU", "leave device= out"),
    ("cpu", lambda x, net: x.cpu(), UsageError, "cpu", "get()"),
    ("save", lambda x, net: torch.save(x, io.BytesIO()), UsageError, "pickled or saved", "state_dict"),
    ("pickle", lambda x, net: pickle.dumps(x), UsageError, "pickled or saved", "get()"),
    ("copy", lambda x, net: copy.copy(x), UsageError, "shallowly", "detach()"),
    ("deepcopy", lambda x, net: copy.deepcopy(x * 2), UsageError, "only leaves", "detach().clone()"),
    ("equal", lambda x, net: torch.equal(x, x), UsageError, "equal", "get()"),
    ("local net", lambda x, net: nn.Linear(2, 1)(x), UsageError, "meets a remote one", "grid.module(net)"),
    (
        "local leaf",
        lambda x, net: x + torch.ones(2, requires_grad=True),
        UsageError,
        "meets a remote one",
        "requires_grad=True",
    ),
    ("into local", lambda x, net: torch.zeros(2).copy_(x), UsageError, "would change a local tensor", "get()"),
    ("local +=", lambda x, net: torch.zeros(2).add_(x), UsageError, "would change a local tensor", "get()"),
    ("local []", lambda x, net: torch.zeros(2).__setitem__(0, x[0]), UsageError, "would change a local", "get()"),
    ("hook", lambda x, net: x.register_hook(print), PlanError, "register_hook", "compute it here"),
    ("histc", lambda x, net: torch.histc(x, 3), PlanError, "histc", "compute it here"),
    # torch's own words, at once
    ("shapes", lambda x, net: x @ torch.ones(3), RuntimeError, "same number|size", ""),
    ("net's shapes", lambda x, net: net(torch.ones(1, 3)), RuntimeError, "reduction dim|shape", ""),
    ("stack", lambda x, net: torch.stack([x, torch.ones(3)]), RuntimeError, "equal size", ""),
    ("index", lambda x, net: x[5], IndexError, "out of bounds", ""),
    ("target", lambda x, net: F.cross_entropy(net(torch.ones(4, 2)), torch.zeros(4)), RuntimeError, "int64", ""),
    ("in place", lambda x, net: x.add_(1), RuntimeError, "leaf Variable", ""),
    ("not a scalar", lambda x, net: (x * 2).backward(), RuntimeError, "scalar outputs", ""),
    ("no gradient", lambda x, net: x.detach().sum().backward(), RuntimeError, "does not require grad", ""),
    ("text", lambda x, net: x + "a", TypeError, "unsupported operand", ""),
]


@pytest.fixture
def x(grid: Session) -> torch.Tensor:
    made: torch.Tensor = grid.tensor([1.0, 2.0], requires_grad=True)
    return made


@pytest.fixture
def net(grid: Session) -> nn.Linear:
    return grid.module(nn.Linear(2, 1))


@pytest.mark.parametrize(("do", "kind", "says", "advises"), [m[1:] for m in MISTAKES], ids=[m[0] for m in MISTAKES])
def test_mistake(x: torch.Tensor, net: nn.Linear, do: Do, kind: type[Exception], says: str, advises: str) -> None:
    with pytest.raises(kind, match=says) as caught:
        do(x, net)
    if isinstance(caught.value, GridkitError):
        assert advises and advises in str(caught.value.hint)
    else:
        frames = [frame.path for frame in caught.traceback]
        assert len(frames) < 16, frames
    assert (x * 2).get().tolist() == [2, 4]  # type: ignore[attr-defined]  # nothing is broken by it


@pytest.mark.parametrize(
    ("data", "options", "says", "advises"),
    [
        ("hello", {}, "can't be a tensor", "numbers"),
        ([[1.0, 2.0], [3.0]], {}, "can't be a tensor", "numbers"),
        (np.array(["a"]), {}, "can't be a tensor", "numbers"),
        ([1, 2], {"requires_grad": True}, "torch.int64 can't require", "floats"),
    ],
)
def test_what_is_no_tensor(grid: Session, data: Any, options: dict[str, Any], says: str, advises: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        grid.tensor(data, **options)
    assert advises in str(caught.value.hint)
    assert not grid._core._tensors().client._waiting


def test_a_remote_tensor_is_one_already(grid: Session, x: torch.Tensor) -> None:
    with pytest.raises(UsageError, match="already"):
        grid.tensor(x)


def test_a_local_module_takes_no_remote_state_by_mistake(grid: Session, net: nn.Linear) -> None:
    """It said that all keys match, and had changed nothing."""
    home = nn.Linear(2, 1)
    before = copy.deepcopy(home.state_dict())
    with pytest.raises(RuntimeError, match="would change a local tensor"):
        home.load_state_dict(net.state_dict())
    assert all(torch.equal(tensor, home.state_dict()[name]) for name, tensor in before.items())
    home.load_state_dict({name: tensor.get() for name, tensor in net.state_dict().items()})
    assert torch.equal(home.weight, net.weight.get())  # type: ignore[operator]
    net.load_state_dict(before)
    assert torch.equal(net.weight.get(), before["weight"])  # type: ignore[operator]


def test_modules_and_optimizers(grid: Session, net: nn.Linear) -> None:
    with pytest.raises(UsageError, match="remote already"):
        grid.module(net)
    optimizer = grid.optimizer("SGD", net.parameters(), lr=0.1)
    with pytest.raises(UsageError, match="on the node") as caught:
        optimizer.param_groups[0]["lr"] = 0.01
    assert "set_options" in str(caught.value.hint)
    optimizer.set_options(lr=0.01)
    assert optimizer.options[0]["lr"] == 0.01


def test_habits_that_work(grid: Session, x: Any, net: Any) -> None:
    assert re.fullmatch(r"<remote tensor v\d+: float32\[\], from SumBackward0.*>", f"{x.sum()}")
    assert sum(x).get() == 3 and len(x) == 2 and [e.get().item() for e in x] == [1, 2]
    (x * x).sum().backward()
    with torch.no_grad():
        x -= 0.5 * x.grad
    assert x.get().tolist() == [0, 0] and x.requires_grad
    x.grad.zero_()
    assert x.grad.get().tolist() == [0, 0]
    x.grad = None
    assert x.grad is None
    before = net.weight.get()
    net(torch.ones(3, 2)).sum().backward()
    nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    for parameter in net.parameters():
        parameter.data -= 0.1 * parameter.grad
    assert not torch.equal(net.weight.get(), before)
    assert torch.stack([x.sum(), x.mean()]).get().tolist() == [0, 0]
    assert torch.equal(copy.deepcopy(net).weight.get(), net.weight.get())
    assert torch.where(x > 1, x, 7.0).get().tolist() == [7, 7]
