"""A rule of aggregation that is a plain function of torch tensors, run in this process.

The node runs the same function on tensors that live there (`gridkit.node.notebook_rule`): same code, same bits.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from gridkit.errors import ErrorCode, PlanError
from gridkit.federated import notebook
from gridkit.wire.tensors import Array
from gridkit.workers.local import one_thread


class NotebookRule:
    """A person's function, called in a copy of the context in which this is made.

    Args:
        fn: a function, or a coroutine function, of diffs, float32 [K, P], the model minus each client's, all averaged
            values flat in the model's order, and weights, float32 [K]; gives float32 [P], which is taken off the model.

    Attributes:
        raised: what it raised last.
    """

    def __init__(self, fn: Callable[..., Any]) -> None:
        self._fn = fn
        self._name = notebook.name_of(fn)
        self._context = contextvars.copy_context()
        self.raised: BaseException | None = None

    def run(self, reports: Sequence[tuple[float, Sequence[Array]]], size: int) -> Array:
        """What the function makes of a round's reports.

        Args:
            reports: (weight, chunks of float32) in slot order.
            size: P.

        Raises:
            PlanError: it raised, or gave something else; the error that it raised is the cause.
        """
        diffs = torch.empty(len(reports), size)
        for row, (_, chunks) in zip(diffs.numpy(), reports, strict=True):
            np.concatenate([*chunks, np.empty(0, np.float32)], out=row)
        weights = torch.tensor([weight for weight, _ in reports], dtype=torch.float32)
        try:
            with one_thread():
                result = self._context.copy().run(self._called, diffs, weights)
        except BaseException as error:  # sys.exit() in it must not end the training's thread without a word
            self.raised = error
            raise PlanError(f"raised {type(error).__name__}: {error}", code=ErrorCode.AVERAGING_FAILED) from error
        return self._checked(result, size)

    def failure(self, error: PlanError) -> str:
        """Why a round ends that it can't average."""
        own = error.code is ErrorCode.AVERAGING_FAILED
        return notebook.failed("strategy", self._name, error.message if own else f"failed: {error.message}")

    def _called(self, diffs: torch.Tensor, weights: torch.Tensor) -> Any:
        if inspect.iscoroutinefunction(self._fn):
            return asyncio.run(self._fn(diffs, weights))
        return self._fn(diffs, weights)

    def _checked(self, result: Any, size: int) -> Array:
        if isinstance(result, torch.Tensor):
            result = result.detach().cpu()
            kind = f"{str(result.dtype).removeprefix('torch.')}{list(result.shape)}"
            array = result.numpy() if result.dtype == torch.float32 else np.empty(0)
        elif isinstance(result, np.ndarray):
            kind, array = f"{result.dtype}{list(result.shape)}", result
        else:
            kind, array = f"a {type(result).__name__}", np.empty(0)
        if (array.dtype, array.shape) != (np.float32, (size,)):
            raise PlanError(notebook.mismatch(kind, size), code=ErrorCode.AVERAGING_FAILED)
        if not np.isfinite(array).all():
            raise PlanError(notebook.NOT_FINITE, code=ErrorCode.AVERAGING_FAILED)
        return np.array(array)
