"""Tensors that live on the node, for the plain profile: what afnio's client asks, in the words of `gridkit.v1` for the
session's process, and the sentences that it wants to hear.

On the wire what explains an answer comes ahead of it (`PlainTelling`), and that a pass is over comes behind it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

from gridkit.errors import ErrorCode, NotFoundError, UsageError
from gridkit.node.rpc.functions import FUNCTIONS
from gridkit.node.rpc.plain_tensors import PlainTelling, Record
from gridkit.node.rpc.session import Asked, Method, Result
from gridkit.node.rpc.tensors import Answer
from gridkit.wire.rpc.messages import Notification, Profile, Reply
from gridkit.wire.rpc.results import read_result
from gridkit.wire.rpc.schemas import Direction
from gridkit.wire.rpc.values import Body, Callable, Variable, decode, encode, from_lists, to_lists

Answering = Coroutine[Any, Any, Any]

TORCH: Final = {
    name: f"torch.{name.lower()}"
    for name in (
        *("Add", "Sub", "Mul", "Div", "Pow", "MatMul", "Neg", "Abs", "Exp", "Log", "Sqrt", "Sin", "Cos", "Maximum"),
        *("Minimum", "Sigmoid", "Tanh", "ReLU", "Softmax", "Sum", "Mean", "Prod", "Max", "Min", "Reshape", "Transpose"),
    )
}
"""Functions of one tensor's result, by the names of classes of the client's users."""


class _Calls:
    """What a message asks of the session's process."""

    def __init__(self, asked: Asked) -> None:
        telling = asked.session.tensors.telling
        assert isinstance(telling, PlainTelling)
        self.asked, self.known = asked, telling
        self._answers: list[asyncio.Future[Answer]] = []

    def ask(self, method: str, bodies: list[Body] | None = None, **params: Any) -> None:
        self._answers.append(self.asked.session.tensors.ask(method, params, bodies or [], self.asked.work))

    def create(self, record: Record, data: Any) -> Record:
        """A new variable with this data."""
        array = from_lists(data, floating=record.requires_grad)
        self._answers.append(self.known.create(record, array, self.asked.work))
        return self.known.add(record)

    async def answers(self) -> list[Answer]:
        """All of them, in order; the first error is raised when all are there."""
        waited = [await self._outcome(answer) for answer in self._answers]
        for each in waited:
            if isinstance(each, Exception):
                raise each
        return [each for each in waited if isinstance(each, Answer)]

    async def _outcome(self, answer: asyncio.Future[Answer]) -> Answer | Exception:
        try:
            return await self.asked.session.tensors.outcome(answer)
        except Exception as error:  # noqa: BLE001  raised above
            return error

    def form(self, value: Any) -> Any:
        """An argument as the process is given it."""
        if isinstance(value, Variable):
            return self.known.find(value.id).reference
        if isinstance(value, list):
            return [self.form(each) for each in value]
        return encode(value, [])


def create_variable(asked: Asked) -> Answering:
    calls, params = _Calls(asked), asked.params
    record = Record(
        calls.known.new_id(), params.role, params.obj_type == "__parameter__", requires_grad=params.requires_grad
    )
    calls.create(record, params.data)

    async def answer() -> dict[str, Any]:
        try:
            await calls.answers()
        except BaseException:
            calls.known.remove(record)
            raise
        return {"message": "Variable created successfully.", "variable_id": record.id}

    return answer()


def get_variable(asked: Asked) -> Answering:
    calls = _Calls(asked)
    record = calls.known.find(asked.params.variable_id)
    calls.ask("get_variable", variable_id=record.tensor)

    async def answer() -> dict[str, Any]:
        (read,) = await calls.answers()
        shown = {**record.shown(), "data": to_lists(decode(read.result["data"], read.bodies))}
        return {**shown, "grad": shown["_grad"], "output_nr": shown["_output_nr"]}

    return answer()


