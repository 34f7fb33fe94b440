"""Who may do what: `RULES` is the one table of rights; `Access` finds the `Principal` of a credential, applies it."""

from __future__ import annotations

import base64
import binascii
import enum
import hmac
from collections.abc import Iterable
from dataclasses import dataclass

import jwt

from gridkit.errors import AccessError, ErrorCode


class Role(enum.StrEnum):
    OWNER = "owner"
    SCIENTIST = "data scientist"
    WORKER = "worker"
    ANONYMOUS = "anonymous"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks.

    Args:
        name: of the account; objects belong to names. "owner" is the node's own token, "" is nobody in particular.
        scopes: what the credential is good for (see `Rule.scope`); None is all that the role may.
        process, slot, label: a worker's token is good for one process, and may name its slot and label there.
    """

    role: Role
    name: str = ""
    scopes: frozenset[str] | None = None
    process: str | None = None
    slot: int | None = None
    label: str | None = None


ANONYMOUS = Principal(Role.ANONYMOUS)
OWNER = Principal(Role.OWNER, "owner")


@dataclass(frozen=True, slots=True)
class Rule:
    """One right.

    Args:
        roles: who has it.
        scope: which scope a token must have, if it has any: "browse", "run", "host", "train" or "manage".
        open: anonymous clients of the old protocols have it too under ``--open``.
        own: it is a right to one's own objects only; the role owner has it to everybody's.
    """

    roles: frozenset[Role]
    scope: str
    open: bool = False
    own: bool = False


_EVERYBODY = frozenset(Role)
_OWNER = frozenset({Role.OWNER})
_MEMBERS = frozenset({Role.OWNER, Role.SCIENTIST})
_TRUSTED = frozenset({Role.OWNER, Role.SCIENTIST, Role.WORKER})

RULES: dict[str, Rule] = {
    "status": Rule(_EVERYBODY, "browse"),
    # model-centric training
    "authenticate": Rule(_EVERYBODY, "train"),  # the credential may be in the message: "enrol" is asked of that one
    "enrol": Rule(_TRUSTED, "train", open=True),
    "work": Rule(_EVERYBODY, "train"),  # the worker id and the request key are the right
    "retrieve-model": Rule(_TRUSTED, "train", open=True),
    "host-training": Rule(_OWNER, "host", open=True),
    "issue-token": Rule(_OWNER, "host", own=True),
    "observe": Rule(_OWNER, "browse", own=True),
    "stop": Rule(_OWNER, "host", own=True),
    # other nodes
    "list-peers": Rule(_MEMBERS, "browse", open=True),
    "connect-node": Rule(_OWNER, "manage", open=True),
    # models
    "list-models": Rule(_MEMBERS, "browse", open=True),
    "download-model": Rule(_MEMBERS, "browse", open=True),
    "run-inference": Rule(_MEMBERS, "run", open=True),
    "host-model": Rule(_MEMBERS, "host", open=True),
    "delete-model": Rule(_MEMBERS, "host", open=True, own=True),
}


class Access:
    """The owner's token, and the workers' tokens, which this node signs (JWT, HS256) and can so check after a restart.

    Args:
        owner: the owner's token.
        secret: what worker tokens are signed with; never leaves the node.
        open: whether ``--open`` was given.
    """

    def __init__(self, owner: str, secret: str, *, open: bool = False) -> None:
        self._owner = owner.encode()
        self._secret = secret
        self._open = open

    def issue(self, process: str, slot: int | None = None, label: str | None = None) -> str:
        """A worker token for this process only."""
        claims = {"role": "worker", "process": process, "slot": slot, "label": label}
        return jwt.encode({k: v for k, v in claims.items() if v is not None}, self._secret, algorithm="HS256")

    async def principal(self, credential: str | None) -> Principal:
        """Who holds this credential; None is nobody.

        Raises:
            AccessError: `UNAUTHENTICATED`, one text for every wrong credential.
        """
        if credential is None:
            return ANONYMOUS
        if hmac.compare_digest(credential.encode("utf-8", "surrogateescape"), self._owner):
            return OWNER
        try:
            claims = jwt.decode(
                credential, self._secret, algorithms=["HS256"], options={"require": ["role", "process"]}
            )
        except jwt.InvalidTokenError:
            raise _unauthenticated("the token is not one of this node's") from None
        slot, label = claims.get("slot"), claims.get("label")
        return Principal(Role.WORKER, process=claims["process"], slot=slot, label=label)

    async def of_headers(self, headers: Iterable[tuple[bytes, bytes]]) -> Principal:
        """Who stands in the Authorization headers: Bearer, Api-Key, or the password of Basic."""
        refused: AccessError | None = None
        for name, value in headers:
            if name != b"authorization":
                continue
            try:
                return await self.principal(_credential(value.decode("latin-1")))
            except AccessError as error:
                refused = error
        if refused is not None:
            raise refused
        return ANONYMOUS

    def allow(
        self, principal: Principal, operation: str, *, owner: str | None = None, process: str | None = None
    ) -> None:
        """Pass, or raise: 401 for nobody in particular, 403 for somebody without the right.

        Args:
            owner: the name of the object's owner, once the object is known.
            process: the training in question, once it is known.
        """
        rule = RULES[operation]
        allowed = principal.role in rule.roles
        if principal.role is Role.ANONYMOUS and self._open and rule.open:
            allowed = True
        if not allowed:
            if principal.role is Role.ANONYMOUS:
                raise _unauthenticated(f"{operation} needs a token")
            raise _forbidden(f"a {principal.role}'s token doesn't allow {operation}")
        if principal.scopes is not None and rule.scope not in principal.scopes:
            raise _forbidden(f"{operation} needs a token with the scope '{rule.scope}'")
        if principal.process is not None and process is not None and process != principal.process:
            raise _forbidden("this worker's token was issued for another training")
        if rule.own and owner is not None and principal.role is not Role.OWNER and owner != principal.name:
            raise _forbidden(f"{operation} is for who owns the object, and for the node's owner")


def _credential(header: str) -> str:
    scheme, _, rest = header.partition(" ")
    if scheme.lower() in ("bearer", "api-key"):
        return rest.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(rest.strip(), validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            raise _unauthenticated("the Basic credentials can't be read") from None
    raise _unauthenticated("the Authorization header must be Bearer, Api-Key or Basic")


def _unauthenticated(message: str) -> AccessError:
    hint = "pass the node's token (GRIDKIT_TOKEN), or the worker token that hosting gave out"
    return AccessError(message, hint, code=ErrorCode.UNAUTHENTICATED, status=401)


def _forbidden(message: str) -> AccessError:
    return AccessError(message, "use the owner's token", code=ErrorCode.FORBIDDEN, status=403)
