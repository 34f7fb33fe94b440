"""W1-W4: pages of others, names that lead here, forms that a browser sends by itself. W11: what it may show."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.faults.routes import place_of, routes_of
from tests.node.grid import refused, serve
from tests.raw import RawSocket, exchange, head, statuses
from tests.support import TOKEN, NodeUnderTest

ALL = ("GET", "POST", "PUT", "PATCH", "DELETE")
TRUSTED = "https://trusted.example.com"
FOREIGN = [
    "http://evil.example",
    "HTTP://EVIL.EXAMPLE",
    "null",
    "",
    "http://127.0.0.1.evil.example",
    "http://[",
    "http://localhost:80@evil.example",
    "http://evil.example#@localhost",
    "http://evil.example\\@localhost",
    "file://",
    "chrome-extension://abc",
    "http://",
    f"{TRUSTED}.evil.com",
    f"{TRUSTED}:444",
    "http://trusted.example.com",
    "https://evil-trusted.example.com",
    "https://sub.trusted.example.com",
    f"{TRUSTED} http://evil.example",
    f"http://evil.example {TRUSTED}",
    f"{TRUSTED}/",
]
HOSTS = [
    "attacker.example",
    "127.0.0.1.attacker.example",
    "10.0.0.1",
    "",
    "[",
    "[::2]",
    "127.0.0.1:x",
    "localhost@evil",
]


@pytest.fixture(scope="module")
def trusting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeUnderTest]:
    """A node for everybody on this machine, and for the pages of one origin."""
    node = NodeUnderTest(tmp_path_factory.mktemp("open") / "data", "--open", "--allow-origin", TRUSTED)
    with node.http(None) as nobody:
        assert serve(nobody, "good").status_code == 200
    yield node
    with node.http(None) as nobody:
        assert nobody.get("/models/").json()["models"] == ["good"]
    node.terminate()
    assert "Traceback" not in "".join(node.said)


@pytest.mark.parametrize("origin", FOREIGN)
def test_w1_pages_of_others_reach_neither_a_socket_nor_a_route(
    trusting: NodeUnderTest, tmp_path: Path, origin: str
) -> None:
    for token in (None, TOKEN):  # a token doesn't make the page another
        raw = RawSocket(trusting, f"Origin: {origin}", token=token)
        assert raw.handshake.startswith(b"HTTP/1.1 403 "), raw.handshake
        raw.close()
        for method, path in routes_of(tmp_path, *ALL)[:: 1 if origin == FOREIGN[0] else 7]:
            answer = exchange(
                trusting, head(trusting, f"{method} {place_of(path)} HTTP/1.1", f"Origin: {origin}", token=token)
            )
            assert statuses(answer) == [403] and b"FOREIGN_ORIGIN" in answer, (method, path)


def test_w1_own_and_trusted_pages_do(trusting: NodeUnderTest, node: NodeUnderTest) -> None:
    loopback = [
        "http://localhost:8888",
        "http://127.0.0.1:8888",
        "http://[::1]:8888",
        "https://localhost",
        "http://127.0.0.1:1",
    ]
    for origin in (trusting.url, trusting.url.upper(), TRUSTED, *loopback):
        raw = RawSocket(trusting, f"Origin: {origin}", token=None)
        assert raw.handshake.startswith(b"HTTP/1.1 101 "), origin
        raw.close()
    for origin in (TRUSTED, *loopback):  # without --open and --allow-origin
        raw = RawSocket(node, f"Origin: {origin}")
        assert raw.handshake.startswith(b"HTTP/1.1 403 "), origin
        raw.close()


@pytest.mark.parametrize("host", HOSTS)
def test_w2_names_that_lead_here_are_not_this_node(trusting: NodeUnderTest, tmp_path: Path, host: str) -> None:
    asked = ["Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: " + "A" * 22 + "=="]
    request = head(trusting, "GET / HTTP/1.1", *asked, host=host).replace(b": close", b": Upgrade")
    assert statuses(exchange(trusting, request)) in ([403], [400])
    for method, path in routes_of(tmp_path, *ALL):
        origin = f"Origin: http://{host}"  # as a rebound page has it
        answer = exchange(trusting, head(trusting, f"{method} {place_of(path)} HTTP/1.1", origin, host=host))
        assert statuses(answer) == [403] and b"FOREIGN_HOST" in answer, (method, path)


FORMS = ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""]


@pytest.mark.parametrize("kind", FORMS)
def test_w3_a_page_cannot_send_a_form(trusting: NodeUnderTest, tmp_path: Path, kind: str) -> None:
    """What a browser sends without asking: these media types, its cookies, and an Origin that no page can leave out."""
    body = json.dumps({"model_id": "good", "name": "eve", "size": 1, "address": "http://127.0.0.1:1", "query": "x"})
    with trusting.http(None) as nobody:
        for method, path in routes_of(tmp_path, "POST"):
            for origin in ("http://evil.example", "null"):
                headers = {"origin": origin, "content-type": kind, "cookie": f"token={TOKEN}; session={TOKEN}"}
                refused(nobody.request(method, place_of(path), content=body, headers=headers), 403, "FOREIGN_ORIGIN")


def test_w3_no_cookie_is_a_credential_and_none_is_given(
    node: NodeUnderTest, http: httpx.Client, tmp_path: Path
) -> None:
    http.post("/users", json={"name": "ana", "password": "ana's password"})
    login = http.post("/users/login", json={"username": "ana", "password": "ana's password"})
    assert login.status_code == 200 and "set-cookie" not in login.headers
    with node.http(None, headers={"cookie": f"token={TOKEN}; Authorization=Bearer {TOKEN}"}) as nobody:
        for method, path in routes_of(tmp_path, *ALL):
            with nobody.stream(method, place_of(path)) as answer:
                assert "set-cookie" not in answer.headers
                # for Basic a browser would ask for the password, remember it, and send it
                assert answer.headers.get("www-authenticate", "Token") == "Token"
                if path.startswith(("/models", "/users/{", "/tokens", "/audit", "/uploads", "/events")):
                    assert answer.status_code == 401, path


def test_w4_no_page_of_another_origin_may_read_anything(
    trusting: NodeUnderTest, node: NodeUnderTest, tmp_path: Path
) -> None:
    """Of a node without --open and --allow-origin no page at all; of one with them no page of yet another origin."""
    with trusting.http(None) as nobody, node.http() as http:
        strangers = [(nobody, origin) for origin in ("http://evil.example", "null", f"{TRUSTED}.evil.com")]
        strangers += [(http, origin) for origin in (TRUSTED, "http://localhost:8888", node.url)]
        for client, origin in strangers:
            for method, path in routes_of(tmp_path, "GET", "POST", "DELETE"):
                asked = {"origin": origin, "access-control-request-method": method}
                for verb in ("OPTIONS", method):
                    with client.stream(verb, place_of(path), headers=asked) as answer:
                        assert not _cors(answer), path
                        assert verb != "OPTIONS" or answer.status_code in (403, 405)


def _cors(answer: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name.startswith("access-control-")}


def test_w4_allowed_pages_read_every_answer_and_errors_too(trusting: NodeUnderTest, tmp_path: Path) -> None:
    """The origin as it came, never a wildcard, and nothing that would let a browser add credentials by itself."""
    pages = (TRUSTED, TRUSTED.upper(), "http://localhost:8888", "http://[::1]:1")
    for token in (None, TOKEN, "a wrong one"):
        with trusting.http(token) as http:
            for place, (method, path) in enumerate(routes_of(tmp_path, "GET", "POST", "DELETE")):
                page = pages[place % len(pages)]
                with http.stream(method, place_of(path), headers={"origin": page}) as answer:
                    assert _cors(answer) == {"access-control-allow-origin": page}, (method, path)
                    assert answer.headers["vary"] == "Origin"
    with trusting.http(None, headers={"origin": TRUSTED}) as http:
        told = [http.get("/nowhere"), http.put("/status/")]
        told.append(http.post("/serve-model/", headers={"content-encoding": "br"}))
        told.append(http.get("/status/", headers={"x-large": "x" * 40_000}))
        assert [answer.status_code for answer in told] == [404, 405, 415, 431]
        assert all(_cors(answer) == {"access-control-allow-origin": TRUSTED} for answer in told)
        assert not _cors(http.get("/status/", headers={"host": "attacker.example"}))
        assert http.get("/status/", headers={"origin": trusting.url}).headers["vary"] == "Origin"
    doubled = head(trusting, "GET /status/ HTTP/1.1", f"Origin: {TRUSTED}", "Origin: http://evil.example")
    answer = exchange(trusting, doubled)
    assert statuses(answer) == [400] and b"access-control" not in answer


def test_w4_preflights_are_answered_before_a_token_is_looked_at(trusting: NodeUnderTest, tmp_path: Path) -> None:
    with trusting.http("a wrong one") as http:
        for method, path in routes_of(tmp_path, *ALL):
            asked = {"origin": TRUSTED, "access-control-request-method": method}
            answer = http.options(place_of(path), headers=asked | {"access-control-request-headers": "content-type"})
            assert (answer.status_code, answer.content) == (204, b"")
            assert _cors(answer) == {
                "access-control-allow-origin": TRUSTED,
                "access-control-allow-methods": "GET, POST, OPTIONS",
                "access-control-allow-headers": "content-type, authorization",
                "access-control-max-age": "600",
            }
        assert http.options("/status/", headers={"origin": TRUSTED}).status_code in (401, 405)  # that is none


def test_w11_whatever_a_browser_opens_is_no_page(node: NodeUnderTest, http: httpx.Client, tmp_path: Path) -> None:
    """Bytes and names that others have stored here: never HTML, never guessed to be, without rights if they were."""
    markup = "<script>alert(1)</script>"
    serve(http, markup, b"\x28\x92" + markup.encode())
    listed = [path for _, path in routes_of(tmp_path, "GET") if not path.startswith("/events")]
    opened = [place_of(path, markup) for path in listed if path != "/join"]  # ours: tests/node/test_join_page.py
    for path in [*opened, "/nowhere/" + place_of("{id}", markup), "/models/?" + place_of("{q}", markup)]:
        answer = http.get(path, headers={"accept": "text/html,*/*"})
        headers = answer.headers
        assert headers["content-type"].split(";")[0] in ("application/json", "text/plain", "application/octet-stream")
        assert headers["x-content-type-options"] == "nosniff", path
        assert headers["content-security-policy"].startswith("default-src 'none'"), path
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["referrer-policy"] == "no-referrer"
    foreign = http.get("/models/", headers={"host": f"{markup}.example"})
    assert foreign.headers["content-type"] == "application/json" and "nosniff" in foreign.headers.values()
    broken = exchange(node, b"GET / HTTP/9.9\r\n\r\n")
    assert statuses(broken) == [400] and b"nosniff" in broken and b"text/html" not in broken
    assert http.delete("/models/" + place_of("{id}", markup)).is_success


def test_w11_rows_are_told_as_text(http: httpx.Client) -> None:
    """A name comes back as it was, in JSON: what shows it escapes it (see the tests of widgets and listings)."""
    for name in (
        "<img src=x onerror=alert(1)>",
        '"onmouseover="x',
        "=HYPERLINK(1)",
        "{{7*7}}",
        "javascript:alert(1)",
        "](x)",
    ):
        assert serve(http, name).status_code == 200
        row = http.get("/models/" + place_of("{id}", name)).json()
        assert row["id"] == name
        assert name in [row["id"] for row in http.get("/detailed_models_list/").json()["models"]]
        assert http.delete("/models/" + place_of("{id}", name)).is_success
