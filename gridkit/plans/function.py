"""Plans of any function of tensors: `gridkit.plan` and `gridkit.spec`."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from gridkit.errors import PlanError, UsageError
from gridkit.plans.engines.kernels import torch_dtype
from gridkit.plans.plan import Plan, Size
from gridkit.plans.table.shapes import ITEM_SIZES
from gridkit.plans.tracing.build import Given, build
from gridkit.plans.tracing.trace import Spec

_BATCH = 11
"""The size of "B" while a function is traced: a number that no dimension is likely to have."""


@dataclass(frozen=True, slots=True)
class ArgSpec:
    """What a plan takes at one place; `spec` makes it."""

    shape: tuple[Size, ...]
    dtype: str


def spec(*shape: Size, dtype: str = "float32") -> ArgSpec:
    """A tensor that a plan will be given.

    Args:
        shape: its sizes; the first may be "B", which stands for any number of samples, the same for all arguments.
        dtype: its dtype by name, such as "float32" or "int64".

    Raises:
        UsageError: a size or the dtype can't be.

    Example:
        >>> spec("B", 784)
        ArgSpec(shape=('B', 784), dtype='float32')
    """
    for place, size in enumerate(shape):
        if not (size == "B" and place == 0) and (isinstance(size, bool) or not isinstance(size, int) or size < 0):
            raise UsageError(f"spec{shape}: {size!r} is no size", 'give numbers; the first may be "B", for the batch')
    if dtype not in ITEM_SIZES:
        raise UsageError(f"spec(dtype={dtype!r}): unknown dtype", f"choose one of {', '.join(ITEM_SIZES)}")
    return ArgSpec(shape, dtype)


def plan(*, args: Sequence[Any], name: str | None = None) -> Callable[[Callable[..., Any]], Plan]:
    """Make a plan of a function of tensors; a decorator.

    The function runs once, on tensors without values, and what it does to them becomes the plan, as with
    `training_plan`. Modules are traced in the mode that they are in, on a copy; in training mode the random numbers of
    dropout become inputs.

    Args:
        args: for each argument of the function a `spec`; or an example (a tensor or an array, whose shape is kept as
            it is); or a module; or a mapping or a list of such.
        name: what the plan is called; the function's name if not given.

    Returns:
        A plan with an input of role "arg" for each tensor and an output of role "result" for each tensor that the
        function returns. Call it like the function: it gives a tensor, or a tuple of tensors.

    Raises:
        UsageError: `args` doesn't fit the function.
        PlanError: the code can't be a plan; the message names the operation and the line.

    Example:
        >>> @plan(args=(spec("B", 3), spec("B")))
        ... def weighted(x, w):
        ...     return (x * w[:, None]).sum(0) / w.sum()
        >>> weighted(torch.ones(4, 3), torch.ones(4))
        tensor([1., 1., 1.])
    """

    def make(function: Callable[..., Any]) -> Plan:
        if not callable(function):
            raise UsageError(f"a plan is made of a function, not of {type(function).__name__}")
        names = argument_names(function, len(args))
        given = [_copied(arg) for arg in args]
        inputs = [item for arg, called in zip(given, names, strict=True) for item in _inputs(arg, called)]
        if not inputs:
            raise UsageError("a plan needs at least one tensor to work on", 'give args=(spec("B", 784), …)')

        def run(*values: torch.Tensor) -> list[torch.Tensor]:
            left = iter(values)
            return result_tensors(function(*(_filled(arg, left) for arg in given)))

        modules = torch.nn.ModuleDict(
            {n: arg for n, arg in zip(names, given, strict=True) if isinstance(arg, torch.nn.Module)}
        )
        called = name or str(getattr(function, "__name__", type(function).__name__))
        return build(called, run, inputs, lambda n: [(f"result.{i}", "result") for i in range(n)], _BATCH, modules)

    return make


def call(plan: Plan, args: Sequence[Any]) -> torch.Tensor | tuple[torch.Tensor, ...]:
    """See `Plan.__call__`."""
    wanted = [i for i in plan.inputs if i.role != "uniform"]
    if any(i.role != "arg" for i in wanted):
        raise UsageError(
            f"plan {plan.name!r} is no plan of a function, and can't be called like one",
            "a training plan runs by grid.train or gk.simulate; plan.run(list) takes one value for each of its inputs",
        )
    values = [tensor for arg in args for tensor in _flat(arg)]
    if len(values) != len(wanted):
        names = ", ".join(i.name for i in wanted)
        raise UsageError(f"plan {plan.name!r} takes {len(wanted)} tensors ({names}), got {len(values)}")
    sizes = (len(v) for v, i in zip(values, wanted, strict=True) if i.shape[:1] == ("B",) and v.ndim)
    batch = next(sizes, 1)
    left = iter(values)
    results = plan.run(
        [
            torch.rand([batch if s == "B" else s for s in i.shape]) if i.role == "uniform" else next(left)
            for i in plan.inputs
        ]
    )
    return results[0] if len(results) == 1 else tuple(results)


def argument_names(function: Callable[..., Any], count: int) -> list[str]:
    """The names of the function's first arguments."""
    try:
        signature = inspect.signature(function)
        signature.bind(*[None] * count)
    except TypeError as error:
        raise UsageError(f"args has {count} entries, which the function doesn't take: {error}") from None
    except ValueError:  # written in C
        return [f"arg{i}" for i in range(count)]
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    known = [p.name for p in signature.parameters.values() if p.kind in kinds]
    return (known + [f"arg{i}" for i in range(len(known), count)])[:count]


