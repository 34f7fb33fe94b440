"""nn modules in a notebook, on parameters that are on a node: trained to the same bits as at home."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gridkit.errors import UsageError
from gridkit.session import Session
from tests.runner.test_tensors_modules import MODULES, OPTIMIZERS, batch


@pytest.mark.parametrize("kind", MODULES)
def test_a_module_is_trained_as_at_home(grid: Session, kind: str) -> None:
    torch.default_generator.manual_seed(0)
    home = MODULES[kind]()
    away = grid.module(home)
    name, options = list(OPTIMIZERS.items())[len(kind) % 2]
    local = getattr(torch.optim, name)(home.parameters(), **options)
    remote = grid.optimizer(name, away.parameters(), **options)
    for training, step in ((True, 0), (True, 1), (False, 2)):
        home.train(training)
        away.train(training)
        x, y = batch(kind, step)
        torch.default_generator.manual_seed(step)
        local.zero_grad()
        expected = F.cross_entropy(home(x), y)
        expected.backward()
        local.step()
        grid.manual_seed(step)
        remote.zero_grad()
        loss = F.cross_entropy(away(grid.tensor(x)), grid.tensor(y))
        loss.backward()
        remote.step().wait()
        assert torch.equal(loss.get(), expected.detach())
    grads = {name: param.grad for name, param in away.named_parameters()}
    for name, param in home.named_parameters():
        assert param.grad is not None and torch.equal(grads[name].get(), param.grad), name
    for name, tensor in away.state_dict().items():
        assert torch.equal(tensor.get(), home.state_dict()[name]), name


def test_what_a_copy_is(grid: Session) -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2, bias=False))
    net[2].weight = net[0].weight
    net[0].bias.requires_grad_(False)
    away = grid.module(net)
    assert type(away) is nn.Sequential and away[2].weight is away[0].weight
    assert all(isinstance(param, nn.Parameter) and param.is_leaf for param in away.parameters())
    assert not isinstance(away[1].running_mean, nn.Parameter) and not away[0].bias.requires_grad
    assert [len(list(each.parameters())) for each in (net, away)] == [4, 4]
    with torch.no_grad():
        net[0].weight.zero_()
    assert away[0].weight.get().abs().sum() > 0, "it is a copy"
    assert [p.shape for p in away.parameters()] == [p.shape for p in net.parameters()]
    with pytest.raises(UsageError, match=r"nn\.Module"):
        grid.module(net[0].weight)  # type: ignore[type-var]


def test_what_is_done_with_modules(grid: Session) -> None:
    net = nn.Linear(2, 2)
    away = grid.module(net)
    away.load_state_dict({name: torch.ones_like(tensor) for name, tensor in net.state_dict().items()})
    twin = copy.deepcopy(away)
    twin.weight.data = torch.zeros(2, 2)
    assert [each.weight.get().sum().item() for each in (away, twin)] == [4, 0]
    away.requires_grad_(False)
    assert not away(grid.tensor(torch.ones(1, 2))).requires_grad
    twin(grid.tensor(torch.ones(1, 2))).sum().backward()
    assert twin.bias.grad is not None
    twin.zero_grad()
    assert twin.bias.grad is None
    with pytest.raises(UsageError, match="stays"):
        away.to(torch.float64)
