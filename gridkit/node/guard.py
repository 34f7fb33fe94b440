"""Who may do what, and what is refused before any route sees it.

`RULES` is the one table of rights. `Tokens` turns a credential into a `Principal`. `Guard` is an ASGI layer around
everything: Host, Origin, header and body limits, for HTTP and for WebSocket alike (CORS layers skip WebSockets).
"""

from __future__ import annotations

import base64
import binascii
import enum
import hmac
import ipaddress
import json
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

import jwt
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gridkit.errors import AccessError, ErrorCode, GridkitError, LimitError
from gridkit.node.settings import NodeSettings


class Role(enum.StrEnum):
    OWNER = "owner"
    WORKER = "worker"
    ANONYMOUS = "anonymous"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks. A worker's token is good for one process, and may name its slot and label there."""

    role: Role
    process: str | None = None
    slot: int | None = None
    label: str | None = None


ANONYMOUS = Principal(Role.ANONYMOUS)
OWNER = Principal(Role.OWNER)

_EVERYBODY = frozenset(Role)
_OWNER = frozenset({Role.OWNER})
_TRUSTED = frozenset({Role.OWNER, Role.WORKER})

RULES: dict[str, frozenset[Role]] = {
    "status": _EVERYBODY,
    "authenticate": _TRUSTED,
    "work": _EVERYBODY,  # cycle-request, downloads, report: the worker id and the request key are the right
    "retrieve-model": _TRUSTED,
    "host-training": _OWNER,
    "issue-token": _OWNER,
    "observe": _OWNER,
    "stop": _OWNER,
}
OPEN_TO_ALL = frozenset({"authenticate", "retrieve-model", "host-training"})
"""what ``--open`` adds for anonymous clients of the old protocols"""


class Tokens:
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

    def principal(self, credential: str | None) -> Principal:
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
        return Principal(Role.WORKER, claims["process"], claims.get("slot"), claims.get("label"))

    def of_headers(self, headers: Iterable[tuple[bytes, bytes]]) -> Principal:
        """Who stands in the Authorization headers: Bearer, Api-Key, or the password of Basic."""
        refused: AccessError | None = None
        for name, value in headers:
            if name != b"authorization":
                continue
            try:
                return self.principal(_credential(value.decode("latin-1")))
            except AccessError as error:
                refused = error
        if refused is not None:
            raise refused
        return ANONYMOUS

    def allow(self, principal: Principal, operation: str, process: str | None = None) -> None:
        """Pass, or raise: 401 for nobody in particular, 403 for somebody without the right."""
        allowed = principal.role in RULES[operation]
        if principal.role is Role.ANONYMOUS and self._open and operation in OPEN_TO_ALL:
            allowed = True
        if not allowed:
            if principal.role is Role.ANONYMOUS:
                raise _unauthenticated(f"{operation} needs a token")
            raise _forbidden(f"a {principal.role}'s token doesn't allow {operation}")
        if principal.role is Role.WORKER and process is not None and process != principal.process:
            raise _forbidden("this worker's token was issued for another training")


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


class Guard:
    """ASGI layer: foreign hosts and origins, doubled slashes, and sizes, before a route or a handshake is reached."""

    def __init__(self, app: ASGIApp, settings: NodeSettings) -> None:
        self._app = app
        self._settings = settings
        self._origins = {origin.lower().rstrip("/") for origin in settings.allow_origins}
        self._hosts = {host.lower() for host in settings.allow_hosts}
        if not settings.loopback:
            self._hosts |= {settings.host.lower(), socket.gethostname().lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        try:
            self._check(scope)
        except GridkitError as error:
            await _refuse(scope, receive, send, error)
            return
        while "//" in scope["path"]:
            scope["path"] = scope["path"].replace("//", "/")
        await self._app(scope, _counted(receive, self._settings.limits.upload), send)

    def _check(self, scope: Scope) -> None:
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        limits = self._settings.limits
        size = len(scope.get("raw_path") or b"") + len(scope["query_string"])
        if size + sum(len(k) + len(v) for k, v in headers) > limits.header or len(headers) > limits.headers:
            raise LimitError("the request's headers are too large", code=ErrorCode.TOO_LARGE, status=431)
        values = {name: value.decode("latin-1") for name, value in headers}
        host = values.get(b"host", "").lower()
        if not self._known_host(host):
            raise AccessError(
                f"this node doesn't answer to the host name {host[:100]!r}",
                "use its address, or start it with --allow-host",
                code=ErrorCode.FOREIGN_HOST,
                status=403,
            )
        if b"origin" in values and not self._known_origin(values[b"origin"].lower(), host, scope["scheme"]):
            raise AccessError(
                f"pages from {values[b'origin'][:100]!r} may not use this node",
                "start it with --allow-origin",
                code=ErrorCode.FOREIGN_ORIGIN,
                status=403,
            )
        if values.get(b"content-encoding", "identity") != "identity":
            raise LimitError("compressed bodies are not accepted", code=ErrorCode.TOO_LARGE, status=415)
        length = values.get(b"content-length", "0")
        if not length.isdecimal() or int(length) > limits.upload:
            raise LimitError(f"the body is larger than {limits.upload} bytes", code=ErrorCode.TOO_LARGE, status=413)

    def _known_host(self, host: str) -> bool:
        name = urlsplit("//" + host).hostname or ""
        if name in self._hosts or host in self._hosts or name == "localhost":
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        # a page that was rebound to this machine carries a name, never a bare address
        return address.is_loopback or not self._settings.loopback

    def _known_origin(self, origin: str, host: str, scheme: str) -> bool:
        own = ("https" if scheme in ("https", "wss") else "http") + "://" + host
        if origin == own or origin in self._origins:
            return True
        if not self._settings.open:
            return False
        parts = urlsplit(origin)
        try:
            loopback = ipaddress.ip_address(parts.hostname or "").is_loopback
        except ValueError:
            loopback = parts.hostname == "localhost"
        return parts.scheme in ("http", "https") and loopback


def _counted(receive: Receive, limit: int) -> Receive:
    total = 0

    async def counted() -> Message:
        nonlocal total
        message = await receive()
        if message["type"] == "http.request":
            total += len(message.get("body", b""))
            if total > limit:
                raise LimitError(f"the body is larger than {limit} bytes", code=ErrorCode.TOO_LARGE, status=413)
        return message

    return counted


def error_body(error: GridkitError) -> dict[str, object]:
    """What a peer is told of an error: text, code, advice; never a traceback."""
    return {
        "error": error.message,
        "code": str(error.code or ErrorCode.BAD_REQUEST),
        **({"hint": error.hint} if error.hint else {}),
    }


async def _refuse(scope: Scope, receive: Receive, send: Send, error: GridkitError) -> None:
    status = getattr(error, "status", 400)
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008, "reason": error.message[:100]})  # before accept: a 403
        return
    body = json.dumps(error_body(error)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*headers, (b"connection", b"close")]})
    await send({"type": "http.response.body", "body": body})
