"""The tensors of a session by their ids, and what is told about them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from gridkit.errors import ErrorCode, PlanError
from gridkit.runner.tensors.arguments import DTYPES
from gridkit.runner.tensors.graph import Edge, Graph, Node, grad_fn_of
from gridkit.runner.tensors.ledger import Ledger, is_private, storage_of
from gridkit.wire.tensors import Array

MAX_ID = 200
"""characters"""


@dataclass(frozen=True, slots=True)
class Values:
    """A tensor without an id, such as a gradient on its way.

    Attributes:
        dtype, shape: as torch names them; "float32", (3, 4).
        values: the elements, where they are few enough to be shown, and not private; bfloat16 is shown as float32.
    """

    dtype: str
    shape: tuple[int, ...]
    values: Array | None


@dataclass(frozen=True, slots=True)
class Variable:
    """What a mirror of a tensor shows. Attributes are torch's.

    Attributes:
        grad_fn: the number of its node in the graph.
        has_grad: whether there is a gradient.
        version: how often it was changed in place.
        private: its values stay here.
    """

    id: str
    data: Values
    requires_grad: bool
    is_leaf: bool
    is_parameter: bool
    retains_grad: bool
    output_nr: int
    grad_fn: int | None
    has_grad: bool
    version: int
    private: bool


@dataclass(frozen=True, slots=True)
class Told:
    """What changed, in the order in which a mirror can take it in: nodes, edges, then variables.

    Attributes:
        nodes, edges: what is new in the graph; a node comes after those that it leads to.
        variables: in the order that was asked for.
        changed: other variables that aren't what they were, such as views of what was changed in place.
        freed: numbers of nodes that gave back what they kept: no second pass goes through them.
    """

    nodes: tuple[Node, ...] = ()
    edges: tuple[Edge, ...] = ()
    variables: tuple[Variable, ...] = ()
    changed: tuple[Variable, ...] = ()
    freed: tuple[int, ...] = ()


class Variables:
    """Tensors by id. A tensor may have several: a function that gives its argument back gives it another name.

    Args:
        memory: bytes of all that is held; see `Ledger`.
        count: variables, optimizers and nodes of the graph that there may be together.
        preview: a tensor of at most so many elements is told with its values.

    Attributes:
        ledger: who holds which memory.
        graph: the graph behind the variables.
        retaining: those that aren't leaves and keep their gradient, in order.
    """

    def __init__(self, memory: int, count: int, preview: int) -> None:
        self.ledger = Ledger(memory)
        self.graph = Graph(self.ledger, lambda tensor: next(iter(self.names(tensor)), None))
        self.retaining: dict[str, None] = {}
        self._count, self._preview = count, preview
        self._tensors: dict[str, torch.Tensor] = {}
        self._names: dict[int, list[str]] = {}

    def __len__(self) -> int:
        return len(self._tensors)

    def find(self, name: object) -> torch.Tensor:
        """The tensor with that id.

        Raises:
            PlanError: `NOT_FOUND`.
        """
        tensor = self._tensors.get(name) if isinstance(name, str) else None
        if tensor is None:
            hint = "it was deleted, or the call that should have made it failed"
            raise PlanError(f"there is no tensor {repr(name)[:80]} in this session", hint, code=ErrorCode.NOT_FOUND)
        return tensor

    def has(self, name: object) -> bool:
        """Whether a tensor has that id."""
        return name in self._tensors

    def names(self, tensor: torch.Tensor) -> list[str]:
        """The ids of a tensor, in the order in which it got them."""
        return self._names.get(id(tensor), [])

    def check_new(self, names: Sequence[object]) -> None:
        """Raise PlanError unless all are well-formed, free and few enough."""
        seen: set[object] = set()
        for name in names:
            if not isinstance(name, str) or not 0 < len(name) <= MAX_ID or not name.isprintable():
                hint = f"use up to {MAX_ID} printable characters"
                raise PlanError(f"{repr(name)[:80]} is no id", hint, code=ErrorCode.BAD_INPUT)
            if self.ledger.knows(name) or name in seen:
                hint = "use a new one, or delete that first"
                raise PlanError(f"the id {name!r} is taken", hint, code=ErrorCode.ALREADY_EXISTS)
            seen.add(name)
        self.ledger.sweep()
        if len(self.ledger) + len(names) > self._count:
            raise PlanError(
                f"this session has {len(self.ledger):,} tensors and graph nodes; it may have {self._count:,}",
                "delete tensors that you don't need; graphs go with the tensors that lead to them",
                code=ErrorCode.TOO_MANY,
            )

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Give a tensor a (further) id."""
        self._tensors[name] = tensor
        self._names.setdefault(id(tensor), []).append(name)
        self.count_in(name)

    def remove(self, name: str) -> None:
        """Take an id away. The tensor lives on where a graph or an optimizer needs it."""
        tensor = self._tensors.pop(name)
        self._names[id(tensor)].remove(name)
        if not self._names[id(tensor)]:
            del self._names[id(tensor)]
        self.retaining.pop(name, None)
        self.ledger.drop(name)
        grad = grad_of(tensor)
        # A gradient with a graph refers to its tensor, in C++, where no collector looks. Optimizers may still need it.
        if (
            grad is not None
            and grad.grad_fn is not None
            and not any(isinstance(h, str) for h in self.ledger.holders(tensor))
        ):
            tensor.grad = None

    def count_in(self, name: str) -> None:
        """Note what a variable holds by now: its memory, and its gradient's; and whether it retains that."""
        tensor = self._tensors[name]
        grad = grad_of(tensor)
        self.ledger.keep(name, (tensor,) if grad is None else (tensor, grad))
        if tensor.retains_grad:
            self.retaining[name] = None

    def sharing(self, tensors: Iterable[torch.Tensor]) -> list[str]:
        """The ids of all variables that have their memory in common with one of these."""
        found: set[str] = set()
        for tensor in tensors:
            place = storage_of(tensor)
            for name in self.ledger.holders(tensor):
                # a variable also holds the memory of its gradient
                if isinstance(name, str) and self.has(name) and storage_of(self._tensors[name]) == place:
                    found.add(name)
        return sorted(found)

    def sharing_grads(self, names: Iterable[str]) -> list[str]:
        """The ids that the gradients of these variables have themselves."""
        grads = [grad_of(self._tensors[name]) for name in names]
        return self.sharing(grad for grad in grads if grad is not None)

    def told(self, names: Iterable[str], changed: Iterable[str] = ()) -> Told:
        """What a mirror needs to know about these variables, with what is new in the graph behind them."""
        names = dict.fromkeys(names)
        others = [name for name in changed if name not in names]
        self.graph.grow(grad_fn_of(self._tensors[name]) for name in (*names, *others))
        return Told(*self.graph.news(), tuple(map(self._described, names)), tuple(map(self._described, others)))

    def values(self, tensor: torch.Tensor, private: bool = False) -> Values:
        """What is told of a tensor without an id. `private`: it is, whether its memory is marked so by now or not."""
        secret = private or tensor.numel() > self._preview or is_private(tensor)
        shown = None if secret else array_of(tensor)
        return Values(dtype_name(tensor.dtype), tuple(tensor.shape), shown)

    def _described(self, name: str) -> Variable:
        tensor = self._tensors[name]
        node = grad_fn_of(tensor)
        return Variable(
            name,
            self.values(tensor),
            tensor.requires_grad,
            node is None,
            isinstance(tensor, torch.nn.Parameter),
            tensor.retains_grad,
            tensor.output_nr,
            None if node is None else self.graph.number(node),
            grad_of(tensor) is not None,
            tensor._version,
            is_private(tensor),
        )


