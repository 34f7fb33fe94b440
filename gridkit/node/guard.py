"""What is refused before any route sees it.

`Guard` is an ASGI layer around everything: Host, Origin, header and body limits, for HTTP and for WebSocket alike
(CORS layers skip WebSockets). Pages of other origins are let in by a list, and only these may read the answers (CORS:
Fetch standard, section 3.2).
"""

from __future__ import annotations

import ipaddress
import json
import re
import socket
from urllib.parse import unquote, unquote_to_bytes

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gridkit.errors import AccessError, ErrorCode, GridkitError, LimitError, NodeError
from gridkit.node.rights import ANONYMOUS
from gridkit.node.settings import NodeSettings
from gridkit.node.watch import Watch

_ONCE = {b"host", b"origin", b"content-length", b"content-encoding", b"content-type", b"transfer-encoding"}
_HOST = re.compile(r"(?:(?P<name>[a-z0-9_.-]+)|\[(?P<address>[0-9a-f:.]+)\])(?::[0-9]{1,5})?")
"""what `Host` holds, in lower case; an origin ends like this"""
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_POLICY = b"content-security-policy"
_PREFLIGHT = [
    (b"access-control-allow-methods", b"GET, POST, OPTIONS"),
    (b"access-control-allow-headers", b"content-type, authorization"),
    (b"access-control-max-age", b"600"),
    (b"content-length", b"0"),
]


SEALED = b"default-src 'none'; frame-ancestors 'none'; sandbox"
"""Content-Security-Policy of every answer that doesn't have its own: what others have stored here is never a page, a
script or a picture of anybody's"""


class Guard:
    """ASGI layer: foreign hosts and origins, doubled slashes, and sizes, before a route or a handshake is reached."""

    def __init__(self, app: ASGIApp, settings: NodeSettings, watch: Watch) -> None:
        self._app = app
        self._watch = watch
        self._settings = settings
        self._origins = {origin.lower().rstrip("/") for origin in settings.allow_origins}
        self._varies = bool(self._origins) or settings.open
        self._hosts = {host.lower() for host in settings.allow_hosts}
        if not settings.loopback:
            self._hosts |= {settings.host.lower(), socket.gethostname().lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        page = b""
        if scope["type"] == "http":
            send = _sealed(send)
        if scope["type"] == "http" and self._varies:
            page = self._page(scope)
            send = _readable(send, page)
        try:
            self._check(scope)
        except GridkitError as error:
            self._watch.refused(ANONYMOUS, scope, "request", scope["path"], error)
            await _refuse(scope, receive, send, error)
            return
        if page and scope["method"] == "OPTIONS" and b"access-control-request-method" in dict(scope["headers"]):
            await send({"type": "http.response.start", "status": 204, "headers": _PREFLIGHT})
            await send({"type": "http.response.body"})
            return
        _single_slashes(scope)
        _without_prefix(scope, self._settings.prefix)
        await self._app(scope, _counted(receive, self._settings.limits.upload), send)

    def _page(self, scope: Scope) -> bytes:
        """The origin of the page that asks, if it is another one than this node and may read the answer; b"" else."""
        origins = [value for name, value in scope["headers"] if name == b"origin"]
        hosts = [value.decode("latin-1").lower() for name, value in scope["headers"] if name == b"host"]
        if len(origins) != 1 or len(hosts) != 1 or not self._known_host(hosts[0]):
            return b""
        return origins[0] if self._known_origin(origins[0].decode("latin-1").lower()) else b""

    def _check(self, scope: Scope) -> None:
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        limits = self._settings.limits
        size = len(scope.get("raw_path") or b"") + len(scope["query_string"])
        if size + sum(len(k) + len(v) for k, v in headers) > limits.header or len(headers) > limits.headers:
            raise LimitError("the request's headers are too large", code=ErrorCode.TOO_LARGE, status=431)
        values = {name: value.decode("latin-1") for name, value in headers}
        if len([name for name, _ in headers if name in _ONCE]) != len(_ONCE & values.keys()):
            raise _unreadable("a header stands twice that may stand there once")
        if scope["type"] == "http" and scope["http_version"] not in ("1.0", "1.1"):  # 0.9 has no headers to look at
            raise _unreadable("it isn't HTTP/1.1")
        if not _is_text(scope):
            raise _unreadable("its path isn't UTF-8, or has control characters")
        host = values.get(b"host", "").lower()
        if not self._known_host(host):
            raise AccessError(
                f"this node doesn't answer to the host name {host[:100]!r}",
                "use its address, or start it with --allow-host",
                code=ErrorCode.FOREIGN_HOST,
                status=403,
            )
        origin = values.get(b"origin", "").lower()
        own = origin == ("https" if scope["scheme"] in ("https", "wss") else "http") + "://" + host
        if b"origin" in values and not own and not self._known_origin(origin):
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
        match = _HOST.fullmatch(host)
        if match is None:
            return False
        name = match["name"] or match["address"]
        if name in self._hosts or host in self._hosts or name == "localhost":
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        # a page that was rebound to this machine carries a name, never a bare address
        return address.is_loopback or not self._settings.loopback

    def _known_origin(self, origin: str) -> bool:
        if origin in self._origins:
            return True
        if not self._settings.open:
            return False
        scheme, _, rest = origin.partition("://")
        match = _HOST.fullmatch(rest)
        if match is None or scheme not in ("http", "https"):
            return False
        try:
            return ipaddress.ip_address(match["name"] or match["address"]).is_loopback
        except ValueError:
            return match["name"] == "localhost"


def _is_text(scope: Scope) -> bool:
    """Patterns of routes end before a line's end, so that ``/models/x%0a`` would be ``/models/x``; and decoding makes
    one letter of all bytes that are none, so that ``%fe`` would be ``%ff``."""
    path: str = scope["path"]
    if path.isascii():
        return path.isprintable()
    return not _CONTROL.search(path) and ("\ufffd" not in path or _is_utf8(scope["raw_path"]))


def _is_utf8(raw: bytes) -> bool:
    try:
        unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        return False
    return True


def _readable(send: Send, page: bytes) -> Send:
    """Answers that scripts of a page of this origin (b"": of none) may read. Never together with credentials that a
    browser adds by itself: tokens stand where scripts put them."""
    more = [(b"vary", b"Origin"), *([(b"access-control-allow-origin", page)] if page else [])]

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *more]}
        await send(message)

    return sent


def _sealed(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", ()))
            if not any(name == _POLICY for name, _ in headers):
                message = {**message, "headers": [*headers, (_POLICY, SEALED)]}
        await send(message)

    return sent


def _unreadable(why: str) -> NodeError:
    return NodeError(f"the request can't be read: {why}", code=ErrorCode.BAD_REQUEST, status=400)


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


def _without_prefix(scope: Scope, prefix: str) -> None:
    """Behind a proxy that passes paths on as they came, all of the node lies under one path."""
    raw: bytes = scope["raw_path"]
    if prefix and (raw + b"/").startswith(prefix.encode() + b"/"):
        raw = raw[len(prefix) :] or b"/"
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
