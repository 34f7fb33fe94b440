"""The processes in which sessions have their tensors: how many there may be, and who has to give one back.

One takes seconds to start, on a busy machine many, and clients of the plain profile wait for most answers so long and
no longer, whatever the node tells them. So when one comes, a process is made ready for the next session that needs one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Protocol

from gridkit.errors import ErrorCode, LimitError, NodeError
from gridkit.node.child import Child, Lost
from gridkit.node.settings import MIB, Limits

MODULE = "gridkit.runner.tensors"
LEFT_SECONDS = 60.0
"""for which a session without a link keeps its process, whoever else needs one"""


class Holder(Protocol):
    """Who has a process."""

    @property
    def owner(self) -> str:
        """The account's name."""

    @property
    def spare(self) -> bool:
        """Whether nothing is in it, and nothing is asked of it."""

    @property
    def left(self) -> float | None:
        """Since when (the loop's time) nobody is there who could ask something of it; None: somebody is."""

    async def retire(self) -> None:
        """Give it back."""


class Runners:
    """All of a node.

    Args:
        limits: `rpc_runners` of them, `rpc_runners_each` of one account, each with `run_memory`, `run_seconds` and
            `rpc_tensors`; an attribute too.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._holders: dict[Holder, None] = {}
        self._ready: dict[int, asyncio.Task[Child]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._holders)

    def prepare(self, preview: int) -> None:
        """Have a process ready, if there is room for one; after `rpc_idle` seconds without use it ends.

        Args:
            preview: as of `start`.
        """
        if preview not in self._ready and len(self._holders) + len(self._ready) < self.limits.rpc_runners:
            ready = self._ready[preview] = asyncio.create_task(self._child(preview))
            asyncio.get_running_loop().call_later(self.limits.rpc_idle, self._let_go, preview, ready)

    async def start(self, holder: Holder, preview: int) -> Child:
        """A process for one session.

        Args:
            preview: tensors of so many elements are told with their values.

        Raises:
            LimitError: `TOO_MANY`: there are as many as there may be, and each has tensors and a client.
            NodeError: `BUSY`: it couldn't be started.
        """
        given_back = self._given_back(holder.owner)
        self._holders[holder] = None
        if preview not in self._ready and len(self._holders) + len(self._ready) > self.limits.rpc_runners:
            for other in self._ready:
                self.run(self._end_ready(other))
        try:
            if given_back is not None:
                await given_back.retire()
            return await self._taken(preview) or await self._child(preview)
        except (Lost, TimeoutError) as error:
            self.ended(holder)
            text = f"no process for the session's tensors could be started: {error}"
            raise NodeError(text, "try again in a moment", code=ErrorCode.BUSY, status=503) from None
        except BaseException:
            self.ended(holder)
            raise

    async def _child(self, preview: int) -> Child:
        limits = self.limits
        frame = 2 * limits.message + MIB  # what came in a message, written anew
        numbers = (limits.run_memory, limits.run_seconds, limits.rpc_tensors, preview, limits.run_results, frame)
        return await Child.start(limits, MODULE, *numbers)

    async def _taken(self, preview: int) -> Child | None:
        """The one that is ready, or will be; None: there is none, or not any more."""
        ready = self._ready.pop(preview, None)
        try:
            child = None if ready is None else await ready
        except (Lost, TimeoutError):
            return None
        if child is not None and child.over:
            await child.end()
            return None
        return child

    def _let_go(self, preview: int, ready: asyncio.Task[Child]) -> None:
        if self._ready.get(preview) is ready:
            self.run(self._end_ready(preview))

    async def _end_ready(self, preview: int) -> None:
        if (child := await self._taken(preview)) is not None:
            await child.end()

    def _given_back(self, owner: str) -> Holder | None:
        """If another one may be only in place of one that is there: one in which nothing is, or whose client went
        longest ago; its place is free from now on."""
        limits = self.limits
        holders = [holder for holder in self._holders if holder.owner == owner]
        whose, limit = "of yours ", "rpc_runners_each"
        if len(holders) < limits.rpc_runners_each:
            holders, whose, limit = list(self._holders), "", "rpc_runners"
            if len(holders) < limits.rpc_runners:
                return None
        spare = next((holder for holder in holders if holder.spare), None)
        if spare is None:
            before = asyncio.get_running_loop().time() - LEFT_SECONDS
            left = {holder: holder.left for holder in holders if holder.left is not None}
            spare = min((holder for holder in left if left[holder] <= before), key=left.__getitem__, default=None)
        if spare is None:
            raise LimitError(
                f"{len(holders)} sessions {whose}have tensors on this node; no more may",
                f"wait until one ends, or start the node with a larger --limit {limit}=…",
                code=ErrorCode.TOO_MANY,
                status=429,
            )
        self.ended(spare)
        return spare

    def ended(self, holder: Holder) -> None:
        """Its process is gone."""
        self._holders.pop(holder, None)

    def run(self, doing: Coroutine[Any, Any, None]) -> None:
        """Something that is to be done before the node ends."""
        task = asyncio.create_task(doing)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Sessions have ended; wait for their processes, and end those that are ready."""
        for ready in self._ready.values():
            ready.cancel()
        for child in await asyncio.gather(*self._ready.values(), return_exceptions=True):
            if not isinstance(child, BaseException):
                await child.end()
        self._ready.clear()
        while self._tasks:
            await asyncio.gather(*self._tasks)
