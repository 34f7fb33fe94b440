"""A plan: a traced computation as a list of operations, with no code in it.

A plan is data. It can be written as bytes, validated, sent, and executed without unpickling or importing anything.
Reading and checking one needs no torch; only `Plan.run` does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gridkit.wire.tensors import TensorSpec

if TYPE_CHECKING:
    import torch

    from gridkit.plans.explain import Explanation
    from gridkit.plans.support import Support

InputRole = Literal["x", "y", "weight", "lr", "param", "buffer", "optimizer", "uniform", "arg"]
OutputRole = Literal["loss", "param", "buffer", "optimizer", "result"]
Size = int | Literal["B"]


@dataclass(frozen=True, slots=True)
class Ref:
    """The value of that id: an input, a constant or an earlier node's result."""

    id: int


@dataclass(frozen=True, slots=True)
class Dtype:
    """A dtype as an argument, by its NumPy name."""

    name: str


Arg = Ref | Dtype | bool | int | float | str | None | tuple["Arg", ...]
Guard = int | str | tuple["Guard", ...]
"""A condition on the batch size: ``("ge", "B", 4)``, ``("eq", ("mod", "B", 2), 0)``."""


@dataclass(frozen=True, slots=True)
class Input:
    """What `Plan.run` takes at that place; "B" in `shape` is the batch size, the same everywhere."""

    id: int
    name: str
    role: InputRole
    dtype: str
    shape: tuple[Size, ...]


@dataclass(frozen=True, slots=True)
class Output:
    """What `Plan.run` gives at that place."""

    id: int
    name: str
    role: OutputRole


