"""How often: token buckets (as in RFC 2697, without colours) per address and per principal, in tables of bounded size.

Three kinds. Who has a credential may ask as often as a node can answer; the bucket only stops what runs wild. Anonymous
clients of one address share a smaller one (under ``--open`` they are the clients, and have the large one each address).
And wrong credentials have a small one of their own: tokens and keys have 256 bits and can't be guessed, so a right one
always passes, but passwords of that address are not even tried until the bucket has filled again.
"""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import lru_cache

from gridkit.errors import ErrorCode, LimitError
from gridkit.node.rights import Principal, Role
from gridkit.node.settings import Limits

TABLE = 10_000
TOKENS = 1000
"""that one account gets, or ends, at once"""


class Buckets:
    """A bucket a key: `burst` at once, `rate` a second in the long run. Keys not seen for longest are forgotten."""

    def __init__(self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._levels: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def take(self, key: Hashable) -> float:
        """Take one: 0.0, or the seconds until there is one (then nothing is taken)."""
        now, level = self._level(key)
        if level < 1.0:
            return (1.0 - level) / self._rate
        self._levels[key] = (now, level - 1.0)
        self._levels.move_to_end(key)
        if len(self._levels) > TABLE:
            self._levels.popitem(last=False)
        return 0.0

    def wait(self, key: Hashable) -> float:
        """The seconds until there is one; nothing is taken."""
        return max(0.0, (1.0 - self._level(key)[1]) / self._rate)

    def _level(self, key: Hashable) -> tuple[float, float]:
        now = self._clock()
        then, level = self._levels.get(key, (now, self._burst))
        return now, min(self._burst, level + (now - then) * self._rate)


class Rates:
    """The buckets of one node."""

    def __init__(self, limits: Limits, *, open: bool = False) -> None:
        self._members = Buckets(limits.member_rate, 2 * limits.member_rate)
        anonymous = limits.member_rate if open else limits.anonymous_rate
        self._anonymous = Buckets(anonymous, 4 * anonymous)
        self._wrong = Buckets(limits.wrong_rate, 100 * limits.wrong_rate)
        self._names = Buckets(limits.wrong_rate / 5, 20 * limits.wrong_rate)
        self._tokens = Buckets(0.5, TOKENS)

    def admit(self, principal: Principal, address: str) -> None:
        """One request or message more.

        Raises:
            LimitError: `TOO_MANY`.
        """
        if principal.role is Role.ANONYMOUS:
            seconds = self._anonymous.take(address)
        else:
            seconds = self._members.take((principal.name, principal.process, principal.slot))
        if seconds:
            raise too_many("too many requests", seconds)

    def may_guess(self, name: str, address: str) -> None:
        """Before a password is looked at.

        Raises:
            LimitError: `TOO_MANY` wrong ones from this address, or for this name.
        """
        if seconds := max(self._wrong.wait(address), self._names.wait(name)):
            raise too_many("too many wrong passwords", seconds)

    def token(self, name: str) -> None:
        """A token of this account more, or one of its workers' is revoked: that it ended is remembered for long.

        Raises:
            LimitError: `TOO_MANY`.
        """
        if seconds := self._tokens.take(name):
            raise too_many(f"too many logins and tokens of '{name}'", seconds)

    def guessed(self, name: str, address: str) -> None:
        """A password was wrong. A request can hold many; `wrong` charges it once."""
        self._names.take(name)
        self._wrong.take(address)

    def wrong(self, address: str) -> float:
        """A credential from this address was wrong: 0.0, or the seconds after which it may try again."""
        return self._wrong.take(address)


def too_many(message: str, seconds: float) -> LimitError:
    return LimitError(message, "wait a little", code=ErrorCode.TOO_MANY, status=429, retry_after=seconds)


def source(client: tuple[str, int] | list[object] | None) -> str:
    """The address of an ASGI scope's `client` as buckets and the audit have it; IPv6 by its /64, one host's."""
    return _network(str(client[0])) if client else ""


@lru_cache(TABLE)
def _network(text: str) -> str:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return text[:100]
    if isinstance(address, ipaddress.IPv6Address):
        mapped = address.ipv4_mapped
        return str(mapped) if mapped else str(ipaddress.ip_network((address.packed, 64), strict=False))
    return str(address)