def update_variable(asked: Asked) -> Answering:
    """What torch knows itself (whether it is a leaf, which result it is) is taken as said, and not changed."""
    calls, params = _Calls(asked), asked.params
    record, value = calls.known.find(params.variable_id), params.value
    match params.field:
        case "data":
            array = from_lists(value, floating=record.dtype.startswith("float")).astype(record.dtype)
            bodies: list[Body] = []
            calls.ask("update_variable", bodies, variable_id=record.tensor, field="data", value=encode(array, bodies))
        case "role":
            record.role = value
        case "requires_grad" if value == record.requires_grad:
            pass  # torch refuses that too where it is a result's
        case "requires_grad" if value and not record.dtype.startswith("float"):
            whole = record.tensor  # numbers without gradients: from now on it is the same as float32
            calls.known.rename(record, calls.known.new_id())
            calls.ask("delete_variables", variable_ids=[whole])
            record.requires_grad = True
            calls.known.create(record, from_lists(record.data, floating=True), asked.work)
        case "requires_grad":
            calls.ask("update_variable", variable_id=record.tensor, field="requires_grad", value=value)
        case "_retain_grad" if value:
            calls.ask("update_variable", variable_id=record.tensor, field="retains_grad", value=True)
        case "_grad":
            gradients = [calls.known.find(gradient.id) for gradient in value]
            calls.ask("update_variable", variable_id=record.tensor, field="grad", value=None)
            for gradient in gradients:
                calls.ask("append_grad", variable_id=record.tensor, gradient=gradient.reference)
        case "_grad_fn" if value is not None:  # a += b is a + b under the name of a
            result = calls.known.result_of(value, record.output_nr)
            if result is None:
                raise NotFoundError(f"no variable comes from node '{value}'", code=ErrorCode.NOT_FOUND, status=404)
            calls.known.rename(record, result.tensor)
            record.grad_fn, record.is_leaf, record.requires_grad = value, False, True

    async def answer() -> dict[str, Any]:
        await calls.answers()
        if params.field == "_grad":
            record.grads = [gradient.id for gradient in value]
        return {"variable_id": record.id, "field": params.field, "value": asked.raw["value"]}

    return answer()


def append_grad(asked: Asked) -> Answering:
    calls = _Calls(asked)
    record = calls.known.find(asked.params.variable_id)
    gradient = calls.known.find(asked.params.gradient.id)
    calls.ask("append_grad", variable_id=record.tensor, gradient=gradient.reference)

    async def answer() -> dict[str, Any]:
        await calls.answers()
        record.grads.append(gradient.id)
        return {"variable_id": record.id, "gradient_id": gradient.id}

    return answer()


# ---- functions


def run_function(asked: Asked) -> Answering:
    """A function of the node's own, one of torch's, or the client's own function on values from here."""
    name = asked.params.function_name
    if name in FUNCTIONS:
        return FUNCTIONS[name](asked)
    if name == "Evaluate":
        return _evaluate(asked)
    if name not in TORCH:
        known = ", ".join((*FUNCTIONS, "Evaluate", *TORCH))
        raise NotFoundError(
            f"this node has no function '{name}'", f"it has {known}", code=ErrorCode.NOT_FOUND, status=404
        )
    calls, params = _Calls(asked), asked.params
    args = [calls.form(arg) for arg in params.args]
    kwargs = {name: calls.form(value) for name, value in params.kwargs.items()}
    record = Record(calls.known.new_id(), f"{name} result")
    stacked = calls.known.new_id() if name == "Sum" and args and isinstance(args[0], list) else None
    made = {"grad_enabled": params.grad_enabled}
    if stacked is not None:  # the sum of several variables
        calls.ask("run_function", function_name="torch.stack", args=[args[0]], kwargs={}, out_ids=[stacked], **made)
        args = [{"__variable__": True, "variable_id": stacked}, 0]
    out = {"out_ids": [record.tensor], **made}
    calls.ask("run_function", function_name=TORCH[name], args=args, kwargs=kwargs, **out)
    if stacked is not None:
        calls.ask("delete_variables", variable_ids=[stacked])
    calls.known.add(record)

    async def answer() -> dict[str, Any]:
        try:
            await calls.answers()
        except BaseException:
            calls.known.remove(record)
            raise
        return {"data": record.shown()}

    return answer()


def _evaluate(asked: Asked) -> Answering:
    """``Evaluate(…, function)``: the client's function on the values of the others, which it gets as numbers."""
    calls, (*args, function) = _Calls(asked), asked.params.args or [None]
    if not isinstance(function, Callable):
        raise UsageError("the last argument of Evaluate is a function of the client's", code=ErrorCode.BAD_REQUEST)
    for arg in args:
        if isinstance(arg, Variable):
            calls.ask("get_variable", variable_id=calls.known.find(arg.id).tensor)

    async def answer() -> dict[str, Any]:
        read = iter([to_lists(decode(each.result["data"], each.bodies)) for each in await calls.answers()])
        given = [next(read) if isinstance(arg, Variable) else arg for arg in args]
        question = {"callable_id": function.id, "args": given, "kwargs": asked.params.kwargs}
        said = (await asked.session.call("run_callable", question)).message
        assert isinstance(said, Reply)
        score = read_result("run_callable", said.result, Direction.TO_CLIENT, Profile.PLAIN)
        made = _Calls(asked)
        record = made.create(Record(made.known.new_id(), "evaluation"), getattr(score, "data", None))
        await made.answers()
        return {"data": record.shown()}

    return answer()


# ---- passes


