"""The door of the node, the same for every protocol: who comes in, how often, and what became of it."""

from __future__ import annotations

from typing import Any

from gridkit.errors import AccessError, GridkitError
from gridkit.node.audit import Audit
from gridkit.node.rates import Rates, source, too_many
from gridkit.node.rights import ANONYMOUS, RULES, Access, Principal


class Watch:
    """Identity, rates and audit of requests and messages."""

    def __init__(self, access: Access, rates: Rates, audit: Audit) -> None:
        self.access = access
        self.audit = audit
        self._rates = rates

    def close(self) -> None:
        """Write what the audit still has to say."""
        self.audit.close()

    async def identify(self, scope: Any) -> Principal:
        """Who stands in the headers of an ASGI scope.

        Raises:
            AccessError: `UNAUTHENTICATED`, a wrong credential.
        """
        return await self.access.of_headers(scope["headers"], source(scope.get("client")))

    def admit(self, principal: Principal, scope: Any) -> None:
        """One request or message more from them.

        Raises:
            LimitError: `TOO_MANY`.
        """
        self._rates.admit(principal, source(scope.get("client")))

    def done(self, principal: Principal, scope: Any, operation: str, subject: str) -> None:
        """An operation went well: a row, if it changes something."""
        if RULES[operation].changes:
            self.audit.note(principal, source(scope.get("client")), operation, "done", subject=subject)

    def refused(
        self, principal: Principal | None, scope: Any, operation: str, subject: str, error: GridkitError
    ) -> GridkitError:
        """An operation was refused: a row, and what to answer, which is another error after many wrong credentials."""
        address = source(scope.get("client"))
        if getattr(error, "status", 400) < 500:
            verdict = str(error.code or type(error).__name__)
            self.audit.note(principal or ANONYMOUS, address, operation, verdict, error.message, subject)
        if isinstance(error, AccessError) and error.status == 401 and (seconds := self._rates.wrong(address)):
            return too_many("too many wrong credentials", seconds)
        return error
