"""A training's own door: what it may be, whom it asks, and that a wrong token costs what a right one does."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa, x25519

from gridkit.errors import NodeError
from gridkit.node.worker_auth import TOGETHER, Authentication, keys_of
from tests.faults.test_w5_worker_auth import SECRET, Pair, forged_for_the_secret, hs, soon
from tests.support import NodeUnderTest, host_files, tiny_plan

PUBLIC = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def pem(private: Any) -> str:
    return str(private.public_key().public_bytes(*PUBLIC).decode())


def private_pem() -> str:
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(*form).decode()


P256 = pem(ec.generate_private_key(ec.SECP256R1()))

WRONG: list[tuple[Any, str]] = [
    ("jwt", "object"),
    ({"type": "jwt"}, "no secret"),
    ({"type": "saml", "secret": SECRET}, "type"),
    ({"secret": "abc"}, "3 bytes"),
    ({"secret": ""}, "0 bytes"),
    ({"secret": ["x" * 32, "y" * 31]}, "31 bytes"),
    ({"secret": []}, "secret"),
    ({"secret": 5}, "secret"),
    ({"secret": P256}, "key pair"),
    ({"pub_key": SECRET}, "PEM"),
    ({"pub_key": private_pem()}, "PEM"),
    ({"pub_key": "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"}, "PEM"),
    ({"pub_key": pem(rsa.generate_private_key(public_exponent=65537, key_size=1024))}, "1024 bits"),
    ({"pub_key": pem(ec.generate_private_key(ec.SECP256K1()))}, "kind"),
    ({"pub_key": pem(x25519.X25519PrivateKey.generate())}, "kind"),
    ({"secret": SECRET, "algorithms": ["none"]}, "algorithms"),
    ({"secret": SECRET, "algorithms": []}, "algorithms"),
    ({"secret": SECRET, "algorithms": ["RS256"]}, "algorithms"),
    ({"secret": "x" * 32, "algorithms": ["HS512"]}, "algorithms"),
    ({"pub_key": P256, "algorithms": ["ES256", "HS256"]}, "algorithms"),
    ({"pub_key": P256, "secret": SECRET, "algorithms": ["HS256"]}, "one of the keys"),
    ({"endpoint": "https://x.example/", "algorithms": ["HS256"]}, "no key"),
    ({"secret": SECRET, "require_expiry": "no"}, "require_expiry"),
    ({"secret": SECRET, "audience": ["a"]}, "audience"),
    ({"secret": SECRET, "leeway": 10**9}, "leeway"),
]


@pytest.fixture
def host(node: NodeUnderTest, request: pytest.FixtureRequest) -> Any:
    return lambda authentication, name="": _host(node, name or request.node.name[:150], authentication)


@pytest.mark.parametrize(("config", "why"), WRONG, ids=[why for _, why in WRONG])
def test_what_it_cannot_be(node: NodeUnderTest, host: Any, config: Any, why: str) -> None:
    before = node.files()
    refused = host(config)
    assert (refused.status_code, refused.json()["code"]) == (400, "BAD_CONFIG"), refused.text
    assert why in refused.json()["error"] and "server_config.authentication" in refused.json()["error"]
    for value in config.values() if isinstance(config, dict) else ():
        for text in value if isinstance(value, list) else [value]:
            assert not (isinstance(text, str) and len(text) > 30 and text in refused.text)
    assert node.files() == before
    assert host(None).status_code == 200  # nothing was left


def test_without_one_the_nodes_own_tokens_are_all(node: NodeUnderTest, host: Any) -> None:
    for place, nothing in enumerate((None, {})):
        assert host(nothing, name=f"plain {place}").status_code == 200
        assert _enrol(node, f"plain {place}", hs(soon())).status_code == 401


def test_nothing_shows_its_secrets() -> None:
    wish = Authentication(secret=SECRET, pub_key=P256, endpoint="https://x.example/?key=word")
    shown = f"{wish!r} {wish} {keys_of(wish)!r}"
    assert "HS256" in shown and "ES256" in shown
    for text in (SECRET, P256.splitlines()[1], "key=word"):
        assert text not in shown
    with pytest.raises(NodeError) as caught:
        keys_of(Authentication(secret="short secret"))
    assert "short secret" not in str(caught.value)


def test_every_wrong_token_costs_one_signature_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair(rsa.generate_private_key(public_exponent=65537, key_size=2048), "RS256")
    wish = Authentication(secret=[SECRET, "x" * 64], pub_key=pair.public)
    keys = keys_of(wish)
    made: list[str] = []
    for kind in (jwt.algorithms.HMACAlgorithm, jwt.algorithms.RSAAlgorithm):
        genuine = kind.verify
        monkeypatch.setattr(kind, "verify", lambda *a, f=genuine: bool(made.append(type(a[0]).__name__)) or f(*a))
    for why, token in forged_for_the_secret({"rsa": pair}, "x").items():
        made.clear()
        for key in keys:
            key.claims(token, wish)
        assert sorted(made)[:2] == ["HMACAlgorithm"] * 2, why
        assert made.count("RSAAlgorithm") >= 1 and len(made) <= 2 * len(keys), why
        if "claims" not in why and "end" not in why:
            assert len(made) == len(keys), why


class _Server(ThreadingHTTPServer):
    request_queue_size = 2 * TOGETHER
    daemon_threads = True


class Checker:
    """Somebody who knows the tokens: answers 200 to "good …", and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.held: threading.Event | None = None
        checker = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                checker.asked.append(body)
                if checker.held is not None:
                    checker.held.wait(20)
                token = body["auth_token"]
                self.send_response(307 if token == "elsewhere" else 200 if "good" in token else 204)
                if token == "elsewhere":
                    self.send_header("location", "http://127.0.0.1:1/")
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/check?key=word"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def checker() -> Iterator[Checker]:
    checker = Checker()
    yield checker
    checker.close()


