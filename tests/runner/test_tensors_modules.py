"""nn modules that run in a notebook, on tensors that live in a session: trained to the same bits as at home."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.runner.tensors_mirror import World
from tests.runner.tensors_peer import same, session


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


class CellByHand(nn.Module):
    """An LSTM cell, written out, over a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.gates = nn.Linear(4 + 6, 4 * 6)
        self.out = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = x.new_zeros(x.shape[0], 6)
        c = torch.zeros_like(h)
        for t in range(x.shape[1]):
            i, f, g, o = self.gates(torch.cat([x[:, t], h], dim=1)).chunk(4, dim=1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        return self.out(h)


class Attention(nn.Module):
    """One head, written out, with a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.out = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = self.q(x) @ self.k(x).transpose(-2, -1) / x.shape[-1] ** 0.5
        hidden = torch.ones(x.shape[1], x.shape[1]).triu(1).bool()
        weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
        return self.out((weights @ self.v(x)).mean(1))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.rnn = kind(4, 5, batch_first=True)
        self.out = nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.rnn(x)[0][:, -1])


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8, padding_idx=0)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.2, batch_first=True)
        self.out = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.encoder(self.embed(x)).mean(1))


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(20, 16), nn.GELU(), nn.Dropout(0.3), nn.LayerNorm(16), nn.Linear(16, 3)
    )


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 5)),
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 2, bias=False),
        nn.GroupNorm(2, 6),
        nn.PReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Dropout2d(0.2),
        nn.Flatten(),
        nn.Linear(6, 3),
    )


MODULES: dict[str, Callable[[], nn.Module]] = {
    "mlp": mlp,
    "cnn": cnn,
    "cell by hand": CellByHand,
    "attention by hand": Attention,
    "lstm": lambda: Recurrent(nn.LSTM),
    "gru": lambda: Recurrent(nn.GRU),
    "transformer": Words,
}
OPTIMIZERS = {"SGD": {"lr": 0.1, "momentum": 0.9, "nesterov": True}, "Adam": {"lr": 0.01}}


def batch(kind: str, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    y = torch.randint(0, 3, (6,), generator=generator)
    if kind == "transformer":
        return torch.randint(0, 11, (6, 7), generator=generator), y
    return torch.randn(6, 5, 4, generator=generator), y


@pytest.mark.parametrize("kind", MODULES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_module_is_trained_as_at_home(kind: str, optimizer: str) -> None:
    torch.default_generator.manual_seed(0)
    model = MODULES[kind]()
    world = World(session())
    state: dict[str, Any] = world.mirrored(model)
    options = OPTIMIZERS[optimizer]
    local = getattr(torch.optim, optimizer)(model.parameters(), **options)
    params = [state[name].name_ for name, _ in model.named_parameters()]
    world.session.create_optimizer("optimizer", optimizer, [{"params": params}], options)
    for training, steps in ((True, 3), (False, 1)):
        model.train(training)
        for step in range(steps):
            x, y = batch(kind, step)
            torch.default_generator.manual_seed(step)
            local.zero_grad()
            home = F.cross_entropy(model(x), y)
            home.backward()
            torch.default_generator.manual_seed(step)
            world.session.zero_grad("optimizer")
            away = F.cross_entropy(torch.func.functional_call(model, state, world.mirror(x)), world.mirror(y))
            away.backward()
            assert same(world.read(away).numpy(), home.detach().numpy())
            for name, param in model.named_parameters():
                assert param.grad is not None
                assert same(world.grad(state[name]).numpy(), param.grad.numpy()), name
            local.step()
            world.session.step("optimizer")
    for name, tensor in model.state_dict().items():
        assert same(world.read(state[name]).numpy(), tensor.numpy()), name
