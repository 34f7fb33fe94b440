"""Remote tensors of a session, and the JSON-RPC client that they go over."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from gridkit.aio.base import Base
from gridkit.client import rpc_callables
from gridkit.client.rpc import RpcClient
from gridkit.errors import UsageError

if TYPE_CHECKING:
    import concurrent.futures

    from torch import nn

    from gridkit.exposed import Exposed
    from gridkit.tensors.handle import World

    M = TypeVar("M", bound=nn.Module)


class Tensors(Base):
    """What a session does with tensors that live on its node."""

    _rpc: RpcClient | None = None
    _world: World | None = None

    @property
    def rpc(self) -> RpcClient:
        """The session's JSON-RPC client: it connects with the first call, and is closed with the session."""
        if self._rpc is None:
            self._rpc = self._new_rpc()
        return self._rpc

    def _new_rpc(self) -> RpcClient:
        return RpcClient(link=self._link)

    def tensor(self, data: Any, *, requires_grad: bool = False, dtype: Any = None) -> Any:
        """A tensor that lives on the node, with a copy of this data. Nobody waits for it.

        Args:
            data: a tensor, an array, numbers, or lists of them.
            requires_grad: whether autograd records what is done with it.
            dtype: torch's; by default that of `data`, float32 for lists of floats.

        Returns:
            A tensor to torch, whose functions run on the node; see `gridkit.tensors.remote`.

        Raises:
            UsageError: this can't be a tensor, or not one that travels.
        """
        import torch

        from gridkit.tensors.remote import Remote

        if isinstance(data, Remote):
            raise UsageError("that is a remote tensor already", "a copy of it is tensor.detach().clone()")
        try:
            local = torch.as_tensor(data, dtype=dtype).detach()
        except (TypeError, ValueError, RuntimeError) as error:
            raise UsageError(f"that can't be a tensor: {error}", "pass numbers, lists of them, or a tensor") from None
        if requires_grad:
            if not (local.is_floating_point() or local.is_complex()):
                raise UsageError(
                    f"a tensor of {local.dtype} can't require a gradient", "use floats, or dtype=torch.float32"
                )
            local = local.requires_grad_()
        return self._tensors().create(local)

    def module(self, module: M) -> M:
        """A copy of an nn module whose parameters and buffers live on the node. Its code stays here, and runs here.

        Raises:
            UsageError: it isn't a module, or can't be copied.
        """
        from gridkit.tensors.modules import remote_module

        return remote_module(self._tensors(), module)

    async def optimizer(self, name: str, params: Iterable[Any], **options: Any) -> Any:
        """An optimizer of torch.optim on the node, for remote parameters.

        Args:
            name: such as "SGD" or "Adam".
            params: remote tensors, or groups: dicts with ``"params"`` and options of their own.
            options: such as ``lr=0.1``.

        Raises:
            PlanError: there is no such optimizer there, or torch refuses the options.
            UsageError: the parameters aren't remote tensors of this session.
        """
        from gridkit.tensors import optimizers

        return await optimizers.create(self._optimizer_class(), self._tensors(), name, params, options)

    def expose(
        self, fn: Callable[..., Any], *, name: str | None = None, arguments: Literal["reference", "value"] = "reference"
    ) -> Exposed:
        """Let the node call a function of this notebook, as long as the handle is held and open.

        It may compute with remote tensors, use the session, and take its time; it prints where this was called. What it
        raises comes to the node with type, text, and numbers of lines. Its code stays here.

        Args:
            fn: a function, or a coroutine function. Its result may be numbers, texts, lists, tuples and dicts of them,
                tensors and arrays (they leave by value), and remote tensors (by reference).
            name: it has in lists.
            arguments: how tensors of the node come: "reference", as remote tensors, which live as long as the call, or
                as they are held; or "value": fetched before, as local tensors. Private ones can't be fetched.

        Returns:
            The handle, a context manager; `calls` lists what came and what left the notebook.

        Raises:
            UsageError: `fn` isn't a function.
        """
        from gridkit.exposed import Exposed
        from gridkit.tensors.callables import carried

        run = carried(self._tensors(), self._to_run(fn), name, arguments)
        return Exposed(self.rpc.expose(run), fn, lambda: self.rpc.called)

    def _to_run(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """A function as this session has it run."""
        return fn

    async def evaluate(self, function: rpc_callables.Exposed, *args: Any, **kwargs: Any) -> Any:
        """Have the node call an exposed function with these arguments; what it gives back.

        The node passes on what it is given, so this is how a function that stays here meets tensors that stay there:
        ``await grid.evaluate(accuracy, net(x), y)``.

        Args:
            function: made by `expose`.
            args, kwargs: remote tensors (by reference), local tensors and arrays (by value), numbers, texts, and lists,
                tuples and dicts of them.

        Returns:
            The function's result; arrays are local tensors, references remote ones.

        Raises:
            EvaluationFailed: the function raised; its error is the cause. One of gridkit's own comes as it is.
            UsageError: `function` isn't exposed, or not any more, or by another session.
        """
        from gridkit.tensors import callables

        if not isinstance(function, rpc_callables.Exposed):
            hint = "with grid.expose(fn) as exposed: grid.evaluate(exposed, …)"
            raise UsageError(f"the node can't call a {type(function).__name__} that isn't exposed", hint)
        return await callables.evaluate(self._tensors(), function, args, kwargs)

    def manual_seed(self, seed: int) -> None:
        """As `torch.manual_seed`, for what the node draws for this session's tensors."""
        self._tensors().client.post("seed", {"seed": seed})

    def _tensors(self) -> World:
        if self._world is None:
            self._world = self._new_world()
            self._world.session = weakref.ref(self)
        return self._world

    def _new_world(self) -> World:
        from gridkit.client.tensors import TensorClient
        from gridkit.plans.tracing.source import shown
        from gridkit.tensors.handle import World
        from gridkit.tensors.remote import AsyncRemoteTensor

        loop = asyncio.get_running_loop()

        def spawn(work: Coroutine[Any, Any, Any]) -> concurrent.futures.Future[Any]:
            return asyncio.run_coroutine_threadsafe(work, loop)

        def wait(work: Coroutine[Any, Any, Any]) -> Any:
            if _on(loop):
                work.close()
                raise UsageError(
                    "a coroutine can't wait for the node in the middle of an expression",
                    "run it on a thread: await asyncio.to_thread(…)",
                )
            return spawn(work).result()

        return World(
            TensorClient(self.rpc, spawn, shown), AsyncRemoteTensor, lambda begun: begun, wait, lambda: not _on(loop)
        )

    def _optimizer_class(self) -> type[Any]:
        from gridkit.tensors.optimizers import AsyncRemoteOptimizer

        return AsyncRemoteOptimizer

    async def close(self) -> None:
        """End the RPC session, and what `Base.close` ends. Idempotent."""
        if self._rpc is not None:
            await self._rpc.close()
        await super().close()


def _on(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False
