"""W13, W14: HTTP as no honest client speaks it, and where the node sends who asks."""

from __future__ import annotations

import re

import httpx
import pytest

from tests.node.grid import serve
from tests.raw import exchange, head, resident, statuses
from tests.support import NodeUnderTest

UPLOAD = b'{"size": 5}'

AMBIGUOUS = {
    "two lengths": ("POST /uploads HTTP/1.1", "Content-Length: 11", "Content-Length: 5"),
    "two equal lengths": ("POST /uploads HTTP/1.1", "Content-Length: 11", "Content-Length: 11"),
    "lengths in a list": ("POST /uploads HTTP/1.1", "Content-Length: 11, 11"),
    "a negative length": ("POST /uploads HTTP/1.1", "Content-Length: -1"),
    "a length in hex": ("POST /uploads HTTP/1.1", "Content-Length: 0xb"),
    "a length of 5000 digits": ("POST /uploads HTTP/1.1", "Content-Length: " + "9" * 5000),
    "a length and chunks": ("POST /uploads HTTP/1.1", "Content-Length: 11", "Transfer-Encoding: chunked"),
    "chunks and a length": ("POST /uploads HTTP/1.1", "Transfer-Encoding: chunked", "Content-Length: 11"),
    "chunked not last": ("POST /uploads HTTP/1.1", "Transfer-Encoding: chunked, gzip"),
    "chunked twice": ("POST /uploads HTTP/1.1", "Transfer-Encoding: chunked", "Transfer-Encoding: chunked"),
    "an odd encoding": ("POST /uploads HTTP/1.1", "Transfer-Encoding: xchunked"),
    "a space before the colon": ("POST /uploads HTTP/1.1", "Transfer-Encoding : chunked"),
    "a folded line": ("POST /uploads HTTP/1.1", "X-A: b", " Transfer-Encoding: chunked"),
    "a NUL in a header": ("POST /uploads HTTP/1.1", "X-A: a\0b"),
    "a bare return in a header": ("POST /uploads HTTP/1.1", "X-A: a\rTransfer-Encoding: chunked"),
    "no name": ("POST /uploads HTTP/1.1", ": chunked"),
    "two hosts": ("GET /status/ HTTP/1.1", "Host: evil.example"),
    "two origins": ("GET /status/ HTTP/1.1", "Origin: http://evil.example", "Origin: http://127.0.0.1"),
    "two media types": ("POST /uploads HTTP/1.1", "Content-Type: text/plain", "Content-Type: application/json"),
    "no version": ("GET /status/",),
    "version 3": ("GET /status/ HTTP/3.0",),
    "the preface of HTTP/2": ("PRI * HTTP/2.0",),
    "a path with a space": ("GET /sta tus/ HTTP/1.1",),
    "a path in Latin-1": ("GET /models/\xff HTTP/1.1",),
    "a method that is none": ("GE(T /status/ HTTP/1.1",),
    "CONNECT": ("CONNECT evil.example:443 HTTP/1.1",),
}


@pytest.mark.parametrize("why", AMBIGUOUS)
def test_w13_what_two_servers_may_read_in_two_ways_is_refused(node: NodeUnderTest, why: str) -> None:
    """And nothing behind it is read as a request: the one that is smuggled would be answered with 200."""
    first, *lines = AMBIGUOUS[why]
    smuggled = head(node, "GET /status/ HTTP/1.1")
    answer = exchange(node, head(node, first, *lines), UPLOAD + b"\r\n0\r\n\r\n", smuggled)
    assert statuses(answer) and set(statuses(answer)) == {400}, answer[:300]


def test_w13_chunks_that_lie_about_themselves(node: NodeUnderTest) -> None:
    start = head(node, "POST /uploads HTTP/1.1", "Transfer-Encoding: chunked")
    for why, body in {
        "no number": b"xyz\r\n",
        "negative": b"-5\r\n",
        "2^80": b"100000000000000000000\r\n",
        "longer than told": b"5\r\n" + UPLOAD + b"\r\n0\r\n\r\n",
    }.items():
        answer = exchange(node, start + body)
        assert statuses(answer)[-1:] == [400], (why, answer[:200])


def test_w13_a_length_shorter_than_the_body_hides_no_request(node: NodeUnderTest) -> None:
    """What is left over is the next request on this connection, as it is for whatever stands before the node, and can
    be refused before the first one is answered."""
    start = head(node, "POST /uploads HTTP/1.1", f"Content-Length: {len(UPLOAD)}").replace(b"close", b"keep-alive")
    assert statuses(exchange(node, start + UPLOAD + b"left over\r\n\r\n")) in ([201, 400], [400])


def test_w13_headers_and_queries_without_end(node: NodeUnderTest) -> None:
    before = resident(node)
    for line, *lines in (
        ("GET /status/ HTTP/1.1", "X-A: " + "a" * 100_000),
        ("GET /status/ HTTP/1.1", *(f"X-{n}: a" for n in range(200))),
        ("GET /detailed_models_list/?" + "a=1&" * 10_000 + " HTTP/1.1",),
        ("GET /models/" + "a" * 100_000 + " HTTP/1.1",),
    ):
        answer = exchange(node, head(node, line, *lines))
        assert statuses(answer) in ([431], [400]), answer[:200]
    many = exchange(node, head(node, "GET /datasets?" + "a&" * 5000 + "limit=1 HTTP/1.1"))
    assert statuses(many) == [200]
    assert resident(node) - before < 8_000_000


