"""The node among other nodes: who it is, and which others it knows."""

from __future__ import annotations

from typing import Any

from gridkit.aio.base import Base
from gridkit.errors import UsageError


class Nodes(Base):
    """What a session does with its node's peers."""

    async def identity(self) -> str:
        """The node's id; it tells everybody, before any login."""
        return str((await self._link.json("GET", "/identity/"))["identity"])

    async def connect_nodes(self, other: Any) -> dict[str, Any]:
        """Tell this session's node of another one; it asks there once, who that is, and remembers it.

        No password or token of yours is sent to either node. The other one isn't told of this one.

        Args:
            other: an address, or something with one: a session, a client.

        Returns:
            The node's response: ``{"status": "Succesfully connected.", "id": …, "address": …}``.

        Raises:
            AccessError: this node may not call there (its owner allows targets with ``--allow-target``).
            NodeError: nobody answers there, or no grid node.
            ConflictError: it is this session's own node.

        Example:
            >>> await grid.connect_nodes("https://hospital.example.org:5000")       # doctest: +SKIP
        """
        address = other if isinstance(other, str) else getattr(other, "url", None)
        if not isinstance(address, str):
            raise UsageError(f"{other!r} has no address", 'pass a session, or an address such as "http://host:5000"')
        return await self._link.json("POST", "/connect-node", json={"address": address})

    async def peers(self) -> dict[str, str]:
        """The nodes that this session's node knows: id to address."""
        told = await self._link.json("GET", "/workers/")
        return {node["id"]: node["address"] for node in told["nodes"]}
