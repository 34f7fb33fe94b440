"""What the variables of a notebook offer for a training: models with plans that fit them, clients, `evaluate`.

Looks at types and shapes only, and calls nothing of the user's but a model's `state_dict`.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gridkit.widgets.words import many

Namespace = Mapping[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Trainable:
    """A model and a training plan that fits it, by the names of their variables."""

    name: str
    model: Any
    plan_name: str
    plan: Any

    @property
    def label(self) -> str:
        return f"{self.name} with {self.plan_name}"


@dataclass(frozen=True, slots=True, eq=False)
class Clients:
    """A list of ``(x, y)`` shards, perhaps with names of push participants among them, by the name of its variable."""

    name: str
    clients: Sequence[tuple[Any, Any] | str]

    @property
    def label(self) -> str:
        sizes = [len(client[0]) for client in self.clients if not isinstance(client, str)]
        called = len(self.clients) - len(sizes)
        parts = [many(len(sizes), "client"), f"{sum(sizes):,} samples"] if sizes else []
        parts += [many(called, "participant")] if called else []
        return f"{self.name}: {', '.join(parts)}"


def trainables(namespace: Namespace, model: Any = None, plan: Any = None) -> list[Trainable]:
    """Every pair of a model and a plan that fits it, newest variables last.

    Args:
        namespace: variables by name; those with a leading underscore are left out.
        model, plan: look for pairs with this one only.
    """
    models = _of(namespace, is_model) if model is None else {_name(namespace, model, "the model"): model}
    plans = _of(namespace, is_plan) if plan is None else {_name(namespace, plan, "the plan"): plan}
    return [Trainable(m, models[m], p, plans[p]) for m in models for p in plans if fits(models[m], plans[p])]


def client_lists(namespace: Namespace) -> list[Clients]:
    """Every list of clients of which one at least is a shard (texts alone may be anything), newest last."""
    return [Clients(name, value) for name, value in _of(namespace, _has_shards).items()]


def evaluators(namespace: Namespace) -> dict[str, Any]:
    """The notebook's own functions of one argument, by name: any of them may be an `evaluate`."""
    return _of(namespace, _takes_one)


def is_model(value: Any) -> bool:
    """Whether it looks like an `nn.Module`."""
    return hasattr(type(value), "state_dict") and hasattr(type(value), "named_parameters")


def is_plan(value: Any) -> bool:
    """Whether it looks like a `gridkit.Plan`."""
    return hasattr(type(value), "optimizer_state") and hasattr(type(value), "to_bytes")


def is_clients(value: Any) -> bool:
    """Whether it is a sequence of pairs of arrays of equal length, and of names."""
    known = isinstance(value, Sequence) and not isinstance(value, str) and len(value) > 0
    return known and all(isinstance(item, str) or _is_shard(item) for item in value)


def fits(model: Any, plan: Any) -> bool:
    """Whether the plan trains this model: the same parameters and buffers, by name, dtype and shape."""
    state = model.state_dict()
    if any(hasattr(type(tensor), "materialize") for tensor in state.values()):
        return False  # a lazy module before its first call: its tensors have no shapes yet
    tensors = {name: (str(t.dtype).rpartition(".")[2], tuple(t.shape)) for name, t in state.items()}
    wanted = {spec.name: (spec.dtype, tuple(spec.shape)) for spec in plan.state}
    own = {name for name, _ in model.named_parameters()}
    return bool(own) and own <= set(wanted) and all(tensors.get(name) == kind for name, kind in wanted.items())


def _has_shards(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and is_clients(value) and not all(isinstance(item, str) for item in value)


def _is_shard(value: Any) -> bool:
    if not (isinstance(value, (list, tuple)) and len(value) == 2):
        return False
    shapes = [tuple(getattr(array, "shape", ())) for array in value]
    return all(shapes) and shapes[0][0] == shapes[1][0] > 0


def _takes_one(value: Any) -> bool:
    if not isinstance(value, types.FunctionType) or value.__module__ != "__main__":
        return False
    required = [p for p in inspect.signature(value).parameters.values() if p.default is p.empty]
    return len(required) == 1 and required[0].kind in (required[0].POSITIONAL_ONLY, required[0].POSITIONAL_OR_KEYWORD)


def _of(namespace: Namespace, kind: Any) -> dict[str, Any]:
    return {name: value for name, value in tuple(namespace.items()) if not name.startswith("_") and kind(value)}


def _name(namespace: Namespace, value: Any, otherwise: str) -> str:
    return next((n for n, v in tuple(namespace.items()) if v is value and not n.startswith("_")), otherwise)
