"""What can be known of a plan of a function before it runs on data of known shapes. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence

from gridkit.errors import ErrorCode, PlanError
from gridkit.plans.check import dry_run
from gridkit.plans.form import decode
from gridkit.plans.plan import Plan
from gridkit.plans.table.shapes import Meta
from gridkit.wire.tensors import TensorSpec


def results_of(data: bytes, arguments: Sequence[TensorSpec]) -> list[TensorSpec]:
    """The results that a plan will give, called "0", "1", … in order.

    Args:
        data: GKP1 bytes.
        arguments: what it will be given, in order; their names don't matter.

    Raises:
        PlanError: `BAD_PLAN`: no plan of a function, or it can't run with that batch size; `BAD_INPUT`: it takes
            something else; `OUT_OF_MEMORY`.
    """
    plan = decode(data)
    if any(i.role not in ("arg", "uniform") for i in plan.inputs) or any(o.role != "result" for o in plan.outputs):
        raise PlanError(f"plan {plan.name!r} is no plan of a function", "make it with gk.plan")
    values = dry_run(plan, _batch(plan, arguments))
    metas = [values[output.id] for output in plan.outputs]
    return [TensorSpec(str(n), meta.dtype, tuple(meta.shape)) for n, meta in enumerate(metas) if isinstance(meta, Meta)]


def _batch(plan: Plan, arguments: Sequence[TensorSpec]) -> int:
    """The batch size, after a look at the arguments."""
    wanted = [i for i in plan.inputs if i.role == "arg"]
    if len(wanted) != len(arguments):
        raise _bad_input(f"plan {plan.name!r} takes {len(wanted)} tensors, there are {len(arguments)}")
    batches = (spec.shape[0] for i, spec in zip(wanted, arguments, strict=True) if i.shape[:1] == ("B",) and spec.shape)
    batch = next(batches, 1)
    for i, spec in zip(wanted, arguments, strict=True):
        if (tuple(batch if s == "B" else s for s in i.shape), i.dtype) != (spec.shape, spec.dtype):
            takes = f"{i.dtype}[{', '.join(map(str, i.shape))}]"
            raise _bad_input(
                f"plan {plan.name!r} takes {takes} for {i.name!r}, there is {spec.dtype}{list(spec.shape)}"
            )
    return batch


def _bad_input(message: str) -> PlanError:
    hint = 'trace it for the shapes of the data; gk.spec("B", …) stands for any number of rows'
    return PlanError(message, hint, code=ErrorCode.BAD_INPUT)
