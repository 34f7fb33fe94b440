"""Backward passes: which variables they reach, and what they tell on their way.

Hooks are on the graph for the time of one pass only. They run in the middle of torch's engine, so whoever is told must
take the event and return; an error of gridkit's that it raises ends the pass.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.autograd.graph import Node as TorchNode

from gridkit.errors import ErrorCode, PlanError
from gridkit.runner.tensors.graph import grad_fn_of, is_leaf, leaf_of, node_of, walk
from gridkit.runner.tensors.privacy import any_private
from gridkit.runner.tensors.variables import Values, Variables


@dataclass(frozen=True, slots=True)
class NodeFired:
    """A gradient went through a node. `gradients`: what it passes on, in the order of its edges; None where nothing."""

    node: int
    gradients: tuple[Values | None, ...]


@dataclass(frozen=True, slots=True)
class GradAppended:
    """A pass's gradient came to a variable: summed over all its paths, before it's added to those of earlier passes."""

    variable: str
    gradient: Values


Event = NodeFired | GradAppended
Emit = Callable[[Event], None]


def reached(variables: Variables, nodes: Sequence[TorchNode]) -> list[str]:
    """The variables whose gradient a pass through these nodes sets: leaves, and those that retain it."""
    found = [name for node in nodes if is_leaf(node) for name in variables.names(leaf_of(node))]
    inside = set(nodes)
    return found + [name for name in variables.retaining if grad_fn_of(variables.find(name)) in inside]


class Pass:
    """One pass through the graph behind some roots, as a context around torch's own call.

    Args:
        roots: where it begins.
        seconds: for how long it may run; asked at each node.
        emit: told of each node and each gradient, in the order in which they come.
        append: whether gradients are added to the variables', as `torch.autograd.backward` does.
        gradients: what it begins with, if not with ones.

    Attributes:
        private: something that it comes from, or through, is private, and so is what it gives.
        nodes: all that it may come through.
        fired: those that it came through.
    """

    def __init__(
        self,
        variables: Variables,
        roots: Sequence[torch.Tensor],
        seconds: float,
        emit: Emit | None = None,
        append: bool = True,
        gradients: Sequence[torch.Tensor | None] | None = None,
    ) -> None:
        self._variables = variables
        self._seconds, self._emit, self._append_too = seconds, emit, append
        self._end = 0.0
        begins = [node for root in roots if (node := node_of(root)) is not None]
        variables.graph.grow(begins)  # a leaf has a node only now
        self.nodes = list(walk(begins))
        self.private = any_private((*roots, *(gradients or ()))) or any(
            variables.ledger.holds_private(variables.graph.number(node)) for node in self.nodes
        )
        self.fired: list[TorchNode] = []

    def grown(self) -> list[torch.Tensor]:
        """Tensors whose gradients may become others by this pass: those that have no id any more, too."""
        inside = set(self.nodes)
        retaining = [self._variables.find(name) for name in self._variables.retaining]
        leaves = [leaf_of(node) for node in self.nodes if is_leaf(node)]
        return leaves + [tensor for tensor in retaining if grad_fn_of(tensor) in inside]

    @contextmanager
    def watched(self) -> Iterator[None]:
        """The hooks, while torch's engine runs."""
        self._end = time.monotonic() + self._seconds
        with ExitStack() as hooks:
            for node in self.nodes:
                hooks.callback(node.register_hook(self._hook(node)).remove)
            if self._append_too:
                inside = set(self.nodes)
                for name in self._variables.retaining:
                    tensor = self._variables.find(name)
                    if grad_fn_of(tensor) in inside:
                        hooks.callback(
                            tensor.register_hook(partial(self._tell_gradient, name)).remove  # type: ignore[no-untyped-call]
                        )
            yield

    def _hook(self, node: TorchNode) -> Callable[[Any, Any], None]:
        number = self._variables.graph.number(node)

        def fired(passed_on: Sequence[torch.Tensor | None], came: Sequence[torch.Tensor | None]) -> None:
            self.fired.append(node)
            if time.monotonic() > self._end:
                raise PlanError(
                    f"the backward pass took longer than {self._seconds:g} s",
                    "give it fewer samples at a time",
                    code=ErrorCode.TIMED_OUT,
                )
            if self._emit is not None:
                values = self._variables.values
                self._emit(NodeFired(number, tuple(None if g is None else values(g, self.private) for g in passed_on)))
            if is_leaf(node) and came[0] is not None:
                for name in self._variables.names(leaf_of(node)):
                    self._tell_gradient(name, came[0])

        return fired

    def _tell_gradient(self, name: str, gradient: torch.Tensor) -> None:
        if self._emit is not None:
            self._emit(GradAppended(name, self._variables.values(gradient, self.private)))
