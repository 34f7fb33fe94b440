"""What a remote tensor is besides its shape: an id in a session, and ways to its values, gradient and graph."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gridkit.client.rpc_mirror import MirroredNode, MirroredVariable
from gridkit.client.tensors import Pass, Place, TensorClient, again
from gridkit.errors import RunError, UsageError
from gridkit.tensors import parts
from gridkit.tensors.graph import Graph, graph_of, nodes_behind
from gridkit.tensors.walk import Walk
from gridkit.wire.rpc.values import DType, Variable
from gridkit.wire.tensors import Array

if TYPE_CHECKING:
    from gridkit.tensors.remote import Remote


_LIBRARIES = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]))


class World:
    """A session's remote tensors, and the class that they have.

    Args:
        client: sends what is to be done with them.
        kind: the class of the tensors: with plain methods, or with coroutines.
        face: what a pass is given back as.
        wait: runs a coroutine on the client's loop, and waits.
        may_wait: whether that is possible here.

    Attributes:
        views: live pictures of graphs.
        handles: by id.
        session: gives the one whose they are; it isn't closed as long as there is one of them.
    """

    def __init__(
        self,
        client: TensorClient,
        kind: type[Remote],
        face: Callable[[Pass], Any],
        wait: Callable[[Any], Any],
        may_wait: Callable[[], bool] = lambda: True,
    ) -> None:
        self.client, self.kind, self.face, self.wait = client, kind, face, wait
        self._may_wait = may_wait
        self._retaining: weakref.WeakSet[Handle] = weakref.WeakSet()
        self.views: weakref.WeakSet[Any] = weakref.WeakSet()
        self.handles: weakref.WeakValueDictionary[str, Handle] = weakref.WeakValueDictionary()
        self.session: Callable[[], object] = _nothing

    def __repr__(self) -> str:
        return repr(self.client)

    @property
    def retaining(self) -> list[str]:
        """Ids of those that aren't leaves and keep their gradient."""
        return [handle.id for handle in self._retaining]

    def retain_grad(self, handle: Handle) -> None:
        """From now on it keeps its gradient."""
        self._retaining.add(handle)
        params = {"variable_id": handle.id, "field": "retains_grad", "value": True}
        self.client.post("update_variable", params, uses=[handle.id], where=line())

    def wrapped(self, meta: torch.Tensor, handle: Handle) -> Remote:
        """The tensor with this shape and this id. It is the same object: `as_subclass` would make a view of it, for
        which torch has other rules of changes in place."""
        meta.__class__ = self.kind
        remote: Remote = meta  # type: ignore[assignment]
        remote._core = handle
        handle.remote = weakref.ref(remote)
        return remote

    def create(self, tensor: torch.Tensor, *, parameter: bool = False) -> Remote:
        """A leaf on the node with a copy of a local tensor's values.

        Raises:
            UsageError: tensors of this dtype or layout don't travel.
        """
        brain = tensor.dtype == torch.bfloat16
        array = array_of(tensor)
        needs = tensor.requires_grad
        handle = parts.sent(self, array, requires_grad=needs and not brain, parameter=parameter and not brain)
        if brain:  # NumPy has no such numbers: they travel as float32
            wide, handle = handle, self.new()
            self.run("torch.Tensor.to", [wide.ref, DType("bfloat16")], {}, [handle.id], [wide], False)
            if needs:
                self.run("torch.Tensor.requires_grad_", [handle.ref], {}, [handle.id], [handle], True)
        meta = torch.empty_like(tensor, device="meta", requires_grad=needs)
        remote = self.wrapped(meta, handle)
        if parameter:
            remote._is_param = True
        return remote

    def new(self) -> Handle:
        """A new id."""
        return Handle(self)

    def sent(self, array: Array, *, requires_grad: bool, parameter: bool) -> Handle:
        """A leaf on the node with these values, which come in one message."""
        self._slow_down()
        handle = self.new()
        params = {"variable_id": handle.id, "data": array, "requires_grad": requires_grad, "parameter": parameter}
        self.client.post("create_variable", params, makes=[handle.id], where=line(), size=array.nbytes)
        return handle

    def _slow_down(self) -> None:
        """Wait while too much is on its way, where it is possible to wait."""
        if self.client.crowded and self._may_wait():
            self.wait(self.client.room())

    def run_and_wait(self, handles: list[Handle], **params: Any) -> list[MirroredVariable]:
        """As `run`, where its results' sizes depend on values: what the node told of them.

        Raises:
            UsageError: this is the thread of the event loop, which can't wait.
        """
        told: list[MirroredVariable] = self.wait(self._run_and_tell(handles, params))
        return told

    async def _run_and_tell(self, handles: list[Handle], params: dict[str, Any]) -> list[MirroredVariable]:
        uses: list[Handle] = params.pop("uses")
        await self.client.ask("run_function", params, [handle.id for handle in uses])
        return [self.client.rpc.mirror.variable(handle.id) for handle in handles]

    def run(
        self,
        function: str,
        args: list[Any],
        kwargs: dict[str, Any],
        out_ids: list[str],
        uses: list[Handle],
        grad_enabled: bool,
        changes: list[str] | None = None,
    ) -> None:
        """Have a function run; see `wire.rpc.v1.RunFunction`. `changes`: ids of what it changes in place."""
        self._slow_down()
        self.post(function, args, kwargs, out_ids, uses, grad_enabled, changes)

    def post(
        self,
        function: str,
        args: list[Any],
        kwargs: dict[str, Any],
        out_ids: list[str],
        uses: list[Handle],
        grad_enabled: bool,
        changes: list[str] | None = None,
    ) -> None:
        """As `run`, from coroutines."""
        params = {"function_name": function, "args": args, "kwargs": kwargs, "out_ids": out_ids}
        self.client.post(
            "run_function",
            {**params, "grad_enabled": grad_enabled},
            makes=[*out_ids, *(changes or ())],
            uses=[handle.id for handle in uses],
            where=line(),
        )


