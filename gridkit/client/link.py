"""One connection to a node: its address, its token, retries, typed errors. Everything else speaks through it."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import ssl
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from gridkit.errors import (
    AccessError,
    ConflictError,
    ErrorCode,
    LimitError,
    NodeError,
    NodeUnreachable,
    NotFoundError,
    UsageError,
)

_KINDS: dict[int, type[NodeError]] = {
    401: AccessError,
    403: AccessError,
    404: NotFoundError,
    409: ConflictError,
    413: LimitError,
    429: LimitError,
    507: LimitError,
}
_IMPATIENT = ContextVar("gridkit-impatient", default=False)


@contextmanager
def impatient() -> Iterator[None]:
    """Within the block links don't wait for nodes that don't answer, however patient they are otherwise."""
    before = _IMPATIENT.set(True)
    try:
        yield
    finally:
        _IMPATIENT.reset(before)


_AGAIN = {502, 503, 504, 507}
"""statuses of a node that is starting, ending, or short of room, and of proxies before one"""
_PASSING = (None, ErrorCode.BUSY, ErrorCode.NO_ROOM)
"""what such an answer says if it is worth another try; that a computation took too long or another node is dead is
final"""


class Link:
    """An address and a token.

    Args:
        url: ``http://host:port``, perhaps with a path.
        token: sent as `Authorization: Bearer`; never shown.
        patience: seconds for which, from the first failure on, an unreachable node is tried again, with growing,
            jittered pauses. None is for ever.
        say: told, once a trouble, that it is there and that it is over.
        certificate: a file (PEM) whose first certificate is the one that the node has, whatever names stand in it; by
            default it has one for its name, from somebody whom this machine trusts.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        patience: float | None = 0.0,
        say: Callable[[str], None] = lambda line: None,
        certificate: str | None = None,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"{url!r} isn't a node's address", 'pass one such as "http://127.0.0.1:5000"')
        self.url = url.rstrip("/")
        self.patience = patience
        self._say = say
        self._in_trouble = False
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        self.certificate = certificate
        self.tls = _trust(certificate) if parts.scheme == "https" else None
        self._http = httpx.AsyncClient(
            base_url=self.url,
            headers=headers,
            verify=self.tls or False,
            trust_env=False,
            timeout=httpx.Timeout(60.0, connect=10.0, pool=None),
            limits=httpx.Limits(max_connections=64, max_keepalive_connections=64, keepalive_expiry=4.0),
        )

    def __repr__(self) -> str:
        return f"Link({self.url!r})"

    def use(self, token: str) -> None:
        """From the next call on send this token."""
        self._http.headers["authorization"] = f"Bearer {token}"

    @property
    def credentials(self) -> dict[str, str]:
        """The headers that say who asks."""
        return {k: v for k, v in self._http.headers.items() if k == "authorization"}

    async def close(self) -> None:
        await self._http.aclose()

    async def request(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        """Send, wait out an unreachable node as far as patience goes, and return a good response.

        A request whose answer was lost goes again and is done once: what makes something carries a key by which the
        node knows it again, and what was to be deleted and isn't there any more has been deleted.

        Raises:
            NodeError: what the node answered, with its code.
            NodeUnreachable: nobody answered.
        """
        patience = 0.0 if _IMPATIENT.get() else self.patience
        clock, since, sent = asyncio.get_running_loop().time, None, False
        if method == "POST":
            kwargs["headers"] = {**kwargs.get("headers", {}), "idempotency-key": uuid.uuid4().hex}
        for attempt in itertools.count():
            if self._http.is_closed:
                raise NodeUnreachable(
                    f"the session to {self.url} is closed", "gk.connect, gk.launch or gk.Syft opens another"
                )
            try:
                response = await self.send(method, path, **kwargs)
            except NodeUnreachable as error:
                failure: Exception = error
                sent = sent or error.sent
            else:
                if not _again(response):
                    if self._in_trouble:
                        self._in_trouble = False
                        self._say(f"the node at {self.url} answers again")
                    if sent and method == "DELETE" and response.status_code == 404:
                        return response
                    return self._good(response)
                failure = _error(response)
                sent = sent or response.status_code in (502, 504)  # a proxy's: the node may have done it
            now = clock()
            since = now if since is None else since
            if patience is not None and now - since >= patience:
                raise failure from None
            if not self._in_trouble:
                self._in_trouble = True
                self._say(f"{str(failure).splitlines()[0]}; trying again")
            pause = random.uniform(0.5, 1.0) * min(5.0, 0.05 * 2 ** min(attempt, 10))
            if patience is not None:
                pause = min(pause, patience - (now - since))
            await asyncio.sleep(pause)
        raise AssertionError("unreachable")

    async def send(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        """Send once; what the node answers, be it an error.

        Raises:
            NodeUnreachable: nobody answered.
        """
        try:
            return await self._http.request(method, path, **kwargs)
        except httpx.TransportError as error:
            raise self.unreachable(error) from None

    async def json(self, method: str, path: str, **kwargs: Any) -> dict[str, Any]:
        """As `request`; the answer's JSON object."""
        value = (await self.request(method, path, **kwargs)).json()
        if not isinstance(value, dict):
            raise NodeError(f"{self.url} answered {method} {path} with something else than a JSON object")
        return value

    @asynccontextmanager
    async def events(self, after: int, run: str | None) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
        """The node's rows after this number, as they come. Ends when the connection does."""
        query: dict[str, Any] = {"after": after, **({"run": run} if run else {})}
        async with self.stream("GET", "/events", params=query, timeout=httpx.Timeout(45.0, connect=10.0)) as response:
            yield _rows(response)

    @asynccontextmanager
    async def stream(self, method: str, path: str, **kwargs: Any) -> AsyncIterator[httpx.Response]:
        """Send once; a good response whose body comes in pieces."""
        try:
            async with self._http.stream(method, path, **kwargs) as response:
                if response.status_code != 200:
                    await response.aread()
                    raise _error(response)
                yield response
        except httpx.TransportError as error:
            raise self.unreachable(error) from None

    def _good(self, response: httpx.Response) -> httpx.Response:
        if response.status_code >= 300:
            raise _error(response)
        return response

    def unreachable(self, error: Exception) -> NodeUnreachable:
        """The error of who got no answer."""
        reason = str(error) or type(error).__name__
        found = NodeUnreachable(
            f"no answer from the node at {self.url}: {reason}", "check that it runs and that the address is right"
        )
        found.sent = not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
        return found


def _trust(certificate: str | None) -> ssl.SSLContext:
    """Whom a link believes that it is the node: who has a good certificate for its name, or this one certificate."""
    if certificate is None:
        return ssl.create_default_context()
    text, end = Path(certificate).read_text(), "-----END CERTIFICATE-----"
    begin = text.find("-----BEGIN CERTIFICATE-----")  # what follows the first are those who signed it
    context = ssl.create_default_context(cadata=text[begin : text.find(end) + len(end)])
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


async def _rows(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    async for line in response.aiter_lines():
        if line.startswith("data: "):
            yield json.loads(line[6:])


def _again(response: httpx.Response) -> bool:
    """Whether this answer is worth another try to whoever is patient: it says when, or what it says will pass."""
    return "retry-after" in response.headers or (response.status_code in _AGAIN and _error(response).code in _PASSING)


def _error(response: httpx.Response) -> NodeError:
    return error_of(response.status_code, response.reason_phrase, response.content)


def error_of(status: int, reason: str, text: bytes) -> NodeError:
    """What a node answered, as the error that it means."""
    try:
        body = json.loads(text)
    except ValueError:
        body = {}
    if not isinstance(body, dict):
        body = {}
    code = str(body.get("code", ""))
    known = ErrorCode(code) if code in ErrorCode.__members__ else None
    message = str(body.get("error") or body.get("detail") or f"the node answered {status} {reason}")
    hint = body.get("hint")
    kind = _KINDS.get(status, NodeError)
    return kind(message, None if hint is None else str(hint), code=known, status=status)
