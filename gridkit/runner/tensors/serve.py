"""The loop of a session's process: one request after the other, in the words of `gridkit.v1`.

A frame of the node's is ``{"number": n, "sizes": […]}``: the first part is ``{"method": m, "params": p}`` as JSON, the
others are the tensors' bytes; or ``{"cancel": n}``, which is seen at once: a request that waits isn't begun, a backward
pass ends at its next node.

A frame of this process has as its first part ``{"events": […], "fired": […], "total": n}``: what the notebook is to be
told, what it may be told, and how many nodes a pass may come through. The last frame of a request has also
``"answer": n``, with ``"result"`` or ``"error"``, and ``"names"``, the variables that a pass or a step changes, and
``"count"``, what there is in the session. Its header says how many of the parts belong to the ``events``; the others
are the result's.
"""

from __future__ import annotations

import json
import queue
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from gridkit.errors import ErrorCode, GridkitError, PlanError
from gridkit.runner.compute import out_of_memory
from gridkit.runner.tensors import reports
from gridkit.runner.tensors.passes import GradAppended, NodeFired
from gridkit.runner.tensors.session import TensorSession
from gridkit.runner.tensors.telling import Event, Teller, appended_form, fired_form, state_form
from gridkit.runner.tensors.variables import Told, dtype_name, tensor_of
from gridkit.wire.frames import cut, pack_frame, read_frame
from gridkit.wire.rpc import v1
from gridkit.wire.rpc.members import Members, read_members
from gridkit.wire.rpc.values import Body, Edge, Variable, decode, encode

FLUSH_SECONDS = 0.05
"""what a pass tells on its way is sent together for so long"""
FLUSH_EVENTS = 1000
"""or until there are so many"""

Outcome = tuple[Told, Any]


def rehearse() -> None:
    """All that loads further parts of torch when it is first used."""
    session = TensorSession(1 << 20, 60.0, 100)
    session.create("x", np.ones(2, np.float32), requires_grad=True)
    reference = {"__variable__": True, "variable_id": "x"}
    session.call("torch.sum", [reference], {}, ["y"])
    session.backward(["y"])
    session.create_optimizer("o", "SGD", [{"params": ["x"]}], {"lr": 0.1})
    session.step("o")


class Cancelled(PlanError):
    """The notebook doesn't want it any more."""

    def __init__(self) -> None:
        super().__init__("the request was cancelled", code=ErrorCode.CANCELLED)


