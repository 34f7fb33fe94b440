"""A training that the notifier follows: where it stands, and who is told of it."""

from __future__ import annotations

import asyncio
import math
import time
from contextlib import suppress
from dataclasses import dataclass, field

from gridkit.federated import cycle
from gridkit.node.due import Notification, due, owed, owner_due
from gridkit.node.processes import Process


@dataclass(slots=True, eq=False)
class Listener:
    """Who is told of a training: its owner, or (a `Member`) one who takes part.

    Attributes:
        told: the step of the last notification that it took.
        removed: whether its account was.
        now: what it is being told.
        attempts: to tell it that.
        missed: failures in a row to reach it, whatever it was to be told.
    """

    account: str
    label: str
    told: int
    removed: bool
    now: Notification | None = None
    attempts: int = 0
    missed: int = 0
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    async def woken(self, seconds: float | None = None) -> None:
        """Until there may be something else to tell, or so many seconds have passed."""
        self.wake.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.wake.wait()


@dataclass(slots=True, eq=False)
class Member(Listener):
    """Who takes part.

    Attributes:
        knows_again: whether it says that it knows a notification that comes again.
        patience, again_at: how long, and until when (seconds, monotonic), its answer to a round is waited for before it
            is told again.
    """

    slot: int = 0
    worker: str = ""
    knows_again: bool = False
    patience: float = math.inf
    again_at: float = math.inf

    def waits(self, patience: float) -> None:
        """From now on, for so many seconds."""
        self.patience, self.again_at = patience, time.monotonic() + patience


@dataclass(slots=True, eq=False)
class Followed:
    """The training, as it is now."""

    id: str
    model: str
    process: Process
    owner: Listener
    members: list[Member]

    def due(self, listener: Listener) -> Notification | None:
        """What it has to be told now."""
        if isinstance(listener, Member):
            return due(self.process.state, listener)
        own = [member for member in self.members if member.account == listener.account]
        return owner_due(self.process.state, listener.told, own)

    def owed(self, listener: Listener) -> Notification | None:
        """The round that this participant took, and didn't answer; of which it may be told again."""
        if not isinstance(listener, Member) or not listener.knows_again:
            return None
        return owed(self.process.state, listener)

    @property
    def is_finished(self) -> bool:
        return self.process.state.phase is cycle.Phase.FINISHED

    def is_over(self, listener: Listener) -> bool:
        """Whether there is nothing to tell, and there never will be."""
        left = isinstance(listener, Member) and listener.slot in self.process.state.left
        return (self.is_finished or left) and self.due(listener) is None

    def has_no_work(self, member: Member) -> bool:
        """Whether it hasn't asked for the work of this cycle."""
        return member.worker not in self.process.state.assignments

    def moved(self, process: Process) -> None:
        """Take the newer state, and wake whom it concerns: what one member does changes nothing for the others until
        the training goes on."""
        before, after, self.process = self.process.state, process.state, process
        if (before.phase, before.sequence, len(before.left)) == (after.phase, after.sequence, len(after.left)):
            return
        for listener in (self.owner, *self.members):
            if self.due(listener) != listener.now or self.is_over(listener):
                listener.wake.set()
