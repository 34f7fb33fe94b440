"""Functions of torch on remote tensors: run on shapes here, so that the result is known at once, and on the node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import resolve_name

from gridkit.client.rpc_callables import RUNNING
from gridkit.errors import UsageError
from gridkit.runner.tensors.arguments import DTYPES, tensors_in
from gridkit.runner.tensors.functions import function_named
from gridkit.runner.tensors.sizes import BY_VALUE
from gridkit.tensors import passes
from gridkit.tensors import remote as remotes
from gridkit.tensors.handle import Handle, World
from gridkit.wire.rpc.values import DType, MemoryFormat

_SHAPE_NAMES = """
    shape ndim dtype layout requires_grad is_leaf is_nested is_sparse is_quantized is_cuda retains_grad names itemsize
    nbytes is_mkldnn is_sparse_csr is_xpu is_mps is_ipu is_xla is_vulkan is_ort is_mtia is_maia output_nr _version
    grad_fn
"""
_SHAPE_CALL_NAMES = """
    size dim numel stride is_floating_point is_complex is_signed __len__ is_contiguous ndimension nelement element_size
    __hash__ __dir__ is_same_size get_device storage_offset is_inference is_conj is_neg dense_dim
"""
_VALUE_NAMES = """
    item tolist numpy __bool__ __float__ __int__ __index__ __complex__ __array__ __contains__ equal allclose
    cpu cuda __dlpack__ data_ptr is_nonzero
"""

_SHAPE = frozenset(_SHAPE_NAMES.split())
"""attributes that the shape alone answers"""
_SHAPE_CALLS = frozenset(_SHAPE_CALL_NAMES.split())
"""methods that it answers"""
_VALUES = frozenset(_VALUE_NAMES.split())
"""what only the values answer, which are on the node"""


def dispatch(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What `__torch_function__` gives.

    Raises:
        PlanError: `NOT_ALLOWED`: the node doesn't run this function.
        UsageError: it needs values, or mixes sessions.
        RuntimeError: what torch itself says of such shapes, at once.
    """
    if function is torch.autograd.grad:
        return passes.gradients(*args, **kwargs)
    if function is torch._has_compatible_shallow_copy_type:
        return True  # nn.Module.to asks; it sets .data then, which says what goes and what doesn't
    name = str(resolve_name(function) or getattr(function, "__name__", function))
    space, _, short = name.removesuffix(".__get__").rpartition(".")
    if space in ("torch", "torch.Tensor"):
        if short in (_SHAPE if name.endswith("__get__") else _SHAPE_CALLS):
            with torch._C.DisableTorchFunctionSubclass():
                return function(*args, **kwargs)
        if short in _VALUES and not name.endswith("__get__"):
            raise _needs_values(short)
    match name:
        case "torch.Tensor.device.__get__":
            return torch.device("cpu")  # what a module makes beside it holds values of its own
        case "torch.Tensor.is_cpu.__get__" | "torch.Tensor.is_meta.__get__":
            return short == "is_cpu"
        case "torch.Tensor.__iter__":
            return iter(args[0].unbind(0))
        case "torch.Tensor.requires_grad.__set__":
            return args[0].requires_grad_(args[1])
        case "torch.Tensor.data.__set__":
            return _set_data(*args)
        case "torch.Tensor.retain_grad":
            return _retain_grad(*args)
    if name.endswith(".__set__"):
        raise UsageError(f"'{name.split('.')[-2]}' of a remote tensor can't be set")
    function_named(name)
    return _run(name, function, args, kwargs)


def _set_data(tensor: remotes.Remote, value: torch.Tensor) -> None:
    if (value.dtype, value.shape) != (tensor.dtype, tensor.shape):
        raise UsageError(
            f"the data of a remote tensor stays {tensor.dtype}{list(tensor.shape)}",
            "make another: grid.tensor(…), or grid.module(net) of a module that was changed before",
        )
    tensor.detach().copy_(value)


def _needs_values(short: str) -> UsageError:
    if short == "cuda":
        return UsageError("remote tensors are on the node's CPU", "leave .cuda() out")
    hint = "fetch them first: tensor.get() gives a local tensor"
    if short in ("numpy", "__array__", "__dlpack__"):
        hint += ", tensor.get().numpy() an array; to compute there with an array of here: grid.tensor(array)"
    if RUNNING.get() is not None:
        hint += "; private ones, such as the reports of a training, stay there: torch.where does what an if would"
    return UsageError(f"'{short}' needs the values of a tensor that is on the node", hint)


def _retain_grad(tensor: remotes.Remote) -> None:
    with torch._C.DisableTorchFunctionSubclass():
        torch.Tensor.retain_grad(tensor)
    if not tensor.is_leaf:
        tensor._core.world.retain_grad(tensor._core)


