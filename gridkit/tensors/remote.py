"""The remote tensor: to torch a tensor that knows its shape, its values are on the node."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

import torch

from gridkit import cells
from gridkit.bridge import sync
from gridkit.client.tensors import Pass
from gridkit.errors import GridkitError, UsageError
from gridkit.tensors import functions, passes
from gridkit.tensors.graph import Graph
from gridkit.tensors.handle import Handle, line
from gridkit.tensors.names import names_here
from gridkit.tensors.walk import Walk
from gridkit.widgets.snapshot import TextWatch
from gridkit.wire.rpc.values import Variable

if TYPE_CHECKING:
    from gridkit.widgets.graph_watch import GraphWatch


class Remote(torch.Tensor):
    """A tensor on a node. What both faces have; `RemoteTensor` and `AsyncRemoteTensor` say how values are asked for.

    Functions of torch run on the node, in order, and nobody waits for them: shape and dtype of a result are known at
    once. A local tensor that meets a remote one is sent to the node. Where a result's shape hangs on values
    (``x[x > 0]``) the node's answer is waited for.
    """

    _core: Handle

    @classmethod
    def __torch_function__(
        cls,
        function: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        return functions.dispatch(function, args, kwargs or {})

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"<{self._label()}>"

    def _label(self) -> str:
        facts = [f"{self._core.id}: {str(self.dtype).removeprefix('torch.')}{list(self.shape)}"]
        if self.requires_grad:
            known = self._core.variable
            node = None if self.grad_fn is None else self.grad_fn.name()
            if known is not None and known.grad_fn is not None:
                node = known.grad_fn.name
            facts.append("requires grad" if node is None else f"from {node}")
        state = self._core.state(self)
        return ", ".join(["remote tensor " + facts[0], *facts[1:], *([state] if state else [])])

    def _repr_html_(self) -> str:
        from gridkit.widgets.html import card

        facts = {"dtype": str(self.dtype).removeprefix("torch."), "shape": list(self.shape)}
        state = self._core.state(self)
        return card(f"Remote tensor {self._core.id}", {**facts, **({"state": state} if state else {})})

    @property
    def reference(self) -> Variable:
        """How it is spoken of on the wire."""
        return self._core.ref

    async def sent_over(self, rpc: object) -> None:
        """Until the node knows of it.

        Raises:
            UsageError: it is of another session than the client `rpc`.
        """
        client = self._core.world.client
        if client.rpc is not rpc:
            raise UsageError("a remote tensor can't be spoken of in another session", "pass tensor.get() there")
        await client.caught_up()

    def __format__(self, spec: str) -> str:
        try:
            return format(repr(self), spec)
        except ValueError:  # of numbers
            raise UsageError(
                f"{spec!r} formats a number, and this one is on the node", 'fetch it first: f"{tensor.get():.3f}"'
            ) from None

    def __copy__(self) -> Any:
        raise UsageError("a remote tensor can't be copied shallowly", "use tensor.detach(), which shares its values")

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if not self.is_leaf:
            raise UsageError("only leaves of a graph can be copied, as in torch", "use tensor.detach().clone()")
        copy = self.detach().clone().requires_grad_(self.requires_grad)
        if getattr(self, "_is_param", False):
            copy._is_param = True
        memo[id(self)] = copy
        return copy

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise UsageError(
            "a remote tensor can't be pickled or saved: its values are on the node",
            "fetch them first: tensor.get(); of a module: {name: t.get() for name, t in net.state_dict().items()}",
        )

    def set_(self, *args: Any, **kwargs: Any) -> Any:
        """Refused; of torch's methods it is the one that never asks `__torch_function__`."""
        return functions.dispatch(torch.Tensor.set_, (self, *args), kwargs)

    def backward(
        self,
        gradient: Any = None,
        retain_graph: bool | None = None,
        create_graph: bool = False,
        inputs: Any = None,
    ) -> Any:
        """As `torch.Tensor.backward`, but it returns at once; reads of gradients wait for it.

        Args:
            gradient: a remote tensor, a local one or numbers of this shape; None for a scalar's one.

        Returns:
            The pass: how far it is, and why it failed.

        Raises:
            RuntimeError: this isn't a scalar, and there is no `gradient`; or it doesn't require a gradient.
        """
        where = line()
        return self._core.world.face(passes.backward(self, gradient, retain_graph, create_graph, inputs, where))

    def _set_grad(self, value: torch.Tensor | None) -> None:
        if value is not None and not isinstance(value, Remote):
            raise UsageError("the gradient of a remote tensor is a remote tensor, or None")
        handle = self._core
        params = {"variable_id": handle.id, "field": "grad", "value": None if value is None else value._core.ref}
        uses = [handle.id] if value is None else [handle.id, value._core.id]
        handle.world.client.post("update_variable", params, uses=uses, where=line())


