"""Tracing: run ordinary torch code once on tensors without data and write down each operation below autograd.

A dispatch mode sees every ATen operation, forward and backward, after torch has broken composite ones up, so what is
recorded is what eager execution runs, and a plan's results are bit-equal to it. The batch size is a symbol; what the
code asks of it is recorded as a guard. Tensors have no values here, so code that looks at them is refused.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import CodeType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from torch.utils._python_dispatch import TorchDispatchMode

from gridkit.errors import PlanError
from gridkit.plans.form import MAX_NODES
from gridkit.plans.plan import Arg, Dtype, Node, Ref, Size
from gridkit.plans.table.ops import Op, table
from gridkit.plans.tracing import source
from gridkit.plans.tracing.overrides import OVERRIDES, UNWRITTEN
from gridkit.plans.tracing.recurrent import Rewritten
from gridkit.plans.tracing.simplify import Trace, placed, simplified
from gridkit.plans.tracing.sizes import Sizes

MAX_CONSTANT = 4096
"""Bytes of a tensor that code may capture without naming it: a table of class weights passes, a dataset doesn't."""

_SAME_VALUE = ("aten.detach.default", "aten.alias.default", "aten.lift_fresh.default")
_QUESTIONS = (
    "aten.size.default",
    "aten.sym_size.default",
    "aten.sym_stride.default",
    "aten.sym_storage_offset.default",
    "aten.sym_numel.default",
    "aten.is_contiguous.default",
    "aten.is_contiguous.memory_format",
    "aten.is_strides_like_format.default",
    "aten.is_non_overlapping_and_dense.default",
    "aten.dim.default",
)


class Spec(NamedTuple):
    """A tensor that the traced code takes.

    Attributes:
        shape: its sizes, "B" for the batch.
        dtype: its dtype.
        differentiable: whether it requires a gradient.
        changes: whether the code may give it another value in place, as layers do with their buffers.
    """

    shape: tuple[Size, ...]
    dtype: torch.dtype
    differentiable: bool = False
    changes: bool = False


def trace(
    function: Callable[..., Sequence[torch.Tensor]],
    inputs: Sequence[Spec | float],
    batch: int,
    modules: torch.nn.Module | None = None,
    symbolic: bool = True,
) -> Trace:
    """Run `function` once without data and record it.

    Args:
        function: takes one value an input and returns tensors.
        inputs: what each is; a float for a number that stays an input.
        batch: the size that "B" has in this run; at least 2.
        modules: the module that runs inside, so that messages can name the part at fault.
        symbolic: False takes `batch` for a plain number, and gives what the code does at that size alone.

    Raises:
        PlanError: the code can't be a plan; the message names the operation and the user's line.
    """
    # else torch takes for granted that no size is 0 or 1, and answers such questions without a guard
    env = ShapeEnv(specialize_zero_one=False)
    fake_mode = FakeTensorMode(shape_env=env, allow_non_fake_inputs=True)
    values = _fakes(env, fake_mode, inputs, batch, symbolic)
    recorder = Recorder(env, fake_mode, source.code_of(function), batch)
    for value, spec in zip(values, inputs, strict=True):
        recorder.input(value, spec)
    with _names(modules, recorder), _quiet(), fake_mode, recorder, Rewritten():
        try:
            outputs = function(*values)
        except PlanError:
            raise
        except Exception as error:
            raise recorder.failure(error) from error
    recorder.sizes.check_batch()
    ids = tuple(recorder.id_of(o) for o in outputs)
    user, torch_own = recorder.sizes.guards()
    drawn, nodes = tuple(recorder.drawn), placed(recorder.nodes)
    raw = Trace(batch, tuple(recorder.inputs), drawn, nodes, recorder.constants, ids, user, torch_own)
    return simplified(raw)


@contextmanager
def _quiet() -> Iterator[None]:
    """Of what fails in here torch logs a page, and raises it as well: the error says it all."""
    log = logging.getLogger(FakeTensor.__module__)

    def nothing(_: logging.LogRecord) -> bool:
        return False

    log.addFilter(nothing)
    try:
        yield
    finally:
        log.removeFilter(nothing)


