"""What a session tells, as the messages of `gridkit.v1` that a notebook's mirror takes in."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gridkit.runner.tensors.graph import Edge, Node
from gridkit.runner.tensors.optimizers import State
from gridkit.runner.tensors.passes import GradAppended, NodeFired
from gridkit.runner.tensors.variables import Told, Values, Variable
from gridkit.wire.rpc.values import Body, encode

Event = dict[str, Any]
"""a notification: its ``method`` and ``params``"""

_FIELDS = ("requires_grad", "is_leaf", "retains_grad", "output_nr", "grad_fn", "has_grad", "private")


def tensor_form(values: Values, bodies: list[Body] | None) -> dict[str, Any]:
    """A tensor as `v1.Tensor`. `bodies`: None: without its values."""
    form: dict[str, Any] = {"dtype": values.dtype, "shape": list(values.shape)}
    if values.values is not None and bodies is not None:
        form["values"] = encode(values.values, bodies)
    return form


def state_form(state: State, bodies: list[Body]) -> dict[str, Any]:
    """An optimizer as `results.OptimizerState`."""
    return {
        "optimizer_id": state.id,
        "optimizer_name": state.name,
        "defaults": encode(state.defaults, bodies),
        "param_groups": [
            {
                "params": group["params"],
                "options": encode({name: value for name, value in group.items() if name != "params"}, bodies),
            }
            for group in state.groups
        ],
        "state": {
            param: {
                key: tensor_form(value, bodies) if isinstance(value, Values) else encode(value, bodies)
                for key, value in kept.items()
            }
            for param, kept in state.kept.items()
        },
    }


def fired_form(event: NodeFired, pass_id: str) -> dict[str, Any]:
    """The params of a `node_fired`. These may be lost on their way, and have no bodies."""
    gradients = [None if g is None else tensor_form(g, None) for g in event.gradients]
    return {"pass_id": pass_id, "node_id": event.node, "gradients": gradients}


def appended_form(event: GradAppended, pass_id: str, bodies: list[Body]) -> Event:
    params = {"variable_id": event.variable, "gradient": tensor_form(event.gradient, bodies), "pass_id": pass_id}
    return {"method": "append_grad", "params": params}


class Teller:
    """Remembers what was told of each variable, so that only what is new is told again."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[Any, ...]] = {}

    def __len__(self) -> int:
        return len(self._told)

    def events(self, told: Told, bodies: list[Body]) -> list[Event]:
        """In the order in which a mirror can take them in; `bodies` gets the tensors' values."""
        events = [_of_node(node) for node in told.nodes]
        events += map(_of_edge, told.edges)
        for variable in told.variables:
            events += self._of_variable(variable, bodies, changed=False)
        for variable in told.changed:
            events += self._of_variable(variable, bodies, changed=True)
        if told.freed:
            events.append({"method": "free_nodes", "params": {"node_ids": list(told.freed)}})
        return events

    def forget(self, ids: Iterable[str]) -> None:
        """These variables are gone."""
        for id in ids:
            self._told.pop(id, None)

    def _of_variable(self, variable: Variable, bodies: list[Body], changed: bool) -> list[Event]:
        now = (variable.version, *(getattr(variable, field) for field in _FIELDS))
        before = self._told.get(variable.id)
        self._told[variable.id] = now
        if before is None:
            return [{"method": "create_variable", "params": _whole(variable, bodies)}]
        updates: list[tuple[str, Any]] = []
        if changed or before[0] != variable.version:
            updates.append(("data", tensor_form(variable.data, bodies)))
        updates += [(f, new) for f, old, new in zip(_FIELDS, before[1:], now[1:], strict=True) if old != new]
        same = {"variable_id": variable.id, "version": variable.version}
        return [
            {"method": "update_variable", "params": {**same, "field": field, "value": value}}
            for field, value in updates
        ]


def _whole(variable: Variable, bodies: list[Body]) -> dict[str, Any]:
    return {
        "variable_id": variable.id,
        "data": tensor_form(variable.data, bodies),
        "parameter": variable.is_parameter,
        "version": variable.version,
        **{field: getattr(variable, field) for field in _FIELDS},
    }


def _of_node(node: Node) -> Event:
    params: dict[str, Any] = {"node_id": node.id, "name": node.name, "sequence": node.sequence}
    params["saved"] = [{"name": name, "shape": list(shape)} for name, shape in node.saved]
    return {"method": "create_node", "params": {**params, "variable_id": node.variable}}


def _of_edge(edge: Edge) -> Event:
    params = {"from_node_id": edge.source, "to_node_id": edge.target}
    return {"method": "create_edge", "params": {**params, "output_nr": edge.output_nr, "input_nr": edge.place}}
