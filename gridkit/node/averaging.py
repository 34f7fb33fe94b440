"""Averaging by a hosted plan: computed in the runner, on reports that reach it through a file. No torch here.

The node holds one result of the plan in memory, whatever the number of reports.
"""

from __future__ import annotations

import asyncio
import io
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import IO

import numpy as np

from gridkit.errors import ErrorCode, NodeError, PlanError
from gridkit.federated.aggregate import flat
from gridkit.node.runner import Runner
from gridkit.plans.averaging_form import failure, is_iterative
from gridkit.plans.form import decode
from gridkit.wire.safetensors import TensorFile, stream_file
from gridkit.wire.tensors import Array, TensorSource, TensorSpec


class AveragingFailed(Exception):
    """A plan can't average these reports, and couldn't at another try; the text says why."""


@contextmanager
def final() -> Iterator[None]:
    """Within the block errors that would come again are `AveragingFailed`."""
    try:
        yield
    except (NodeError, PlanError) as error:
        if error.code is ErrorCode.BUSY:
            raise
        raise AveragingFailed(failure(error)) from error


async def average(runner: Runner, data: bytes, reports: Sequence[tuple[float, TensorSource]], size: int) -> Array:
    """What a plan makes of a round's reports: float32 [P], to be taken off the model.

    Args:
        data: GKP1 bytes of an averaging plan that was checked when it was hosted.
        reports: (weight, diff) in slot order.
        size: P, the number of values of a diff.

    Raises:
        NodeError: `BUSY`: the runner can't take it now; others: it took too long, too much memory, or failed.
        PlanError: the result has another shape.
        OSError: the disk is full.
    """
    if not is_iterative(decode(data)):
        weights = np.array([weight for weight, _ in reports], np.float32)
        specs = _numbered((len(reports), size), (len(reports),))
        file = await asyncio.to_thread(_written, specs, chain(*(flat(diff) for _, diff in reports), [weights]))
        return await _computed(runner, data, file, size)
    result = await asyncio.to_thread(_whole, reports[0][1], size)
    specs = _numbered((size,), (size,), (1,))
    for count, (_, diff) in enumerate(reports[1:], 1):
        pieces = (part for source in ([result], flat(diff), [np.array([count], np.float32)]) for part in source)
        file = await asyncio.to_thread(_written, specs, pieces)
        del result, pieces  # the next one takes its place
        result = await _computed(runner, data, file, size)
    return result


def _written(specs: Sequence[TensorSpec], chunks: Iterable[Array]) -> IO[bytes]:
    file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  the caller closes it
    try:
        file.writelines(stream_file(specs, chunks))
        file.flush()
    except BaseException:
        file.close()
        raise
    return file


async def _computed(runner: Runner, data: bytes, file: IO[bytes], size: int) -> Array:
    """The plan's result on what the file holds; closes the file."""
    with file:
        made = await runner.run_plan(data, file, told=True)
    result = TensorFile(io.BytesIO(made))
    if result.specs != (TensorSpec("0", "float32", (size,)),):
        raise PlanError(f"it gave {result.specs[0].dtype}{list(result.specs[0].shape)}, expected float32[{size}]")
    return result.views(made)["0"]


def _numbered(*shapes: tuple[int, ...]) -> list[TensorSpec]:
    return [TensorSpec(str(place), "float32", shape) for place, shape in enumerate(shapes)]


def _whole(diff: TensorSource, size: int) -> Array:
    whole, at = np.empty(size, np.float32), 0
    for part in flat(diff):
        whole[at : at + len(part)] = part
        at += len(part)
    return whole