class RemoteTensor(Remote):
    """A tensor on a node; its plain methods wait where they must. Made by `grid.tensor`.

    Example:
        >>> x = grid.tensor([1.0, 2.0], requires_grad=True)                         # doctest: +SKIP
        >>> y = ((x + x) * x).sum()                                                 # doctest: +SKIP
        >>> y.backward()                                                            # doctest: +SKIP
        <pass 1, pending>
        >>> x.grad.get()                                                            # doctest: +SKIP
        tensor([4., 8.])
    """

    get = sync(Handle.get)

    @overload
    def graph(self, *, live: Literal[False] = False) -> Graph: ...

    @overload
    def graph(self, *, live: Literal[True]) -> GraphWatch | TextWatch: ...

    def graph(self, *, live: bool = False) -> Graph | GraphWatch | TextWatch:
        """The autograd graph behind it: nodes, edges, a picture.

        Args:
            live: a picture in which nodes light up as a backward pass goes through them: the one on its way, or the
                next. It waits for none. In a script, its text.

        Raises:
            RunError: it has none; or what should have made it failed.

        Example:
            >>> y.graph(live=True)                                                  # doctest: +SKIP
            >>> y.backward()                                                        # doctest: +SKIP
        """
        world = self._core.world
        known = names_here(world)
        if live:
            return _view(self, world.wait(self._core.walk(known)))
        graph: Graph = world.wait(self._core.graph(known))
        return graph

    @property
    def grad(self) -> Any:
        """The gradient, a remote tensor or None. Waits for the passes that touch it, and raises why one failed."""
        return passes.gradient_of(self._core.world, self._core.world.wait(self._core.gradient()))

    @grad.setter
    def grad(self, value: torch.Tensor | None) -> None:
        self._set_grad(value)


class RemotePass:
    """A backward pass, or a step of an optimizer, on its way: the sync face of `gridkit.client.tensors.Pass`."""

    def __init__(self, core: Pass) -> None:
        self._core = core

    @property
    def id(self) -> str:
        """Its number in the session."""
        return self._core.id

    def __repr__(self) -> str:
        return repr(self._core)

    @property
    def over(self) -> bool:
        """It has ended, well or not."""
        return self._core.over

    @property
    def error(self) -> GridkitError | None:
        """Why it failed; None as long as it hasn't."""
        return self._core.error

    wait = sync(Pass.wait)
    cancel = sync(Pass.cancel)


class AsyncRemoteTensor(Remote):
    """A tensor on a node, for coroutines: `get`, `gradient` and `graph` are awaited."""

    async def get(self) -> torch.Tensor:
        """See `Handle.get`."""
        return await self._core.get()

    @overload
    def graph(self, *, live: Literal[False] = False) -> Coroutine[Any, Any, Graph]: ...

    @overload
    def graph(self, *, live: Literal[True]) -> Coroutine[Any, Any, GraphWatch | TextWatch]: ...

    def graph(self, *, live: bool = False) -> Coroutine[Any, Any, Graph | GraphWatch | TextWatch]:
        """See `RemoteTensor.graph`."""
        known = names_here(self._core.world)
        return self._watch(known) if live else self._core.graph(known)

    async def _watch(self, known: Mapping[str, str]) -> GraphWatch | TextWatch:
        return _view(self, await self._core.walk(known))

    async def gradient(self) -> Any:
        """The gradient, a remote tensor or None, once the passes that touch it are over.

        Raises:
            RunError: the newest of them failed.
        """
        return passes.gradient_of(self._core.world, await self._core.gradient())

    @property
    def grad(self) -> Any:
        """Here it is `await tensor.gradient()`: it may have to wait."""
        raise UsageError("a coroutine can't wait for tensor.grad", "use await tensor.gradient()")

    @grad.setter
    def grad(self, value: torch.Tensor | None) -> None:
        self._set_grad(value)


def _view(tensor: Remote, walk: Walk) -> GraphWatch | TextWatch:
    hint = cells.why_no_widgets()
    if hint is not None:
        return TextWatch(lambda: "\n".join(filter(None, [walk.state, walk.snapshot().text()])), hint)
    from gridkit.widgets.graph_watch import GraphWatch

    view = GraphWatch(walk)
    tensor._core.world.views.add(view)
    return view
