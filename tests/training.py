"""A small real training for tests: data, model, plan."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

import gridkit as gk

CLASSES = 4


def shards(clients: int = 6, samples: int = 21, width: int = 12, seed: int = 0, image: bool = False) -> list[Any]:
    """`clients` shards of slightly different sizes."""
    draw = np.random.default_rng(seed)
    shape = (1, width, width) if image else (width,)
    made = []
    for place in range(clients):
        size = samples + place % 3
        x = draw.standard_normal((size, *shape)).astype(np.float32)
        made.append((x, (x.reshape(size, -1)[:, :CLASSES].argmax(1)).astype(np.int64)))
    return made


def mlp(width: int = 12) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(width, 16), nn.ReLU(), nn.Linear(16, CLASSES))


def cnn(width: int = 12) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6 * (width // 2 - 2) ** 2, CLASSES),
    )


def plan_of(model: nn.Module, data: list[Any], **options: Any) -> gk.Plan:
    x, y = data[0]
    return gk.training_plan(model, nn.functional.cross_entropy, gk.SGD(lr=0.1, **options), (x[:8], y[:8]))
