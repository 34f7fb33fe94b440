"""A training's own door: whose tokens its workers may come with, as `server_config.authentication` says.

Who hosts a training may leave it to somebody else who works in it, as with PyGrid: to whoever signs tokens (JWT, RFC
7519) with a `secret` or with the private half of a `pub_key`, or to an `endpoint` that knows them. Unlike there the
kind of a key decides which algorithms it takes (RFC 8725, 3.1), tokens end, and must fit the model that they name.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from pydantic import ConfigDict, Field

from gridkit.errors import AccessError, ErrorCode, NodeError, NotFoundError
from gridkit.node import messages
from gridkit.node.audit import about
from gridkit.node.outbound import Outbound
from gridkit.node.processes import Process
from gridkit.node.rights import Access, Principal, Role
from gridkit.node.rounds import Rounds

LEEWAY = 5.0
"""seconds by which the clock of who signs may differ from ours"""
TOGETHER = 16
"""so many endpoints are asked at a time"""
MIN_SECRET = 32
"""bytes (RFC 7518, 3.2: no shorter than what HS256 makes of it)"""
MIN_RSA = 2048
"""bits (RFC 7518, 3.3)"""

_HMAC = {"HS256": 32, "HS384": 48, "HS512": 64}
_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}

Keys = Annotated[list[Annotated[str, Field(max_length=10_000)]], Field(min_length=1, max_length=8)]
"""several: tokens by each of them are good, so that a new one can come before the old one goes"""


class Authentication(messages.Message):
    """`server_config.authentication`; its members as in PyGrid, the rest is ours."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["jwt"] = "jwt"
    secret: Annotated[str, Field(max_length=10_000)] | Keys | None = Field(None, repr=False)
    """for HS256, HS384 and HS512"""
    pub_key: Annotated[str, Field(max_length=10_000)] | Keys | None = Field(None, repr=False)
    """PEM, of an RSA, EC (P-256, P-384, P-521) or Edwards key"""
    endpoint: Annotated[str, Field(min_length=1, max_length=2000)] | None = Field(None, repr=False)
    """a URL that is POSTed ``{"auth_token": …}`` and answers 200 if the token is good; with keys, after these"""
    algorithms: Annotated[list[str], Field(min_length=1, max_length=20)] | None = None
    """none: all that the keys are good for"""
    audience: messages.Text | None = None
    issuer: messages.Text | None = None
    require_expiry: bool = True


@dataclass(frozen=True, slots=True)
class Key:
    """What signatures are checked with."""

    value: Any = field(repr=False)
    algorithms: tuple[str, ...]
    length: int
    """of a signature, in bytes"""

    def claims(self, token: str, checks: Authentication) -> dict[str, Any] | None:
        """What the token says, if it is signed for this key and holds now. None costs a signature too, whatever is
        wrong: how long it takes doesn't tell a forger how far a token came."""
        required = ["exp"] if checks.require_expiry else []
        required += ["aud"] if checks.audience is not None else []
        required += ["iss"] if checks.issuer is not None else []
        try:
            return jwt.decode(
                token,
                self.value,
                algorithms=list(self.algorithms),
                audience=checks.audience,
                issuer=checks.issuer,
                leeway=LEEWAY,
                options={"require": required},
            )
        except jwt.InvalidSignatureError:
            return None
        except (jwt.DecodeError, jwt.InvalidAlgorithmError):
            self._spend(token)
        except jwt.InvalidTokenError as error:
            if type(error) is jwt.InvalidTokenError:  # its header; the rest are claims, which come after the signature
                self._spend(token)
        except (TypeError, OverflowError, RecursionError):  # claims of other types than they have
            return None
        return None

    def _spend(self, token: str) -> None:
        algorithm = jwt.get_algorithm_by_name(self.algorithms[0])
        algorithm.verify(token.encode(), algorithm.prepare_key(self.value), b"\x01" * self.length)


def keys_of(wish: Authentication) -> list[Key]:
    """The keys of a configuration, each with the algorithms that it takes.

    Raises:
        NodeError: `BAD_CONFIG`; a key that is too short, none, or private, or an algorithm that fits none.
    """
    found = [*_secrets(_listed(wish.secret)), *_public(_listed(wish.pub_key))]
    if wish.algorithms is None:
        return found
    asked = set(wish.algorithms)
    fitting = {name for key in found for name in key.algorithms}
    if asked - fitting:
        names = ", ".join(sorted(fitting)) or "none: there is no key"
        raise _wrong(f"algorithms has some that these keys don't take ({names})")
    chosen = [Key(k.value, tuple(name for name in k.algorithms if name in asked), k.length) for k in found]
    if not all(key.algorithms for key in chosen):
        raise _wrong("algorithms has none for one of the keys")
    return chosen


