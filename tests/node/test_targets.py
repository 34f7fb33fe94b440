"""Which URLs, names and addresses the rules of ``--allow-target`` cover."""

from __future__ import annotations

import ipaddress
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridkit.errors import ErrorCode, NodeError, UsageError
from gridkit.node.targets import Rule, Target, address_of, kind_of

SPECIAL = {
    "169.254.169.254": "cloud metadata",
    "100.100.100.200": "cloud metadata",
    "168.63.129.16": "cloud metadata",
    "fd00:ec2::254": "cloud metadata",
    "127.0.0.1": "loopback",
    "127.255.255.255": "loopback",
    "::1": "loopback",
    "0.0.0.0": "unspecified",
    "0.1.2.3": "unspecified",
    "::": "unspecified",
    "10.0.0.1": "private",
    "172.16.0.1": "private",
    "172.31.255.255": "private",
    "192.168.1.1": "private",
    "fd00::1": "private",
    "100.64.0.1": "shared",
    "169.254.1.1": "link-local",
    "fe80::1": "link-local",
    "224.0.0.1": "multicast",
    "239.255.255.255": "multicast",
    "ff02::1": "multicast",
    "::7f00:1": "translated",
    "::ffff:0:127.0.0.1": "translated",
    "64:ff9b::7f00:1": "translated",
    "2002:7f00:1::": "translated",
    "2001:0:7f00:1::": "translated",
    "192.0.2.1": "reserved",
    "198.18.0.1": "reserved",
    "255.255.255.255": "reserved",
    "2001:db8::1": "reserved",
    "100::1": "reserved",
    "5f00::1": "reserved",
    "8.8.8.8": "public",
    "172.32.0.1": "public",
    "2606:4700::1111": "public",
}


@pytest.mark.parametrize(("text", "kind"), SPECIAL.items())
def test_what_an_address_is(text: str, kind: str) -> None:
    assert kind_of(address_of(text)) == kind


@pytest.mark.parametrize("text", [text for text in SPECIAL if ":" not in text])
def test_mapped_into_ipv6_it_is_the_same(text: str) -> None:
    mapped = address_of(f"::ffff:{text}")
    assert str(mapped) == text
    assert Target.read(f"http://[::ffff:{text}]:5000/").host == mapped == Target.read(f"http://{text}:5000/").host


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)))
def test_public_is_public_to_python_too(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    if kind_of(address) == "public":
        assert not (address.is_private or address.is_loopback or address.is_link_local or address.is_multicast)
        assert not (address.is_reserved or address.is_unspecified)


def numeric_forms(address: ipaddress.IPv4Address) -> list[str]:
    """How resolvers let one write an address, besides the dotted decimal form."""
    whole = int(address)
    a, b, c, d = address.packed
    return [
        str(whole),
        hex(whole),
        f"0{whole:o}",
        f"{a}.{whole & 0xFFFFFF}",
        f"{a}.{b}.{whole & 0xFFFF}",
        f"0{a:o}.0{b:o}.0{c:o}.0{d:o}",
        f"0x{a:x}.0x{b:x}.0x{c:x}.0x{d:x}",
        f"0X{a:X}.{b}.{c}.0{d:o}",
    ]


@given(st.ip_addresses(v=4), st.sampled_from(["", ".", ":80", ".:80"]), st.integers(0, 7))
def test_addresses_in_other_forms_are_refused(address: ipaddress.IPv4Address, ending: str, form: int) -> None:
    text = numeric_forms(address)[form]
    assert socket.inet_aton(text) == address.packed  # the system's resolver would have taken it
    with pytest.raises(NodeError) as caught:
        Target.read(f"http://{text}{ending}/")
    assert caught.value.code is ErrorCode.BAD_REQUEST and caught.value.status == 400
    with pytest.raises(UsageError):
        Rule.read(text)


hosts = st.one_of(
    st.text(max_size=30),
    st.text("0123456789abcdefx.:[]%-_", max_size=30),
    st.text("012７８xX.。．｡:@/\\#? \tａéßſKı", max_size=12),
)


@given(hosts)
def test_any_text_is_a_name_an_address_or_refused(text: str) -> None:
    for url in (text, f"http://{text}", f"https://{text}/path"):
        try:
            target = Target.read(url)
        except NodeError as error:
            assert error.code is ErrorCode.BAD_REQUEST
            continue
        assert target.url.scheme in ("http", "https") and not target.url.userinfo and 0 < target.port < 65536
        assert target.url.netloc.decode().removesuffix(f":{target.port}").strip("[]") == target.url.raw_host.decode()
        if isinstance(target.host, str):
            assert target.host.isascii() and target.host == target.url.raw_host.decode()
            with pytest.raises(OSError):
                socket.inet_aton(target.host)  # so nothing that passes for a name is an address to the resolver
        else:
            assert address_of(target.url.raw_host.decode()) == target.host


@given(hosts)
def test_any_text_is_a_rule_or_refused(text: str) -> None:
    try:
        rule = Rule.read(text)
    except UsageError:
        return
    assert (rule.name is None) != (rule.network is None) and (rule.port is None or 0 < rule.port < 65536)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "h.example",
        "//h.example/",
        "ftp://h.example/",
        "file:///etc/passwd",
        "gopher://h.example:70/_x",
        "unix:///run/docker.sock",
        "http://",
        "http:///path",
        "http://user@h.example/",
        "http://user:word@h.example/",
        "http://:word@h.example/",
        "http://h.example:0/",
        "http://h.example:-1/",
        "http://h.example:65536/",
        "http://h.example:port/",
        "http://h..example/",
        "http://.h.example/",
        "http://h.example../",
        "http://h%2eexample/",
        "http://h example/",
        "http://h.example\n/",
        "http://h.example\\@other.example/",
        "http://[fe80::1%25eth0]/",
        "http://[fe80::1%eth0]/",
        "http://[::1]x/",
        "http://[::1/",
        "http://[v1.x]/",
        "http://１２７.0.0.1/",
        "http://" + "a" * 64 + ".example/",
        "http://" + "a." * 127 + "aa/",
        "http://h.example/\ud800",
    ],
)
def test_unusable_urls(url: str) -> None:
    with pytest.raises(NodeError) as caught:
        Target.read(url)
    assert caught.value.code is ErrorCode.BAD_REQUEST and caught.value.hint
    assert "word" not in caught.value.message.removesuffix("password") and "user@" not in caught.value.message


