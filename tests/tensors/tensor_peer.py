"""A node by hand with remote tensors: the channel of `tests.client.rpc_peer`, a real `TensorSession` behind it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch

from gridkit.errors import GridkitError
from gridkit.runner.tensors.session import TensorSession
from gridkit.runner.tensors.variables import Told, Values
from gridkit.wire.rpc.messages import Request
from gridkit.wire.rpc.schemas import Direction, checked
from gridkit.wire.rpc.values import Body, Edge, encode
from tests.client.rpc_peer import Asked, Peer
from tests.client.rpc_peer import Session as PeerSession


def forms(value: Any) -> Any:
    """A value as `TensorSession` takes it."""
    return encode(value, [])


def ids(refs: Any) -> Any:
    return (
        None
        if refs is None
        else [None if r is None else (r.node, r.output_nr) if isinstance(r, Edge) else r.id for r in refs]
    )


class TensorPeer(Peer):
    """Answers the methods of remote tensors, each in one step of the loop, so in order.

    Attributes:
        tensors: what the session has.
        asked: methods and params, as they came.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tensors = TensorSession(memory=1 << 28, seconds=60, count=100_000, preview=4)
        for name in dir(self):
            if name.startswith("do_"):
                self.methods[name[3:]] = self._method(name[3:], getattr(self, name))

    async def start(self) -> None:
        torch.set_num_threads(1)  # it is the thread's own number
        await super().start()

    def _method(self, name: str, do: Callable[[PeerSession, dict[str, Any]], Any]) -> Callable[[Asked], Any]:
        def run(asked: Asked) -> Any:
            bodies: list[Body] = []
            sent = Request(name, encode(asked.params, bodies), asked.id)
            return do(asked.session, dict(checked(sent, Direction.TO_NODE, bodies=bodies)))

        return run

    # ---- telling

    def tell(self, session: PeerSession, told: Told) -> None:
        for node in told.nodes:
            saved = [{"name": name, "shape": list(shape)} for name, shape in node.saved]
            session.tell(
                "create_node",
                node_id=node.id,
                name=node.name,
                sequence=node.sequence,
                saved=saved,
                variable_id=node.variable,
            )
        for edge in told.edges:
            session.tell(
                "create_edge",
                from_node_id=edge.source,
                to_node_id=edge.target,
                output_nr=edge.output_nr,
                input_nr=edge.place,
            )
        for variable in (*told.variables, *told.changed):
            facts = {key: value for key, value in asdict(variable).items() if key not in ("id", "is_parameter", "data")}
            session.tell(
                "create_variable",
                variable_id=variable.id,
                parameter=variable.is_parameter,
                data=self.shown(variable.data),
                **facts,
            )
        if told.freed:
            session.tell("free_nodes", node_ids=list(told.freed))

    def shown(self, values: Values) -> dict[str, Any]:
        return {"dtype": values.dtype, "shape": list(values.shape), "values": values.values}

    # ---- methods

    def do_create_variable(self, session: PeerSession, p: dict[str, Any]) -> dict[str, Any]:
        self.tell(session, self.tensors.create(p["variable_id"], p["data"], p["requires_grad"], p["parameter"]))
        return {}

    def do_get_variable(self, session: PeerSession, p: dict[str, Any]) -> dict[str, Any]:
        return {"data": self.tensors.read(p["variable_id"])}

    def do_name_grad(self, session: PeerSession, p: dict[str, Any]) -> dict[str, Any]:
        told = self.tensors.name_grad(p["variable_id"], p["out_id"])
        self.tell(session, told)
        return {"variable_ids": [variable.id for variable in told.variables]}

    def do_update_variable(self, session: PeerSession, p: dict[str, Any]) -> dict[str, Any]:
        value = forms(p["value"]) if p["field"] == "grad" else p["value"]
        self.tell(session, self.tensors.update(p["variable_id"], p["field"], value))
        return {}

    def do_delete_variables(self, session: PeerSession, p: dict[str, Any]) -> dict[str, Any]:
        self.tensors.delete(p["variable_ids"])
        return {}

    def do_run_function(self, session: PeerSession, p: dict[str, Any]) -> dict[str, Any]:
        told = self.tensors.call(
            p["function_name"],
            [forms(arg) for arg in p["args"]],
            {key: forms(value) for key, value in p["kwargs"].items()},
            p["out_ids"],
            grad_enabled=p["grad_enabled"],
        )
        self.tell(session, told)
        return {"variable_ids": p["out_ids"]}

    def do_run_backward(self, session: PeerSession, p: dict[str, Any]) -> dict[str, Any]:
        touched: list[str] = []
        try:
            touched = self.tensors.reached(ids(p["variables"]), ids(p["inputs"]))
            told = self.tensors.backward(
                ids(p["variables"]),
                ids(p["grad_variables"]),
                retain_graph=p["retain_graph"],
                create_graph=p["create_graph"],
                inputs=ids(p["inputs"]),
            )
        except GridkitError as error:
            self.clear(session, "backward", p["pass_id"], touched, error)
            raise
        self.tell(session, told)
        self.clear(session, "backward", p["pass_id"], [variable.id for variable in told.variables])
        return {}

    def do_run_grad(self, session: PeerSession, p: dict[str, Any]) -> dict[str, Any]:
        told = self.tensors.grad(
            ids(p["variables"]),
            ids(p["inputs"]),
            p["out_ids"],
            ids(p["grad_variables"]),
            retain_graph=p["retain_graph"],
            create_graph=p["create_graph"],
            allow_unused=p["allow_unused"],
        )
        self.tell(session, told)
        self.clear(session, "backward", p["pass_id"], [])
        return {"variable_ids": [variable.id for variable in told.variables]}

    def do_create_optimizer(self, session: PeerSession, p: dict[str, Any]) -> dict[str, Any]:
        groups = [{**group.options, "params": ids(group.params)} for group in p["params"]]
        state = self.tensors.create_optimizer(p["optimizer_id"], p["optimizer_name"], groups, p["defaults"])
        return self.state(state)

    def do_set_options(self, session: PeerSession, p: dict[str, Any]) -> dict[str, Any]:
        return self.state(self.tensors.set_options(p["optimizer_id"], p["group"], p["options"]))

    def do_get_optimizer(self, session: PeerSession, p: dict[str, Any]) -> dict[str, Any]:
        return self.state(self.tensors.state(p["optimizer_id"]))

    def state(self, state: Any) -> dict[str, Any]:
        groups = [
            {"params": group["params"], "options": {k: v for k, v in group.items() if k != "params"}}
            for group in state.groups
        ]
        kept = {
            param: {key: self.shown(value) if isinstance(value, Values) else value for key, value in values.items()}
            for param, values in state.kept.items()
        }
        return {
            "optimizer_id": state.id,
            "optimizer_name": state.name,
            "defaults": state.defaults,
            "param_groups": groups,
            "state": kept,
        }

    def do_clear_grad(self, session: PeerSession, p: dict[str, Any]) -> dict[str, Any]:
        self.tell(session, self.tensors.zero_grad(p["optimizer_id"], p["set_to_none"]))
        return {}

    def do_run_step(self, session: PeerSession, p: dict[str, Any]) -> dict[str, Any]:
        try:
            told = self.tensors.step(p["optimizer_id"])
        except GridkitError as error:
            self.clear(session, "step", p["step_id"], [], error)
            raise
        self.tell(session, told)
        self.clear(session, "step", p["step_id"], [variable.id for variable in told.variables])
        return {}

    def do_seed(self, session: PeerSession, p: dict[str, Any]) -> dict[str, Any]:
        self.tensors.seed(p["seed"])
        return {}

    def clear(
        self, session: PeerSession, kind: str, id: str, touched: list[str], error: GridkitError | None = None
    ) -> None:
        session.tell(
            f"clear_{kind}",
            **{"pass_id" if kind == "backward" else "step_id": id},
            variable_ids=touched,
            status="done" if error is None else "failed",
            reason=None if error is None else error.message,
        )
