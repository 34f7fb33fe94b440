"""The variables of a session in the plain profile: what is known of them here, and what its client is told.

That profile knows no tensors, passes or versions: a variable has its data with it, as nested lists, its gradients are
variables too, and its client waits for each call. The process is the same that `gridkit.v1` has, and speaks only that.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from gridkit.errors import ErrorCode, GridkitError, LimitError, NotFoundError
from gridkit.node.rpc.session import Session
from gridkit.node.rpc.tensors import Answer, Events
from gridkit.node.rpc.works import Work
from gridkit.wire.rpc.messages import Notification
from gridkit.wire.rpc.values import Body, decode, encode, to_lists
from gridkit.wire.tensors import Array

MOST_ELEMENTS = 1 << 18
"""of a tensor; more have no room in a message of this profile"""


@dataclass(eq=False)
class Record:
    """A variable.

    Attributes:
        tensor: the process's id of it: its own, unless it became the result of a function.
        data: None: not told yet.
        grads: ids of its gradients.
    """

    id: str
    role: str
    parameter: bool = False
    requires_grad: bool = False
    tensor: str = ""
    data: Any = None
    dtype: str = "float32"
    retains_grad: bool = False
    grads: list[str] = field(default_factory=list)
    output_nr: int = 0
    grad_fn: str | None = None
    is_leaf: bool = True

    def __post_init__(self) -> None:
        self.tensor = self.tensor or self.id

    @property
    def reference(self) -> dict[str, Any]:
        """As the process is given it."""
        return {"__variable__": True, "variable_id": self.tensor}

    def shown(self) -> dict[str, Any]:
        """As the client is given it."""
        return {
            "variable_id": self.id,
            "obj_type": "__parameter__" if self.parameter else "__variable__",
            "data": self.data,
            "role": self.role,
            "requires_grad": self.requires_grad,
            "_retain_grad": self.retains_grad,
            "_grad": [{"__variable__": True, "variable_id": id} for id in self.grads],
            "_output_nr": self.output_nr,
            "_grad_fn": self.grad_fn,
            "is_leaf": self.is_leaf,
        }


class PlainTelling:
    """All variables of one session, and what the process tells of them."""

    preview = MOST_ELEMENTS

    def __init__(self, session: Session) -> None:
        self._session = session
        self._records: dict[str, Record] = {}
        self._of_tensor: dict[str, list[Record]] = {}
        self.optimizers: dict[str, list[str]] = {}  # whose ids of parameters
        self._ids = itertools.count(1)
        self._starts = 1  # of the process: each numbers its nodes anew
        self._loss: GridkitError | None = None
        self._told: dict[str, Callable[[dict[str, Any], Sequence[Body]], Events]] = {
            "create_node": self._create_node,
            "create_edge": self._create_edge,
            "create_variable": self._create_variable,
            "update_variable": self._update_variable,
            "append_grad": self._append_grad,
        }

    # ---- ids

    def new_id(self) -> str:
        return f"{self._session.id[:8]}-{next(self._ids)}"

    def add(self, record: Record) -> Record:
        self._records[record.id] = record
        self._of_tensor.setdefault(record.tensor, []).append(record)
        return record

    def remove(self, record: Record) -> None:
        """It didn't come to be."""
        if self._records.pop(record.id, None) is not None:
            self._unname(record)

    def _unname(self, record: Record) -> None:
        others = self._of_tensor[record.tensor]
        others.remove(record)
        if not others:
            del self._of_tensor[record.tensor]

    def rename(self, record: Record, tensor: str) -> None:
        """It is that tensor of the process from now on."""
        self._unname(record)
        record.tensor = tensor
        self._of_tensor.setdefault(tensor, []).append(record)

    def find(self, id: str) -> Record:
        """
        Raises:
            NotFoundError: there is no such variable.
        """
        record = self._records.get(id)
        if record is None:
            hint = None if self._loss is None else f"what was there before is lost: {self._loss.message}"
            raise NotFoundError(f"there is no variable '{id}'", hint, code=ErrorCode.NOT_FOUND, status=404)
        return record

    def result_of(self, grad_fn: str, output_nr: int) -> Record | None:
        """The variable that this node of the graph gave."""
        found = (r for r in self._records.values() if r.grad_fn == grad_fn and r.output_nr == output_nr)
        return next(found, None)

    def ids_of(self, tensors: Sequence[str]) -> list[str]:
        """The client's ids of the process's."""
        return [record.id for tensor in tensors for record in self._of_tensor.get(tensor, [])]

    # ---- what the process tells

    async def tell(self, events: Events, bodies: Sequence[Body]) -> None:
        """Take it in, and tell the client what it needs to know."""
        for event in events:
            if (take := self._told.get(event.method)) is not None:
                await self._session.tell(take(event.params, bodies))

    def pass_by(self, event: Notification) -> None:
        """This client knows nothing that may be lost."""

    def lost(self, reason: GridkitError) -> Events:
        self._loss = reason
        self._starts += 1
        self._records.clear()
        self._of_tensor.clear()
        self.optimizers.clear()
        return []

    def _node(self, number: int | None) -> str | None:
        return None if number is None else f"{self._starts}.{number}"

    def _create_node(self, params: dict[str, Any], bodies: Sequence[Body]) -> Events:
        return [Notification("create_node", {"node_id": self._node(params["node_id"]), "name": params["name"]})]

    def _create_edge(self, params: dict[str, Any], bodies: Sequence[Body]) -> Events:
        ends = {name: self._node(params[name]) for name in ("from_node_id", "to_node_id")}
        return [Notification("create_edge", {**ends, "output_nr": params["output_nr"]})]

    def _create_variable(self, params: dict[str, Any], bodies: Sequence[Body]) -> Events:
        for record in self._of_tensor.get(params["variable_id"], []):
            array = _values(params["data"], bodies)
            record.data, record.dtype = to_lists(array), array.dtype.name
            record.requires_grad, record.is_leaf = params["requires_grad"], params["is_leaf"]
            record.output_nr, record.grad_fn = params["output_nr"], self._node(params["grad_fn"])
        return []

    def _update_variable(self, params: dict[str, Any], bodies: Sequence[Body]) -> Events:
        name, value = params["field"], params["value"]
        events = []
        for record in self._of_tensor.get(params["variable_id"], []):
            if name == "data":
                record.data = to_lists(_values(value, bodies))
                events.append(_update(record, "data", record.data))
            elif name == "has_grad" and not value:
                record.grads.clear()
                events.append(_update(record, "_grad", []))
            elif name == "grad_fn":
                record.grad_fn = self._node(value)
            elif name in ("requires_grad", "is_leaf", "retains_grad", "output_nr"):
                setattr(record, name, value)
        return events

    def _append_grad(self, params: dict[str, Any], bodies: Sequence[Body]) -> Events:
        """A gradient is a variable of its own: of a copy in the process, as the client may compute with it."""
        events = []
        array = _values(params["gradient"], bodies)
        for record in self._of_tensor.get(params["variable_id"], []):
            gradient = self.add(Record(self.new_id(), f"gradient of {record.role}", data=to_lists(array)))
            record.grads.append(gradient.id)
            self.create(gradient, array, Work(None))
            shown = {"data": gradient.data, "role": gradient.role, "requires_grad": False}
            told = {"variable_id": record.id, "gradient_id": gradient.id, "gradient": shown}
            events.append(Notification("append_grad", told))
        return events

    # ---- what the process is asked

    def create(self, record: Record, array: Array, work: Work) -> asyncio.Future[Answer]:
        """Have the process make a record's tensor: see `Tensors.ask`."""
        _check_size(array.shape)
        bodies: list[Body] = []
        params = {
            "variable_id": record.tensor,
            "data": encode(array, bodies),
            "requires_grad": record.requires_grad,
            "parameter": record.parameter,
        }
        return self._session.tensors.ask("create_variable", params, bodies, work)


def _update(record: Record, name: str, value: Any) -> Notification:
    return Notification("update_variable", {"variable_id": record.id, "field": name, "value": value})


def _values(form: dict[str, Any], bodies: Sequence[Body]) -> Array:
    _check_size(form["shape"])
    array: Array = decode(form["values"], bodies)
    return array


def _check_size(shape: Sequence[int]) -> None:
    if math.prod(shape) > MOST_ELEMENTS:
        raise LimitError(
            f"a tensor {list(shape)} has more than {MOST_ELEMENTS:,} elements",
            "take smaller ones, or gridkit's own client",
            code=ErrorCode.TOO_LARGE,
        )
