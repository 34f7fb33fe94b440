"""The optimizers of a session: torch's own, on its variables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from gridkit.errors import ErrorCode, PlanError
from gridkit.runner.tensors.arguments import bad_form, value_of
from gridkit.runner.tensors.failures import told_by_torch
from gridkit.runner.tensors.sizes import Allocations
from gridkit.runner.tensors.variables import Told, Values, Variables

_NAMES = "SGD Adam AdamW Adagrad Adadelta Adafactor Adamax ASGD NAdam RAdam RMSprop Rprop"
KINDS: dict[str, type[torch.optim.Optimizer]] = {name: getattr(torch.optim, name) for name in _NAMES.split()}
"""By their names in torch.optim: those that need no closure, and no sparse gradients."""


@dataclass(frozen=True, slots=True)
class State:
    """An optimizer as it is.

    Attributes:
        groups: options by name, and ``"params"``: ids; None for one whose variable was deleted.
        kept: for each parameter that has been stepped, by its id: numbers, and tensors as `Values`.
    """

    id: str
    name: str
    defaults: dict[str, Any]
    groups: tuple[dict[str, Any], ...]
    kept: dict[str, dict[str, Any]]


class Optimizers:
    """Optimizers by id. See the methods of `TensorSession`, which are these."""

    def __init__(self, variables: Variables) -> None:
        self._variables = variables
        self._held: dict[str, torch.optim.Optimizer] = {}

    def create(self, id: str, name: str, groups: Sequence[Mapping[str, Any]], defaults: Mapping[str, Any]) -> State:
        if name not in KINDS:
            hint = f"use one of {', '.join(KINDS)}"
            raise PlanError(f"{name[:100]!r} is no optimizer that runs here", hint, code=ErrorCode.NOT_ALLOWED)
        self._variables.check_new([id])
        with told_by_torch(name):
            optimizer = KINDS[name]([self._group(group) for group in groups], **_literals(defaults))
            self._check_options(optimizer, [option for group in groups for option in group])
        self._held[id] = optimizer
        self._count_in(id)
        return self.state(id)

    def add_group(self, id: str, group: Mapping[str, Any]) -> State:
        optimizer = self._find(id)
        self._check_options(optimizer, group)
        with told_by_torch(type(optimizer).__name__):
            optimizer.add_param_group(self._group(group))
        self._count_in(id)
        return self.state(id)

    def set_options(self, id: str, group: int, options: Mapping[str, Any]) -> State:
        optimizer = self._find(id)
        self._check_options(optimizer, options)
        if "params" in options or not 0 <= group < len(optimizer.param_groups):
            raise bad_form(f"optimizer {id!r} has {len(optimizer.param_groups)} groups, of which options can be set")
        found = _literals(options)
        wanted = {**optimizer.param_groups[group], **found, "params": [torch.nn.Parameter(torch.zeros(1))]}
        with told_by_torch(type(optimizer).__name__):  # so that it checks them
            type(optimizer)([wanted], **{name: wanted[name] for name in optimizer.defaults})
        optimizer.param_groups[group].update(found)
        return self.state(id)

    def step(self, id: str) -> Told:
        optimizer = self._find(id)
        self._variables.ledger.check_room(_new_state(optimizer), f"optimizer {id!r}")
        params = [param for param in _params(optimizer) if param.grad is not None]
        try:
            with told_by_torch(type(optimizer).__name__):
                optimizer.step()
        finally:
            self._count_in(id)
        return self._variables.told(self._names(params), self._variables.sharing(params))

    def zero_grad(self, id: str, set_to_none: bool) -> Told:
        optimizer = self._find(id)
        optimizer.zero_grad(set_to_none)
        names = self._names(_params(optimizer))
        for name in names:
            self._variables.count_in(name)
        return self._variables.told(names)

    def state(self, id: str) -> State:
        optimizer = self._find(id)
        groups = tuple(
            {**group, "params": [next(iter(self._variables.names(p)), None) for p in group["params"]]}
            for group in optimizer.param_groups
        )
        kept = {
            name: {key: self._shown(value) for key, value in entry.items() if value is not None}
            for param, entry in optimizer.state.items()
            for name in self._variables.names(param)
        }
        return State(id, type(optimizer).__name__, dict(optimizer.defaults), groups, kept)

    def name_state(self, id: str, param: str, key: str, out_id: str) -> Told:
        kept = self._find(id).state.get(self._variables.find(param), {}).get(key)
        if not isinstance(kept, torch.Tensor):
            hint = "state() lists what it keeps; there is nothing before the first step"
            raise PlanError(f"optimizer {id!r} keeps no {key!r} for {param!r}", hint, code=ErrorCode.NOT_FOUND)
        self._variables.check_new([out_id])
        self._variables.add(out_id, kept)
        return self._variables.told([out_id])

    def remove(self, id: str) -> None:
        """Forget it, if it is there."""
        if self._held.pop(id, None) is not None:
            self._variables.ledger.drop(id)

    def _find(self, id: str) -> torch.optim.Optimizer:
        optimizer = self._held.get(id)
        if optimizer is None:
            raise PlanError(f"there is no optimizer {repr(id)[:80]}", "create it first", code=ErrorCode.NOT_FOUND)
        return optimizer

    def _group(self, group: Mapping[str, Any]) -> dict[str, Any]:
        params = group.get("params")
        if not isinstance(params, list | tuple):
            raise bad_form("a group of an optimizer has no list of params")
        options = _literals({name: value for name, value in group.items() if name != "params"})
        return {"params": [self._variables.find(name) for name in params], **options}

    def _check_options(self, optimizer: torch.optim.Optimizer, options: Sequence[str] | Mapping[str, Any]) -> None:
        unknown = sorted(set(options) - set(optimizer.defaults) - {"params"})
        if unknown:
            known = ", ".join(optimizer.defaults)
            raise bad_form(f"{type(optimizer).__name__} has no option {unknown[0][:100]!r}; it has {known}")

    def _count_in(self, id: str) -> None:
        optimizer = self._held[id]
        kept = [value for entry in optimizer.state.values() for value in entry.values()]
        tensors = [value for value in kept if isinstance(value, torch.Tensor)]
        self._variables.ledger.keep(id, [*_params(optimizer), *tensors])

    def _names(self, params: Sequence[torch.Tensor]) -> list[str]:
        return [name for param in params for name in self._variables.names(param)]

    def _shown(self, value: Any) -> Values | int | float | bool:
        if not isinstance(value, torch.Tensor):
            return value  # type: ignore[no-any-return]
        return value.item() if value.ndim == 0 else self._variables.values(value)


def _literals(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value_of(value, _no_reference) for name, value in options.items()}


def _no_reference(name: object) -> torch.Tensor:
    raise bad_form(f"an option of an optimizer is a number, not tensor {repr(name)[:80]}")


def _params(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [param for group in optimizer.param_groups for param in group["params"]]


def _new_state(optimizer: torch.optim.Optimizer) -> int:
    """Bytes that the next step takes for good: what is kept for parameters that are stepped for the first time."""
    fresh = []
    for group in optimizer.param_groups:
        params = [p for p in group["params"] if p.grad is not None and not optimizer.state.get(p)]
        if params:
            metas = [torch.nn.Parameter(p.detach().to("meta"), p.requires_grad) for p in params]
            for meta, param in zip(metas, params, strict=True):
                meta.grad = param.grad.detach().to("meta")
            fresh.append({**group, "params": metas})
    if not fresh:
        return 0
    double = type(optimizer)(fresh, **optimizer.defaults)
    watch = Allocations([])
    with watch:
        double.step()
    kept = [value for entry in double.state.values() for value in entry.values()]
    return max(watch.largest, sum(value.nbytes for value in kept if isinstance(value, torch.Tensor)))
