"""A training plan in the order that workers of the syft family know (syft.js, and its twin in Python).

Such a worker keeps nothing between two steps but the parameters, and calls a plan as
``plan.execute(worker, X, y, batch_size, lr, *params)``. `syft_step` is the one place where that order is made; what
comes of it is a plan like any other, for torch as well as for TensorFlow.js. Needs no torch.

Source: the training loop of the syft.js examples, and the plans that PySyft hosts for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from gridkit.errors import PlanError
from gridkit.plans.check import bound, check_training, dry_run, guard_text
from gridkit.plans.plan import Dtype, Input, Node, Output, Plan, Ref
from gridkit.plans.table.ops import table
from gridkit.plans.table.shapes import Meta

X, Y, BATCH_SIZE, LR = "X", "y", "batch_size", "lr"
LOSS, ACCURACY = "loss", "accuracy"
_NLL = "aten.nll_loss_forward.default"


def syft_step(plan: Plan) -> Plan:
    """One training step for workers of the syft family: the same numbers, other inputs and outputs.

    The inputs are, in this order: ``X`` float32[B, features] (an image flat, row by row), ``y`` float32[B, C] (one-hot;
    the largest of a row is its class), ``batch_size`` (a number that nothing depends on: B is that of X), ``lr`` (a
    number), then ``plan.state``. The outputs: ``loss``, ``accuracy`` (the share of the batch whose class was the most
    likely before the step), then the next state. The weight of each sample is 1.

    State, loss, ``X``, ``y`` and ``lr`` keep their roles; ``batch_size`` has the role "arg" and is a float32 scalar,
    ``accuracy`` has the role "result". As everywhere, `Plan.run` takes the learning rate as a float.

    Args:
        plan: a training plan.

    Returns:
        The plan; its nodes are those of `plan`, in their order, with a few before (`prologue`) and after them.

    Raises:
        PlanError: the plan can't be one; the message says all that `lacks` says.

    Example:
        >>> step = syft_step(plan)                                              # doctest: +SKIP
        >>> loss, accuracy, *state = step.run([x, one_hot, torch.tensor(8.0), 0.1, *state])      # doctest: +SKIP
    """
    if "syft step" not in plan._memo:
        reasons = lacks(plan)
        if reasons:
            raise PlanError(
                f"plan {plan.name!r} has no form for workers of the syft family: {'; '.join(reasons)}",
                "see plan.supports('tfjs'); grid.train and gridkit's own workers take any training plan",
            )
        plan._memo["syft step"] = _rewritten(plan)
    step: Plan = plan._memo["syft step"]
    return step


def prologue(plan: Plan) -> int:
    """How many nodes `syft_step` puts before those of the plan."""
    x = plan.input("x")
    return 2 if x is not None and len(x.shape) == 2 else 3


def lacks(plan: Plan) -> tuple[str, ...]:
    """What keeps a plan from being a step for workers of the syft family, a sentence each; empty if nothing does.

    Example:
        >>> lacks(plan)                                                         # doctest: +SKIP
        ("the optimiser keeps 'momentum.fc.weight' and 1 other between steps: use gk.SGD without momentum",)
    """
    try:
        check_training(plan)
    except PlanError as error:
        return (error.message,)
    return tuple(_reasons(plan))


def _reasons(plan: Plan) -> Iterator[str]:
    kept, drawn = plan.optimizer_state, [i for i in plan.inputs if i.role == "uniform"]
    if kept:
        more = "" if len(kept) == 1 else f" and {len(kept) - 1} other{'s' if len(kept) > 2 else ''}"
        yield f"the optimiser keeps {kept[0].name!r}{more} between steps: use gk.SGD without momentum"
    if drawn:
        yield f"it takes random numbers ({len(drawn)} of its inputs), and these workers draw none: leave Dropout out"
    for spec in plan.state:
        if spec.dtype != "float32":
            advice = ": use BatchNorm with track_running_stats=False" if "num_batches_tracked" in spec.name else ""
            yield f"{spec.name!r} is {spec.dtype}, and these workers hold float32 alone{advice}"
    x, y = plan.input("x"), plan.input("y")
    assert x is not None and y is not None
    if x.dtype != "float32":
        yield f"x is {x.dtype}, and these workers give float32"
    if y.dtype != "int64" or y.shape != ("B",):
        yield f"y is {_text(y)}, not a class for each sample (int64[B])"
    elif not plan.guards and _log_probabilities(plan) is None:
        yield "its loss isn't one of classes: use F.cross_entropy or F.nll_loss on the model's output and y"
    for guard in plan.guards:
        yield f"it holds only for batch sizes B with {guard_text(guard)}, and these workers take batches of any size"


def _text(given: Input) -> str:
    return f"{given.dtype}[{', '.join(map(str, given.shape))}]"


def _log_probabilities(plan: Plan) -> tuple[int, int] | None:
    """The value whose rows are log-probabilities of the classes y, and their number, of a plan without guards."""
    y, op = plan.input("y"), table()[_NLL]
    assert y is not None
    for node in plan.nodes:
        if node.op == _NLL:
            args = bound(op, node)
            if args["target"] == Ref(y.id):
                meta = dry_run(plan, 2)[args["self"].id]
                assert isinstance(meta, Meta)
                return args["self"].id, meta.shape[1]
    return None


def _rewritten(plan: Plan) -> Plan:
    x, y, weight, lr = (plan.input(role) for role in ("x", "y", "weight", "lr"))
    found = _log_probabilities(plan)
    assert x is not None and y is not None and weight is not None and lr is not None and found is not None
    logp, classes = found
    used = [
        *(i.id for i in plan.inputs),
        *plan.constants,
        *(o for n in plan.nodes for o in n.out if o is not None),
    ]
    fresh = iter(range(max(used) + 1, max(used) + 9))
    given_y, batch_size = next(fresh), next(fresh)
    before: list[Node] = []
    given_x = x.id  # a flat x is taken as it is; that of an image becomes what it was traced with
    if len(x.shape) != 2:
        given_x = next(fresh)
        before.append(Node("aten.view.default", (Ref(given_x), (-1, *x.shape[1:])), (), (x.id,)))
    before += [
        Node("aten.argmax.default", (Ref(given_y), 1), (), (y.id,)),
        Node("aten.ones_like.default", (Ref(y.id),), (("dtype", Dtype(weight.dtype)),), (weight.id,)),
    ]
    chosen, right, number, accuracy = (next(fresh) for _ in range(4))
    after = (
        Node("aten.argmax.default", (Ref(logp), 1), (), (chosen,)),
        Node("aten.eq.Tensor", (Ref(chosen), Ref(y.id)), (), (right,)),
        Node("aten._to_copy.default", (Ref(right),), (("dtype", Dtype("float32")),), (number,)),
        Node("aten.mean.default", (Ref(number),), (), (accuracy,)),
    )
    inputs = (
        Input(given_x, X, "x", "float32", ("B", math.prod(int(s) for s in x.shape[1:]))),
        Input(given_y, Y, "y", "float32", ("B", classes)),
        Input(batch_size, BATCH_SIZE, "arg", "float32", ()),
        Input(lr.id, LR, "lr", "float64", ()),
        *(i for i in plan.inputs if i.role in ("param", "buffer")),
    )
    loss, *state = plan.outputs
    outputs = (Output(loss.id, LOSS, "loss"), Output(accuracy, ACCURACY, "result"), *state)
    return Plan(plan.name, inputs, outputs, (*before, *plan.nodes, *after), plan.constants, plan.guards, plan.lr)