class Handle:
    """A variable of the session. When nobody holds it any more, the node is told.

    Args:
        id: of one that the node made; by default a new one.

    Attributes:
        remote: the tensor, if there is one.
    """

    def __init__(self, world: World, id: str | None = None) -> None:
        self.world = world
        self._session = world.session()
        self.remote: Callable[[], Remote | None] = _nothing
        if id is None:
            self.id = world.client.new_id(self)
        else:
            self.id = id
            world.client.keep(self, id)
        world.handles[self.id] = self

    @property
    def ref(self) -> Variable:
        """As an argument."""
        return Variable(self.id)

    @property
    def variable(self) -> MirroredVariable | None:
        """As the node told of it, if it has by now."""
        return self.world.client.rpc.mirror.variables.get(self.id)

    def state(self, remote: Remote) -> str | None:
        """What there is to say of it besides its shape: it failed, or is pending. Never waits."""
        client = self.world.client
        if (error := client.failure_of(self.id)) is not None:
            return f"failed: {error.message}"
        found = client.pending_on(self.id)
        if found is not None and (found.kind == "step" or (remote.requires_grad and remote.is_leaf)):
            name = "pass" if found.kind == "backward" else "step"
            return f"pending ({name} {found.id}{'' if found.state == 'pending' else f', {found.state}'})"
        if client.rpc.mirror.lost is not None:
            return "lost"
        if self.variable is None:
            return "pending"
        return "private" if self.variable.private else None

    async def get(self) -> torch.Tensor:
        """Its values, as a local tensor without a graph. This is the way in which values leave the node.

        Raises:
            PlanError: an operation on the way to it failed; the error is that operation's.
            RunError: a step that should have changed it failed.
            NotFoundError: `SESSION_LOST`.
        """
        client = self.world.client
        if await client.ready(self.id, "step") is None:
            await client.settled()
        array = await parts.read(self, self.variable)
        return tensor_of(array, "" if self.variable is None else self.variable.data.dtype)

    async def gradient(self) -> tuple[Handle, str, tuple[int, ...], bool] | None:
        """Its gradient, once the passes that were asked for by now are over: with dtype, shape, and whether it has a
        graph of its own.

        Raises:
            RunError: the newest pass that touches it failed.
        """
        client = self.world.client
        await client.ready(self.id, "backward")
        handle = Handle(self.world)
        params = {"variable_id": self.id, "out_id": handle.id}
        made = (await client.ask("name_grad", params, [self.id]))["variable_ids"]
        if not made:
            return None
        told = client.rpc.mirror.variable(handle.id)
        return handle, told.data.dtype, tuple(told.data.shape), told.requires_grad

    async def graph(self, names: Mapping[str, str]) -> Graph:
        """The autograd graph behind it, when all that was asked for by now has been done.

        Args:
            names: what the notebook calls its tensors, by id.

        Raises:
            RunError: it has none.
        """
        await self.world.client.settled()
        nodes, cut = await self._nodes()
        return graph_of(self.id, nodes, self.world.client.rpc.mirror.variables, names, cut=cut)

    async def walk(self, names: Mapping[str, str]) -> Walk:
        """The same, to be followed; it waits for no pass.

        Raises:
            RunError: it has none.
        """
        nodes, cut = await self._nodes()
        return Walk(self.world.client, self, self.id, nodes, cut, names)

    async def _nodes(self) -> tuple[list[MirroredNode], bool]:
        client = self.world.client
        known = await client.told(self.id)
        if (error := client.failure_of(self.id)) is not None:
            raise again(error)
        variable = known or client.rpc.mirror.variable(self.id)
        if variable.grad_fn is None and not variable.requires_grad:
            raise RunError(
                f"{self.id} has no graph: nothing that it was made of requires a gradient",
                "make a tensor that does: grid.tensor(…, requires_grad=True)",
            )
        return nodes_behind(variable)


def _nothing() -> None:
    return None


def line() -> Place | None:
    """The line of the person's own code that is running."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and is_ours(frame):
        frame = frame.f_back
    return None if frame is None else (frame.f_code.co_filename, frame.f_lineno)


def is_ours(frame: FrameType) -> bool:
    """It is gridkit's or torch's code, and nobody's own."""
    return frame.f_code.co_filename.startswith(_LIBRARIES)


def array_of(tensor: torch.Tensor) -> Array:
    """A copy of a local tensor's values, which no later change of it reaches; bfloat16 as float32."""
    if tensor.layout != torch.strided or tensor.is_complex() or tensor.is_quantized or tensor.is_nested:
        raise UsageError(f"a tensor of {tensor.dtype}, {tensor.layout} can't be remote", "use a dense one of numbers")
    tensor = tensor.detach().to("cpu", torch.float32 if tensor.dtype == torch.bfloat16 else tensor.dtype)
    return np.array(tensor.numpy(), order="C")


def tensor_of(array: Array, dtype: str) -> torch.Tensor:
    """A local tensor of a node's values."""
    tensor = torch.from_numpy(np.array(array, array.dtype.newbyteorder("=")))
    return tensor.to(torch.bfloat16) if dtype == "bfloat16" else tensor
