"""One plan made ready to be run often, on tensors that came over the wire."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, BinaryIO

import numpy as np
import torch

from gridkit.errors import ErrorCode, PlanError, WireError
from gridkit.plans.check import check_guards, shapes_of
from gridkit.plans.engines.kernels import torch_dtype
from gridkit.plans.engines.pytorch import program
from gridkit.plans.form import decode
from gridkit.plans.model_form import check_model
from gridkit.plans.plan import Plan
from gridkit.plans.table.shapes import Meta
from gridkit.wire.foreign import HEAD, refuse_unsafe
from gridkit.wire.model import ModelFile
from gridkit.wire.safetensors import TensorFile, pack_tensors
from gridkit.wire.tensors import Array, TensorSpec

PIECE = 1 << 20
"""elements of a tensor that are read at a time"""
BATCHES = 64
"""batch sizes of which a computation remembers that they are all right"""


class Computation:
    """A plan with its parameters; called with arguments it gives the results.

    Args:
        plan: a plan whose outputs are results, as `check_model` or `read_plan` have found.
        state: its parameters and buffers, in order.
        memory: bytes that the values of a run may take together.
        results: bytes that its results may take together.
    """

    def __init__(self, plan: Plan, state: Sequence[torch.Tensor], memory: int, results: int) -> None:
        self._plan = plan
        self._held = list(state)
        self._arguments = [i for i in plan.inputs if i.role == "arg"]
        self._engine = program(plan)
        self._memory, self._results = memory, results
        self._check_size = lru_cache(BATCHES)(self._sizes_at)
        self.nbytes = sum(tensor.nbytes for tensor in state)

    def __call__(self, arguments: Sequence[torch.Tensor]) -> bytes:
        """The results as safetensors.

        Raises:
            PlanError: `BAD_INPUT` when the arguments don't fit, `OUT_OF_MEMORY`, `TOO_LARGE` for the results, or
                `BAD_PLAN` when an operation fails; the message names it.
        """
        batch = self._batch(arguments)
        self._check_size(batch)
        held, given = iter(self._held), iter(arguments)
        values = [
            torch.rand([batch if s == "B" else s for s in i.shape])
            if i.role == "uniform"
            else next(given if i.role == "arg" else held)
            for i in self._plan.inputs
        ]
        with torch.inference_mode():
            try:
                results = self._engine(values)
            except PlanError as error:
                if _is_shortage(error.__cause__):
                    raise out_of_memory(f"plan {self._plan.name!r}") from error
                raise
            return pack_tensors([result.numpy() for result in results]).tobytes()

    def _batch(self, arguments: Sequence[torch.Tensor]) -> int:
        plan, wanted = self._plan, self._arguments
        if len(arguments) != len(wanted):
            names = ", ".join(i.name for i in wanted)
            raise _bad_input(f"plan {plan.name!r} takes {len(wanted)} tensors ({names}), got {len(arguments)}")
        sizes = (len(t) for t, i in zip(arguments, wanted, strict=True) if i.shape[:1] == ("B",) and t.ndim)
        batch = next(sizes, 1)
        for i, tensor in zip(wanted, arguments, strict=True):
            if tensor.shape != tuple(batch if s == "B" else s for s in i.shape) or tensor.dtype != torch_dtype(i.dtype):
                expected = f"{i.dtype}[{', '.join(map(str, i.shape))}]"
                got = f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
                raise _bad_input(f"argument {i.name!r} of plan {plan.name!r} is {got}, expected {expected}")
        if not batch:
            raise _bad_input(f"plan {plan.name!r} was given an empty batch")
        return batch

    def _sizes_at(self, batch: int) -> None:
        check_guards(self._plan, batch)
        metas = shapes_of(self._plan, batch, self._memory)
        size = sum(meta.nbytes for o in self._plan.outputs if isinstance(meta := metas[o.id], Meta))
        if size > self._results:
            raise PlanError(
                f"the results of plan {self._plan.name!r} take {size:,} bytes; {self._results:,} are allowed",
                "ask for fewer samples at a time",
                code=ErrorCode.TOO_LARGE,
            )


def read_model(file: BinaryIO, memory: int, results: int) -> Computation:
    """A model out of its file (GKM1), checked.

    Raises:
        WireError, PlanError: it breaks a rule, or takes more memory than is allowed.
    """
    model = ModelFile(file)
    plan = check_model(model, memory)
    return Computation(plan, _tensors(model.tensors), memory, results)


def read_plan(data: bytes, memory: int, results: int) -> Computation:
    """A plan of a function (GKP1), checked: it takes arguments and random numbers, and gives results.

    Raises:
        PlanError: it breaks a rule.
    """
    plan = decode(data)
    if any(i.role not in ("arg", "uniform") for i in plan.inputs) or any(o.role != "result" for o in plan.outputs):
        raise PlanError(f"plan {plan.name!r} is no plan of a function", "make it with gk.plan")
    return Computation(plan, (), memory, results)


def read_arguments(file: BinaryIO | bytes, limit: int) -> list[torch.Tensor]:
    """Tensors called "0", "1", … in order, out of safetensors, in memory that torch allocated.

    Args:
        limit: bytes that they may take together.

    Raises:
        WireError: they break a rule of `TensorFile`; `UNSAFE_FORMAT` for pickles and archives.
        PlanError: `OUT_OF_MEMORY`.
    """
    file = io.BytesIO(file) if isinstance(file, bytes) else file
    try:
        source = TensorFile(file)
        source.check_numbered()
    except WireError:
        file.seek(0)
        refuse_unsafe(file.read(HEAD), "send tensors as safetensors")
        raise
    if sum(spec.size * np.dtype(spec.dtype).itemsize for spec in source.specs) > limit:
        raise out_of_memory("the data")
    return _tensors(source)


def _tensors(source: TensorFile) -> list[torch.Tensor]:
    """Each in memory of torch's own: results may depend on how memory is aligned, and so have the module's bits."""
    return [_tensor(source, place, spec) for place, spec in enumerate(source.specs)]


def _tensor(source: TensorFile, place: int, spec: TensorSpec) -> torch.Tensor:
    try:
        tensor = torch.empty(spec.shape, dtype=torch_dtype(spec.dtype))
    except RuntimeError as error:
        raise (MemoryError() if _is_shortage(error) else error) from None
    flat: Array = tensor.view(-1).numpy()
    for start in range(0, spec.size, PIECE):
        stop = min(start + PIECE, spec.size)
        piece = source.read(place, start, stop)
        # kernels trust that a bool is 0 or 1; a byte from elsewhere may be any
        flat[start:stop] = piece.view(np.uint8) != 0 if spec.dtype == "bool" else piece
    return tensor


def out_of_memory(what: str) -> PlanError:
    """The error of a computation that asks for more memory than there is."""
    hint = "give it fewer samples at a time, or start the node with a larger --limit run_memory=…"
    return PlanError(f"{what} needs more memory than the runner may take", hint, code=ErrorCode.OUT_OF_MEMORY)


def _is_shortage(error: Any) -> bool:
    """torch has no class of its own for it on the CPU."""
    return isinstance(error, RuntimeError) and any(
        words in str(error) for words in ("not enough memory", "can't allocate memory", "bad_alloc")
    )


def _bad_input(message: str) -> PlanError:
    hint = (
        "give tensors of the dtypes and shapes that grid.models[id]['inputs'] lists; x.float() makes float32 of others"
    )
    return PlanError(message, hint, code=ErrorCode.BAD_INPUT)