def test_w13_members_of_a_query_that_stand_twice_are_one(http: httpx.Client) -> None:
    for route in ("/detailed_models_list/", "/datasets"):
        assert http.get(route + "?limit=0&limit=1").status_code == 200
        assert http.get(route + "?limit=1&limit=0").status_code == 400


def test_w13_ranges(node: NodeUnderTest, http: httpx.Client) -> None:
    many = "bytes=" + ",".join(f"{n}-" for n in range(2000))
    for wished in (
        many,
        "bytes=0-1,2-3",
        "bytes=9-1",
        "bytes=" + "9" * 1000 + "-",
        "bytes=--1",
        "bytes=0-0-0",
        "bytes=",
    ):
        answer = http.get("/get_model/good", headers={"accept": "application/octet-stream", "range": wished})
        assert answer.status_code == 416, wished[:40]
    two = head(node, "GET /get_model/good HTTP/1.1", "Accept: application/octet-stream", "Range: bytes=0-1", "Range: x")
    assert statuses(exchange(node, two)) in ([206], [200], [416])


def test_w13_expect(node: NodeUnderTest) -> None:
    """The body is asked for only when somebody wants to read it."""
    lines = ("Expect: 100-continue", f"Content-Length: {len(UPLOAD)}")
    assert statuses(exchange(node, head(node, "POST /uploads HTTP/1.1", *lines) + UPLOAD)) == [100, 201]
    assert statuses(exchange(node, head(node, "POST /uploads HTTP/1.1", *lines, token=None))) == [401]
    too_long = ("Expect: 100-continue", f"Content-Length: {1 << 40}")
    assert statuses(exchange(node, head(node, "POST /serve-model/ HTTP/1.1", *too_long))) == [413]


def test_w13_http_1_0(node: NodeUnderTest) -> None:
    """One request a connection, whatever it asks for."""
    start = head(node, "GET /get_model/good HTTP/1.0").replace(b"close", b"keep-alive")
    answer = exchange(node, start + head(node, "GET /status/ HTTP/1.0"))
    assert statuses(answer) == [200] and b"connection: close" in answer.lower()
    assert statuses(exchange(node, b"GET /status/ HTTP/1.0\r\n\r\n")) == [403]  # it names no host


def test_w13_other_protocols_to_change_to(node: NodeUnderTest) -> None:
    for wished in ("h2c", "websocket2", "TLS/1.0"):
        request = head(node, "GET /status/ HTTP/1.1", f"Upgrade: {wished}").replace(b": close", b": Upgrade, close")
        assert statuses(exchange(node, request)) == [200], wished


def test_w13_a_socket_where_there_is_none(node: NodeUnderTest) -> None:
    lines = ("Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: " + "A" * 22 + "==")
    for line in ("GET /models/ HTTP/1.1", "POST / HTTP/1.1", "GET / HTTP/1.0", "GET //evil.example/ HTTP/1.1"):
        request = head(node, line, *lines).replace(b": close", b": Upgrade, close")
        answer = exchange(node, request)
        assert statuses(answer)[0] >= 400, line


def test_w13_many_requests_at_once_are_answered_in_order(node: NodeUnderTest) -> None:
    asked = [b"/status/", b"/nowhere", b"/models/", b"/models/good", b"/audit?limit=0"] * 40
    start = head(node, "GET %s HTTP/1.1").replace(b"close", b"keep-alive")
    answer = exchange(node, b"".join(start.replace(b"%s", path) for path in asked), head(node, "GET / HTTP/1.1"))
    assert statuses(answer) == [200, 404, 200, 200, 400] * 40 + [200]


@pytest.mark.parametrize(
    "path",
    [
        "//evil.example/users/",
        "//evil.example/%2e%2e/users/",
        "/%2fevil.example/uploads/",
        "/%5cevil.example/uploads/",
        "/\\evil.example/users/",
        "/users/?next=//evil.example",
        "/users/login/?next=http://evil.example",
        "/tokens/?url=http://evil.example",
        "/users/@evil.example/",
        "http://evil.example/users/",
        "http://127.0.0.1@evil.example/users/",
    ],
)
def test_w14_nobody_is_sent_elsewhere(node: NodeUnderTest, path: str) -> None:
    answer = exchange(node, head(node, f"GET {path} HTTP/1.1"))
    assert statuses(answer), answer
    for place in re.findall(rb"location: *(\S+)", answer, re.I):
        assert place.startswith(node.url.encode() + b"/"), place
    for host in ("evil.example", f"127.0.0.1:{node.port}@evil.example", "evil.example\\@127.0.0.1", "127.0.0.1/x"):
        answer = exchange(node, head(node, "GET /users/ HTTP/1.1", host=host))
        assert statuses(answer) == [403] and b"location" not in answer.lower(), host


def test_w14_a_model_called_like_an_address_is_none(node: NodeUnderTest, http: httpx.Client) -> None:
    serve(http, "http://evil.example/")
    answer = http.get("/get_model/http%3A%2F%2Fevil.example%2F", follow_redirects=False)
    assert answer.status_code == 200 and "location" not in answer.headers
    http.delete("/models/http%3A%2F%2Fevil.example%2F")
