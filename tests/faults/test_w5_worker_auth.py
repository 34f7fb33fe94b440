"""W5: tokens of a training's own, signed by somebody else: every wrong one has one answer."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from tests.faults.test_w5_tokens import part
from tests.node.grid import talk
from tests.support import TOKEN, NodeUnderTest, host_files, rows, tiny_plan

SECRET = "a secret of the hospital's, 32 bytes or more, as it must be for all three of HS256 to HS512"


@dataclass(frozen=True)
class Pair:
    private: Any
    algorithm: str

    @property
    def public(self) -> str:
        form = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        return str(self.private.public_key().public_bytes(*form).decode())

    def sign(self, claims: dict[str, Any], algorithm: str | None = None, **header: Any) -> str:
        return jwt.encode(claims, self.private, algorithm=algorithm or self.algorithm, headers=header)


@pytest.fixture(scope="module")
def pairs() -> dict[str, Pair]:
    return {
        "rsa": Pair(rsa.generate_private_key(public_exponent=65537, key_size=2048), "RS256"),
        "other rsa": Pair(rsa.generate_private_key(public_exponent=65537, key_size=2048), "RS256"),
        "ec": Pair(ec.generate_private_key(ec.SECP256R1()), "ES256"),
        "ec 521": Pair(ec.generate_private_key(ec.SECP521R1()), "ES512"),
        "edwards": Pair(ed25519.Ed25519PrivateKey.generate(), "EdDSA"),
    }


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeUnderTest]:
    node = NodeUnderTest(tmp_path_factory.mktemp("node") / "data", "--open", "--limit", "wrong_rate=100000")
    yield node
    node.terminate()
    assert "Traceback" not in "".join(node.said)
    assert SECRET not in "".join(node.said) + (node.data / "audit.jsonl").read_text()


def host(node: NodeUnderTest, name: str, authentication: Any, token: str | None = TOKEN) -> httpx.Response:
    files = host_files(tiny_plan(), {"num_cycles": 1, "authentication": authentication}, name)
    with node.http(token) as http:
        return http.post("/model-centric/host-training", files=files)


def enrol(node: NodeUnderTest, name: str, token: str | None) -> httpx.Response:
    wish = {"model_name": name, "model_version": "1.0", **({} if token is None else {"auth_token": token})}
    with node.http(None) as http:
        return http.post("/model-centric/authenticate", json=wish)


def soon(**claims: Any) -> dict[str, Any]:
    return {"exp": int(time.time()) + 600, **claims}


def hs(claims: dict[str, Any], key: str = SECRET, algorithm: str = "HS256", **header: Any) -> str:
    return jwt.encode(claims, key, algorithm=algorithm, headers=header)


def forged_for_the_secret(pairs: dict[str, Pair], name: str) -> dict[str, str]:
    good = hs(soon())
    header, payload, signature = good.split(".")
    other = "t" * 64
    return {
        "no algorithm": jwt.encode(soon(), None, algorithm="none"),
        "no algorithm, its signature kept": f"{part({'alg': 'none'})}.{payload}.{signature}",
        "no algorithm, in capitals": f"{part({'alg': 'nOnE'})}.{payload}.",
        "without a signature": f"{header}.{payload}.",
        "another key": hs(soon(), other),
        "a key from a path": by_hand(json.dumps(soon()), b"", kid="../../../../dev/null"),
        "an empty key": by_hand(json.dumps(soon()), b""),
        "a kid that is a number": by_hand(json.dumps(soon()), kid=5),
        "a key from the token": hs(soon(), other, jwk={"kty": "oct", "k": "dHR0"}),
        "a key from an address": hs(soon(), other, jku="http://127.0.0.1:1/keys"),
        "critical members that nobody knows": by_hand(json.dumps(soon()), crit=["x"], x=1),
        "RSA": pairs["rsa"].sign(soon()),
        "expired": hs(soon(exp=int(time.time()) - 60)),
        "without an end": hs({"sub": "w"}),
        "an end that is no number": hs(soon(exp="never")),
        "an end without end": by_hand('{"exp": Infinity}'),
        "an end that is a list": by_hand('{"exp": []}'),
        "claims that are a list": by_hand("[1]"),
        "claims that are too deep": by_hand("[" * 3000 + "]" * 3000),
        "not yet": hs(soon(nbf=int(time.time()) + 600)),
        "from the future": hs(soon(iat=int(time.time()) + 600)),
        "for another audience": hs(soon(aud="another node")),
        "for another model": hs(soon(model="another")),
        "for another version": hs(soon(model=name, version="2.0")),
        "for no model": hs(soon(model=None)),
        "claims put in": f"{header}.{part(soon(model=name))}.{signature}",
        "cut": good[:-2],
        "longer": good + "A",
        "a header that is no JSON": f"eHg.{payload}.{signature}",
        "huge": "A" * 8000,
        "dots": "." * 3000,
        "an account's": "gk_0000000000000000_" + "0" * 43,
        "not ASCII": "å" * 40,
        "empty": "",
        "the secret itself": SECRET,
    }


def plain(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def by_hand(payload: str, key: bytes = SECRET.encode(), **header: Any) -> str:
    """HS256, whatever the payload is."""
    head = f"{part({'alg': 'HS256', **header})}.{plain(payload.encode())}"
    return f"{head}.{plain(hmac.digest(key, head.encode(), hashlib.sha256))}"


def same_refusal(node: NodeUnderTest, name: str, tokens: dict[str, str]) -> None:
    told = set()
    for why, token in tokens.items():
        answer = enrol(node, name, token)
        assert (answer.status_code, answer.json()["code"]) == (401, "UNAUTHENTICATED"), (why, answer.text)
        told.add(answer.text)
        wish = {"model_name": name, "model_version": "1.0", "auth_token": token}
        message = talk(node, {"type": "model-centric/authenticate", "data": wish}, {"type": "socket-ping"})
        assert message[0]["data"] == answer.json()["data"] and message[1] == {"alive": "True"}, why
    assert len(told) == 1


def test_w5_a_secret(node: NodeUnderTest, pairs: dict[str, Pair]) -> None:
    hosted = host(node, "by secret", {"type": "jwt", "secret": SECRET}).json()
    same_refusal(node, "by secret", forged_for_the_secret(pairs, "by secret"))
    good = [hs(soon(), algorithm=name) for name in ("HS256", "HS384", "HS512")]
    good += [hs(soon(model="by secret", version="1.0", sub="a worker", iss="anybody", kid="1"), kid="x")]
    good += [hosted["worker_token"], TOKEN]  # the node's own
    for token in good:
        assert enrol(node, "by secret", token).json()["status"] == "success"


def test_w5_public_keys_and_the_public_key_as_a_secret(node: NodeUnderTest, pairs: dict[str, Pair]) -> None:
    for name, pair in pairs.items():
        assert host(node, f"by {name}", {"pub_key": pair.public}).status_code == 200
        assert enrol(node, f"by {name}", pair.sign(soon())).json()["status"] == "success"
        wrong = {
            "its text as a secret": by_hand(json.dumps(soon()), pair.public.encode()),
            "and stripped": by_hand(json.dumps(soon()), pair.public.strip().encode()),
            "another pair": next(p for n, p in pairs.items() if n != name).sign(soon()),
            "another algorithm by name": ".".join([part({"alg": "ES384"}), *pair.sign(soon()).split(".")[1:]]),
            "a secret": hs(soon()),
            "expired": pair.sign(soon(exp=int(time.time()) - 60)),
            "none": jwt.encode(soon(), None, algorithm="none"),
            "another model": pair.sign(soon(model="x")),
        }
        same_refusal(node, f"by {name}", wrong)
    assert enrol(node, "by rsa", pairs["rsa"].sign(soon(), "PS512")).status_code == 200
    assert enrol(node, "by rsa", pairs["other rsa"].sign(soon())).status_code == 401


def test_w5_chosen_algorithms_audience_and_issuer(node: NodeUnderTest, pairs: dict[str, Pair]) -> None:
    rules = {"secret": SECRET, "pub_key": pairs["rsa"].public, "algorithms": ["HS512", "PS256"]}
    rules |= {"audience": "grid", "issuer": "hospital"}
    assert host(node, "strict", rules).status_code == 200
    mine = soon(aud="grid", iss="hospital")
    assert enrol(node, "strict", hs(mine, algorithm="HS512")).status_code == 200
    assert enrol(node, "strict", pairs["rsa"].sign(mine, "PS256")).status_code == 200
    wrong = {
        "HS256": hs(mine),
        "RS256": pairs["rsa"].sign(mine),
        "no audience": hs(soon(iss="hospital"), algorithm="HS512"),
        "another audience": hs({**mine, "aud": "x"}, algorithm="HS512"),
        "no issuer": hs(soon(aud="grid"), algorithm="HS512"),
        "another issuer": hs({**mine, "iss": "hospital.evil"}, algorithm="HS512"),
    }
    same_refusal(node, "strict", wrong)
    assert host(node, "endless", {"secret": SECRET, "require_expiry": False}).status_code == 200
    assert enrol(node, "endless", hs({})).status_code == 200
    assert enrol(node, "endless", hs({"exp": 5})).status_code == 401


def test_w5_keys_rotate(node: NodeUnderTest, pairs: dict[str, Pair]) -> None:
    old, new = "the old one " * 6, "the new one " * 6
    publics = [pairs["rsa"].public, pairs["edwards"].public]
    host(node, "rotating", {"secret": [old, new], "pub_key": publics})
    good = [hs(soon(), old), hs(soon(), new), pairs["rsa"].sign(soon()), pairs["edwards"].sign(soon())]
    assert [enrol(node, "rotating", token).status_code for token in good] == [200] * 4
    wrong = {"a third": hs(soon(), SECRET), "a third pair": pairs["ec"].sign(soon())}
    same_refusal(node, "rotating", wrong)


def test_w5_nobody_comes_in_without_a_token_under_open_either(node: NodeUnderTest) -> None:
    assert enrol(node, "nothing of that name", "x" * 20).json()["code"] == "UNAUTHENTICATED"
    assert host(node, "mine", {"secret": SECRET}, token=None).status_code == 200  # nobody hosts it
    refused = enrol(node, "mine", None)
    assert (refused.status_code, refused.json()["code"]) == (401, "UNAUTHENTICATED")
    with node.http(None) as nobody:
        got = nobody.get("/model-centric/retrieve-model", params={"name": "mine"})
        assert (got.status_code, got.json()["code"]) == (401, "UNAUTHENTICATED")
        host(node, "anybody's", {}, token=None)
        assert enrol(node, "anybody's", None).status_code == 200
        assert nobody.get("/model-centric/retrieve-model", params={"name": "anybody's"}).status_code == 200


def test_w5_secrets_are_shown_to_nobody(node: NodeUnderTest, pairs: dict[str, Pair]) -> None:
    public = pairs["rsa"].public
    hosted = host(node, "shown", {"secret": [SECRET], "pub_key": public, "audience": "grid"})
    token = hs(soon(aud="grid"))
    worker = enrol(node, "shown", token).json()["worker_id"]
    with node.http() as http:
        asked = http.post("/model-centric/cycle-request", json={"worker_id": worker, "model": "shown"})
        processes = http.get("/model-centric/processes")
        audit = http.get("/audit")
        http.post("/model-centric/stop", json={"name": "shown", "version": "1.0", "now": True})
        again = host(node, "shown", {"secret": SECRET, "endpoint": "http://key:word@nowhere.example/?k=" + SECRET})
    config = next(p for p in processes.json()["processes"] if p["name"] == "shown")["server_config"]
    assert config["authentication"] == {"audience": "grid"}
    events = json.dumps(rows(node, hosted.json()["process"]))
    for text in (hosted.text, asked.text, processes.text, audit.text, again.text, events):
        assert SECRET not in text and public.splitlines()[1] not in text and token.split(".")[1] not in text
