"""What is refused before any route sees it.

`Guard` is an ASGI layer around everything: Host, Origin, header and body limits, for HTTP and for WebSocket alike
(CORS layers skip WebSockets).
"""

from __future__ import annotations

import ipaddress
import json
import socket
from urllib.parse import unquote, urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gridkit.errors import AccessError, ErrorCode, GridkitError, LimitError
from gridkit.node.rights import ANONYMOUS
from gridkit.node.settings import NodeSettings
from gridkit.node.watch import Watch


class Guard:
    """ASGI layer: foreign hosts and origins, doubled slashes, and sizes, before a route or a handshake is reached."""

    def __init__(self, app: ASGIApp, settings: NodeSettings, watch: Watch) -> None:
        self._app = app
        self._watch = watch
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
            self._watch.refused(ANONYMOUS, scope, "request", scope["path"], error)
            await _refuse(scope, receive, send, error)
            return
        _single_slashes(scope)
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


def _single_slashes(scope: Scope) -> None:
    """Clients write ``http://host:5000//models/``. Only what was a slash on the wire: those in an id are escaped."""
    raw: bytes = scope["raw_path"]
    if b"//" in raw:
        while b"//" in raw:
            raw = raw.replace(b"//", b"/")
        scope["raw_path"], scope["path"] = raw, unquote(raw.decode("latin-1"))


def error_body(error: GridkitError) -> dict[str, object]:
    """What a peer is told of an error: text, code, advice; never a traceback. The original's clients look for some of
    these members: its node wrote the text to `error` here and to `message` there."""
    return {
        "success": False,
        "error": error.message,
        "message": error.message,
        "code": str(error.code or ErrorCode.BAD_REQUEST),
        **({"hint": error.hint} if error.hint else {}),
        **({"retry_after": error.retry_after} if isinstance(error, LimitError) and error.retry_after else {}),
        **({"not_allowed": True} if error.code is ErrorCode.NOT_ALLOWED else {}),
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