def test_one_host_however_it_is_written() -> None:
    rule = Rule.read("bücher.example")
    assert rule.name == "xn--bcher-kva.example"
    for host in ("bücher.example", "BÜCHER.example.", "xn--bcher-kva.example", "XN--BCHER-KVA.EXAMPLE.:443"):
        target = Target.read(f"https://{host}/a?b#c")
        assert target.host == rule.name and rule.names(target) and str(target) == "xn--bcher-kva.example:443"
        assert str(target.url) == "https://xn--bcher-kva.example/a?b" and target.url.netloc == b"xn--bcher-kva.example"
    for other in ("bucher.example", "a.bücher.example", "example", "bücher.example.org", "xbücher.example"):
        assert not rule.names(Target.read(f"https://{other}/"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "*",
        "*.example.org",
        "http://h.example",
        "h.example/",
        "h.example/8",
        "user@h.example",
        "h.example:",
        "h.example:0",
        "h.example:65536",
        "h.example:٣",
        "h.example:80:80",
        "10.0.0.1/8",
        "10.0.0.0/33",
        "[::1",
        "[::1]80",
        "fe80::1%eth0",
        "[fe80::1%eth0]:80",
        "fd00::/8:80x",
        "h example",
        "127.1",
    ],
)
def test_unusable_rules(text: str) -> None:
    with pytest.raises(UsageError, match="--allow-target"):
        Rule.read(text)


def covers(rule: str, url: str, *addresses: str) -> bool:
    target = Target.read(url)
    found = [address_of(a) for a in addresses] if isinstance(target.host, str) else [target.host]
    return Rule.read(rule).names(target) and all(Rule.read(rule).covers(address) for address in found)


def test_a_port_is_the_rules_or_a_usual_one() -> None:
    for rule in ("h.example", "8.8.8.0/24", "2606:4700::/32", "[2606:4700::/32]"):
        host = {"h": "h.example", "8": "8.8.8.8"}.get(rule[0], "[2606:4700::1]")
        address = "8.8.8.8" if host[0] != "[" else "2606:4700::1"
        for port, fits in (
            (80, True),
            (443, True),
            (1024, True),
            (5000, True),
            (22, False),
            (25, False),
            (1023, False),
        ):
            assert covers(rule, f"http://{host}:{port}/", address) is fits
        exact = f"{rule}:25" if rule[0] != "2" else f"[{rule}]:25"
        assert covers(exact, f"http://{host}:25/", address)
        assert not covers(exact, f"http://{host}/", address)


def test_a_name_covers_public_and_private_addresses_only() -> None:
    for text, kind in SPECIAL.items():
        assert covers("h.example", "http://h.example/", text) is (kind in ("public", "private", "shared")), text
        assert covers("localhost", "http://localhost:5000/", text) is (
            kind in ("public", "private", "shared", "loopback")
        )
        assert not covers("h.example", "http://other.example/", text)


def test_a_network_covers_special_space_only_when_all_of_it_is_that() -> None:
    for text, kind in SPECIAL.items():
        url = f"http://[{text}]/" if ":" in text else f"http://{text}/"
        assert covers(text, url)
        for whole in ("0.0.0.0/0", "::/0", "0.0.0.0/1", "128.0.0.0/1", "::/1", "2000::/3"):
            same = ipaddress.ip_address(text) in ipaddress.ip_network(whole)
            assert covers(whole, url) is (same and kind == "public"), (whole, text)
    assert covers("169.254.0.0/16", "http://169.254.1.1/") and not covers("169.254.0.0/16", "http://169.254.169.254/")
    assert covers("127.0.0.0/8", "http://[::ffff:127.0.0.1]/") and covers("::ffff:127.0.0.1", "http://127.0.0.1/")
    assert covers("::ffff:10.0.0.0/104", "http://10.1.2.3/") and not covers("127.0.0.0/8", "http://[::1]/")
    assert covers("172.16.0.0/12", "http://any.example/", "172.16.3.4", "172.31.3.4")
    assert not covers("172.16.0.0/12", "http://any.example/", "172.16.3.4", "172.32.3.4")
