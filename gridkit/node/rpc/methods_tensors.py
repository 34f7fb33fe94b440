"""Tensors that live on the node, for `gridkit.v1`: handed on to the session's process, in the order in which they
come."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from functools import partial
from typing import Any, Final

from gridkit.errors import ErrorCode, GridkitError, UsageError
from gridkit.node.rpc.functions import FUNCTIONS, Function
from gridkit.node.rpc.session import Asked, Method, Result, Session
from gridkit.node.rpc.tensors import Closing, Events
from gridkit.wire.rpc.messages import MAX_EVENTS, Notification, Profile, Reply
from gridkit.wire.rpc.results import read_result
from gridkit.wire.rpc.schemas import Direction
from gridkit.wire.rpc.values import Body, Callable

PREVIEW: Final = 16
"""elements of a tensor that is told with its values; others are fetched"""
MOST_REASON: Final = 4000
"""characters"""


class V1Telling:
    """What the process tells is what the notebook is told."""

    preview = PREVIEW

    def __init__(self, session: Session) -> None:
        self._session = session

    async def tell(self, events: Events, bodies: Sequence[Body]) -> None:
        """In one frame: the notebook drops nodes to which nothing leads by the next reply."""
        for start in range(0, len(events), MAX_EVENTS):
            await self._session.tell(events[start : start + MAX_EVENTS], bodies)

    def pass_by(self, event: Notification) -> None:
        self._session.pass_by((event.method, event.params["node_id"]), event)

    def lost(self, reason: GridkitError) -> Events:
        text = f"All tensors of this session are lost: {reason.message}."
        return [Notification("log", {"level": "warning", "text": text})]


def cleared(method: str, member: str, id: str) -> Closing:
    """Says that a pass or a step is over."""

    def closing(error: GridkitError | None, names: list[str]) -> Events:
        cancelled = error is not None and error.code is ErrorCode.CANCELLED
        status = "done" if error is None else "cancelled" if cancelled else "failed"
        reason = None if error is None else error.message[:MOST_REASON]
        return [Notification(method, {member: id, "variable_ids": names, "status": status, "reason": reason})]

    return closing


def hand_on(method: str, asked: Asked) -> Coroutine[Any, Any, Result]:
    """Ask the process the same. That is done here, in order; what is given back waits for the answer."""
    closing = None
    if method in ("run_backward", "run_grad"):
        closing = cleared("clear_backward", "pass_id", asked.params.pass_id)
    elif method == "run_step":
        closing = cleared("clear_step", "step_id", asked.params.step_id)
    tensors = asked.session.tensors
    answer = tensors.ask(method, asked.raw, asked.bodies, asked.work, closing)

    async def outcome() -> Result:
        done = await tensors.outcome(answer)
        return Result(done.result, done.bodies)

    return outcome()


def evaluate(asked: Asked) -> Coroutine[Any, Any, Result]:
    """``Evaluate(…, function)``: the notebook's function on the others, which it gets as they are: tensors of the
    session by reference, others in their bodies. So is its result given back."""
    *args, function = asked.raw["args"] or [None]
    if not (asked.params.args and isinstance(asked.params.args[-1], Callable)) or asked.params.out_ids:
        raise UsageError(
            "the last argument of Evaluate is a function of the notebook's, and its results have ids already",
            code=ErrorCode.BAD_REQUEST,
        )

    async def outcome() -> Result:
        asked.work.progress.update(phase="the notebook's function runs")
        question = {"callable_id": function["callable_id"], "args": args, "kwargs": asked.raw["kwargs"]}
        said = await asked.session.call("run_callable", {**question, "parent": asked.work.id}, asked.bodies)
        assert isinstance(said.message, Reply)
        read_result("run_callable", said.message.result, Direction.TO_CLIENT, Profile.V1, said.bodies)
        return Result({"data": said.message.result["data"]}, said.bodies)

    return outcome()


OWN: Final[dict[str, Function]] = {**FUNCTIONS, "Evaluate": evaluate}


def run_function(asked: Asked) -> Coroutine[Any, Any, Any]:
    """A function of the node's own, or of torch."""
    function = OWN.get(asked.params.function_name)
    return hand_on("run_function", asked) if function is None else function(asked)


HANDED_ON: Final = (
    *("create_variable", "get_variable", "name_grad", "update_variable", "append_grad", "delete_variables"),
    *("get_backprop_ids", "run_backward", "run_grad", "seed"),
    *("create_optimizer", "add_param_group", "set_options", "get_optimizer", "name_state", "clear_grad", "run_step"),
)
METHODS: Final = {
    **{method: Method(partial(hand_on, method)) for method in HANDED_ON},
    "run_function": Method(run_function),
}
