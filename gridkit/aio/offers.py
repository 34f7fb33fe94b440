"""Functions of this notebook that a session lends to trainings, for as long as both last."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from gridkit.aio.tensors import Tensors
from gridkit.client.link import Link
from gridkit.client.rpc_callables import RUNNING, Exposed, check_callable
from gridkit.errors import ErrorCode, GridkitError, NodeError, NodeUnreachable
from gridkit.node.launch import NodeProcess
from gridkit.workers.pool import Pool

if TYPE_CHECKING:
    from gridkit.tensors.handle import World

PAUSE, LONGEST_PAUSE = 0.1, 2.0
"""seconds from the end of an RPC session to the next offer, which doubles"""
Part = tuple[str, str, str]
"""name and version of a training, and what a function does there: its "strategy", or "evaluate"."""


class Offers(Tensors):
    """What a session lends, and what became of it."""

    def __init__(self, link: Link, *, node: NodeProcess | None = None, pool: Pool | None = None) -> None:
        super().__init__(link, node=node, pool=pool)
        self._lending: dict[Part, asyncio.Task[None]] = {}
        self._raised: dict[Part, BaseException] = {}

    async def _lend(self, name: str, version: str, role: str, fn: Callable[..., Any] | Exposed) -> None:
        """Lend a function to a training, in place of what was lent to it before. Returns when the node has it; from
        then on it is offered again whenever the RPC session was lost, until the training is over.

        Args:
            role: "strategy", of a function; "evaluate", of one that is exposed.

        Raises:
            GridkitError: why it can't be lent.
        """
        part = name, version, role
        if isinstance(fn, Exposed):
            self.rpc.check_exposed(fn)
        else:
            check_callable(fn)
        if (former := self._lending.pop(part, None)) is not None:
            former.cancel()
        accepted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(self._keep_lending(part, fn, accepted))
        self._lending[part] = task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            await accepted
        except BaseException:
            task.cancel()
            raise

    def _raised_for(self, name: str, version: str) -> BaseException | None:
        """What a function that was lent to a training raised last."""
        return self._raised.get((name, version, "strategy"))

    @contextlib.contextmanager
    def _exposed(self, part: Part, fn: Callable[..., Any] | Exposed) -> Iterator[Exposed]:
        """A function as the node calls it."""
        if isinstance(fn, Exposed):  # whose it is, closes it
            yield fn
            return
        run = _told(self._tensors(), self._to_run(fn), functools.partial(self._heard, part))
        with self.expose(run, name=getattr(fn, "__name__", None)) as exposed:
            yield exposed

    async def _keep_lending(self, part: Part, fn: Callable[..., Any] | Exposed, accepted: asyncio.Future[None]) -> None:
        RUNNING.set(None)  # it outlives the function of the notebook, if one does this
        pause = PAUSE

        def heard(_: object) -> None:
            nonlocal pause
            pause = PAUSE
            if not accepted.done():
                accepted.set_result(None)

        with self._exposed(part, fn) as exposed:
            form = {"name": part[0], "version": part[1], "role": part[2], "function": exposed}
            while True:
                try:
                    await self.rpc.call("offer_function", form, on_progress=heard)
                    heard(None)
                    return
                except GridkitError as error:
                    if not accepted.done():
                        accepted.set_exception(error)
                    elif _passes(error):
                        await asyncio.sleep(pause)
                        pause = min(LONGEST_PAUSE, 2 * pause)
                        continue
                    else:
                        text = "the node doesn't take the function of the training '%s' %s any more: %s"
                        logging.getLogger("gridkit.rpc").warning(text, *part[:2], error.message)
                    return

    def _heard(self, part: Part, error: BaseException | None) -> None:
        """A function that was lent begins, or has raised."""
        if error is None:
            self._raised.pop(part, None)
        else:
            self._raised[part] = error


def _passes(error: GridkitError) -> bool:
    """Whether it may be offered again."""
    if isinstance(error, NodeUnreachable) or error.code in (ErrorCode.SESSION_LOST, ErrorCode.BUSY, ErrorCode.TOO_MANY):
        return True
    return isinstance(error, NodeError) and error.status >= 500


def _told(world: World, fn: Callable[..., Any], tell: Callable[[BaseException | None], object]) -> Callable[..., Any]:
    """A function that tells when it begins, and what it raises; failures of what it gives on the node are its own."""

    async def coroutine(*args: Any) -> Any:
        tell(None)
        try:
            result = await fn(*args)
            await _made(world, result)
        except BaseException as error:
            tell(error)
            raise
        return result

    def plain(*args: Any) -> Any:
        tell(None)
        try:
            result = fn(*args)
            world.wait(_made(world, result))
        except BaseException as error:
            tell(error)
            raise
        return result

    run: Callable[..., Any] = coroutine if inspect.iscoroutinefunction(fn) else plain
    return functools.update_wrapper(run, fn)


async def _made(world: World, result: object) -> None:
    """Until the node has made it, if it is there.

    Raises:
        GridkitError: why it couldn't.
    """
    from gridkit.client.tensors import again
    from gridkit.tensors.remote import Remote

    if isinstance(result, Remote):
        await world.client.settled()
        if (error := world.client.failure_of(result._core.id)) is not None:
            raise again(error)