@pytest.fixture(scope="module")
def calling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeUnderTest]:
    """A node that may call loopback."""
    limits = ["--limit", "wrong_rate=100000", "--allow-target", "127.0.0.0/8"]
    node = NodeUnderTest(tmp_path_factory.mktemp("calling") / "data", *limits)
    yield node
    node.terminate()
    assert "Traceback" not in "".join(node.said)


def _host(node: NodeUnderTest, name: str, authentication: Any) -> httpx.Response:
    files = host_files(tiny_plan(), {"num_cycles": 1, "authentication": authentication}, name)
    with node.http() as http:
        return http.post("/model-centric/host-training", files=files)


def _enrol(node: NodeUnderTest, name: str, token: str) -> httpx.Response:
    with node.http(None) as http:
        return http.post("/model-centric/authenticate", json={"model_name": name, "auth_token": token})


def test_an_endpoint_is_asked(calling: NodeUnderTest, checker: Checker) -> None:
    hosted = _host(calling, "asked", {"type": "jwt", "endpoint": checker.url})
    assert hosted.status_code == 200 and checker.asked == []
    assert _enrol(calling, "asked", "good 1").json()["status"] == "success"
    assert _enrol(calling, "asked", hosted.json()["worker_token"]).status_code == 200  # the node's own
    assert checker.asked == [{"auth_token": "good 1"}]
    told = {_enrol(calling, "asked", token).text for token in ("bad", "no", "x" * 4000)}
    assert len(told) == 1 and json.loads(told.pop())["code"] == "UNAUTHENTICATED"
    with calling.http() as http:
        config = http.get("/model-centric/processes").json()["processes"][-1]["server_config"]
    assert config["authentication"] == {"type": "jwt"}


def test_keys_come_before_the_endpoint(calling: NodeUnderTest, checker: Checker) -> None:
    _host(calling, "both", {"secret": SECRET, "endpoint": checker.url})
    assert _enrol(calling, "both", "good").status_code == 401 and checker.asked == []
    signed = hs(soon(sub="w"))
    assert _enrol(calling, "both", signed).status_code == 401  # it isn't known there
    assert checker.asked == [{"auth_token": signed}]


def test_an_endpoint_that_cannot_be_asked(node: NodeUnderTest, calling: NodeUnderTest, checker: Checker) -> None:
    """W10: it is a call of the node's like any other."""
    for url in (checker.url, "http://169.254.169.254/", "http://localhost:22/"):
        refused = _host(node, "never", {"endpoint": url})
        assert (refused.status_code, refused.json()["code"]) == (403, "TARGET_REFUSED")
    for url in (calling.url + "/status/", "http://169.254.169.254/"):
        assert _host(calling, "never", {"endpoint": url}).json()["code"] == "TARGET_REFUSED"
    for url in ("file:///etc/passwd", "http://user:word@127.0.0.1/"):
        assert _host(calling, "never", {"endpoint": url}).json()["code"] == "BAD_REQUEST"
    assert _host(calling, "gone", {"endpoint": checker.url}).status_code == 200
    failed = _enrol(calling, "gone", "elsewhere")
    checker.close()
    for answer in (failed, _enrol(calling, "gone", "good")):
        assert (answer.status_code, answer.json()["code"]) == (502, "TARGET_FAILED")
        assert "127.0.0.1" not in answer.text and "word" not in answer.text
    said = "".join(calling.said)
    assert "can't check a worker's token" in said and "key=word" not in said and "good" not in said


def test_so_many_are_asked_at_a_time(calling: NodeUnderTest, checker: Checker) -> None:
    _host(calling, "slow", {"endpoint": checker.url})
    checker.held = threading.Event()

    async def together() -> list[httpx.Response]:
        wish = {"model_name": "slow", "auth_token": "good"}
        async with httpx.AsyncClient(base_url=calling.url, timeout=30, trust_env=False) as http:
            calls = [asyncio.create_task(http.post("/model-centric/authenticate", json=wish)) for _ in range(TOGETHER)]
            while len(checker.asked) < TOGETHER:
                assert not any(call.done() for call in calls)
                await asyncio.sleep(0.01)
            more = await http.post("/model-centric/authenticate", json=wish)
            assert checker.held is not None
            checker.held.set()
            return [more, *await asyncio.gather(*calls)]

    more, *others = asyncio.run(together())
    assert (more.status_code, more.json()["code"]) == (503, "BUSY")
    assert [answer.status_code for answer in others] == [200] * TOGETHER