class Server:
    """What the process does until the node hangs up.

    Args:
        results: bytes that may be read at a time.
        frame: bytes of the longest frame that is read.
    """

    def __init__(self, channel: socket.socket, session: TensorSession, results: int, frame: int) -> None:
        self._channel, self._session = channel, session
        self._results, self._frame = results, frame
        self._teller = Teller()
        self._inbox: queue.SimpleQueue[tuple[int, list[bytes]] | None] = queue.SimpleQueue()
        self._cancelled: set[int] = set()
        self._begun = 0  # the last request that was
        self._names: list[str] = []
        self._arrays: list[bytes] = []  # of the request
        self._total = 0
        self._clear()
        self._methods: dict[str, Callable[[Any, dict[str, Any], list[Body]], Outcome]] = {
            "create_variable": self._create_variable,
            "get_variable": self._get_variable,
            "name_grad": self._name_grad,
            "update_variable": self._update_variable,
            "append_grad": self._append_grad,
            "delete_variables": self._delete_variables,
            "run_function": self._run_function,
            "get_backprop_ids": self._get_backprop_ids,
            "run_backward": self._run_backward,
            "run_grad": self._run_grad,
            "create_optimizer": self._create_optimizer,
            "add_param_group": self._add_param_group,
            "set_options": self._set_options,
            "get_optimizer": self._get_optimizer,
            "name_state": self._name_state,
            "clear_grad": self._clear_grad,
            "run_step": self._run_step,
            "seed": self._seed,
            "reserve": self._reserve,
            "fill": self._fill,
            "take": self._take,
        }

    def serve(self) -> None:
        threading.Thread(target=self._read, daemon=True).start()
        while (request := self._inbox.get()) is not None:
            self._do(*request)

    def _read(self) -> None:
        with self._channel.makefile("rb") as frames:
            while (frame := read_frame(frames, self._frame)) is not None:
                header, body = frame
                if "cancel" in header:
                    self._cancelled.add(header["cancel"])
                else:
                    self._inbox.put((header["number"], cut(body, header["sizes"])))
        self._inbox.put(None)

    def _do(self, number: int, parts: list[bytes]) -> None:
        self._begun = number
        self._cancelled = {other for other in self._cancelled if other >= number}
        asked = json.loads(parts[0])
        answer: dict[str, Any] = {"answer": number}
        bodies: list[Body] = []
        self._names, self._total = [], 0
        try:
            self._go_on()
            method, raw = asked["method"], asked["params"]
            self._arrays = parts[1:]
            params: Members = read_members(v1.TO_RUNNER[method], raw, self._arrays)
            told, answer["result"] = self._methods[method](params, raw, bodies)
            self._events += self._teller.events(told, self._bodies)
        except GridkitError as error:
            answer["error"] = _error(error)
            bodies.clear()
        except MemoryError:
            answer["error"] = _error(out_of_memory("the computation"))
            bodies.clear()
        answer["names"], answer["count"] = self._names, len(self._session)
        self._send(answer, bodies)

    def _go_on(self) -> None:
        if self._begun in self._cancelled:
            raise Cancelled

    # ---- telling

    def _clear(self) -> None:
        self._events: list[Event] = []
        self._fired: list[dict[str, Any]] = []
        self._bodies: list[Body] = []
        self._since = time.monotonic()

    def _send(self, answer: dict[str, Any], bodies: list[Body]) -> None:
        said = {"events": self._events, "fired": self._fired, "total": self._total, **answer}
        text = json.dumps(said, separators=(",", ":")).encode()
        parts = [text, *map(bytes, self._bodies), *map(bytes, bodies)]
        header = {"sizes": [len(part) for part in parts], "told": len(self._bodies)}
        self._channel.sendall(pack_frame(header, parts))
        self._clear()

    def _emitter(self, pass_id: str) -> Callable[[NodeFired | GradAppended], None]:
        def emit(event: NodeFired | GradAppended) -> None:
            self._go_on()
            if isinstance(event, NodeFired):
                self._fired.append(fired_form(event, pass_id))
            else:
                self._events.append(appended_form(event, pass_id, self._bodies))
            count = len(self._events) + len(self._fired)
            if count >= FLUSH_EVENTS or time.monotonic() - self._since >= FLUSH_SECONDS:
                self._send({}, [])

        return emit

    # ---- variables

    def _create_variable(self, p: v1.CreateVariable, raw: dict[str, Any], bodies: list[Body]) -> Outcome:
        return self._session.create(p.variable_id, p.data, p.requires_grad, p.parameter), {}

    def _get_variable(self, p: v1.VariableId, raw: dict[str, Any], bodies: list[Body]) -> Outcome:
        size = self._session.size(p.variable_id)
        if size > self._results:
            text = f"tensor {p.variable_id!r} has {size:,} bytes; {self._results:,} can be fetched at a time"
            raise PlanError(text, "fetch parts of it, such as t[:1000].get()", code=ErrorCode.TOO_LARGE)
        return Told(), {"data": encode(self._session.read(p.variable_id), bodies)}

    def _name_grad(self, p: v1.NameGrad, raw: dict[str, Any], bodies: list[Body]) -> Outcome:
        return _named(self._session.name_grad(p.variable_id, p.out_id))

    def _update_variable(self, p: v1.UpdateVariable, raw: dict[str, Any], bodies: list[Body]) -> Outcome:
        value = raw["value"] if isinstance(p.value, Variable) else p.value
        return self._session.update(p.variable_id, p.field, value), {}

    def _append_grad(self, p: v1.AppendGrad, raw: dict[str, Any], bodies: list[Body]) -> Outcome:
        return self._session.append_grad(p.variable_id, p.gradient.id), {}

    def _delete_variables(self, p: v1.DeleteVariables, raw: dict[str, Any], bodies: list[Body]) -> Outcome:
        self._session.delete(p.variable_ids)
        self._teller.forget(p.variable_ids)
        return Told(), {}

    def _seed(self, p: v1.Seed, raw: dict[str, Any], bodies: list[Body]) -> Outcome:
        self._session.seed(p.seed)
        return Told(), {}

    # ---- what only the node asks

    def _reserve(self, p: v1.Reserve, raw: dict[str, Any], bodies: list[Body]) -> Outcome:
        zeros = np.zeros(tuple(p.shape), p.dtype)
        return self._session.create(p.variable_id, zeros, private=p.private), {}

    def _fill(self, p: v1.Fill, raw: dict[str, Any], bodies: list[Body]) -> Outcome:
        reports.fill(self._session.tensor(p.variable_id), p.start, p.data)
        return Told(), {}

    def _take(self, p: v1.Take, raw: dict[str, Any], bodies: list[Body]) -> Outcome:
        tensor = self._session.tensor(p.variable_id)
        data = reports.taken(tensor, p.size)
        kind = {"dtype": dtype_name(tensor.dtype), "shape": list(tensor.shape)}
        return Told(), {**kind, "data": None if data is None else encode(data, bodies)}

    # ---- functions and passes

    def _run_function(self, p: v1.RunFunction, raw: dict[str, Any], bodies: list[Body]) -> Outcome:
        args, kwargs = _with_arrays(raw["args"], self._arrays), _with_arrays(raw["kwargs"], self._arrays)
        return _named(self._session.call(p.function_name, args, kwargs, p.out_ids, grad_enabled=p.grad_enabled))

    def _get_backprop_ids(self, p: v1.BackpropIds, raw: dict[str, Any], bodies: list[Body]) -> Outcome:
        return Told(), {
            "variable_ids": self._session.reached(_ids(p.variables), None if p.inputs is None else _ids(p.inputs))
        }

    def _run_backward(self, p: v1.RunBackward, raw: dict[str, Any], bodies: list[Body]) -> Outcome:
        roots, inputs = _ids(p.variables), None if p.inputs is None else _ids(p.inputs)
        self._names, self._total = self._session.reached(roots, inputs), self._session.extent(roots)
        told = self._session.backward(
            roots,
            _gradients(p.grad_variables),
            retain_graph=p.retain_graph,
            create_graph=p.create_graph,
            inputs=inputs,
            emit=self._emitter(p.pass_id),
        )
        return told, {}

    def _run_grad(self, p: v1.RunGrad, raw: dict[str, Any], bodies: list[Body]) -> Outcome:
        roots = _ids(p.variables)
        self._total = self._session.extent(roots)
        return _named(
            self._session.grad(
                roots,
                [(each.node, each.output_nr) if isinstance(each, Edge) else each.id for each in p.inputs],
                p.out_ids,
                _gradients(p.grad_variables),
                retain_graph=p.retain_graph,
                create_graph=p.create_graph,
                allow_unused=p.allow_unused,
                emit=self._emitter(p.pass_id),
            )
        )

    # ---- optimizers

    def _create_optimizer(self, p: v1.CreateOptimizer, raw: dict[str, Any], bodies: list[Body]) -> Outcome:
        groups = [_group(group, form) for group, form in zip(p.params, raw["params"], strict=True)]
        state = self._session.create_optimizer(p.optimizer_id, p.optimizer_name, groups, raw["defaults"])
        return Told(), state_form(state, bodies)

    def _add_param_group(self, p: v1.AddParamGroup, raw: dict[str, Any], bodies: list[Body]) -> Outcome:
        state = self._session.add_group(p.optimizer_id, _group(p.param_group, raw["param_group"]))
        return Told(), state_form(state, bodies)

    def _set_options(self, p: v1.SetOptions, raw: dict[str, Any], bodies: list[Body]) -> Outcome:
        return Told(), state_form(self._session.set_options(p.optimizer_id, p.group, raw["options"]), bodies)

    def _get_optimizer(self, p: v1.OptimizerId, raw: dict[str, Any], bodies: list[Body]) -> Outcome:
        return Told(), state_form(self._session.state(p.optimizer_id), bodies)

    def _name_state(self, p: v1.NameState, raw: dict[str, Any], bodies: list[Body]) -> Outcome:
        return _named(self._session.name_state(p.optimizer_id, p.variable_id, p.key, p.out_id))

    def _clear_grad(self, p: v1.ClearGrad, raw: dict[str, Any], bodies: list[Body]) -> Outcome:
        return self._session.zero_grad(p.optimizer_id, p.set_to_none), {}

    def _run_step(self, p: v1.RunStep, raw: dict[str, Any], bodies: list[Body]) -> Outcome:
        self._names = self._session.stepped(p.optimizer_id)
        return self._session.step(p.optimizer_id), {}


def _error(error: GridkitError) -> dict[str, Any]:
    return {"message": error.message, "hint": error.hint, "code": str(error.code)}


def _named(told: Told) -> Outcome:
    """The ids of what there is now."""
    return told, {"variable_ids": [variable.id for variable in told.variables]}


def _with_arrays(form: Any, bodies: list[bytes]) -> Any:
    """Arguments with tensors, there for the call only, in place of arrays."""
    if not bodies:
        return form
    if isinstance(form, list):
        return [_with_arrays(each, bodies) for each in form]
    if isinstance(form, dict):
        if "__tensor__" in form:
            return tensor_of(decode(form, bodies))
        return {name: _with_arrays(each, bodies) for name, each in form.items()}
    return form


def _ids(variables: list[Variable]) -> list[str]:
    return [variable.id for variable in variables]


def _gradients(variables: list[Variable | None] | None) -> list[str | None] | None:
    return None if variables is None else [None if each is None else each.id for each in variables]


def _group(group: v1.ParamGroup, form: dict[str, Any]) -> dict[str, Any]:
    return {"params": _ids(group.params), **form.get("options", {})}
