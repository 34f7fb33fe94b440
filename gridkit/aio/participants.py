"""Push participants of a session's node: who is called when a training needs them."""

from __future__ import annotations

from gridkit.aio.base import Base
from gridkit.client.participants import ParticipantClient
from gridkit.listings import Participants as Listed
from gridkit.registered import Registered


class Participants(Base):
    """What a session does with its node's directory of push participants."""

    async def participants(self) -> Listed:
        """The push participants that the node knows, oldest first: all for its owner and for data scientists."""
        return Listed(await ParticipantClient(self._link).rows(), self.url)

    async def push_participant(self, name: str, endpoint: str, renew: bool = False) -> Registered:
        """Register a data holder that the node calls when a training needs it (the node's owner may).

        It has an account then, of the role "worker". What it needs to take part is told this once.

        Args:
            name: letters, digits and ``. _ @ + -``, single spaces inside.
            endpoint: where it listens, as the node reaches it, such as ``http://10.1.2.3:8101/``. A node calls nothing
                that its owner hasn't allowed: see `launch(allow_targets=…)`.
            renew: if there is this participant already it gets this endpoint, and other credentials in place of all it
                had, which end at once; without it that is an error. Makes a cell that can be run again.

        Returns:
            Its credentials; ``gk.serve_participant(train=…, test=…, **registered.credentials)`` takes them.

        Raises:
            AccessError: `TARGET_REFUSED`, this node may not call there; or you may not register anybody.
            ConflictError: the name is taken.
            NodeError: a name or an endpoint that isn't one, or a host that isn't found.

        Example:
            >>> north = await grid.push_participant("north", "http://127.0.0.1:8101/")   # doctest: +SKIP
        """
        made = await ParticipantClient(self._link).add(name, endpoint, renew)
        members = ("name", "id", "endpoint", "password", "token", "secret")
        return Registered(node=f"{self.url}/push", **{member: made[member] for member in members})

    async def remove_participant(self, name: str) -> None:
        """Remove a push participant, its account and its credentials (the node's owner may). It leaves its trainings.

        Raises:
            NotFoundError: there is none.
        """
        await ParticipantClient(self._link).remove(name)
