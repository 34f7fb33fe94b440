"""The one policy for calls that the node itself makes: to other nodes, to push participants, to checkers of tokens.

Whoever gives the node an address must not make it reach what only the node can reach (server-side request forgery). So
nothing is called unless a rule of ``--allow-target`` covers it; the rules are held against the addresses after the name
was looked up, and the connection goes to exactly these: a name that is looked up twice can lead elsewhere the second
time (DNS rebinding). Each redirect is checked anew.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import httpx

from gridkit.errors import AccessError, ErrorCode, NodeError
from gridkit.node.settings import MIB, NodeSettings
from gridkit.node.targets import Address, Rule, Target, address_of, kind_of, place, unusable

Resolve = Callable[[str], Awaitable[Sequence[str]]]
"""a host name to its addresses, as text; `OSError` when there are none"""

REDIRECTS = 3
CONNECT_SECONDS = 5.0
"""for looking a name up, and for each address that is tried"""
ADDRESSES = 8
"""so many addresses of a target are tried"""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: any status, the headers, the whole body. Messages of errors never repeat the latter two."""

    status: int
    headers: httpx.Headers = field(repr=False)
    body: bytes = field(repr=False)

    def json(self) -> Any:
        """The body as JSON.

        Raises:
            NodeError: `TARGET_FAILED`, it isn't any.
        """
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            raise NodeError("the target's answer isn't JSON", code=ErrorCode.TARGET_FAILED, status=502) from None


