"""Models as a node holds them, and tensors as they travel, for the tests of whatever computes."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import nn

import gridkit as gk
from gridkit.plans.model import pack
from gridkit.plans.plan import Input, Node, Output, Plan, Ref
from gridkit.wire.safetensors import pack_tensors, read_tensors


@dataclass(frozen=True)
class Hosted:
    """A model's bytes, under their digest."""

    data: bytes
    digest: str

    def open(self) -> BinaryIO:
        return io.BytesIO(self.data)


def hosted(model: nn.Module, example: Any) -> Hosted:
    data = pack(model, example).tobytes()
    return Hosted(data, hashlib.sha256(data).hexdigest())


def digits() -> nn.Module:
    """The MLP of the tutorials: 64-32-10."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def packed(*tensors: torch.Tensor) -> bytes:
    return pack_tensors([tensor.detach().numpy() for tensor in tensors]).tobytes()


def unpacked(data: bytes) -> list[torch.Tensor]:
    return [torch.from_numpy(np.array(array)) for array in read_tensors(data)]


def function(*shapes: tuple[Any, ...]) -> Callable[[Callable[..., Any]], Plan]:
    """`gridkit.plan` of float32 arguments of these shapes."""
    return gk.plan(args=[gk.spec(*shape) for shape in shapes])


def endless(size: int = 1500, times: int = 3_000) -> Plan:
    """A plan that would take many minutes: one product after the other."""
    nodes = tuple(Node("aten.mm.default", (Ref(i), Ref(i)), (), (i + 1,)) for i in range(times))
    inputs = (Input(0, "x", "arg", "float32", (size, size)),)
    return Plan("endless", inputs, (Output(times, "result.0", "result"),), nodes)
