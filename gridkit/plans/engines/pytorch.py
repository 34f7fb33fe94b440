"""Execute a plan with torch: the door, and the reference engine.

The reference engine, an interpreter, turns a plan once into a list of steps, each a torch function with the places of
its arguments, and takes them one after the other. The engine that is used by default, `engines.generated`, has the same
bits and less to do between the kernels. Both drop values at once that nobody needs any more.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch

from gridkit.errors import PlanError
from gridkit.plans.check import check_guards, dry_run, label, last_uses
from gridkit.plans.engines.generated import generate
from gridkit.plans.engines.kernels import function_of, has_reference, literal, torch_dtype
from gridkit.plans.plan import Arg, Plan, Ref

Engine = Callable[[Sequence[Any]], list[Any]]

Step = tuple[Callable[..., Any], Callable[[list[Any]], tuple[Any, ...]], int, tuple[int | None, ...], tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Program:
    """A plan made ready for the interpreter. `blank` has constants and literals at their places, None elsewhere."""

    plan: Plan
    blank: list[Any]
    inputs: tuple[int, ...]
    steps: tuple[Step, ...]
    nodes: tuple[int, ...]
    outputs: tuple[int, ...]

    def __call__(self, values: Sequence[Any]) -> list[Any]:
        env = self.blank.copy()
        for place, value in zip(self.inputs, values, strict=True):
            env[place] = value
        at = 0
        try:
            for function, take, place, many, dead in self.steps:
                result = function(*take(env))
                if many:
                    for id, part in zip(many, result, strict=True):
                        if id is not None:
                            env[id] = part
                else:
                    env[place] = result
                for id in dead:
                    env[id] = None
                at += 1
        except (RuntimeError, IndexError, ValueError, TypeError, ArithmeticError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise PlanError(f"{label(self.plan, self.nodes[at])} failed: {reason}") from error
        return [env[place] for place in self.outputs]


class _Builder:
    """Gives every literal a place of its own, so that a step's arguments are nothing but places."""

    def __init__(self, plan: Plan) -> None:
        ids = [i.id for i in plan.inputs] + [i for n in plan.nodes for i in n.out if i is not None]
        self.blank: list[Any] = [None] * (max([*ids, *plan.constants], default=-1) + 1)
        for id, array in plan.constants.items():
            self.blank[id] = torch.tensor(array)
        self.steps: list[Step] = []
        self.nodes: list[int] = []

    def place(self, arg: Arg) -> int:
        if isinstance(arg, Ref):
            return arg.id
        self.blank.append(literal(arg))
        return len(self.blank) - 1

    def gather(self, arg: Arg, index: int) -> int:
        """The place of an argument; a list with references becomes a step that builds it."""
        if not (isinstance(arg, tuple) and any(isinstance(a, Ref) for a in arg)):
            return self.place(arg)
        take = _taker([self.place(a) for a in arg])
        self.blank.append(None)
        self.add(_listed, take, len(self.blank) - 1, (), (), index)
        return len(self.blank) - 1

    def add(
        self,
        function: Callable[..., Any],
        take: Callable[[list[Any]], tuple[Any, ...]],
        place: int,
        many: tuple[int | None, ...],
        dead: tuple[int, ...],
        index: int,
    ) -> None:
        self.steps.append((function, take, place, many, dead))
        self.nodes.append(index)


def _listed(*items: Any) -> list[Any]:
    return list(items)


def _taker(places: list[int]) -> Callable[[list[Any]], tuple[Any, ...]]:
    """A function that takes those places out of a list, as a tuple."""
    if len(places) == 1:
        (only,) = places
        return lambda env: (env[only],)
    if not places:
        return lambda env: ()
    return operator.itemgetter(*places)


def _with_keywords(function: Callable[..., Any], names: tuple[str, ...]) -> Callable[..., Any]:
    count = len(names)
    if count == 1:
        (name,) = names
        return lambda *values: function(*values[:-1], **{name: values[-1]})
    return lambda *values: function(*values[:-count], **dict(zip(names, values[-count:], strict=True)))


