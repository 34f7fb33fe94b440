"""The optimizers of a session: torch's own, on its variables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch

from gridkit.errors import ErrorCode, PlanError
from gridkit.runner.tensors.arguments import bad_form, value_of
from gridkit.runner.tensors.failures import told_by_torch
from gridkit.runner.tensors.ledger import is_private
from gridkit.runner.tensors.privacy import Privacy, any_private
from gridkit.runner.tensors.variables import Told, Values, Variables

KINDS: dict[str, type[torch.optim.Optimizer]] = {
    name: getattr(torch.optim, name)
    for name in (
        *("SGD", "Adam", "AdamW", "Adagrad", "Adadelta", "Adafactor", "Adamax", "ASGD", "NAdam", "RAdam"),
        *("RMSprop", "Rprop"),
    )
}
"""By their names in torch.optim: those that need no closure, and no sparse gradients."""

# How many tensors of a parameter's size each keeps, and the options that add one.
_KEEPS: dict[str, tuple[int, tuple[str, ...]]] = {
    "SGD": (0, ("momentum",)),
    "Adam": (2, ("amsgrad",)),
    "AdamW": (2, ("amsgrad",)),
    "Adagrad": (1, ()),
    "Adadelta": (2, ()),
    "Adafactor": (1, ()),
    "Adamax": (2, ()),
    "ASGD": (1, ()),
    "NAdam": (2, ()),
    "RAdam": (2, ()),
    "RMSprop": (1, ("centered", "momentum")),
    "Rprop": (2, ()),
}


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

    def __init__(self, variables: Variables, privacy: Privacy) -> None:
        self._variables, self._privacy = variables, privacy
        self._held: dict[str, torch.optim.Optimizer] = {}

    def create(self, id: str, name: str, groups: Sequence[Mapping[str, Any]], defaults: Mapping[str, Any]) -> State:
        if name not in KINDS:
            hint = f"use one of {', '.join(KINDS)}"
            raise PlanError(f"{name[:100]!r} is no optimizer that runs here", hint, code=ErrorCode.NOT_ALLOWED)
        self._variables.check_new([id])
        options = _literals(defaults)
        found = [self._group(name, options, group) for group in groups]
        with told_by_torch(name):
            self._held[id] = KINDS[name](found, **options)
        self._count_in(id)
        return self.state(id)

    def add_group(self, id: str, group: Mapping[str, Any]) -> State:
        optimizer = self._find(id)
        name = type(optimizer).__name__
        found = self._group(name, optimizer.defaults, group)
        with told_by_torch(name):
            optimizer.add_param_group(found)
        self._count_in(id)
        return self.state(id)

    def set_options(self, id: str, group: int, options: Mapping[str, Any]) -> State:
        optimizer = self._find(id)
        if not 0 <= group < len(optimizer.param_groups):
            raise bad_form(f"optimizer {id!r} has {len(optimizer.param_groups)} groups, not one of number {group}")
        found = _literals(options)
        _check_options(type(optimizer).__name__, optimizer.param_groups[group], found)
        optimizer.param_groups[group].update(found)
        return self.state(id)

    def step(self, id: str) -> Told:
        optimizer = self._find(id)
        name = type(optimizer).__name__
        for group in optimizer.param_groups:
            new = [p for p in group["params"] if p.grad is not None and not optimizer.state.get(p)]
            self._check_room(name, group, new)
        params = [param for param in _params(optimizer) if param.grad is not None]
        private = [p for p in params if any_private([p, p.grad, *_tensors(optimizer.state.get(p, {}))])]
        try:
            with self._privacy.guard(name, bool(private)):
                optimizer.step()
        finally:
            for param in private:
                self._privacy.hide([param, *_tensors(optimizer.state.get(param, {}))])
            self._count_in(id)
        return self._variables.told(self._names(params), self._variables.sharing([*params, *_kept(optimizer)]))

    def stepped(self, id: str) -> list[str]:
        return self._names(_params(self._find(id)))

    def zero_grad(self, id: str, set_to_none: bool) -> Told:
        optimizer = self._find(id)
        optimizer.zero_grad(set_to_none)
        names = self._names(_params(optimizer))
        for name in names:
            self._variables.count_in(name)
        return self._variables.told(names, self._variables.sharing_grads(names))

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

    def _group(self, name: str, defaults: Mapping[str, Any], group: Mapping[str, Any]) -> dict[str, Any]:
        """A group with its tensors, checked."""
        params = group.get("params")
        if not isinstance(params, list | tuple):
            raise bad_form("a group of an optimizer has no list of params")
        options = _literals({name: value for name, value in group.items() if name != "params"})
        tensors = [self._variables.find(param) for param in params]
        _check_options(name, defaults, options)
        self._check_room(name, {**defaults, **options}, tensors)
        return {"params": tensors, **options}

    def _check_room(self, name: str, options: Mapping[str, Any], params: Sequence[torch.Tensor]) -> None:
        """Raise PlanError unless there is room for what will be kept for these."""
        always, by_option = _KEEPS[name]
        each = always + sum(bool(options.get(option)) for option in by_option)
        self._variables.ledger.check_room(each * sum(param.nbytes for param in params), f"what {name} keeps")

    def _count_in(self, id: str) -> None:
        optimizer = self._held[id]
        self._variables.ledger.keep(id, [*_params(optimizer), *_kept(optimizer)])

    def _names(self, params: Sequence[torch.Tensor]) -> list[str]:
        return [name for param in params for name in self._variables.names(param)]

    def _shown(self, value: Any) -> Values | int | float | bool:
        if not isinstance(value, torch.Tensor):
            return value  # type: ignore[no-any-return]
        return value.item() if value.ndim == 0 and not is_private(value) else self._variables.values(value)


def _literals(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value_of(value, _no_reference) for name, value in options.items()}


def _no_reference(name: object) -> torch.Tensor:
    raise bad_form(f"an option of an optimizer is a number, not tensor {repr(name)[:80]}")


def _params(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [param for group in optimizer.param_groups for param in group["params"]]


def _kept(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [tensor for entry in optimizer.state.values() for tensor in _tensors(entry)]


def _tensors(entry: Mapping[str, Any]) -> list[torch.Tensor]:
    return [value for value in entry.values() if isinstance(value, torch.Tensor)]


def _check_options(name: str, defaults: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Raise PlanError for an option that there isn't, or a value that torch refuses, which doesn't look at groups."""
    known = [option for option in signature(KINDS[name]).parameters if option != "params"]
    unknown = next((option for option in options if option not in known), None)
    if unknown is not None:
        raise bad_form(f"{name} has no option {unknown[:100]!r}; it has {', '.join(known)}")
    wanted = {**defaults, **options}
    with told_by_torch(name):
        KINDS[name]([torch.nn.Parameter(torch.zeros(1))], **{o: wanted[o] for o in known if o in wanted})
