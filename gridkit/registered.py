"""A push participant's registration, as the node tells it once."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from typing import TypedDict

from gridkit.cells import ShortDir


class Credentials(TypedDict):
    """Those arguments of `gridkit.serve_participant` that the node has told. To be handed over in secret."""

    node: str
    user: str
    password: str
    secret: str


@dataclass(frozen=True)
class Registered(ShortDir):
    """What a push participant needs to take part. Made by `grid.push_participant`; no repr has the secrets.

    Attributes:
        name: of its account at the node.
        id: a UUID, which the protocol knows it by.
        endpoint: where the node calls it.
        node: where the node has its push surface.
        password: of its account.
        token: of its account, good for a year; in place of the password.
        secret: what the node signs its notifications with.

    Example:
        >>> north = grid.push_participant("north", "http://127.0.0.1:8101/")           # doctest: +SKIP
        >>> gk.serve_participant(train=train, test=test, port=8101, **north.credentials)   # doctest: +SKIP
    """

    name: str
    id: str
    endpoint: str
    node: str
    password: str = field(repr=False)
    token: str = field(repr=False)
    secret: str = field(repr=False)

    @property
    def credentials(self) -> Credentials:
        """What `gridkit.serve_participant` takes: `node`, `user`, `password` and `secret`."""
        return {"node": self.node, "user": self.name, "password": self.password, "secret": self.secret}

    @property
    def command(self) -> str:
        """What a data holder types; the password goes into GRIDKIT_TOKEN, the secret into GRIDKIT_SECRET."""
        return f"gridkit participant --node {self.node} --user {shlex.quote(self.name)} --script train.py"

    def _repr_html_(self) -> str:
        from gridkit.widgets.html import card, details, tag

        call = "gk.serve_participant(train=…, test=…, **registered.credentials)"
        service = "Or a service: it sets GRIDKIT_TOKEN to the password, GRIDKIT_SECRET to the secret, and types:"
        how = details(
            "How to take part",
            tag("p", "In a notebook, where ", tag("code", "registered"), " is this:"),
            tag("pre", call),
            tag("p", service),
            tag("pre", self.command),
        )
        return card(
            f"Push participant '{self.name}'",
            {"id": self.id, "is called at": self.endpoint, "node": self.node},
            how,
        )