class Outbound:
    """The node's calls.

    Args:
        settings: its `allow_targets`, and `open`, which adds this machine's loopback.
        own_ports: where the node listens: no rule lets it call itself there on loopback.
        resolve: looks names up; by default the system's resolver.
        tls: whose certificates are trusted; by default the system's.

    Example::

        answer = await outbound.request("POST", "https://hospital.example.org/round", content=b"{}", limit=4096)
    """

    def __init__(
        self,
        settings: NodeSettings,
        own_ports: Collection[int] = (),
        *,
        resolve: Resolve | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        loopback = ("127.0.0.0/8", "::1") if settings.open else ()
        self._rules = [Rule.read(text) for text in (*settings.allow_targets, *loopback)]
        self._own_ports = frozenset(own_ports)
        self._resolve = resolve or self._look_up
        self._tls = tls
        # not the loop's own threads: names whose servers are silent would hold up the node's disk
        self._threads = ThreadPoolExecutor(32, "gridkit-dns")

    def close(self) -> None:
        """Look no more names up."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def check(self, url: str) -> Target:
        """Where a call to this URL would go, without making it: an endpoint is checked when it is registered, too.

        Raises:
            NodeError: `BAD_REQUEST`, no usable URL; `TARGET_FAILED`, a name that is allowed and isn't found.
            AccessError: `TARGET_REFUSED`, no rule covers it.
        """
        target = Target.read(url)
        rules = [rule for rule in self._rules if rule.names(target)]
        if not isinstance(target.host, str):
            found = [target.host]
        else:
            found = await self._find(target, target.host, rules) if rules else []
        covered = [address for address in found if any(rule.covers(address) for rule in rules)]
        foreign = [address for address in covered if not self._is_this_node(address, target.port)]
        if foreign:
            return replace(target, addresses=tuple(foreign[:ADDRESSES]))
        if covered:
            raise _refused(f"{target} is this node itself", "name another node")
        if not isinstance(target.host, str) or any(rule.name for rule in rules):
            kind, hint = kind_of(found[0]), _allow(place(found[0], target.port))
            if kind == "unspecified":  # as a service was told to listen on all interfaces
                hint = f"give an address at which the node reaches it; else {hint}"
            raise _refused(f"this node may not call {target}: the address is {kind}", hint)
        # one text for every name that the owner didn't allow: whether it exists inside, and where, isn't told
        raise _refused(f"this node may not call {target}", _allow(str(target)))

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        content: bytes = b"",
        seconds: float = 10.0,
        limit: int = MIB,
    ) -> Answer:
        """Call, and return the answer, whatever its status. Nothing is tried again once it was sent.

        Redirects of GET and HEAD are followed; to another origin without any of `headers`, never from https to http.
        Other methods keep to their origin (307, 308). No cookies, no proxies, no compressed bodies.

        Args:
            seconds: for all of it: names, connections, redirects, bodies.
            limit: size of an answer's body in bytes; no more is read. 0: status and headers are all that counts, and
                nothing of the body is read, whatever it is.

        Raises:
            NodeError: `BAD_REQUEST`, as `check`; `TARGET_FAILED` (502, 504), no answer, none in time, or too large.
            AccessError: `TARGET_REFUSED`, no rule covers it, or what it redirects to.
        """
        target = Target.read(url)
        sent = httpx.Headers()
        for name, value in (headers or {}).items():
            if not (name + value).isascii() or not (name + value).isprintable():
                raise unusable("a header of the call has characters that can't be sent")
            sent[name] = value
        try:
            async with asyncio.timeout(seconds):
                return await self._follow(method.upper(), url, sent, content, limit)
        except TimeoutError:
            raise _failed(target, f"no whole answer within {seconds:g} s", 504) from None

    async def _follow(self, method: str, url: str, headers: httpx.Headers, content: bytes, limit: int) -> Answer:
        for _ in range(REDIRECTS + 1):
            target = await self.check(url)
            answer = await self._send(target, method, headers, content, limit)
            if answer.status not in (301, 302, 303, 307, 308) or "location" not in answer.headers:
                return answer
            try:
                url = str(target.url.join(answer.headers["location"]))
                following = Target.read(url)
            except (NodeError, httpx.InvalidURL, ValueError):
                raise _failed(target, "it redirects to something that isn't a usable URL") from None
            same = following.origin == target.origin
            if method not in ("GET", "HEAD") and not (same and answer.status in (307, 308)):
                raise _failed(target, f"it redirects a {method} to {following}; give the final address")
            if target.url.scheme == "https" and following.url.scheme == "http":
                raise _failed(target, "it redirects from https to http")
            if not same:
                headers = httpx.Headers()
        raise _failed(target, f"more than {REDIRECTS} redirects")

    async def _send(self, target: Target, method: str, headers: httpx.Headers, content: bytes, limit: int) -> Answer:
        own = {"host": target.url.netloc.decode(), "accept-encoding": "identity", "connection": "close"}
        extensions: dict[str, Any] = {"timeout": {"connect": CONNECT_SECONDS}}
        if isinstance(target.host, str):
            extensions["sni_hostname"] = target.host  # so the certificate must be the name's, not the address's
        verify = self._trusted() if target.url.scheme == "https" else False
        reason = ""
        for address in target.addresses:
            to = target.url.copy_with(host=str(address))
            request = httpx.Request(method, to, headers={**headers, **own}, content=content, extensions=extensions)
            # one a call: a connection that is kept was verified for one name, and could be used for another
            async with httpx.AsyncHTTPTransport(verify=verify, trust_env=False) as transport:
                try:
                    response = await transport.handle_async_request(request)
                    return await _read(response, target, limit)
                except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                    reason = _reason(error)
                except (httpx.TransportError, ssl.SSLError) as error:
                    raise _failed(target, _reason(error)) from None
        raise _failed(target, reason)

    async def _find(self, target: Target, name: str, rules: list[Rule]) -> list[Address]:
        """The addresses of a name. Of a name that isn't allowed by itself nobody is told that it isn't found."""
        try:
            texts = await asyncio.wait_for(self._resolve(name), CONNECT_SECONDS)
        except (OSError, UnicodeError):
            texts = ()
        found = list(dict.fromkeys(address_of(text) for text in texts if "%" not in text))
        if not found and any(rule.name for rule in rules):
            raise _failed(target, "the name isn't found")
        return found

    async def _look_up(self, name: str) -> list[str]:
        look_up = asyncio.get_running_loop().run_in_executor
        rows = await look_up(self._threads, lambda: socket.getaddrinfo(name, None, type=socket.SOCK_STREAM))
        return [str(row[4][0]) for row in rows]

    def _is_this_node(self, address: Address, port: int) -> bool:
        return port in self._own_ports and kind_of(address) in ("loopback", "unspecified")

    def _trusted(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context()
        return self._tls


async def _read(response: httpx.Response, target: Target, limit: int) -> Answer:
    try:
        if not limit:
            return Answer(response.status_code, response.headers, b"")
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise _failed(target, "its answer is compressed, though it was asked not to be")
        body = bytearray()
        async for piece in response.aiter_raw():
            if len(body) + len(piece) > limit:
                raise _failed(target, f"its answer is larger than {limit} bytes")
            body += piece
        return Answer(response.status_code, response.headers, bytes(body))
    finally:
        await response.aclose()


def _reason(error: httpx.TransportError | ssl.SSLError) -> str:
    """In our words: the libraries' texts repeat pieces of headers and of what came back."""
    if isinstance(error, httpx.ConnectTimeout):
        return "no connection in time"
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate isn't good: {cause.verify_message}"
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLWantReadError):
            return "it doesn't speak TLS as we do"
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, httpx.ConnectError):
        return "no connection"
    return "it doesn't answer in HTTP" if isinstance(error, httpx.ProtocolError) else "the connection was cut"


def _allow(wanted: str) -> str:
    return f"the node's owner can start it with --allow-target {wanted}, or gk.launch(allow_targets=[{wanted!r}])"


def _refused(message: str, hint: str) -> AccessError:
    return AccessError(message, hint, code=ErrorCode.TARGET_REFUSED, status=403)


def _failed(target: Target, reason: str, status: int = 502) -> NodeError:
    hint = "check that it runs and that the address is right"
    return NodeError(f"the call to {target} failed: {reason}", hint, code=ErrorCode.TARGET_FAILED, status=status)
