"""What a node looks at before it takes something in: a plan, a model, a diff. Blocking; called in threads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, BinaryIO

from gridkit.errors import ErrorCode, NodeError, PlanError, WireError
from gridkit.federated import cycle
from gridkit.federated.checks import Verdict, check_report
from gridkit.federated.rules import CycleRules
from gridkit.node.processes import AVERAGING_PLAN, Process
from gridkit.node.settings import Limits
from gridkit.node.store.blobs import Draft
from gridkit.plans.averaging_form import check_averaging, check_rounds, is_iterative
from gridkit.plans.check import check_training, dry_run, holds
from gridkit.plans.form import decode
from gridkit.plans.model_form import arguments, check_model
from gridkit.wire.foreign import HEAD
from gridkit.wire.model import ModelFile, model_kind
from gridkit.wire.state import StateReader
from gridkit.wire.tensors import TensorSpec

_BATCHES = (2, 1, 3, 4, 8, 16, 32, 64)


def check_plan(data: bytes) -> None:
    """Its form, that it is a training step, and a dry run at a small batch size that its guards allow: a plan that asks
    for a terabyte is refused here, before a worker has to. Workers check again, with their own batch."""
    plan = decode(data)
    check_training(plan)
    for batch in _BATCHES:
        if all(holds(guard, batch) for guard in plan.guards):
            dry_run(plan, batch)
            return


def check_averaging_config(
    server_config: Mapping[str, Any], rules: CycleRules, plans: Iterable[str], *, hosted: bool
) -> None:
    """Raise NodeError where the configuration doesn't go with an averaging plan, or with there being none."""
    if AVERAGING_PLAN in plans:
        raise _bad_config(f"a plan for workers is called '{AVERAGING_PLAN}'", "host it as the averaging_plan itself")
    if hosted and "strategy" in server_config:
        raise _bad_config(
            "server_config has a strategy, but an averaging plan takes its place", "leave one of them out"
        )
    if rules.iterative_plan and not hosted:
        raise _bad_config("server_config.iterative_plan is set, but there is no averaging_plan", "leave it out")


def check_averaging_plan(data: bytes, model: Sequence[TensorSpec], rules: CycleRules, limits: Limits) -> None:
    """Its form, that it fits the model, and every number of reports that a round may have.

    Raises:
        NodeError: the averaging plan can't be hosted; nothing was executed.
    """
    size = sum(spec.size for spec in model if spec.averaged)
    try:
        plan = decode(data)
        check_averaging(plan, size)
        check_rounds(plan, rules.fewest, rules.most, limits.run_memory // 2)
    except PlanError as error:
        raise NodeError(error.message, error.hint, code=error.code, status=400) from None
    if is_iterative(plan) != rules.iterative_plan:
        form = "one report after the other" if is_iterative(plan) else "all reports at once"
        hint = f"set server_config.iterative_plan to {str(is_iterative(plan)).lower()}"
        raise _bad_config(f"the averaging plan '{plan.name}' takes {form}", hint)
    if 4 * size > limits.run_results:
        raise _bad_config(
            f"the averaging plan gives {4 * size:,} bytes; a result may have {limits.run_results:,}",
            "start the node with a larger --limit run_results=…",
        )


def _bad_config(message: str, hint: str) -> NodeError:
    return NodeError(message, hint, code=ErrorCode.BAD_CONFIG, status=400)


def copy_model(model: BinaryIO, draft: Draft) -> tuple[TensorSpec, ...]:
    """Read the structure, name the tensors that have no name by their place, and copy the bytes."""
    specs = tuple(
        TensorSpec(spec.name or str(place), spec.dtype, spec.shape)
        for place, spec in enumerate(StateReader(model).specs)
    )
    if not specs:
        raise NodeError("the model has no tensors", code=ErrorCode.MALFORMED, status=400)
    if len({spec.name for spec in specs}) != len(specs):
        raise NodeError("two tensors of the model have one name", code=ErrorCode.MALFORMED, status=400)
    model.seek(0)
    while piece := model.read(1 << 20):
        draft.write(piece)
    return specs


def check_model_bytes(draft: Draft) -> tuple[str, list[dict[str, Any]]]:
    """What kind of model these bytes are ("plan" or "opaque"), and what it takes ([{name, dtype, shape}, …])."""
    with draft.open() as file:
        kind = model_kind(file.read(HEAD))
        if kind == "opaque":
            return kind, []
        plan = check_model(ModelFile(file))
    return kind, [{"name": i.name, "dtype": i.dtype, "shape": list(i.shape)} for i in arguments(plan)]


def check_diff(draft: Draft, process: Process) -> Verdict:
    """The verdict on the bytes of a report: can they be read, and do they fit the model?"""
    with draft.open() as file:
        try:
            source = StateReader(file)
        except WireError as error:
            return Verdict(error.code or ErrorCode.MALFORMED, f"the diff can't be read: {error.message}")
        rules = process.state.rules
        expected = [spec for spec in process.model if spec.averaged]
        return check_report(source, expected, max_norm=rules.max_norm, usual_norm=cycle.usual_norm(process.state))