def get_backprop_ids(asked: Asked) -> Answering:
    calls = _Calls(asked)
    calls.ask("get_backprop_ids", variables=[calls.form(each) for each in asked.params.variables])

    async def answer() -> dict[str, Any]:
        (reached,) = await calls.answers()
        return {"variable_ids": calls.known.ids_of(reached.result["variable_ids"])}

    return answer()


def run_backward(asked: Asked) -> Answering:
    calls, params = _Calls(asked), asked.params
    gradients = [params.grad_variables] if isinstance(params.grad_variables, Variable) else params.grad_variables
    calls.ask(
        "run_backward",
        pass_id=calls.known.new_id(),
        variables=[calls.form(each) for each in params.variables],
        grad_variables=calls.form(gradients),
        retain_graph=params.retain_graph,
        create_graph=params.create_graph,
        inputs=None if params.inputs is None else [calls.form(each) for each in params.inputs],
    )

    async def answer() -> Result:
        (done,) = await calls.answers()
        over = Notification("clear_backward", {"variable_ids": calls.known.ids_of(done.names)})
        return Result({"message": "Backward pass executed successfully."}, after=[over])

    return answer()


# ---- optimizers


def _group(calls: _Calls, group: Any) -> tuple[list[str], dict[str, Any], dict[str, Any]]:
    """Ids of its parameters, and the group as the process and as the client are given it."""
    params = group.get("params") if isinstance(group, dict) else None
    params = [params] if isinstance(params, Variable) else params
    if not isinstance(params, list) or not all(isinstance(each, Variable) for each in params):
        raise UsageError("the params of an optimizer are variables", code=ErrorCode.BAD_REQUEST)
    options = {name: calls.form(value) for name, value in group.items() if name != "params"}
    asked = {"params": [calls.form(each) for each in params], "options": options}
    return [each.id for each in params], asked, {"params": [encode(each) for each in params], **options}


def create_optimizer(asked: Asked) -> Answering:
    calls, params = _Calls(asked), asked.params
    plain = [each for each in params.params if isinstance(each, Variable)]
    groups = [_group(calls, each) for each in ([{"params": plain}] if plain else params.params)]
    defaults = {name: calls.form(value) for name, value in params.defaults.items()}
    optimizer = calls.known.new_id()
    calls.ask(
        "create_optimizer",
        optimizer_id=optimizer,
        optimizer_name=params.optimizer_name,
        params=[group for _, group, _ in groups],
        defaults=defaults,
    )
    calls.known.optimizers[optimizer] = [id for ids, _, _ in groups for id in ids]

    async def answer() -> dict[str, Any]:
        try:
            await calls.answers()
        except BaseException:
            calls.known.optimizers.pop(optimizer, None)
            raise
        shown = [{**defaults, **group} for _, _, group in groups]
        return {"optimizer_id": optimizer, "defaults": defaults, "state": [], "param_groups": shown}

    return answer()


def _parameters(calls: _Calls, optimizer: str) -> list[str]:
    if optimizer not in calls.known.optimizers:
        raise NotFoundError(f"there is no optimizer '{optimizer}'", code=ErrorCode.NOT_FOUND, status=404)
    return calls.known.optimizers[optimizer]


def add_param_group(asked: Asked) -> Answering:
    calls, optimizer = _Calls(asked), asked.params.optimizer_id
    known = _parameters(calls, optimizer)
    ids, group, shown = _group(calls, asked.params.param_group)
    calls.ask("add_param_group", optimizer_id=optimizer, param_group=group)

    async def answer() -> dict[str, Any]:
        await calls.answers()
        known.extend(ids)
        return {"param_group": shown}

    return answer()


def clear_grad(asked: Asked) -> Answering:
    calls = _Calls(asked)
    _parameters(calls, asked.params.optimizer_id)
    calls.ask("clear_grad", optimizer_id=asked.params.optimizer_id)

    async def answer() -> dict[str, Any]:
        await calls.answers()
        return {"message": "Gradients cleared successfully."}

    return answer()


def run_step(asked: Asked) -> Answering:
    calls = _Calls(asked)
    ids = _parameters(calls, asked.params.optimizer_id)
    calls.ask("run_step", optimizer_id=asked.params.optimizer_id, step_id=calls.known.new_id())

    async def answer() -> Result:
        await calls.answers()
        over = Notification("clear_step", {"variable_ids": list(ids)})
        return Result({"message": "Optimizer step executed successfully.", "state": []}, after=[over])

    return answer()


METHODS: Final = {
    handler.__name__: Method(handler)
    for handler in (
        *(create_variable, get_variable, update_variable, append_grad, run_function, get_backprop_ids, run_backward),
        *(create_optimizer, add_param_group, clear_grad, run_step),
    )
}
