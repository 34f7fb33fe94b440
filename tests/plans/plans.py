"""Small models, their data and a training plan, for the tests of this folder."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from gridkit.plans.optim import SGD
from gridkit.plans.plan import Plan
from gridkit.plans.training import training_plan


def mlp(activation: nn.Module | None = None) -> nn.Sequential:
    return nn.Sequential(nn.Linear(12, 9), activation or nn.ReLU(), nn.Linear(9, 5))


def cnn() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(3, 4, 3),
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(4, 5),
    )


SHAPES = {"mlp": (12,), "cnn": (1, 8, 8)}
MODELS = {"mlp": mlp, "cnn": cnn}


def batch(size: int, shape: Sequence[int] = (12,), seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and labels of five classes."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(size, *shape, generator=draw), torch.randint(0, 5, (size,), generator=draw)


@cache
def traced(kind: str, **options: Any) -> Plan:
    """A plan of one of the models with `SGD(0.1, **options)`; traced once a session."""
    torch.manual_seed(0)
    optimizer = SGD(0.1, **options)
    return training_plan(MODELS[kind](), F.cross_entropy, optimizer, batch(8, SHAPES[kind]))


def start(plan: Plan, model: nn.Module) -> list[torch.Tensor]:
    """The model's state and a fresh optimiser state, as the plan takes them."""
    state = [v.detach().clone() for v in model.state_dict().values()]
    return state + [torch.zeros(s.shape, dtype=getattr(torch, s.dtype)) for s in plan.optimizer_state]


def header_of(plan: Plan) -> dict[str, Any]:
    """The JSON header of the plan's bytes."""
    import json
    import struct

    data = plan.to_bytes()
    (length,) = struct.unpack_from("<I", data, 4)
    header: dict[str, Any] = json.loads(data[8 : 8 + length])
    return header
