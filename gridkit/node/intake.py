"""What a node looks at before it takes something in: a plan, a model, a diff. Blocking; called in threads."""

from __future__ import annotations

from typing import Any, BinaryIO

from gridkit.errors import ErrorCode, NodeError, WireError
from gridkit.federated import cycle
from gridkit.federated.checks import Verdict, check_report
from gridkit.node.rounds import Process
from gridkit.node.store.blobs import Draft
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
            return Verdict(error.code or ErrorCode.MALFORMED, error.message)
        rules = process.state.rules
        expected = [spec for spec in process.model if spec.averaged]
        return check_report(source, expected, max_norm=rules.max_norm, usual_norm=cycle.usual_norm(process.state))
