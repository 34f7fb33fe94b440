"""All clients' sessions of a node: who has which, how many, how much waits in them, and for how long without a link."""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Mapping

from gridkit.errors import ErrorCode, GridkitError, LimitError, NodeUnreachable
from gridkit.node.rights import Principal
from gridkit.node.rpc.line import Line
from gridkit.node.rpc.link import Link
from gridkit.node.rpc.methods import METHODS
from gridkit.node.rpc.methods_tensors import V1Telling
from gridkit.node.rpc.plain_tensors import PlainTelling
from gridkit.node.rpc.runners import Runners
from gridkit.node.rpc.session import Method, Session
from gridkit.node.rpc.tensors import Tensors
from gridkit.node.settings import Limits
from gridkit.node.watch import Watch
from gridkit.wire.rpc.messages import Profile

REMEMBERED = 1000
"""sessions that ended, and why"""
GONE = 1008
"""WebSocket close code: the session was ended here"""


class Sessions:
    """One node's.

    A session is its principal's: to others its key means nothing.

    Args:
        more: what clients of `gridkit.v1` may also ask, of other parts of the node.

    Attributes:
        node: this start of the node: another text after each.
    """

    def __init__(self, watch: Watch, limits: Limits, more: Mapping[str, Method]) -> None:
        self.node = secrets.token_hex(16)
        self._watch, self._limits = watch, limits
        self._methods = {**METHODS, Profile.V1: {**METHODS[Profile.V1], **more}}
        self._of: dict[Principal, dict[tuple[Profile, str], Session]] = {}
        self._idle: dict[Session, asyncio.TimerHandle] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._why_ended: OrderedDict[tuple[Principal, str], str] = OrderedDict()
        self._runners = Runners(limits)

    def __len__(self) -> int:
        return sum(map(len, self._of.values()))

    def find(self, principal: Principal, profile: Profile, key: str) -> Session | None:
        return self._of.get(principal, {}).get((profile, key))

    def begin(self, principal: Principal, key: str, line: Line) -> Session:
        """A new session.

        Raises:
            LimitError: `TOO_MANY` of this principal.
        """
        theirs = self._of.get(principal, {})
        if len(theirs) >= self._limits.rpc_sessions:
            raise LimitError(
                f"{self._limits.rpc_sessions} sessions of yours are there already",
                f"close one, or wait: those without a link end after {self._limits.rpc_idle:g} s",
                code=ErrorCode.TOO_MANY,
                status=429,
            )

        def weigh() -> None:
            held = sum(session.held for session in theirs.values())
            if held > self._limits.rpc_bytes:
                text = f"{held:,} bytes of messages wait in sessions of yours; {self._limits.rpc_bytes:,} may"
                raise LimitError(text, "read what the node sends", code=ErrorCode.TOO_MANY, status=429)

        session = Session(line, principal, self._watch, self._limits, self._methods[line.profile], weigh)
        telling = PlainTelling(session) if line.profile is Profile.PLAIN else V1Telling(session)
        session.tensors = Tensors(session, self._runners, telling)
        self._of.setdefault(principal, theirs)[line.profile, key] = session
        return session

    def expect(self, session: Session) -> None:
        """Have a process ready for its tensors."""
        if session.tensors.pid is None:
            self._runners.prepare(session.tensors.telling.preview)

    def linked(self, session: Session, link: Link, principal: Principal) -> Link | None:
        """A session's new link; the one that it replaces, if that is still there."""
        if (timer := self._idle.pop(session, None)) is not None:
            timer.cancel()
        return session.linked(link, principal)

    def dropped(self, session: Session, link: Link, *, for_good: bool) -> None:
        """A link is gone. Without another one the session ends after a while.

        Args:
            for_good: it ends now, if this was its newest link.
        """
        if not session.dropped(link) or session.closed is not None:
            return
        if for_good:
            self.end(session, NodeUnreachable("the notebook has closed it"))
            return
        reason = NodeUnreachable(f"it was without a link for {self._limits.rpc_idle:g} s")
        loop = asyncio.get_running_loop()
        self._idle[session] = loop.call_later(self._limits.rpc_idle, self.end, session, reason)

    def end(self, session: Session, reason: GridkitError) -> None:
        """End a session now; its link is closed, with the reason."""
        if (timer := self._idle.pop(session, None)) is not None:
            timer.cancel()
        theirs = self._of.get(session.principal, {})
        for key in [key for key, other in theirs.items() if other is session]:
            del theirs[key]
            if key[0] is Profile.V1:  # whose client will ask
                self._why_ended[session.principal, key[1]] = reason.message
            if len(self._why_ended) > REMEMBERED:
                self._why_ended.popitem(last=False)
        if not theirs:
            self._of.pop(session.principal, None)
        if session.link is not None:
            session.link.end(GONE, reason.message[:100])
        ending = asyncio.create_task(session.close(reason))
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    def why_ended(self, principal: Principal, key: str) -> str | None:
        """What ended this session of theirs, if that isn't long ago."""
        return self._why_ended.get((principal, key))

    def removed(self, name: str) -> None:
        """This account was removed."""
        reason = NodeUnreachable(f"the account '{name}' was removed")
        for principal, theirs in list(self._of.items()):
            if principal.name == name:
                for session in list(theirs.values()):
                    self.end(session, reason)

    async def close(self) -> None:
        """End all."""
        for theirs in list(self._of.values()):
            for session in list(theirs.values()):
                self.end(session, NodeUnreachable("the node has ended"))
        await asyncio.gather(*self._ending)
        await self._runners.close()