def program(plan: Plan, engine: Literal["generated", "interpreter"] = "generated", donate: bool = False) -> Engine:
    """The plan as a function from a list of inputs to the list of outputs; made once and kept with the plan.

    It takes inputs that are known to fit (right shapes and dtypes, the learning rate as a float), after a dry run for
    their batch size. Call it inside `torch.no_grad` or `torch.inference_mode`.

    Args:
        plan: a checked plan.
        engine: how it is executed; both engines give the same bits.
        donate: the generated engine may write new parameters, buffers and optimiser state over those it was given.
            Each of these must be a tensor of its own that no one else reads.

    Raises:
        PlanError: when called: an operation fails; the message names the node.
    """
    key = ("torch", engine, donate)
    if key not in plan._memo:
        plan._memo[key] = generate(plan, donate) if engine == "generated" else interpreted(plan)
    made: Engine = plan._memo[key]
    return made


def interpreted(plan: Plan) -> Program:
    """The plan's steps for the interpreter."""
    builder = _Builder(plan)
    for index, (node, dying) in enumerate(zip(plan.nodes, last_uses(plan), strict=True)):
        function = function_of(node.op)
        fixed = {k: literal(v) for k, v in node.kwargs if not has_reference(v)}
        if fixed:
            function = partial(function, **fixed)
        free = [(k, v) for k, v in node.kwargs if has_reference(v)]
        if free:
            function = _with_keywords(function, tuple(k for k, _ in free))
        places = [builder.gather(a, index) for a in (*node.args, *(v for _, v in free))]
        single = len(node.out) == 1
        place = node.out[0] if single and node.out[0] is not None else -1
        builder.add(function, _taker(places), place, () if single else node.out, dying, index)
    inputs, outputs = tuple(i.id for i in plan.inputs), tuple(o.id for o in plan.outputs)
    return Program(plan, builder.blank, inputs, tuple(builder.steps), tuple(builder.nodes), outputs)


def run(plan: Plan, inputs: Sequence[torch.Tensor | float]) -> list[torch.Tensor]:
    """Check the inputs, do the dry run for this batch size, execute; see `Plan.run`."""
    values = checked(plan, inputs)
    with torch.no_grad():
        results: list[torch.Tensor] = program(plan)(values)
    return results


def checked(plan: Plan, inputs: Sequence[torch.Tensor | float]) -> list[Any]:
    """The inputs as a program takes them, after a look at shapes and dtypes and the dry run.

    Raises:
        PlanError: an input doesn't fit; the message names it.
    """
    if len(inputs) != len(plan.inputs):
        raise PlanError(f"plan {plan.name!r} takes {len(plan.inputs)} inputs, got {len(inputs)}")
    batch: int | None = None
    values: list[Any] = []
    for spec, value in zip(plan.inputs, inputs, strict=True):
        if spec.role == "lr":
            values.append(float(value))
            continue
        tensor = torch.as_tensor(value)
        if spec.shape[:1] == ("B",) and tensor.ndim:
            batch = tensor.shape[0] if batch is None else batch
        wanted = tuple(batch if s == "B" else s for s in spec.shape)
        if tuple(tensor.shape) != wanted:
            text = f"[{', '.join(map(str, spec.shape))}]"
            raise PlanError(f"input {spec.name!r} of plan {plan.name!r} is {list(tensor.shape)}, expected {text}")
        if tensor.dtype != torch_dtype(spec.dtype):
            dtype = str(tensor.dtype).removeprefix("torch.")
            raise PlanError(f"input {spec.name!r} of plan {plan.name!r} is {dtype}, expected {spec.dtype}")
        values.append(tensor)
    if batch == 0:
        raise PlanError(f"plan {plan.name!r} was given an empty batch")
    if isinstance(batch, torch.SymInt):  # this run is being traced itself
        check_guards(plan, batch)
    else:
        dry_run(plan, batch or 1)
    return values
