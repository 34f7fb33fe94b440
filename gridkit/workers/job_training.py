"""The built-in loop of a job: one client's training, with progress, to be stopped, and taken up again from a file."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gridkit.errors import UsageError
from gridkit.plans.plan import Plan
from gridkit.wire.state import pack_state
from gridkit.workers.checkpoint import load_checkpoint, save_checkpoint
from gridkit.workers.local import LocalTraining

if TYPE_CHECKING:
    import torch

CHANGING = ("round", "slot", "model")
"""of what a checkpoint belongs to, that which is another in each cycle: such a checkpoint is out of date, not wrong"""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a training stands.

    Attributes:
        step: number of optimiser steps taken, of `steps`.
        loss: mean loss of the last step's batch, before that step.
    """

    step: int
    steps: int
    loss: float


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """What `job.train` gives; `job.report` takes it.

    Attributes:
        diff: the State message of model minus trained model, as `SyftModel.create_serialized_diff` makes it.
        params: the trained model's tensors, in the order of `SyftModel.params`.
        samples: size of the data.
        metrics: ``{"loss": mean loss over the samples of all steps}``; empty before the first step.
        step, steps: optimiser steps taken, of how many.
        cycle: for which it was trained.
        checkpoint: the file that a report that was taken makes superfluous.
    """

    diff: bytes = field(repr=False)
    params: list[torch.Tensor] = field(repr=False)
    samples: int
    metrics: dict[str, float]
    step: int
    steps: int
    cycle: int
    checkpoint: Path | None = None

    @property
    def finished(self) -> bool:
        """Whether the training wasn't stopped before its end."""
        return self.step == self.steps


def train(
    plan: Plan,
    model: Mapping[str, np.ndarray],
    x: np.ndarray,
    y: np.ndarray,
    arguments: Mapping[str, Any],
    about: Mapping[str, Any],
    *,
    stop: threading.Event,
    on_progress: Callable[[Progress], object] | None,
    checkpoint: Path | None,
    save_every: float,
) -> Trained:
    """Train until the end or until `stop` is set, which it looks at after each step.

    Args:
        plan, model, x, y: as for `train_client`; `arguments` are its keywords.
        about: what it belongs to besides: name and version of the training.
        on_progress: called after each step.
        checkpoint: file to go on from, and to leave the training in: every `save_every` seconds, and at the end, be it
            the training's or that of an error in `on_progress`.

    Raises:
        UsageError: the data don't fit the plan; or `checkpoint` is of another training.
        OSError: the checkpoint can't be written.
    """
    training = LocalTraining(plan, model, x, y, **arguments)
    about = {**about, **dict(arguments), "plan": _digest(plan.to_bytes()), "model": _digest(*model.values())}
    about["data"] = _digest(x, y)
    if checkpoint is not None:
        _resume(training, checkpoint, about)

    def save() -> float:
        if checkpoint is not None:
            save_checkpoint(checkpoint, about, training.snapshot())
        return time.monotonic()

    saved = time.monotonic()
    while training.done < training.steps and not stop.is_set():
        training.advance(1)
        try:
            if on_progress is not None:
                on_progress(Progress(training.done, training.steps, training.loss))
        except BaseException:
            save()
            raise
        if checkpoint is not None and time.monotonic() - saved >= save_every:
            saved = save()
    save()
    result, params = training.result(), training.state()
    return Trained(
        pack_state(result.diff),
        _tensors(params),
        result.samples,
        result.metrics,
        training.done,
        training.steps,
        int(arguments["round"]),
        checkpoint,
    )


def _resume(training: LocalTraining, checkpoint: Path, about: Mapping[str, Any]) -> None:
    found = load_checkpoint(checkpoint)
    if found is None:
        return
    before, arrays = found
    other = sorted(key for key in {*about, *before} if about.get(key) != before.get(key))
    if not other:
        training.resume(arrays)
    elif not set(other) & set(CHANGING) or set(other) & {"name", "version"}:
        raise UsageError(
            f"the checkpoint {checkpoint} is of another training: it differs in {', '.join(other)}",
            "train with the same data and arguments, or remove the file to begin anew",
        )


def _digest(*parts: bytes | np.ndarray) -> str:
    made = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            made.update(f"{part.dtype}{part.shape}".encode())
            made.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
        else:
            made.update(part)
    return made.hexdigest()


def _tensors(arrays: Mapping[str, np.ndarray]) -> list[torch.Tensor]:
    import torch

    return [torch.from_numpy(array) for array in arrays.values()]