def _inputs(arg: Any, name: str) -> Iterator[Given]:
    """An input for each tensor of an argument; their order is that of `_filled` and `_flat`."""
    if isinstance(arg, ArgSpec):
        yield name, "arg", Spec(arg.shape, torch_dtype(arg.dtype))
    elif isinstance(arg, torch.nn.Module):
        for key, tensor in arg.state_dict(keep_vars=True).items():
            yield f"{name}.{key}", "arg", Spec(tuple(tensor.shape), tensor.dtype, tensor.requires_grad)
    elif isinstance(arg, Mapping):
        for key, value in arg.items():
            yield from _inputs(value, f"{name}.{key}")
    elif isinstance(arg, list | tuple):
        for place, value in enumerate(arg):
            yield from _inputs(value, f"{name}.{place}")
    else:
        tensor = _tensor(arg)
        yield name, "arg", Spec(tuple(tensor.shape), tensor.dtype, tensor.requires_grad)


def _copied(arg: Any) -> Any:
    """The argument with copies of its modules, for the trace to work on."""
    if isinstance(arg, torch.nn.Module):
        return copy.deepcopy(arg)
    if isinstance(arg, Mapping):
        return {key: _copied(value) for key, value in arg.items()}
    return [_copied(value) for value in arg] if isinstance(arg, list | tuple) else arg


def _filled(arg: Any, values: Iterator[torch.Tensor]) -> Any:
    """The argument with the traced tensors in place of what described them."""
    if isinstance(arg, torch.nn.Module):
        return _with_state(arg, values)
    if isinstance(arg, Mapping):
        return {key: _filled(value, values) for key, value in arg.items()}
    if isinstance(arg, list | tuple):
        return [_filled(value, values) for value in arg]
    return next(values)


def _with_state(module: torch.nn.Module, values: Iterator[torch.Tensor]) -> torch.nn.Module:
    for key in list(module.state_dict()):
        path, _, name = key.rpartition(".")
        part = module.get_submodule(path)
        # the dictionaries behind the attributes: these would take nothing but an nn.Parameter
        (part._parameters if name in part._parameters else part._buffers)[name] = next(values)  # type: ignore[assignment]
    return module


def _flat(arg: Any) -> Iterator[torch.Tensor]:
    """The tensors of an argument that a plan is called with."""
    if isinstance(arg, torch.nn.Module):
        arg = arg.state_dict()
    if isinstance(arg, Mapping):
        arg = list(arg.values())
    if isinstance(arg, list | tuple):
        for value in arg:
            yield from _flat(value)
    else:
        yield _tensor(arg)


def _tensor(value: Any) -> torch.Tensor:
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"an argument is no tensor: {error}", "give a tensor or an array") from None


def result_tensors(value: Any) -> list[torch.Tensor]:
    """What the function returned, as a list."""
    results = [value] if isinstance(value, torch.Tensor) else list(value) if isinstance(value, list | tuple) else None
    if not results or not all(isinstance(r, torch.Tensor) for r in results):
        raise PlanError(f"the function gave {type(value).__name__}, expected a tensor or a tuple of tensors")
    return results