def grad_of(tensor: torch.Tensor) -> torch.Tensor | None:
    """A tensor's gradient; torch warns where it has none because it is no leaf."""
    return tensor.grad if tensor.retains_grad or grad_fn_of(tensor) is None else None


def dtype_name(dtype: torch.dtype) -> str:
    """Such as "float32"."""
    return str(dtype).removeprefix("torch.")


def array_of(tensor: torch.Tensor) -> Array:
    """A copy of a tensor's values, in C order; bfloat16, which NumPy hasn't, as float32.

    >>> array_of(torch.ones(2, dtype=torch.bfloat16)).dtype
    dtype('float32')
    """
    array = np.empty(tuple(tensor.shape), "float32" if tensor.dtype == torch.bfloat16 else dtype_name(tensor.dtype))
    torch.from_numpy(array).copy_(tensor.detach())  # tensor.numpy() would make its memory one that can't be resized
    return array


def tensor_of(array: Array) -> torch.Tensor:
    """A tensor with an array's values, in memory of torch's own: kernels give other bits where that is aligned
    otherwise.

    Raises:
        PlanError: `BAD_INPUT` for a dtype that torch doesn't know under that name.
    """
    if array.dtype.name not in DTYPES:
        raise PlanError(
            f"arrays of {array.dtype.name} can't be tensors",
            f"use one of {', '.join(DTYPES)}",
            code=ErrorCode.BAD_INPUT,
        )
    array = np.require(array, array.dtype.newbyteorder("="), ["C", "W"])
    if array.dtype == bool:  # kernels trust that it is 0 or 1; a byte from elsewhere may be any
        return torch.from_numpy(array.view(np.uint8)) != 0
    return torch.from_numpy(array).clone()
