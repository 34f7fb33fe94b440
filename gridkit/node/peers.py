"""Other nodes that this one was told of. It asks each once who it is; who connects them sends no password anywhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from gridkit.errors import ConflictError, ErrorCode, LimitError, NodeError, NotFoundError
from gridkit.node import messages
from gridkit.node.audit import about
from gridkit.node.outbound import Outbound
from gridkit.node.rights import Access, Principal
from gridkit.node.store import tables as db
from gridkit.node.store.database import Database
from gridkit.node.targets import Target

MAX_PEERS = 1000
_SCHEMES = {"ws": "http", "wss": "https"}


@dataclass(frozen=True, slots=True)
class Peer:
    """A node by its id and its address (``http://host:port``)."""

    id: str
    address: str


class Peers:
    """The nodes that this node knows.

    Args:
        identity: this node's own id.
        clock: seconds since 1970.
    """

    def __init__(
        self, database: Database, access: Access, outbound: Outbound, identity: str, clock: Callable[[], float]
    ) -> None:
        self.identity = identity
        self._db = database
        self._access = access
        self._outbound = outbound
        self._clock = clock

    async def connect(self, principal: Principal, wish: messages.ConnectNode) -> Peer:
        """Ask the node at this address who it is, and remember it. Again is fine, also with another address.

        Raises:
            AccessError: `TARGET_REFUSED`, this node may not call there.
            NodeError: `TARGET_FAILED`, nobody answers there, or no grid node.
            ConflictError: the node there has another id than was said, or it is this node.
        """
        self._access.allow(principal, "connect-node")
        scheme, mark, rest = wish.address.partition("://")
        asked = Target.read(_SCHEMES.get(scheme.lower(), scheme) + mark + rest)
        about(str(asked))  # the rest of an address may be secret
        address = f"{asked.url.scheme}://{asked.url.netloc.decode()}{asked.url.path.rstrip('/')}"
        answer = await self._outbound.request("GET", address + "/identity/", limit=4096)
        told = answer.json() if answer.status == 200 else None
        if not isinstance(told, dict) or told.get("success") is not True:
            raise NodeError(f"{asked} isn't a grid node", "check the address", code=ErrorCode.TARGET_FAILED, status=502)
        identity = messages.parse(messages.Identity, told).identity
        if wish.id not in (None, identity):
            raise ConflictError(
                f"the node at {asked} says that it is another one than '{wish.id}'",
                "leave the id out, or give its own",
                code=ErrorCode.BAD_REQUEST,
                status=409,
            )
        if identity == self.identity:
            raise ConflictError(
                f"{asked} is this node itself", "name another node", code=ErrorCode.BAD_REQUEST, status=409
            )

        def remember(c: sa.Connection) -> None:
            mine = db.peer.c.id == identity
            if c.execute(sa.select(db.peer.c.id).where(mine)).first():
                c.execute(db.peer.update().where(mine).values(address=address))
                return
            if c.execute(sa.select(sa.func.count()).select_from(db.peer)).scalar_one() >= MAX_PEERS:
                raise LimitError(f"this node knows {MAX_PEERS} others already", code=ErrorCode.TOO_LARGE, status=413)
            c.execute(db.peer.insert().values(id=identity, address=address, created_at=self._clock()))

        await self._db.write(remember)
        return Peer(identity, address)

    async def list(self, principal: Principal) -> list[Peer]:
        """The known nodes, oldest first."""
        self._access.allow(principal, "list-peers")
        wanted = sa.select(db.peer.c.id, db.peer.c.address).order_by(db.peer.c.created_at, db.peer.c.id)
        return [Peer(row.id, row.address) for row in await self._db.read(lambda c: c.execute(wanted).all())]

    async def forget(self, principal: Principal, id: str) -> None:
        """Forget a node.

        Raises:
            NotFoundError: this node knows none of that id.
        """
        self._access.allow(principal, "connect-node")
        done: Any = await self._db.write(lambda c: c.execute(db.peer.delete().where(db.peer.c.id == id)))
        if not done.rowcount:
            raise NotFoundError(f"this node knows no node '{id[:100]}'", code=ErrorCode.NOT_FOUND, status=404)
