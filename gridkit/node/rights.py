"""Who may do what: `RULES` is the one table of rights; `Access` finds the `Principal` of a credential, applies it."""

from __future__ import annotations

import base64
import binascii
import enum
import hmac
import math
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

import jwt

from gridkit.errors import AccessError, ErrorCode

SCOPES = frozenset({"browse", "run", "host", "train", "manage"})
"""what a token can be good for"""
ACCOUNT_TOKEN = "gk_"
"""how tokens of accounts begin"""
WORKER_TOKEN_SECONDS = 30 * 86400.0


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
        once: it is an invitation: good for becoming a worker one time.
        token: the id of the credential, no secret; "" is the node's own token or none.
        expires_at: when the credential ends (seconds since 1970).
    """

    role: Role
    name: str = ""
    scopes: frozenset[str] | None = None
    process: str | None = None
    slot: int | None = None
    label: str | None = None
    once: bool = False
    token: str = field(default="", compare=False)
    expires_at: float = field(default=math.inf, compare=False)


ANONYMOUS = Principal(Role.ANONYMOUS)
OWNER = Principal(Role.OWNER, "owner")


@dataclass(frozen=True, slots=True)
class Rule:
    """One right.

    Args:
        roles: who has it.
        scope: which one of `SCOPES` a token must have, if it has any; None: no matter.
        open: anonymous clients of the old protocols have it too under ``--open``.
        own: it is a right to one's own objects only; the role owner has it to everybody's.
        others: with `own`, further roles that have it to everybody's.
        changes: it changes something (what is there, or who knows it), so that doing it leaves a row in the audit log.
    """

    roles: frozenset[Role]
    scope: str | None
    open: bool = False
    own: bool = False
    others: frozenset[Role] = frozenset()
    changes: bool = False


_EVERYBODY = frozenset(Role)
_OWNER = frozenset({Role.OWNER})
_MEMBERS = frozenset({Role.OWNER, Role.SCIENTIST})
_TRUSTED = frozenset({Role.OWNER, Role.SCIENTIST, Role.WORKER})
_JOINING = frozenset({Role.WORKER, Role.ANONYMOUS})  # a worker's token names its training; --open means all trainings

RULES: dict[str, Rule] = {
    "status": Rule(_EVERYBODY, None),
    "open-page": Rule(_EVERYBODY, None),  # /join: what it shows is ours, and what it does asks for its own rights
    # model-centric training
    "authenticate": Rule(_EVERYBODY, None, changes=True),  # "enrol" is asked of the credential in the message
    "enrol": Rule(_TRUSTED, "train", open=True, own=True, others=_JOINING),
    "work": Rule(_EVERYBODY, None),  # the worker id and the request key are the right
    "retrieve-model": Rule(_TRUSTED, "train", open=True, own=True, others=_JOINING),
    "host-training": Rule(_MEMBERS, "host", open=True, changes=True),
    "issue-token": Rule(_MEMBERS, "host", own=True, changes=True),
    "observe": Rule(_MEMBERS, "browse", own=True),
    "stop": Rule(_MEMBERS, "host", own=True, changes=True),
    "offer-function": Rule(_MEMBERS, "host", own=True, changes=True),  # of a notebook, to a training
    # push participants
    "add-participant": Rule(_OWNER, "manage", open=True, changes=True),
    "list-participants": Rule(_TRUSTED, "browse", own=True, others=frozenset({Role.SCIENTIST})),
    "host-archive": Rule(_MEMBERS, "host", own=True, changes=True),
    "host-push": Rule(_MEMBERS, "host", own=True, changes=True),  # a training that participants are called to
    "start-push": Rule(_TRUSTED, "train", own=True, others=frozenset({Role.WORKER}), changes=True),  # members too
    "observe-push": Rule(_TRUSTED, "browse", own=True, others=frozenset({Role.WORKER})),  # members too
    "take-part": Rule(_TRUSTED, "train"),  # fetch, update, metrics: whose account is a member's
    # accounts
    "login": Rule(_EVERYBODY, None, changes=True),
    "list-users": Rule(_TRUSTED, "browse", own=True),
    "add-user": Rule(_OWNER, "manage", changes=True),
    "remove-user": Rule(_OWNER, "manage", changes=True),
    "set-password": Rule(_TRUSTED, "manage", own=True, changes=True),
    "list-tokens": Rule(_TRUSTED, "browse", own=True),
    "create-token": Rule(_TRUSTED, "manage", own=True, changes=True),
    "revoke-token": Rule(_TRUSTED, "manage", own=True, changes=True),
    "read-audit": Rule(_OWNER, "manage"),
    # other nodes
    "list-peers": Rule(_MEMBERS, "browse", open=True),
    "connect-node": Rule(_OWNER, "manage", open=True, changes=True),
    # models
    "list-models": Rule(_MEMBERS, "browse", open=True),
    "download-model": Rule(_MEMBERS, "browse", open=True),
    "run-inference": Rule(_MEMBERS, "run", open=True),
    "host-model": Rule(_MEMBERS, "host", open=True, changes=True),
    "upload": Rule(_MEMBERS, "host", open=True),  # each its own ones only: to others they don't exist
    "replace-model": Rule(_MEMBERS, "host", open=True, own=True),  # a new version under an id that exists
    "delete-model": Rule(_MEMBERS, "host", open=True, own=True, changes=True),
    "rpc": Rule(_MEMBERS, "run", open=True),  # a session's own things only: to others they don't exist
    "verify-key": Rule(_MEMBERS, "run"),
    "make-project": Rule(_MEMBERS, "run", changes=True),  # these two too
    "keep-runs": Rule(_MEMBERS, "run"),
    # datasets: beside this, each one's policy says who may what
    "list-datasets": Rule(_EVERYBODY, "browse"),
    "fetch-dataset": Rule(_EVERYBODY, "browse", changes=True),  # it changes who knows: that is logged too
    "run-plan": Rule(_MEMBERS, "run", open=True, changes=True),
    "publish-dataset": Rule(_MEMBERS, "host", open=True, changes=True),
    "delete-dataset": Rule(_MEMBERS, "host", open=True, own=True, changes=True),
}


class Identities(Protocol):
    """The accounts, as far as `Access` needs them (see `gridkit.node.identities`)."""

    async def of_token(self, token: str) -> Principal | None: ...

    async def of_password(self, name: str, password: str, address: str) -> Principal | None: ...

    def is_revoked(self, token_id: str) -> bool: ...

    def revoke(self, ids: Iterable[str]) -> None: ...


class Access:
    """The owner's token, the accounts' credentials, and the workers' tokens, which this node signs (JWT, HS256).

    Args:
        owner: the owner's token.
        secret: what worker tokens are signed with; never leaves the node.
        identities: the accounts.
        open: whether ``--open`` was given.
    """

    def __init__(self, owner: str, secret: str, identities: Identities, *, open: bool = False) -> None:
        self._owner = owner.encode()
        self._secret = secret
        self._identities = identities
        self._open = open

    def issue(
        self,
        process: str,
        slot: int | None = None,
        label: str | None = None,
        *,
        once: bool = False,
        seconds: float = WORKER_TOKEN_SECONDS,
    ) -> str:
        """A worker token for this process only, good for so many seconds; with `once` for one worker (see `spent`).

        Its id (the claim `jti`) begins with the process's, so that who owns the process can revoke it by id.
        """
        claims = {
            "role": "worker",
            "process": process,
            "slot": slot,
            "label": label,
            "once": once or None,
            "exp": int(time.time() + seconds),
            "jti": f"{process}-{secrets.token_hex(8)}",
        }
        return jwt.encode({k: v for k, v in claims.items() if v is not None}, self._secret, algorithm="HS256")

    def spent(self, principal: Principal) -> None:
        """An invitation was taken, as the database knows."""
        self._identities.revoke([principal.token])

    async def principal(self, credential: str | None) -> Principal:
        """Who holds this credential; None is nobody.

        Raises:
            AccessError: `UNAUTHENTICATED`, one text for every wrong credential.
        """
        if credential is None:
            return ANONYMOUS
        if hmac.compare_digest(credential.encode("utf-8", "surrogatepass"), self._owner):
            return OWNER
        if not credential.isascii():  # all others are
            raise wrong_token()
        if credential.startswith(ACCOUNT_TOKEN):
            known = await self._identities.of_token(credential)
            if known is None:
                raise wrong_token()
            return known
        try:
            claims = jwt.decode(
                credential, self._secret, algorithms=["HS256"], options={"require": ["role", "process", "exp", "jti"]}
            )
        except jwt.InvalidTokenError:
            raise wrong_token() from None
        if self._identities.is_revoked(claims["jti"]):
            raise wrong_token()
        slot, label, ends = (
            claims.get("slot"),
            claims.get("label"),
            {"token": claims["jti"], "expires_at": claims["exp"]},
        )
        once = claims.get("once", False)
        return Principal(Role.WORKER, process=claims["process"], slot=slot, label=label, once=once, **ends)

    async def login(self, name: str, password: str, address: str = "") -> Principal:
        """Who has this name and password; `address` is where they come from.

        Raises:
            AccessError: `UNAUTHENTICATED`, one text whatever is wrong.
            LimitError: `TOO_MANY` wrong ones, or so many wait to be checked.
        """
        known = await self._identities.of_password(name, password, address)
        if known is None:
            raise _unauthenticated(WRONG_PASSWORD, _PASSWORD)
        return known

    async def of_headers(self, headers: Iterable[tuple[bytes, bytes]], address: str = "") -> Principal:
        """Who stands in the Authorization headers: Bearer, Api-Key, Token, or Basic (a token, or a name's password)."""
        refused: AccessError | None = None
        for header, value in headers:
            if header != b"authorization":
                continue
            try:
                name, credential = _credential(value.decode("latin-1"))
                try:
                    return await self.principal(credential)
                except AccessError:
                    if not name:
                        raise
                    return await self.login(name, credential, address)
            except AccessError as error:
                refused = error
        if refused is not None:
            raise refused
        return ANONYMOUS

    def may(self, principal: Principal, operation: str) -> bool:
        """Whether `allow` passes for some object."""
        try:
            self.allow(principal, operation)
        except AccessError:
            return False
        return True

    def allow(
        self, principal: Principal, operation: str, *, owner: str | None = None, process: str | None = None
    ) -> None:
        """Pass, or raise: 401 for nobody in particular, 403 for somebody without the right.

        A credential that ended meanwhile (a socket lives long, and so does a stream) is nobody's.

        Args:
            owner: the name of the object's owner, once the object is known.
            process: the training in question, once it is known.
        """
        rule = RULES[operation]
        if principal.expires_at <= time.time() or self._identities.is_revoked(principal.token):
            raise wrong_token()
        allowed = principal.role in rule.roles
        if principal.role is Role.ANONYMOUS and self._open and rule.open:
            allowed = True
        if not allowed:
            if principal.role is Role.ANONYMOUS:
                raise _unauthenticated(f"{operation} needs a token")
            raise _forbidden(f"a {principal.role}'s token doesn't allow {operation}")
        if principal.once and operation != "enrol" and Role.ANONYMOUS not in rule.roles:
            raise _forbidden(f"an invitation is good for joining a training, not for {operation}")
        if principal.scopes is not None and rule.scope is not None and rule.scope not in principal.scopes:
            raise _forbidden(f"{operation} needs a token with the scope '{rule.scope}'")
        if principal.process is not None and process is not None and process != principal.process:
            raise _forbidden("this worker's token was issued for another training")
        everybodys = principal.role is Role.OWNER or principal.role in rule.others
        nameless = principal.name == "" and principal.role is not Role.ANONYMOUS  # owns nothing
        if rule.own and not everybodys and (nameless or owner not in (None, principal.name)):
            whom = f"'{principal.name}'" if principal.name else f"a {principal.role}'s token"
            raise _forbidden(
                f"{operation} is for who owns the object, and for the node's owner, not for {whom}",
                "ask one of them, or take something of your own",
            )


WRONG_TOKEN = "the token is not one of this node's"
WRONG_PASSWORD = "Invalid username/password!"
"""the original's text: clients show it"""
_PASSWORD = "check the name and the password; the node's owner can set another one with set_password"
_TOKEN = "pass the node's token (GRIDKIT_TOKEN), a token of an account, or the worker token that hosting gave out"
_RIGHT = "use a token with that right, or ask the node's owner"


def _credential(header: str) -> tuple[str, str]:
    """The name ("" if there is none) and the token or password. No password is empty: a name alone is a token."""
    scheme, _, rest = header.partition(" ")
    if scheme.lower() in ("bearer", "api-key", "token"):
        return "", rest.strip()
    if scheme.lower() == "basic":
        try:
            name, _, password = base64.b64decode(rest.strip(), validate=True).decode().partition(":")
            return (name, password) if password else ("", name)
        except (binascii.Error, UnicodeDecodeError):
            raise _unauthenticated("the Basic credentials can't be read") from None
    raise _unauthenticated("the Authorization header must be Bearer, Api-Key, Token or Basic")


def basic_name(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The name in the Basic credentials; "" if there is none."""
    for header, value in headers:
        if header == b"authorization" and value[:6].lower() == b"basic ":
            return _credential(value.decode("latin-1"))[0]
    return ""


def wrong_token() -> AccessError:
    """What every wrong credential is answered with."""
    return _unauthenticated(WRONG_TOKEN)


def _unauthenticated(message: str, hint: str = _TOKEN) -> AccessError:
    return AccessError(message, hint, code=ErrorCode.UNAUTHENTICATED, status=401)


def _forbidden(message: str, hint: str = _RIGHT) -> AccessError:
    return AccessError(message, hint, code=ErrorCode.FORBIDDEN, status=403)