def _fakes(env: ShapeEnv, mode: FakeTensorMode, inputs: Sequence[Any], batch: int, symbolic: bool) -> list[Any]:
    values: list[Any] = []
    first = None
    for spec in inputs:
        if isinstance(spec, float):
            values.append(env.create_unbacked_symfloat())
            continue
        real = torch.empty([batch if s == "B" else s for s in spec.shape], dtype=spec.dtype)
        dims = [DimDynamic.DYNAMIC if s == "B" and symbolic else DimDynamic.STATIC for s in spec.shape]
        fake = mode.from_tensor(real, symbolic_context=StatelessSymbolicContext(dynamic_sizes=dims))
        if "B" in spec.shape and symbolic:
            first = fake if first is None else first
            torch._check(fake.size(0) == first.size(0))  # type: ignore[no-untyped-call]
        values.append(fake.requires_grad_(spec.differentiable))
    return values


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down what is dispatched while it is active."""

    def __init__(self, env: ShapeEnv, fake_mode: FakeTensorMode, boundary: CodeType | None, size: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._fake_mode, self._boundary = fake_mode, boundary
        self.sizes = Sizes(env, size, self._emit, self.where)
        self.inputs: list[int] = []
        self.drawn: list[tuple[int, tuple[Size, ...]]] = []
        self.nodes: list[Node] = []
        self.constants: dict[int, np.ndarray] = {}
        self.modules: list[str] = []
        self._changeable: set[int] = set()
        self._unwritten: set[int] = set()
        # by id() of a tensor; the tensor is held, so that nothing else gets its id()
        self._values: dict[int, tuple[Any, int]] = {}
        self._captured: dict[int, tuple[Any, Any]] = {}  # likewise, aliases of captured tensors, with these
        self._next = 0

    # ---- ids

    def _new(self) -> int:
        self._next += 1
        return self._next - 1

    def input(self, value: Any, spec: Any) -> None:
        place = self._new()
        self.inputs.append(place)
        if isinstance(spec, float):
            self.sizes.input(value, place)
            return
        self._values[id(value)] = (value, place)
        if spec.changes:
            self._changeable.add(place)
        if "B" in spec.shape:
            self.sizes.batch_of(value, place)

    def uniform(self, sizes: Sequence[Any]) -> torch.Tensor:
        """A new input of uniform numbers, as many as `sizes` say, with the batch first."""
        shape = self.sizes.by_rows(sizes)
        if shape is None:
            raise PlanError(f"random numbers of a shape that a plan can't hold: {list(sizes)}{self.where()}")
        place = self._new()
        with torch.utils._python_dispatch._disable_current_modes(), self._fake_mode:
            value = torch.empty([self.sizes.rows if s == "B" else s for s in shape])
        self._values[id(value)] = (value, place)
        self.drawn.append((place, shape))
        return value

    def id_of(self, value: torch.Tensor) -> int:
        found = self._values.get(id(value))
        if found is None:
            return self._capture(value)
        if found[1] in self._unwritten:
            raise PlanError(f"the code reads new memory that nothing was written to{self.where()}", "use torch.zeros")
        return found[1]

    def _capture(self, value: torch.Tensor) -> int:
        original = self._captured.get(id(value), (None, value))[1]
        if id(original) in self._values:
            return self._values[id(original)][1]
        real = original.constant if isinstance(original, FakeTensor) else original
        shape = "x".join(map(str, value.shape)) or "single value"
        if real is None:
            raise PlanError(f"a tensor ({shape}) came from outside of the traced code{self.where()}")
        if value.requires_grad:
            raise PlanError(
                f"a parameter ({shape}) is used that doesn't belong to the model{self.where()}",
                "make it a parameter of the model, or give it as an argument",
            )
        if real.numel() * real.element_size() > MAX_CONSTANT:
            raise PlanError(
                f"a captured tensor ({shape}, {str(real.dtype).removeprefix('torch.')}) would travel inside the plan"
                f"{self.where()}",
                f"plans are sent to others: captured tensors have at most {MAX_CONSTANT:,} bytes; "
                "register it as a buffer of the model if it belongs there",
            )
        place = self._new()
        with torch.utils._python_dispatch._disable_current_modes():
            self.constants[place] = real.detach().cpu().contiguous().numpy().copy()
        self._values[id(original)] = (original, place)
        return place

    # ---- recording

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = str(func)
        if not name.startswith("aten.") or name in _QUESTIONS:
            return func(*args, **kwargs)
        if name in _SAME_VALUE:
            return self._alias(args[0], func(*args, **kwargs))
        if name == "aten._local_scalar_dense.default":
            if isinstance(args[0], FakeTensor) and args[0].constant is None:
                raise PlanError(
                    f"the code reads a tensor's value (.item(), bool(), or an if on a tensor){self.where()}",
                    "a plan has no values while it is traced: use torch.where or another tensor operation",
                )
            return func(*args, **kwargs)
        if name in UNWRITTEN:
            result = func(*args, **kwargs)
            self._unwritten.add(self._new())
            self._values[id(result)] = (result, self._next - 1)
            return result
        if name in OVERRIDES:
            return OVERRIDES[name](self, *args, **kwargs)
        return self.record(func, args, kwargs)

    def record(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operation of the table and write it down."""
        name = str(func)
        op, changes = self._operation(name, args)
        read = tuple(self._arg(a) for a in args)
        options = tuple((k, self._arg(v)) for k, v in kwargs.items() if self._kept(op, k, v))
        if changes:
            self._check_alone(args[0], name)
        result = func(*args, **kwargs)
        out: list[int | None] = []
        for value in result if isinstance(result, tuple | list) else (result,):
            out.append(None if value is None else self._new())
            if value is not None:
                self._values[id(value)] = (value, self._next - 1)
        if changes:
            self._rebind(args[0], self._next - 1)
        self.nodes.append(Node(op.name, read, options, tuple(out), self._line()))
        if len(self.nodes) > MAX_NODES:
            raise PlanError(f"the code takes more than {MAX_NODES:,} operations{self.where()}")
        return result

    def _alias(self, old: Any, new: Any) -> Any:
        """`new` is `old` in another object. Mustn't raise: autograd calls this where an error ends the process."""
        if id(old) in self._values:
            self._values[id(new)] = (new, self._values[id(old)][1])
        else:
            self._captured[id(new)] = (new, self._captured.get(id(old), (None, old))[1])
        return new

    def _operation(self, name: str, args: tuple[Any, ...]) -> tuple[Op, bool]:
        """The row of the table; for ``relu_`` that of ``relu``, and True: it changes its first argument."""
        rows = table()
        packet, _, overload = name.rpartition(".")
        changes = packet.endswith("_") and not packet.endswith("__")
        packet = packet.rstrip("_") if changes else packet
        found = rows.get(f"{packet}.{overload}")
        takes_tensor = found is not None and overload == "Tensor" and found.params[1].type == "Tensor"
        if takes_tensor and not isinstance(args[1], torch.Tensor):  # a number comes under the same name
            found = rows.get(f"{packet}.Scalar")
        if found is None:
            self.sizes.check_batch()
            raise PlanError(f"a plan can't hold the operation {name}{self.where()}", self.advice())
        return found, changes

    def _kept(self, op: Op, key: str, value: Any) -> bool:
        if any(p.name == key for p in op.params):
            return True
        if value in (None, False, torch.strided, torch.preserve_format) or value == torch.device("cpu"):
            return False
        raise PlanError(f"a plan can't hold the operation {op.name} with {key}={value}{self.where()}")

    def _arg(self, value: Any) -> Arg:
        if isinstance(value, torch.Tensor):
            return Ref(self.id_of(value))
        if isinstance(value, torch.SymInt | torch.SymFloat):
            return self.sizes.number(value.node.expr)
        if isinstance(value, torch.dtype):
            return Dtype(str(value).removeprefix("torch."))
        if isinstance(value, torch.memory_format):
            return str(value).removeprefix("torch.")
        if isinstance(value, list | tuple):
            return tuple(self._arg(v) for v in value)
        if value is None or isinstance(value, bool | int | float | str):
            return value
        raise PlanError(f"a plan can't hold an argument of type {type(value).__name__}{self.where()}")

    def _emit(self, name: str, *args: Arg) -> Ref:
        place = self._new()
        self.nodes.append(Node(name, args, (), (place,)))
        return Ref(place)

    # ---- operations in place

    def _sharing(self, target: torch.Tensor) -> list[int]:
        """Keys of the tensors in the same memory."""
        memory = target.untyped_storage()._cdata
        return [k for k, (t, _) in self._values.items() if t.untyped_storage()._cdata == memory]

    def _check_alone(self, target: torch.Tensor, name: str) -> None:
        """An operation in place is written as one that isn't; that is right only if no view sees the change."""
        place = self._values[id(target)][1] if id(target) in self._values else self._capture(target)
        if place in self.constants or (place in self.inputs and place not in self._changeable):
            what = "an input, a parameter or a buffer" if place in self.inputs else "a captured tensor"
            raise PlanError(f"operation {name} changes {what} in place{self.where()}", self.advice(in_place=True))
        if any(self._values[k][1] != place for k in self._sharing(target)):
            raise PlanError(
                f"operation {name} changes a tensor in place that another view shares{self.where()}",
                self.advice(in_place=True),
            )

    def replace(self, target: torch.Tensor, new: torch.Tensor, name: str) -> None:
        """From now on `target` has the value of `new`: what an operation in place does."""
        self._check_alone(target, name)
        self._rebind(target, self.id_of(new))

    def _rebind(self, target: torch.Tensor, place: int) -> None:
        for key in self._sharing(target):
            self._values[key] = (self._values[key][0], place)

    # ---- what to tell the user

    def _line(self) -> str:
        """Where a node comes from, without what stands around it in a message."""
        text = self.where().removeprefix(",").strip()
        return text[1:-1] if text.startswith("(") else text

    def where(self) -> str:
        """The module and the user's line that are running, for the end of a message's first line."""
        return self._place(source.running(sys._getframe(1), self._boundary))

    def advice(self, in_place: bool = False) -> str:
        """What to try in place of the operation that is running."""
        module = self.modules[-1] if self.modules else ""
        if "Embedding" in module:
            return "use Embedding without max_norm, sparse and scale_grad_by_freq"
        if in_place and "Norm" in module:
            return "call model.eval() first: a function's plan has no place for new running statistics"
        if in_place:
            return "use the form that returns a new tensor"
        return "write it with other operations; those that a plan can hold stand in gridkit/plans/table"

    def _place(self, place: source.Place | None) -> str:
        module = f", in module {self.modules[-1]}" if self.modules else ""
        return f"{module}{source.shown(place)}" if place is not None else module

    def failure(self, error: Exception) -> PlanError:
        """What the code itself raised, as a PlanError with the user's line."""
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "no message"
        where = self._place(source.raised(error.__traceback__))
        if type(error).__name__.startswith("GuardOnDataDependent"):
            return PlanError(
                f"what the code does depends on a tensor's value{where}",
                "a plan has no values while it is traced: use torch.where or another tensor operation",
            )
        return PlanError(f"the code raised {type(error).__name__} while it was traced: {reason}{where}")


@contextmanager
def _names(root: torch.nn.Module | None, recorder: Recorder) -> Iterator[None]:
    """Keep the name of the submodule that is running in `recorder.modules`."""
    handles = []

    def enter(name: str) -> Callable[..., None]:
        return lambda module, args: recorder.modules.append(f"{name!r} ({type(module).__name__})")

    def leave(module: torch.nn.Module, args: Any, output: Any) -> None:
        recorder.modules.pop()

    for name, module in root.named_modules() if root is not None else ():
        if name:
            handles.append(module.register_forward_pre_hook(enter(name), prepend=True))
            handles.append(module.register_forward_hook(leave))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
