"""What a cycle gives a job: its model and its plans, as coroutines use them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gridkit.cells import ShortDir
from gridkit.errors import UsageError
from gridkit.plans.plan import Plan
from gridkit.wire.state import pack_state

if TYPE_CHECKING:
    import torch


class ModelParams(ShortDir):
    """A cycle's model.

    Attributes:
        names: of the tensors, where the node says them, else their places.
        params: the tensors, in the model's order (State order); copies of what was downloaded.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        import torch

        self._arrays = arrays
        self.names = list(arrays)
        self.params = [torch.tensor(array) for array in arrays.values()]

    def __repr__(self) -> str:
        count = sum(array.size for array in self._arrays.values())
        return f"SyftModel({len(self.params)} tensors, {count:,} values)"

    def _diff(self, updated: Sequence[Any]) -> bytes:
        if len(updated) != len(self._arrays):
            names = ", ".join(self.names[:6]) + (", …" if len(self.names) > 6 else "")
            raise UsageError(
                f"there are {len(updated)} tensors, and the model has {len(self._arrays)}",
                f"pass one for each of {names}, in that order",
            )
        made = {}
        for (name, old), given in zip(self._arrays.items(), updated, strict=True):
            new = np.asarray(given.detach().cpu().numpy() if hasattr(given, "detach") else given)
            if new.shape != old.shape or not np.can_cast(new.dtype, old.dtype, "same_kind"):
                raise UsageError(
                    f"tensor '{name}' is {new.dtype}{list(new.shape)}, and the model's is {old.dtype}{list(old.shape)}",
                    "pass the updated tensors in the order of model.params",
                )
            if old.dtype.kind == "f":  # integer buffers aren't averaged, and don't travel
                with np.errstate(all="ignore"):  # what diverged is judged where the diff is read
                    made[name] = np.asarray(np.subtract(old, new.astype(old.dtype)))
        return pack_state(made)


class SyftModel(ModelParams):
    __doc__ = ModelParams.__doc__

    async def create_serialized_diff(self, updated_model_params: Sequence[torch.Tensor]) -> bytes:
        """What `Job.report` takes: model as downloaded minus `updated_model_params`, as a State message.

        Raises:
            UsageError: another number of tensors than the model's, or of other shapes or dtypes.
        """
        return await asyncio.to_thread(self._diff, updated_model_params)

    createSerializedDiff = create_serialized_diff


class JobPlan(ShortDir):
    """A plan of a job; `plan` is the `gridkit.Plan`."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.name = plan.name

    def __repr__(self) -> str:
        return f"JobPlan({self.plan!r})"

    async def execute(self, worker: Any, *data: Any) -> list[torch.Tensor]:
        """`gridkit.Plan.execute`, on a thread."""
        return await asyncio.to_thread(self.plan.execute, worker, *data)