@dataclass(frozen=True, slots=True)
class Node:
    """One operation. `out` has an id for each result, None for one that nobody uses.

    `place` is the user's line, or the module, that it comes from, in a plan that was traced in this process.
    """

    op: str
    args: tuple[Arg, ...]
    kwargs: tuple[tuple[str, Arg], ...]
    out: tuple[int | None, ...]
    place: str = field(default="", compare=False, repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """A traced computation; `gridkit.training_plan` makes one.

    Attributes:
        name: what the plan is called in messages.
        inputs: in the order in which `run` takes them.
        outputs: in the order in which `run` gives them.
        nodes: the operations in order of execution; each refers only to what stands before it.
        constants: small tensors that belong to the plan, by id.
        guards: conditions on the batch size under which the trace holds.
        lr: the learning rate that is used when nobody asks for another.

    Example:
        >>> plan = Plan.from_bytes(data)                # doctest: +SKIP
        >>> plan
        <Plan 'net': 31 operations, 4 parameters (4,810 values), x float32[B, 64], y int64[B], lr 0.1>
    """

    name: str
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    nodes: tuple[Node, ...]
    constants: Mapping[int, np.ndarray] = field(default_factory=dict)
    guards: tuple[Guard, ...] = ()
    lr: float = 0.0
    _memo: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)

    @property
    def state(self) -> tuple[TensorSpec, ...]:
        """Parameters and buffers, in the order of the model's state_dict."""
        return self._specs("param", "buffer")

    @property
    def averaged(self) -> tuple[TensorSpec, ...]:
        """What a diff holds, in order: parameters and floating buffers. Integer buffers stay as they are."""
        return tuple(s for s in self.state if s.dtype.startswith("float"))

    @property
    def optimizer_state(self) -> tuple[TensorSpec, ...]:
        """What the optimiser keeps between two steps; it starts as zeros each round."""
        return self._specs("optimizer")

    def _specs(self, *roles: str) -> tuple[TensorSpec, ...]:
        key = ("specs", *roles)
        if key not in self._memo:
            chosen = (i for i in self.inputs if i.role in roles)
            self._memo[key] = tuple(TensorSpec(i.name, i.dtype, tuple(int(s) for s in i.shape)) for i in chosen)
        found: tuple[TensorSpec, ...] = self._memo[key]
        return found

    def input(self, role: InputRole) -> Input | None:
        """The first input of that role, or None."""
        return next((i for i in self.inputs if i.role == role), None)

    def to_bytes(self) -> bytes:
        """The plan in the form GKP1 (`gridkit.plans.form`)."""
        from gridkit.plans.form import encode

        return encode(self)

    @classmethod
    def from_bytes(cls, data: bytes) -> Plan:
        """Read and validate a plan; nothing of it is executed.

        Raises:
            PlanError: not a plan, or one that breaks a rule; the message names the node and the reason.
        """
        from gridkit.plans.form import decode

        return decode(data)

    def run(self, inputs: Sequence[torch.Tensor | float]) -> list[torch.Tensor]:
        """Execute the plan once with torch.

        Args:
            inputs: one value for each of `self.inputs`, in that order; the learning rate may be a float.

        Returns:
            One tensor for each of `self.outputs`, in that order. No gradients are recorded.

        Raises:
            PlanError: an input has the wrong shape or dtype, the batch size breaks a guard, the plan needs more
                memory than allowed, or an operation fails; the message names which.
        """
        from gridkit.plans.engines.pytorch import run

        return run(self, inputs)

    def __call__(self, *args: Any) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Run the plan of a function (`gridkit.plan`) like the function.

        Args:
            args: tensors, arrays, modules (their state), or lists and mappings of such, in the function's order.
                Random inputs, as dropout has them, are drawn from torch's own generator.

        Returns:
            The result, or a tuple of them.

        Raises:
            UsageError: a training plan, or another number of tensors than the plan takes.
            PlanError: as for `run`.
        """
        from gridkit.plans.function import call

        return call(self, args)

    def execute(self, worker: Any, *data: Any) -> list[torch.Tensor]:
        """Run the plan as workers of the syft family do (`gridkit.Syft`; syft.js has the same method).

        A training plan takes what `gridkit.plans.syft_form.syft_step` says, in that order: ``X`` float32
        [B, features], ``y`` float32 [B, classes] (one-hot), ``batch_size``, ``lr``, then the model's parameters; it
        gives loss, accuracy, and the next parameters. The plan of a function takes its arguments.

        Args:
            worker: what calls, such as `job.worker`; a plan looks at nothing of it.
            data: tensors, arrays or numbers; a number may also be a tensor of shape [] or [1].

        Raises:
            UsageError: another number of arguments, or one that is no tensor of its dtype.
            PlanError: the plan has no such form (its optimiser keeps state, say); or as for `run`.

        Source: syft.js 0.1.4, ``Plan.execute``.

        Example:
            >>> loss, accuracy, *params = plan.execute(job.worker, X, y, 8, 0.1, *model.params)     # doctest: +SKIP
        """
        from gridkit.plans.syft_run import execute

        return execute(self, data)

    def explain(self, batch: int = 8) -> Explanation:
        """What the plan holds, what it costs, and what a worker would learn and send; text and HTML of its own.

        Args:
            batch: number of samples that the costs are worked out for.

        Raises:
            UsageError: `batch` is no number of samples.
            PlanError: the plan can't run with that many samples, or needs more memory than allowed.

        Example:
            >>> told = plan.explain(batch=32)           # doctest: +SKIP
            >>> told.flops, told.peak_memory, [s.name for s in told.sends]      # doctest: +SKIP
            (666390, 63444, ['0.weight', '0.bias', '2.weight', '2.bias'])
        """
        from gridkit.plans.explain import explain

        return explain(self, batch)

    def supports(self, form: str) -> Support:
        """Whether the plan can be given to others than gridkit's workers, and what is missing; ask before hosting.

        Args:
            form: "tfjs": TensorFlow.js, as browsers and phones with syft.js run it.

        Returns:
            True or false as it stands; its `missing` tells each obstacle, the nodes with their source lines (which
            only a plan that was traced in this process has).

        Raises:
            UsageError: there is no such form.

        Example:
            >>> plan.supports("tfjs")                   # doctest: +SKIP
            <Plan 'net' has no form 'tfjs':
              the optimiser keeps 'momentum.0.weight' and 3 others between steps: use gk.SGD without momentum>
        """
        from gridkit.plans.support import supports

        return supports(self, form)

    def to_tfjs(self) -> bytes:
        """The plan as TensorFlow.js calls: a Plan message of syft-proto, as syft.js 0.1.4 takes it.

        A training plan gets the inputs and outputs that these workers know (`gridkit.plans.syft_form.syft_step`);
        another keeps its own. The calls hold for every batch size, and give the results of `run` within the rounding
        of float32. Source: syft-proto 0.4.9; TensorFlow.js 1.7.4.

        Raises:
            PlanError: an operation has no form there; the message names the node and its line.

        Example:
            >>> plan.to_tfjs()[:2]                      # doctest: +SKIP
            b'\\n\\x02'
        """
        from gridkit.plans.engines.tfjs import to_tfjs

        return to_tfjs(self)

    def _repr_html_(self) -> str:
        from gridkit.plans.explain import card

        return card(self)

    def __repr__(self) -> str:
        params = self._specs("param")
        parts = [f"{len(self.nodes)} operations"]
        if params:
            parts.append(f"{len(params)} parameters ({sum(p.size for p in params):,} values)")
        for i in self.inputs:
            if i.role in ("x", "y", "arg") and len(parts) < 6:
                parts.append(f"{i.name} {i.dtype}[{', '.join(map(str, i.shape))}]")
        if self.input("lr") is not None:
            parts.append(f"lr {self.lr:g}")
        return f"<Plan {self.name!r}: {', '.join(parts)}>"
