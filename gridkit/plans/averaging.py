"""Averaging plans: how reports become the next model, as a rule of one's own. Their form: `plans.averaging_form`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence

import numpy as np
import torch

from gridkit.errors import PlanError, UsageError
from gridkit.plans.averaging_form import AT_ONCE, ITERATIVE, check_averaging, check_round, is_iterative, shapes
from gridkit.plans.engines.pytorch import program
from gridkit.plans.function import result_tensors
from gridkit.plans.plan import Plan
from gridkit.plans.state import held_state
from gridkit.plans.tracing.build import Given, build
from gridkit.plans.tracing.sizes import FixedBatch
from gridkit.plans.tracing.trace import Spec
from gridkit.wire.tensors import Array

_REPORTS = 11
"""number of reports while a rule is traced: one that no dimension is likely to have"""


def averaging_plan(
    rule: Callable[..., torch.Tensor],
    model: torch.nn.Module | Plan,
    *,
    iterative: bool = False,
    name: str | None = None,
) -> Plan:
    """Trace a rule that averages the reports of a round, for `grid.host_training(averaging_plan=…)`,
    `grid.train(strategy=…)` and `gk.simulate(strategy=…)`.

    A report holds the difference of the model before and after a worker's training. The rule's result is taken off the
    model: ``new = old - result``. All values are float32 and flat: P numbers, the model's parameters and floating
    buffers one after the other, in the order of its state_dict.

    Args:
        rule: ``rule(updates, n)`` with updates [K, P] and n [K], the reports' weights (their numbers of samples, or
            ones, as the training's `weighting` says): [P]. K is any number; take it from ``updates.shape[0]``
            (``len(updates)`` is a fixed number). An ``if`` on it becomes a condition of the plan, and a training
            whose rounds may break it isn't hosted.
        model: the model, or its training plan.
        iterative: ``rule(average, update, count)`` with average [P], update [P] and count [1]: [P]. It is called once
            for each report after the first, which is the average to begin with; `count` says how many reports are in
            the average so far. Memory doesn't grow with the number of reports; there are no weights.
        name: what the plan is called; the rule's name if not given.

    Raises:
        PlanError: the rule can't be a plan, or its result isn't [P]; the message names the operation and the line.
        UsageError: the rule takes other arguments.

    Example:
        >>> model = torch.nn.Linear(3, 2)
        >>> averaging_plan(lambda updates, n: updates.median(0).values, model, name="median")
        <Plan 'median': 1 operations, updates float32[B, 8], n float32[B]>

    Source: PyGrid's averaging plans (`server_config.iterative_plan`). Median, trimmed mean: Yin, Chen, Ramchandran,
    Bartlett, "Byzantine-robust distributed learning: towards optimal statistical rates", ICML 2018.
    """
    names = ITERATIVE if iterative else AT_ONCE
    if isinstance(rule, Plan):
        raise UsageError(f"{rule.name!r} is a plan already", "pass it as it is, or its function here")
    _check_arguments(rule, names)
    size = _averaged(model)
    specs = (Spec(shape, torch.float32) for shape in shapes(size, iterative))
    inputs: list[Given] = [(called, "arg", spec) for called, spec in zip(names, specs, strict=True)]

    def run(*values: torch.Tensor) -> list[torch.Tensor]:
        return result_tensors(rule(*values))

    title = name or str(getattr(rule, "__name__", type(rule).__name__))
    try:
        plan = build(title, run, inputs, lambda n: [(f"result.{i}", "result") for i in range(n)], _REPORTS)
    except FixedBatch as error:
        hint = "take the number of reports from updates.shape[0]; len(updates) is a fixed number"
        raise PlanError(error.message, hint) from error
    check_averaging(plan, size)
    return plan


def run_averaging(plan: Plan, reports: Sequence[tuple[float, Array]]) -> Array:
    """What an averaging plan makes of the reports of a round, as a node's runner does; call it at one torch thread.

    Args:
        plan: a checked averaging plan.
        reports: (weight, values) in slot order; values are float32 [P].

    Raises:
        PlanError: a guard doesn't hold, too much memory, or an operation failed; the message names it.
    """
    call = program(plan)
    check_round(plan, len(reports))
    # in torch's own memory: kernels may give other bits where memory is aligned otherwise
    with torch.inference_mode():
        if not is_iterative(plan):
            updates = torch.empty((len(reports), len(reports[0][1])))
            for place, (_, values) in enumerate(reports):
                updates[place] = torch.from_numpy(values)
            (result,) = call([updates, torch.tensor([weight for weight, _ in reports])])
        else:
            result = torch.from_numpy(reports[0][1]).clone()
            for count, (_, values) in enumerate(reports[1:], 1):
                (result,) = call([result, torch.from_numpy(values).clone(), torch.tensor([float(count)])])
        made: Array = np.array(result.numpy())
    return made


def _check_arguments(rule: Callable[..., torch.Tensor], names: tuple[str, ...]) -> None:
    try:
        inspect.signature(rule).bind(*names)
    except TypeError as error:
        raise UsageError(
            f"the rule can't be called as rule({', '.join(names)}): {error}",
            f"write rule({', '.join(AT_ONCE)}), or with iterative=True rule({', '.join(ITERATIVE)})",
        ) from None
    except ValueError:  # written in C
        pass


def _averaged(model: torch.nn.Module | Plan) -> int:
    """How many values of a model are averaged."""
    if isinstance(model, Plan):
        size = sum(spec.size for spec in model.averaged)
    elif isinstance(model, torch.nn.Module):
        tensors = (held.tensor for held in held_state(model).values())
        size = sum(tensor.numel() for tensor in tensors if str(tensor.dtype).startswith("torch.float"))
    else:
        raise UsageError(f"model is {type(model).__name__}", "give a torch.nn.Module or its training plan")
    if not size:
        raise UsageError("the model has no floating values that could be averaged", "give the model that is trained")
    return size
