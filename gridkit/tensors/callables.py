"""Functions of a notebook that a node calls with tensors: what comes and what goes, as remote tensors or local ones."""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch

from gridkit import cells
from gridkit.client.rpc_callables import RUNNING, Exposed, check_callable
from gridkit.errors import EvaluationFailed, GridkitError, RunError, UsageError
from gridkit.tensors.functions import remote_of
from gridkit.tensors.handle import Handle, World, array_of, tensor_of
from gridkit.tensors.remote import Remote
from gridkit.wire.rpc.values import Variable

BY: Final = ("reference", "value")
"""how remote tensors come to a function: as such, or fetched"""

Function = Callable[..., Any]


class Kept(Variable):
    """A reference to a remote tensor that lives as long as this does: until it was said."""

    def __init__(self, tensor: Remote) -> None:
        reference = tensor.reference
        super().__init__(reference.id, reference.parameter)
        object.__setattr__(self, "tensor", tensor)
        facts = f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
        object.__setattr__(self, "facts", facts)  # for the list of calls: the node may not have told of it


def carried(world: World, fn: Function, name: str | None, arguments: str) -> Function:
    """A function that gets and gives what is on the wire: references, and arrays of NumPy.

    `fn` gets remote tensors (or with `arguments` "value" local ones) and local tensors for arrays, and may give back
    both. A coroutine function stays one.

    Raises:
        UsageError: `fn` isn't a function, `name` no text, or `arguments` none of `BY`.
    """
    check_callable(fn)
    if name is not None and not isinstance(name, str):
        raise UsageError(f"name={name!r}", "use a text, or leave it out")
    if arguments not in BY:
        raise UsageError(f"arguments={arguments!r}", f"use {' or '.join(map(repr, BY))}")
    by_value = arguments == "value"

    def plain(*args: Any, **kwargs: Any) -> Any:
        given, named = taken(world, (args, kwargs))
        if by_value:
            given, named = world.wait(_fetched((given, named)))
        _note(given, named)
        form = given_back(world, fn(*given, **named))
        world.wait(world.client.caught_up())
        return form

    async def coroutine(*args: Any, **kwargs: Any) -> Any:
        given, named = taken(world, (args, kwargs))
        if by_value:
            given, named = await _fetched((given, named))
        _note(given, named)
        form = given_back(world, await fn(*given, **named))
        await world.client.caught_up()
        return form

    run: Function = coroutine if inspect.iscoroutinefunction(fn) else plain
    functools.update_wrapper(run, fn)
    run.__name__ = name or str(getattr(fn, "__name__", type(fn).__name__))
    return run


def taken(world: World, value: Any) -> Any:
    """What came, with tensors."""
    match value:
        case Variable():
            return known(world, value.id)
        case np.ndarray():
            return tensor_of(value, value.dtype.name)
        case list() | tuple():
            return type(value)(taken(world, each) for each in value)
        case dict():
            return {name: taken(world, each) for name, each in value.items()}
    return value


def known(world: World, id: str) -> Remote:
    """The remote tensor with this id: the notebook's own, or another that the node has told of.

    Raises:
        NotFoundError: there is none.
    """
    handle = world.handles.get(id)
    remote = None if handle is None else handle.remote()
    if remote is None:
        told = world.client.rpc.mirror.variable(id)
        handle = handle or Handle(world, id)
        shape, leaf = tuple(told.data.shape), told.is_leaf and told.requires_grad
        remote = remote_of(world, handle, shape, told.data.dtype, graph=told.requires_grad and not leaf)
        if leaf:
            with torch._C.DisableTorchFunctionSubclass():
                remote.requires_grad_()
    return remote


async def _fetched(value: Any) -> Any:
    """A value with local tensors in place of remote ones.

    Raises:
        PrivacyError: one of them is private.
    """
    match value:
        case Remote():
            return await value._core.get()
        case list() | tuple():
            return type(value)([await _fetched(each) for each in value])
        case dict():
            return {name: await _fetched(each) for name, each in value.items()}
    return value


def given_back(world: World, value: Any) -> Any:
    """What goes, with references and arrays.

    Raises:
        RunError: a remote tensor is of another session.
        UsageError: a tensor's values can't travel.
    """
    match value:
        case Remote():
            if value._core.world is not world:
                raise RunError("the function gives a remote tensor of another session", "give value.get()")
            kept = Kept(value)
            run = RUNNING.get()
            if run is not None and run.asked is not None:
                run.asked.kept.append(value)
            return kept
        case torch.Tensor():
            return array_of(value)
        case list() | tuple():
            return type(value)(given_back(world, each) for each in value)
        case dict():
            return {name: given_back(world, each) for name, each in value.items()}
    return value


def _note(args: Any, kwargs: Any) -> None:
    """For the list of calls: what the function gets."""
    run = RUNNING.get()
    if run is not None:
        run.given = _arrays((*args, kwargs) if kwargs else tuple(args))
        run.since = time.monotonic()


def _arrays(value: Any) -> Any:
    match value:
        case Remote():
            return Kept(value)
        case torch.Tensor():
            return array_of(value) if value.dtype == torch.bfloat16 else value.numpy()
        case list() | tuple():
            return type(value)(map(_arrays, value))
        case dict():
            return {name: _arrays(each) for name, each in value.items()}
    return value


async def evaluate(world: World, function: Exposed, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """See `gridkit.aio.tensors.Tensors.evaluate`."""
    params = {
        "function_name": "Evaluate",
        "args": [*args, function],
        "kwargs": kwargs,
        "out_ids": [],
        "grad_enabled": torch.is_grad_enabled(),
    }
    rpc = world.client.rpc
    rpc.check_exposed(function)
    call = await rpc.submit("run_function", params)
    try:
        answer: Any = taken(world, (await call)["data"])
    except GridkitError as error:
        raised = call.raised
        if raised is None or isinstance(raised, GridkitError):
            raise
        line = cells.line_of(raised)
        raise EvaluationFailed(
            f"{function.name}, which the node called, raised {type(raised).__name__}: {raised}"
            f"{'' if line is None else f' ({line})'}",
            "gk.options.full_tracebacks = True shows where",
            code=error.code,
        ) from raised
    call.kept.clear()  # the results of the function, which have holders here by now
    return answer