def _run(name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    given = tensors_in([list(args), kwargs])
    world = _world(given)
    uses: list[Handle] = []
    forms = [_form(arg, world, uses) for arg in args]
    named = {key: _form(value, world, uses) for key, value in kwargs.items()}
    versions = [(tensor, tensor._version) for tensor in given if isinstance(tensor, remotes.Remote)]
    locals_: list[torch.Tensor] = []
    try:
        with torch._C.DisableTorchFunctionSubclass():
            shapes = [_on_meta(arg, locals_) for arg in args]
            result = function(*shapes, **{key: _on_meta(value, locals_) for key, value in kwargs.items()})
    except (NotImplementedError, RuntimeError) as error:
        if name not in BY_VALUE and "meta" not in str(error).lower():
            raise error.with_traceback(None) from None  # nobody wants to see how torch computes with shapes
        return _run_by_value(world, name, function, args, kwargs, forms, named, uses)
    if any(tensor._version for tensor in locals_):
        raise UsageError(
            f"{name} would change a local tensor by what is on the node",
            "fetch that first: tensor.get(); of a module: {name: t.get() for name, t in net.state_dict().items()}",
        )
    changes = [tensor._core.id for tensor, version in versions if tensor._version != version]
    new = {id(t): Handle(world) for t in tensors_in(result) if not isinstance(t, remotes.Remote)}
    ids = [t._core.id if isinstance(t, remotes.Remote) else new[id(t)].id for t in tensors_in(result)]
    world.run(name, forms, named, ids, uses, torch.is_grad_enabled(), changes)
    made = {id(t): world.wrapped(t, new[id(t)]) for t in tensors_in(result) if id(t) in new}
    return _swapped(result, made)


def _run_by_value(
    world: World,
    name: str,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    forms: list[Any],
    named: dict[str, Any],
    uses: list[Handle],
) -> Any:
    """Where the results' sizes depend on values: how many there are is found on ones, and the node tells the rest."""
    with torch._C.DisableTorchFunctionSubclass(), torch.no_grad():
        result = function(*(_ones(arg) for arg in args), **{key: _ones(value) for key, value in kwargs.items()})
    results = tensors_in(result)
    handles = [Handle(world) for _ in results]
    told = world.run_and_wait(
        handles,
        function_name=name,
        args=forms,
        kwargs=named,
        out_ids=[handle.id for handle in handles],
        grad_enabled=torch.is_grad_enabled(),
        uses=uses,
    )
    made = {}
    for tensor, handle, variable in zip(results, handles, told, strict=True):
        shape = tuple(variable.data.shape)
        made[id(tensor)] = remote_of(world, handle, shape, variable.data.dtype, graph=variable.requires_grad)
    return _swapped(result, made)


def remote_of(
    world: World, handle: Handle, shape: tuple[int, ...], dtype: str, *, graph: bool = False
) -> remotes.Remote:
    """The tensor with this shape. `graph`: it has one, on the node; here it isn't a leaf either."""
    meta = torch.empty(shape, dtype=DTYPES[dtype], device="meta", requires_grad=graph)
    with torch.enable_grad():
        return world.wrapped(meta.clone() if graph else meta, handle)


def _world(given: list[torch.Tensor]) -> World:
    worlds = {id(t._core.world): t._core.world for t in given if isinstance(t, remotes.Remote)}
    if len(worlds) != 1:
        raise UsageError("tensors of two sessions can't meet", "fetch one with .get(), and make it remote in the other")
    return next(iter(worlds.values()))


def _form(value: Any, world: World, uses: list[Handle]) -> Any:
    """An argument as `wire.rpc.values.encode` takes it."""
    if isinstance(value, torch.Tensor):
        if not isinstance(value, remotes.Remote):
            if value.requires_grad and torch.is_grad_enabled():
                raise UsageError(
                    "a local tensor that requires a gradient meets a remote one; its gradient wouldn't come back",
                    "make the module remote first: grid.module(net)"
                    if isinstance(value, torch.nn.Parameter)
                    else "make it remote first: grid.tensor(tensor, requires_grad=True)",
                )
            value = world.create(value.detach())
        uses.append(value._core)
        return value._core.ref
    if isinstance(value, torch.dtype):
        return DType(str(value).removeprefix("torch."))
    if isinstance(value, torch.memory_format):
        return MemoryFormat(str(value).removeprefix("torch."))
    if isinstance(value, torch.device) or (isinstance(value, str) and value in ("cpu", "cuda", "meta", "mps")):
        if torch.device(value).type not in ("cpu", "meta"):  # meta: where torch's C++ believes them to be
            raise UsageError(f"remote tensors are on the node's CPU, not on {value}", "leave device= out")
        return "cpu"
    if isinstance(value, tuple):
        return tuple(_form(each, world, uses) for each in value)
    if isinstance(value, list):
        return [_form(each, world, uses) for each in value]
    if isinstance(value, torch.layout):
        if value is not torch.strided:
            raise UsageError(f"remote tensors are dense, not {value}", "leave layout= out")
        return None
    return value


def _on_meta(value: Any, made: list[torch.Tensor]) -> Any:
    """Shapes alone. `made`: gets those of local tensors, which nothing has changed yet."""

    def shape_of(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, remotes.Remote):
            tensor = torch.empty_like(tensor, device="meta", requires_grad=False)
            made.append(tensor)
        return tensor

    return _replaced(value, shape_of, "meta")


def _ones(value: Any) -> Any:
    return _replaced(value, lambda t: torch.ones(t.shape, dtype=t.dtype), "cpu")


def _replaced(value: Any, change: Callable[[torch.Tensor], torch.Tensor], device: str) -> Any:
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, torch.device) or (isinstance(value, str) and value == "cpu"):
        return device
    if isinstance(value, torch.Size):
        return value
    if isinstance(value, list | tuple):
        return type(value)(_replaced(each, change, device) for each in value)
    return value


def _swapped(value: Any, made: dict[int, remotes.Remote]) -> Any:
    if isinstance(value, torch.Tensor):
        return made.get(id(value), value)
    if isinstance(value, tuple) and (hasattr(value, "_fields") or type(value).__module__ == "torch.return_types"):
        return type(value)([_swapped(each, made) for each in value])
    return type(value)(_swapped(each, made) for each in value) if isinstance(value, list | tuple) else value
