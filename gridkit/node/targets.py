"""Which hosts, ports and addresses the node may call: the rules of ``--allow-target``. `outbound` makes the calls.

Nothing may be called that no rule covers. A rule is held against the addresses that a name was looked up to, never
against the name alone.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field

import httpx

from gridkit.errors import ErrorCode, NodeError, UsageError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Address space that isn't the public internet's (IANA's special-purpose registries, and where clouds answer questions
# about a machine); the first line that holds an address says what it is. Of IPv6 only 2000::/3 is given out.
_SPECIAL: tuple[tuple[str, Network], ...] = tuple(
    (kind, ipaddress.ip_network(network))
    for kind, networks in (
        ("cloud metadata", "169.254.169.254 100.100.100.200 168.63.129.16 192.0.0.192 fd00:ec2::254"),
        ("loopback", "127.0.0.0/8 ::1"),
        ("unspecified", "0.0.0.0/8 ::"),
        ("private", "10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 fc00::/7 fec0::/10"),
        ("shared", "100.64.0.0/10"),
        ("link-local", "169.254.0.0/16 fe80::/10"),
        ("multicast", "224.0.0.0/4 ff00::/8"),
        ("translated", "192.88.99.0/24 ::/96 ::ffff:0:0:0/96 64:ff9b::/96 64:ff9b:1::/48 2001::/32 2002::/16"),
        ("reserved", "192.0.0.0/24 192.0.2.0/24 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 240.0.0.0/4"),
        ("reserved", "2001::/23 2001:db8::/32 3fff::/20 ::/3 4000::/2 8000::/1"),
    )
    for network in networks.split()
)
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
_NAME = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")
_NUMBER = re.compile(r"(.*\.)?([0-9]+|0x[0-9a-f]*)")


def kind_of(address: Address) -> str:
    """What an address is: "public", or a word for its special space, such as "private" or "loopback"."""
    return _space_of(address)[0]


def _space_of(address: Address) -> tuple[str, Network | None]:
    return next(((kind, space) for kind, space in _SPECIAL if address in space), ("public", None))


def address_of(text: str) -> Address:
    """Read an address; IPv4 mapped into IPv6 is IPv4, which is what the system connects to.

    Raises:
        ValueError: it is none in its usual form, or bound to one interface (``fe80::1%eth0``).
    """
    if "%" in text:
        raise ValueError("bound to one interface")
    address = ipaddress.ip_address(text)
    return address if isinstance(address, ipaddress.IPv4Address) else address.ipv4_mapped or address


@dataclass(frozen=True, slots=True)
class Target:
    """What a URL names: its text is ``host:port``; the rest of a URL may be secret and stands in no message.

    Attributes:
        url: with the host in ASCII, in lower case, without a final dot.
        host: the name, or the address, that stands in the URL.
        addresses: where it may be called; empty until the policy has checked it.
    """

    url: httpx.URL = field(repr=False)
    host: str | Address
    port: int
    addresses: tuple[Address, ...] = ()

    @classmethod
    def read(cls, url: str) -> Target:
        """Read a URL as the client that will call it does.

        Raises:
            NodeError: `BAD_REQUEST`; not http or https, no usable host or port, or with a user name in it.
        """
        try:
            parsed = httpx.URL(url)
            name = parsed.raw_host.decode("ascii").removesuffix(".")
        except (httpx.InvalidURL, ValueError):
            raise unusable("the target isn't a URL") from None
        if parsed.scheme not in ("http", "https"):
            raise unusable("the target's URL isn't one of http or https")
        if parsed.userinfo:
            raise unusable("the target's URL holds a user name or a password")
        port = parsed.port if parsed.port is not None else {"http": 80, "https": 443}[parsed.scheme]
        if not 0 < port < 65536:
            raise unusable("the target's URL has no usable port")
        host: str | Address = name
        try:
            host = address_of(name)
        except ValueError:
            # also "2130706433" and "0x7f.1", which a resolver takes for addresses
            if not _NAME.fullmatch(name) or len(name) > 253 or _NUMBER.fullmatch(name):
                raise unusable("the target's URL has no usable host name or address") from None
        return cls(parsed.copy_with(host=name, fragment=None), host, port)

    def __str__(self) -> str:
        return place(self.host, self.port)

    @property
    def origin(self) -> tuple[str, str | Address, int]:
        return self.url.scheme, self.host, self.port


@dataclass(frozen=True, slots=True)
class Rule:
    """One ``--allow-target``: a host name, or a network, and perhaps a port.

    Without a port it covers 80, 443 and all from 1024 on: the other well-known ones don't speak HTTP. A name covers
    what it leads to on the public internet and in private networks (`localhost` also loopback), but never the rest,
    such as loopback or link-local, since whoever runs the name's DNS could point it there. A network covers special
    address space only when all of it lies in there: ``0.0.0.0/0`` is the public internet and no more.
    """

    name: str | None
    network: Network | None
    port: int | None

    @classmethod
    def read(cls, text: str) -> Rule:
        """Read ``HOST``, ``HOST:PORT`` or a network; IPv6 with a port stands in brackets.

        Raises:
            UsageError: it is none of them.
        """
        pattern = r"\[(.+)\](?::(\d{1,5}))?" if text.startswith("[") else r"([^:]+)(?::(\d{1,5}))?"
        parts = re.fullmatch(pattern, text, re.ASCII)
        host, digits = parts.groups() if parts else (text, None)
        port = None if digits is None else int(digits)
        try:
            if (port is not None and not 0 < port < 65536) or not re.fullmatch(r"[^?#@%\s]+", host):
                raise ValueError("no usable port, or no host")
            try:
                return cls(None, _plain(ipaddress.ip_network(host)), port)
            except ValueError:
                target = Target.read(f"http://{host}")
            if not isinstance(target.host, str) or re.search("[/:]", host):
                raise ValueError("no name")
            return cls(target.host, None, port)
        except (ValueError, NodeError):
            raise UsageError(
                f"--allow-target can't be {text!r}",
                "give a host (data.example.org), a host and port ([fd00::1]:5001) or a network (10.0.0.0/8)",
            ) from None

    def names(self, target: Target) -> bool:
        """Whether this rule may cover the target: by its name, or by an address that isn't known yet."""
        fits = target.port in (80, 443) or target.port >= 1024 if self.port is None else target.port == self.port
        return fits and (self.network is not None or self.name == target.host)

    def covers(self, address: Address) -> bool:
        """Whether a target that the rule `names` may be called at this address."""
        kind, space = _space_of(address)
        if self.network is None:
            return kind in ("public", "private", "shared") or (kind == "loopback" and self.name == "localhost")
        return address in self.network and (space is None or _within(self.network, space))


def place(host: str | Address, port: int) -> str:
    """``host:port``, with brackets around IPv6."""
    return f"[{host}]:{port}" if isinstance(host, ipaddress.IPv6Address) else f"{host}:{port}"


def unusable(message: str) -> NodeError:
    return NodeError(message, "pass one such as https://host:port/path", code=ErrorCode.BAD_REQUEST, status=400)


def _plain(network: Network) -> Network:
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
        first = ipaddress.IPv4Address(int(network.network_address) & 0xFFFFFFFF)
        return ipaddress.IPv4Network((first, network.prefixlen - 96))
    return network


def _within(network: Network, space: Network) -> bool:
    if isinstance(network, ipaddress.IPv4Network):
        return isinstance(space, ipaddress.IPv4Network) and network.subnet_of(space)
    return isinstance(space, ipaddress.IPv6Network) and network.subnet_of(space)