def _listed(value: str | list[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else value or []


def _secrets(texts: list[str]) -> Iterator[Key]:
    for text in texts:
        size = len(text.encode("utf-8", "surrogatepass"))
        if size < MIN_SECRET:
            raise _wrong(f"a secret has {size} bytes", f"at least {MIN_SECRET}, such as secrets.token_urlsafe(32)")
        if "-----BEGIN" in text or text.startswith("ssh-"):
            raise _wrong("a secret is a key of a key pair", "a public key is a pub_key; a private one stays private")
        yield Key(text, tuple(name for name, least in _HMAC.items() if size >= least), 32)


def _public(texts: list[str]) -> Iterator[Key]:
    for text in texts:
        try:
            key = load_pem_public_key(text.encode("utf-8", "surrogatepass"))
        except (ValueError, UnsupportedAlgorithm):
            raise _wrong("pub_key isn't a public key in PEM", "it begins with -----BEGIN PUBLIC KEY-----") from None
        if isinstance(key, rsa.RSAPublicKey):
            if key.key_size < MIN_RSA:
                raise _wrong(f"pub_key is an RSA key of {key.key_size} bits", f"at least {MIN_RSA}")
            yield Key(key, _RSA, (key.key_size + 7) // 8)
        elif isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES:
            yield Key(key, (_CURVES[key.curve.name],), 2 * ((key.key_size + 7) // 8))
        elif isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
            yield Key(key, ("EdDSA",), 64 if isinstance(key, ed25519.Ed25519PublicKey) else 114)
        else:
            raise _wrong("pub_key is of a kind that signs no tokens here", "RSA, P-256, P-384, P-521, Ed25519 or Ed448")


class Door:
    """Who may become a worker in a training."""

    def __init__(self, access: Access, rounds: Rounds, outbound: Outbound) -> None:
        self._access = access
        self._rounds = rounds
        self._outbound = outbound
        self._asking = 0

    async def check(self, config: Any) -> None:
        """Look at an `authentication` before a training is hosted with it.

        Raises:
            NodeError: `BAD_CONFIG`, naming the member and never its value; with an endpoint, what `Outbound.check` has.
        """
        if config is None or config == {}:
            return
        if not isinstance(config, dict):
            raise _wrong("it isn't an object")
        try:
            wish = messages.parse(Authentication, config)
        except NodeError as error:
            raise _wrong(error.message, f"it may have: {', '.join(Authentication.model_fields)}") from None
        if not keys_of(wish) and wish.endpoint is None:
            raise _wrong("it names no secret, no pub_key and no endpoint", "leave it out, or say who signs the tokens")
        if wish.endpoint is not None:
            await self._outbound.check(wish.endpoint)

    async def admit(self, principal: Principal, wish: messages.Authenticate) -> tuple[Principal, Process]:
        """Who asks, by the token in the message if there is one, and the training that they may enrol in.

        The node's own tokens come first: the owner's, the accounts', the workers'; then the training's.

        Raises:
            AccessError: `UNAUTHENTICATED`, one text for every wrong token; `FORBIDDEN`.
            NotFoundError: no such training; told to who has a token of this node's, or under ``--open``.
            NodeError: `TARGET_FAILED`, the endpoint doesn't answer; `BUSY`, too many are asked.
        """
        token, wrong = wish.auth_token, None
        if token is not None:
            try:
                principal = await self._access.principal(token)
            except AccessError as error:
                wrong = error
        about(f"{wish.model_name} {wish.model_version or ''}".rstrip())
        if token is None or wrong is None:
            self._access.allow(principal, "enrol")
            process = await self._rounds.named(wish.model_name, wish.model_version)
        else:
            try:
                process = await self._rounds.named(wish.model_name, wish.model_version)
            except NotFoundError:
                raise wrong from None
            if process.authentication is None or not await self._is_good(token, process, process.authentication):
                raise wrong
            principal = Principal(Role.WORKER, process=process.id)
        door_of(principal, process)
        self._access.allow(principal, "enrol", owner=process.owner, process=process.id)
        return principal, process

    async def _is_good(self, token: str, process: Process, config: Mapping[str, Any]) -> bool:
        wish = Authentication.model_validate(config)
        keys = keys_of(wish)
        found = [key.claims(token, wish) for key in keys]  # all of them, so that it takes the same time
        fitting = [claims for claims in found if claims is not None and _fits(claims, process)]
        if keys and not fitting:
            return False
        return wish.endpoint is None or await self._ask(wish.endpoint, token, process)

    async def _ask(self, endpoint: str, token: str, process: Process) -> bool:
        if self._asking >= TOGETHER:
            raise NodeError("too many tokens are being checked", "try again", code=ErrorCode.BUSY, status=503)
        self._asking += 1
        try:
            content, kind = json.dumps({"auth_token": token}).encode(), {"content-type": "application/json"}
            answer = await self._outbound.request("POST", endpoint, headers=kind, content=content)
        except NodeError as error:  # names its host, which is for who runs the node, not for who comes along
            logging.getLogger("gridkit.node").warning(
                "%s can't check a worker's token: %s", process.title, error.message
            )
            raise NodeError(
                "the service that checks this training's tokens can't be asked",
                "try again; the node's log says why",
                code=ErrorCode.TARGET_FAILED,
                status=502,
            ) from None
        finally:
            self._asking -= 1
        return answer.status == 200


def door_of(principal: Principal, process: Process) -> None:
    """A training with a door of its own is closed to nobody in particular, under ``--open`` too.

    Raises:
        AccessError: `UNAUTHENTICATED`.
    """
    if process.authentication is not None and principal.role is Role.ANONYMOUS:
        raise AccessError(
            f"{process.title} is for who has a token",
            "pass an auth_token, from who hosts it",
            code=ErrorCode.UNAUTHENTICATED,
            status=401,
        )


def _fits(claims: Mapping[str, Any], process: Process) -> bool:
    here = {"model": process.name, "version": process.version}
    return all(claims.get(name, value) == value for name, value in here.items())


def _wrong(reason: str, hint: str | None = None) -> NodeError:
    return NodeError(f"server_config.authentication: {reason}", hint, code=ErrorCode.BAD_CONFIG, status=400)
