"""Backward passes of remote tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from gridkit.client.tensors import Pass, Place
from gridkit.errors import UsageError
from gridkit.tensors import functions, remote
from gridkit.tensors.handle import Handle, World
from gridkit.wire.rpc.values import Variable


def backward(
    root: remote.Remote, gradient: Any, retain_graph: bool | None, create_graph: bool, inputs: Any, where: Place | None
) -> Pass:
    """See `Remote.backward`."""
    _check_root(root, gradient)
    handle = root._core
    given = [] if gradient is None else [_gradient(root, gradient)]
    only = None if inputs is None else _listed(inputs)
    begun = handle.world.client.begin(
        "backward",
        "run_backward",
        {
            "variables": [handle.ref],
            "grad_variables": [tensor._core.ref for tensor in given] or None,
            "retain_graph": retain_graph,
            "create_graph": create_graph,
            "inputs": None if only is None else [tensor._core.ref for tensor in only],
        },
        uses=[handle.id, *(tensor._core.id for tensor in given)],
        touches=reached(root) if only is None else [tensor._core.id for tensor in only],
        where=where,
    )
    return begun


def reached(root: remote.Remote) -> list[str] | None:
    """Ids of the variables whose gradient a pass from here may set, by the graph of shapes; None: it isn't known."""
    found = set(root._core.world.retaining)
    with torch._C.DisableTorchFunctionSubclass():
        first = root.grad_fn
    if first is None:
        return [root._core.id, *found]
    seen, waiting = {first}, [first]
    while waiting:
        node = waiting.pop()
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            if not isinstance(leaf, remote.Remote):
                return None  # what it stands for has a graph on the node only
            found.add(leaf._core.id)
        for after, _ in node.next_functions:
            if after is not None and after not in seen:
                seen.add(after)
                waiting.append(after)
    return list(found)


def gradients(
    outputs: Any,
    inputs: Any,
    grad_outputs: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    only_inputs: bool = True,
    allow_unused: bool | None = None,
    is_grads_batched: bool = False,
    materialize_grads: bool = False,
) -> tuple[remote.Remote | None, ...]:
    """As `torch.autograd.grad`, of remote tensors. With `allow_unused` it waits: which are unused is the node's to say.

    Raises:
        UsageError: an option that there isn't for remote tensors.
    """
    if not only_inputs or is_grads_batched or materialize_grads:
        raise UsageError("only_inputs=False, is_grads_batched and materialize_grads don't go with remote tensors")
    roots, wanted = _listed(outputs), _listed(inputs)
    given = [grad_outputs] if isinstance(grad_outputs, torch.Tensor) else grad_outputs and list(grad_outputs)
    for place, root in enumerate(roots):
        _check_root(root, None if given is None else given[place])
    world = roots[0]._core.world
    handles = [Handle(world) for _ in wanted]
    sent = None if given is None else [g if g is None else _gradient(r, g) for r, g in zip(roots, given, strict=True)]
    params = {
        "variables": [root._core.ref for root in roots],
        "inputs": [tensor._core.ref for tensor in wanted],
        "out_ids": [handle.id for handle in handles],
        "grad_variables": None if sent is None else [None if g is None else g._core.ref for g in sent],
        "retain_graph": retain_graph,
        "create_graph": create_graph,
        "allow_unused": bool(allow_unused),
    }
    uses = [tensor._core.id for tensor in (*roots, *wanted, *(g for g in sent or () if g is not None))]
    begun = world.client.begin(
        "backward", "run_grad", params, uses=uses, makes=[handle.id for handle in handles], touches=()
    )
    made: set[str] | None = None
    if allow_unused:
        made = world.wait(_made(begun, world, handles))
    return tuple(
        functions.remote_of(
            world, handle, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), graph=create_graph
        )
        if made is None or handle.id in made
        else None
        for handle, tensor in zip(handles, wanted, strict=True)
    )


async def _made(begun: Pass, world: World, handles: list[Handle]) -> set[str]:
    await begun.wait()
    return {handle.id for handle in handles} & world.client.rpc.mirror.variables.keys()


def gradient_of(world: World, told: tuple[Handle, str, tuple[int, ...], bool] | None) -> remote.Remote | None:
    """The tensor that `Handle.gradient` tells of."""
    if told is None:
        return None
    handle, dtype, shape, graph = told
    return functions.remote_of(world, handle, shape, dtype, graph=graph)


def _listed(tensors: Any) -> list[Any]:
    found = [tensors] if isinstance(tensors, torch.Tensor | Variable) else list(tensors)
    if not found or not all(isinstance(tensor, remote.Remote) or tensor is None for tensor in found):
        raise UsageError("gradients of remote tensors need remote tensors", "make them so: grid.tensor(…)")
    return found


def _check_root(root: remote.Remote, gradient: Any) -> None:
    """What torch says of such a root, said here at once."""
    if gradient is None and root.numel() != 1:
        raise RuntimeError("grad can be implicitly created only for scalar outputs")
    if not root.requires_grad:
        raise RuntimeError("element 0 of tensors does not require grad and does not have a grad_fn")


def _gradient(root: remote.Remote, gradient: Any) -> remote.Remote:
    if isinstance(gradient, remote.Remote):
        return gradient
    numbers: Sequence[Any] | torch.Tensor = gradient
    local = torch.as_tensor(numbers, dtype=root.dtype)
    if local.shape != root.shape:
        raise RuntimeError(f"Mismatch in shape: the gradient has {list(local.shape)} and the tensor {list(root.shape)}")
    return root._core.world.create(local.detach())
