"""Functions of notebooks that have a part in trainings: which notebook offers which.

An offer is a request of a JSON-RPC session (`offer_function`) that is answered when the training is over: it lasts as
long as somebody waits for that, and ends with the session. A notebook that comes again offers again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from gridkit.errors import ConflictError, ErrorCode, UsageError
from gridkit.federated.state import Phase
from gridkit.node.audit import about
from gridkit.node.rpc.session import Asked, Method
from gridkit.wire.rpc.messages import Notification

if TYPE_CHECKING:
    from gridkit.node.rights import Access
    from gridkit.node.rounds import Rounds
    from gridkit.node.rpc.session import Session

RIGHT = "offer-function"
ALONE_SECONDS = 15.0
"""after which an offer looks again whether its credential is still good"""

Part = tuple[str, str]
"""a process's id, and the part: "strategy" or "evaluate" (a function has one)"""


@dataclass(frozen=True, eq=False, slots=True)
class Offer:
    """A function that a notebook lends to a training.

    Attributes:
        function: its id in the notebook.
    """

    session: Session
    function: str


class Notebooks:
    """All offers of one node, by the part that they are for."""

    def __init__(self) -> None:
        self._of: dict[Part, list[Offer]] = {}

    def newest(self, part: Part) -> Offer | None:
        """The offer that counts."""
        offers = self._of.get(part)
        return offers[-1] if offers else None

    @contextmanager
    def offered(self, part: Part, offer: Offer) -> Iterator[None]:
        """For as long as it lasts."""
        self._of.setdefault(part, []).append(offer)
        try:
            yield
        finally:
            self.withdraw(part, offer)

    def withdraw(self, part: Part, offer: Offer) -> None:
        """It can't be called any more. Idempotent."""
        offers = self._of.get(part, [])
        if offer in offers:
            offers.remove(offer)
        if not offers:
            self._of.pop(part, None)


async def offer(rounds: Rounds, access: Access, asked: Asked) -> dict[str, Any]:
    """Lend a training the function that its configuration names; the answer comes when the training is over.

    Raises:
        NotFoundError: there is no such training.
        AccessError: it is somebody else's.
        UsageError: no notebook's function averages there.
        ConflictError: `TRAINING_OVER`.
    """
    wish, session = asked.params, asked.session
    subject = f"{wish.name} {wish.version}"
    about(subject)
    process = await rounds.named(wish.name, wish.version)
    access.allow(session.principal, RIGHT, owner=process.owner)
    if process.state.rules.function(wish.role) is None:
        averages = f"averages by '{process.state.rules.strategy}', not by a function of a notebook"
        raise UsageError(
            f"{process.title} {'has no evaluate' if wish.role == 'evaluate' else averages}",
            f"start another training with {wish.role}=…",
            code=ErrorCode.BAD_CONFIG,
        )
    if process.state.phase is Phase.FINISHED:
        raise ConflictError(
            f"{process.title} is over: {process.state.outcome}",
            "start another version of it",
            code=ErrorCode.TRAINING_OVER,
            status=409,
        )
    made, beat = Offer(session, wish.function.id), {"id": asked.work.id, "phase": "offered"}
    with rounds.notebooks.offered((process.id, wish.role), made):
        asked.work.progress["phase"] = "offered"
        session.pass_by(("heartbeat", asked.work.id), Notification("heartbeat", beat))
        session.done(RIGHT, subject)
        rounds.announce()
        while True:
            news = rounds.news
            process = await rounds.process(process.id)
            if process.state.phase is Phase.FINISHED:
                return {"outcome": process.state.outcome}
            access.allow(session.principal, RIGHT, owner=process.owner)  # it may have ended
            await rounds.changed(news, ALONE_SECONDS)


def methods(rounds: Rounds, access: Access) -> dict[str, Method]:
    """What a notebook may ask about them."""
    return {"offer_function": Method(partial(offer, rounds, access))}
