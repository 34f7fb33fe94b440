"""Models as plans: `model_plan` traces one, `PlanModule` is one again, `pack` and `unpack` are their way to bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.func import functional_call

from gridkit.errors import PlanError, UsageError, WireError
from gridkit.plans.engines.pytorch import checked, program
from gridkit.plans.function import argument_names, result_tensors
from gridkit.plans.model_form import arguments, check_model
from gridkit.plans.plan import Plan
from gridkit.plans.state import Held, held_state, sharing
from gridkit.plans.tracing.build import Given, build
from gridkit.plans.tracing.script import Script
from gridkit.plans.tracing.trace import Spec
from gridkit.wire.model import ModelFile, pack_model
from gridkit.wire.safetensors import ALIGNMENT, Packed
from gridkit.wire.tensors import Array

Model = nn.Module | Plan
Traced = tuple[Plan, dict[str, Held]]


def model_plan(model: nn.Module, example: Any, *, name: str | None = None) -> Plan:
    """Trace what a model computes in eval mode.

    The plan takes the state_dict's entries (roles "param" and "buffer") and the model's arguments (role "arg"), and
    gives its results, bit-equal to ``model.eval()(*example)`` for any number of samples. No value of it is
    read or changed.

    Args:
        model: any module whose operations are in the op table, also a TorchScript one, which is taken apart.
        example: what the model takes: a tensor or an array, or a tuple of them. The first dimension of the first is
            the batch, and that of each other that has the same size there; all other sizes are kept.
        name: what the plan is called; the model's class name if not given.

    Raises:
        UsageError: `example` is no tensor, or has no sample.
        PlanError: the model can't be a plan; the message names the operation and the line.

    Example:
        >>> model_plan(nn.Linear(3, 2), torch.zeros(1, 3))
        <Plan 'Linear': 2 operations, 2 parameters (8 values), input float32[B, 3]>
    """
    return _traced(model, example, name)[0]


def pack(model: Model, example: Any = None) -> Packed:
    """A model's bytes (`gridkit.wire.model`), its tensors not copied.

    Args:
        model: a module, traced by `example`; a downloaded one, which needs none; or the plan of a function.
        example: see `model_plan`.

    Raises:
        UsageError: no example, one that doesn't fit, or a plan that can't be served.
        PlanError: the model can't be a plan.
    """
    if isinstance(model, Plan):
        if any(i.role != "arg" for i in model.inputs):
            raise UsageError(
                f"plan {model.name!r} takes a model's tensors or random numbers, which it doesn't hold",
                "serve the model itself, with example=",
            )
        return pack_model(model.to_bytes(), {})
    if not isinstance(model, nn.Module):
        raise UsageError(f"model is {type(model).__name__}, expected a torch.nn.Module, a TorchScript module or a Plan")
    if isinstance(model, PlanModule):
        plan, held = model.__dict__["_gridkit_plan"], held_state(model)
    elif example is None:
        raise UsageError("a module is traced to be served", "give example=, a tensor or a tuple as the model takes it")
    else:
        plan, held = _traced(model, example, None)
    state = {name: h.tensor.detach().cpu().numpy() for name, h in held.items()}
    return pack_model(plan.to_bytes(), state, {name: h.source for name, h in held.items() if h.source is not None})


def unpack(file: ModelFile, whole: Any) -> PlanModule:
    """A model of its bytes, after the same checks as on a node.

    Args:
        file: the model.
        whole: its bytes, or a memory map of them, which the tensors then share.

    Raises:
        PlanError: plan or tensors break a rule.
        WireError: entries that are said to be one tensor differ, or a name that no module can have.
    """
    plan = check_model(file)
    state = {name: tensor_of(array) for name, array in file.tensors.views(whole).items()}
    for name, source in file.tied.items():
        if not torch.equal(state[name], state[source]):
            raise WireError(f"the model's {name!r} is said to be its {source!r}, but differs")
    return PlanModule(plan, {name: state[file.tied.get(name, name)] for name in state})


def tensor_of(array: Array) -> torch.Tensor:
    """An array's memory as a tensor; a copy where it isn't aligned as torch's own memory is.

    Kernels take other paths for other alignments, and give other bits. And they trust that a bool is 0 or 1, where a
    byte from elsewhere may be any.
    """
    tensor = torch.from_numpy(array.view(np.uint8) != 0 if array.dtype == bool else array)
    return tensor.clone() if tensor.data_ptr() % ALIGNMENT else tensor


class PlanModule(nn.Module):
    """A model that runs a plan: what `download_model` gives.

    Parameters and buffers are real ones, under the names of the original, so ``original.load_state_dict(this.
    state_dict())`` works, and so do optimisers. It is the computation of **eval mode**, whatever `train` says: dropout
    is off, running statistics are used and not updated, and a `detach` of the original isn't kept. It predicts
    bit-equal to the original in eval mode, and gradients flow through it, so it can be trained further.

    Args:
        plan: see `model_plan`.
        state: a tensor for each parameter and buffer of the plan; those that are one object stay one.

    Raises:
        PlanError: a tensor is missing, or not what the plan takes.
        WireError: a name that no module can have.

    Example:
        >>> net = nn.Linear(3, 2)
        >>> again = PlanModule(model_plan(net, torch.zeros(1, 3)), net.state_dict())
        >>> torch.equal(again(torch.ones(4, 3)), net(torch.ones(4, 3)))
        True
    """

    def __init__(self, plan: Plan, state: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        # One name that no parameter is likely to have: the original may have a submodule called "plan"
        self.__dict__["_gridkit_plan"] = plan
        made: dict[int, torch.Tensor] = {}
        for i in plan.inputs:
            if i.role not in ("param", "buffer"):
                continue
            tensor = state.get(i.name)
            if tensor is None or (str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)) != (i.dtype, i.shape):
                raise PlanError(f"plan {plan.name!r} takes {i.name!r} as {i.dtype}{list(i.shape)}, which isn't given")
            if i.role == "param":
                tensor = made.setdefault(id(tensor), nn.Parameter(tensor, requires_grad=tensor.is_floating_point()))
            try:
                _register(self, i.name, tensor)
            except KeyError as error:
                raise WireError(f"no module can hold an entry called {i.name!r}: {error.args[0]}") from None

    def forward(self, *args: Any) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """The model's result, or a tuple of them.

        Args:
            args: tensors (or arrays) as the original takes them.

        Raises:
            UsageError: another number of them.
            PlanError: one has the wrong shape or dtype; the message names it.
        """
        plan: Plan = self.__dict__["_gridkit_plan"]
        wanted = arguments(plan)
        if len(args) != len(wanted):
            names = ", ".join(i.name for i in wanted)
            raise UsageError(f"model {plan.name!r} takes {len(wanted)} tensors ({names}), got {len(args)}")
        held = {
            **dict(self.named_parameters(remove_duplicate=False)),
            **dict(self.named_buffers(remove_duplicate=False)),
        }
        given = iter(args)
        values = checked(plan, [next(given) if i.role == "arg" else held[i.name] for i in plan.inputs])
        # Only the interpreter leaves every value as it was, which autograd needs
        results = program(plan, "interpreter" if torch.is_grad_enabled() else "generated")(values)
        return results[0] if len(results) == 1 else tuple(results)

    def extra_repr(self) -> str:
        return repr(self.__dict__["_gridkit_plan"])


def _register(root: nn.Module, name: str, tensor: torch.Tensor) -> None:
    """Put an entry of a state_dict where its name says.

    Raises:
        KeyError: the name is taken, or can't be.
    """
    *path, last = name.split(".")
    module = root
    for part in path:
        inner = module._modules.get(part)
        if inner is None:
            inner = nn.Module()
            module.add_module(part, inner)
        module = inner
    if isinstance(tensor, nn.Parameter):
        module.register_parameter(last, tensor)
    else:
        module.register_buffer(last, tensor)


# ---- tracing


def _traced(model: nn.Module, example: Any, name: str | None) -> Traced:
    if not isinstance(model, nn.Module):
        raise UsageError(f"model is {type(model).__name__}, expected a torch.nn.Module")
    given = _example(example)
    called = name or str(getattr(model, "original_name", type(model).__name__))  # TorchScript keeps the class's name
    script = isinstance(model, torch.jit.ScriptModule)
    inside = model if script else sharing(model).eval()
    held = held_state(inside)
    run = _Run(inside, held)
    inputs = [*run.state(), *_arguments(inside, given)]
    try:
        plan = build(called, run.run, inputs, _results, _batch(given), None if script else inside)
    except PlanError as error:
        if error.hint is None:
            raise PlanError(error.message, "look whether the example is what the model takes") from error
        raise
    if plan.input("uniform") is not None:
        raise PlanError(
            "the model draws random numbers in eval mode too", "a served model gives everybody the same result"
        )
    return plan, held


def _example(example: Any) -> list[torch.Tensor]:
    parts = list(example) if isinstance(example, tuple | list) else [example]
    try:
        given = [torch.as_tensor(part).detach().cpu() for part in parts]
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"example must be a tensor, or a tuple of what the model takes: {error}") from None
    if not given or any(not len(part) for part in given if part.ndim):
        raise UsageError("example has no sample", "give what the model takes, with at least one row")
    return given


def _batch(given: Sequence[torch.Tensor]) -> int:
    """The size that "B" has while the model is traced."""
    return max(2, len(given[0])) if given[0].ndim else 2


def _arguments(model: nn.Module, given: Sequence[torch.Tensor]) -> list[Given]:
    first = given[0].shape[:1]
    names = argument_names(model.forward, len(given))
    specs = [Spec(("B", *t.shape[1:]) if t.ndim and t.shape[:1] == first else tuple(t.shape), t.dtype) for t in given]
    return [(name, "arg", spec) for name, spec in zip(names, specs, strict=True)]


def _results(count: int) -> list[tuple[str, str]]:
    return [(f"result.{place}", "result") for place in range(count)]


class _Run:
    """One call of a model as a pure function of its state."""

    def __init__(self, model: nn.Module, held: Mapping[str, Held]) -> None:
        self._model, self._held = model, held
        tensors = {name: h.tensor for name, h in held.items()}
        self._script = Script(model, tensors) if isinstance(model, torch.jit.ScriptModule) else None

    def state(self) -> list[Given]:
        return [
            (
                name,
                "param" if h.is_param else "buffer",
                Spec(tuple(h.tensor.shape), h.tensor.dtype, h.tensor.requires_grad),
            )
            for name, h in self._held.items()
        ]

    def run(self, *values: torch.Tensor) -> list[torch.Tensor]:
        state = dict(zip(self._held, values, strict=False))
        args = values[len(state) :]
        if self._script is not None:
            every = {name: state[h.source or name] for name, h in self._held.items()}
            return result_tensors(self._script.run(every, args))
        named = {name: state[name] for name, h in self._held.items() if h.source is None}
        # afterwards `after` holds what the model has assigned to its buffers
        after = dict(named)
        output = functional_call(self._model, after, args)
        for name, tensor in named.items():
            if after[name] is not tensor:
                raise PlanError(
                    f"the model gives its buffer {name!r} a new value, also in eval mode",
                    "a served model gives everybody the same result: return the value in its place",
                )
        return result_tensors(output)
