"""The directory of push participants, as calls over a `Link`."""

from __future__ import annotations

from typing import Any

from gridkit.client.link import Link
from gridkit.client.paths import path_of


class ParticipantClient:
    """The participants that a node calls."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def rows(self) -> list[dict[str, Any]]:
        """What is known of each, oldest first: `name, id, endpoint, signed, created_at`."""
        return list((await self._link.json("GET", "/push/participants"))["participants"])

    async def add(self, name: str, endpoint: str, renew: bool) -> dict[str, Any]:
        """Register one: `name, id, endpoint, token, password, secret`. A lost answer is asked for again."""
        wish = {"name": name, "endpoint": endpoint, "renew": renew}
        return await self._link.json("POST", "/push/participants", json=wish)

    async def remove(self, name: str) -> None:
        await self._link.json("DELETE", path_of("push/participants", name))
