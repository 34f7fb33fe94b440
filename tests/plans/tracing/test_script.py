"""TorchScript modules are taken apart: scripted and traced ones give the bits of the module they were made of."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gridkit.errors import PlanError
from gridkit.plans.model import pack, unpack
from gridkit.wire.model import ModelFile

Make = Callable[[nn.Module, torch.Tensor], nn.Module]


def scripted(model: nn.Module, x: torch.Tensor) -> nn.Module:
    made: nn.Module = torch.jit.script(model)
    return made


def traced(model: nn.Module, x: torch.Tensor) -> nn.Module:
    made: nn.Module = torch.jit.trace(model, x, check_trace=False)
    return made


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
        self.fc, self.drop = nn.Linear(4 * 6 * 6, 10), nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norm(self.conv(x)))
        y = y.view(y.size(0), -1)
        if self.training:
            y = y * 2
        out: torch.Tensor = self.fc(self.drop(y))
        return out


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru, self.norm = nn.GRU(8, 5, batch_first=True), nn.LayerNorm(5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, _ = self.gru(x.squeeze(1))
        out: torch.Tensor = self.norm(y[:, -1])
        return out


class Loops(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers, self.times = nn.ModuleList([nn.Linear(8, 8) for _ in range(3)]), 4

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        outs = []
        for layer in self.layers:
            x = F.gelu(layer(x))
        for i in range(self.times):
            outs.append(x * i)
        if x.dtype == torch.float32 and x.dim() == 4:
            x = x.to(torch.float64)
        return torch.cat(outs, 1), x.mean((2, 3))


class Pools(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.pool, self.small = nn.Upsample(scale_factor=2.0), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.small(self.pool(self.up(x))).flatten(1), 1)


class Attends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.embed = nn.Linear(8, 8), nn.Parameter(torch.randn(8, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x[:, 0] + self.embed
        scores = self.query(y) @ y.transpose(1, 2) / (y.shape[-1] ** 0.5)
        return (scores.softmax(-1) @ y).reshape(y.shape[0], -1)


class Encodes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.GroupNorm(2, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.norm(self.layer(x[:, 0]).transpose(1, 2))
        return out


@pytest.mark.parametrize("make", [scripted, traced])
@pytest.mark.parametrize("kind", [Convolutions, Recurrent, Loops, Pools, Attends, Encodes])
@pytest.mark.filterwarnings("ignore")
def test_the_plan_of_a_script_has_the_bits_of_the_module(kind: Callable[[], nn.Module], make: Make) -> None:
    torch.manual_seed(0)
    model, x = kind().eval(), torch.randn(3, 1, 8, 8)
    data = bytearray(pack(make(model, x), x).tobytes())
    back = unpack(ModelFile(io.BytesIO(data)), data)
    assert list(back.state_dict()) == list(model.state_dict())
    assert {n for n, _ in back.named_parameters()} == {n for n, _ in model.named_parameters()}
    for size in (1, 3, 7):
        z = torch.randn(size, 1, 8, 8)
        want, got = (r if isinstance(r, tuple) else (r,) for r in (model(z), back(z)))
        assert [torch.equal(a, b) for a, b in zip(want, got, strict=True)] == [True] * len(want)


class Raises(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[1] > 5:
            raise ValueError("too wide")
        return x


class Sorts(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x + 1
        return torch.linalg.qr(y)[0]


class Looks(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if bool(x.sum() > 0):
            return x
        return -x


@pytest.mark.parametrize(
    ("model", "example", "message"),
    [
        (Raises(), torch.ones(2, 6), "raises an error for the example"),
        (Sorts(), torch.ones(2, 3), r"aten.linalg_qr.* \(test_script.py:\d+: return torch.linalg.qr"),
        (Looks(), torch.ones(2, 3), r"value.* \(test_script.py:\d+: if bool"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_taken_apart_is_told_with_its_line(model: Any, example: torch.Tensor, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        pack(scripted(model, example), example)


def test_a_script_without_a_forward_is_told() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        empty: nn.Module = torch.jit.script(nn.Module())
    with pytest.raises(PlanError):
        pack(empty, torch.ones(1))
