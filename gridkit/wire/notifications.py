"""Notifications: what a node tells the participants of a push training, and how it proves that it is the node.

The body is the fl-demonstrator's: a JSON object of `notification_type`, `training_uuid` and `body`. Ours are three
headers, for participants that share a secret with the node (one secret a participant)::

    X-Gridkit-Timestamp   seconds since 1970, an integer
    X-Gridkit-Nonce       32 hexadecimal digits, new for each attempt
    X-Gridkit-Signature   "v1=" and, hexadecimal,
                          HMAC-SHA256(secret, "gridkit-push-v1\\n" timestamp "\\n" nonce "\\n" body)

A notification is refused that is unsigned, wrongly signed, more than `WINDOW` seconds old or early, or whose nonce came
before. A repeated attempt has a nonce of its own; that it is the same notification is told by what is in it.

A participant says with a header of its answers that it knows a notification when it comes again, as ours do. It may
then be told again of a round that it took and hasn't answered; another would train a second time.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable, Iterable
from typing import Final

from gridkit.errors import AccessError, ErrorCode, UsageError

TIMESTAMP: Final = "X-Gridkit-Timestamp"
NONCE: Final = "X-Gridkit-Nonce"
SIGNATURE: Final = "X-Gridkit-Signature"
AGAIN: Final = "X-Gridkit-Again"
"""in answers, with the value `KNOWN`"""
KNOWN: Final = "known"
WINDOW = 300.0
"""seconds by which the clocks of node and participant may differ, the way included"""
MAX_NONCES = 100_000
"""that a participant remembers: only who has the secret can fill it"""
MIN_SECRET = 16
"""characters"""

_SECONDS = re.compile(r"[0-9]{1,12}")
_NONCE = re.compile(r"[0-9a-f]{32}")


class NotificationType(enum.StrEnum):
    """`notification_type`: the steps of a training that a participant is told of."""

    TRAINING_START = "TRAINING_START"
    UPDATE_ROUND_START = "UPDATE_ROUND_START"
    MODEL_TEST_ROUND = "MODEL_TEST_ROUND"
    TRAINING_FINISHED = "TRAINING_FINISHED"


def signed(secret: str, body: bytes, *, now: float | None = None) -> dict[str, str]:
    """The headers of one attempt to deliver `body`.

    Raises:
        UsageError: the secret is shorter than `MIN_SECRET` characters.

    >>> body = b'{"notification_type": "TRAINING_START"}'
    >>> Verifier("a secret of two parties").check(signed("a secret of two parties", body).items(), body)
    """
    timestamp, nonce = str(int(time.time() if now is None else now)), secrets.token_hex(16)
    return {TIMESTAMP: timestamp, NONCE: nonce, SIGNATURE: _signature(_key(secret), timestamp, nonce, body)}


class Verifier:
    """Knows notifications of who has the secret, each once. One thread at a time.

    Args:
        secret: at least `MIN_SECRET` characters; never shown.
        clock: seconds since 1970.

    Raises:
        UsageError: the secret is too short.
    """

    def __init__(self, secret: str, clock: Callable[[], float] = time.time) -> None:
        self._key = _key(secret)
        self._clock = clock
        self._seen: dict[str, float] = {}  # nonce -> when it may be forgotten; in that order, nearly

    def check(self, headers: Iterable[tuple[str, str]], body: bytes) -> None:
        """Pass if the body is signed, and new.

        Raises:
            AccessError: it isn't (401).
        """
        named: dict[str, list[str]] = {}
        for name, value in headers:
            named.setdefault(name.lower(), []).append(value)
        found = [named.get(name.lower(), []) for name in (TIMESTAMP, NONCE, SIGNATURE)]
        if any(len(values) != 1 for values in found):
            raise _refused("the notification isn't signed", "give the node this participant's secret")
        (timestamp,), (nonce,), (signature,) = found
        form = _SECONDS.fullmatch(timestamp) and _NONCE.fullmatch(nonce) and signature.isascii()
        if not form or not hmac.compare_digest(signature, _signature(self._key, timestamp, nonce, body)):
            raise _refused("the notification's signature is wrong", "node and participant need the same secret")
        now = self._clock()
        if abs(now - int(timestamp)) > WINDOW:
            early = int(timestamp) > now
            raise _refused(
                f"the notification is {abs(now - int(timestamp)):.0f} seconds {'early' if early else 'old'}",
                "set the clocks of node and participant",
            )
        self._forget(now)
        if nonce in self._seen or len(self._seen) >= MAX_NONCES:
            raise _refused("the notification came before", "sign each attempt anew")
        self._seen[nonce] = int(timestamp) + WINDOW

    def _forget(self, now: float) -> None:
        """Those whose notifications are refused by their age. A younger one may stand before an older: it waits."""
        while self._seen:
            nonce, until = next(iter(self._seen.items()))
            if until >= now:
                break
            del self._seen[nonce]


def _key(secret: str) -> bytes:
    if len(secret) < MIN_SECRET:
        raise UsageError(
            f"a secret of {len(secret)} characters is too short", f"take one of {MIN_SECRET}: secrets.token_urlsafe()"
        )
    return secret.encode()


def _signature(key: bytes, timestamp: str, nonce: str, body: bytes) -> str:
    text = f"gridkit-push-v1\n{timestamp}\n{nonce}\n".encode() + body
    return "v1=" + hmac.new(key, text, hashlib.sha256).hexdigest()


def _refused(message: str, hint: str) -> AccessError:
    return AccessError(message, hint, code=ErrorCode.UNAUTHENTICATED, status=401)
