"""W5: tokens that somebody made, over HTTP and in messages: one answer for all of them."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest

from tests.node.grid import talk
from tests.support import NodeUnderTest, host_files, tiny_plan


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeUnderTest]:
    node = NodeUnderTest(tmp_path_factory.mktemp("node") / "data", "--limit", "wrong_rate=100000")
    yield node
    node.terminate()
    assert "Traceback" not in "".join(node.said)


@pytest.fixture(scope="module")
def good(node: NodeUnderTest) -> str:
    with node.http() as http:
        hosted = http.post("/model-centric/host-training", files=host_files(tiny_plan(), {"num_cycles": 1}, "digits"))
    return str(hosted.json()["worker_token"])


def part(data: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(data).encode()).decode().rstrip("=")


def forged(good: str, secret: str) -> dict[str, str]:
    """Of the claims of a good token; `secret` is the node's own, which nobody has."""
    claims = jwt.decode(good, options={"verify_signature": False})
    header, payload, signature = good.split(".")
    other = "t" * 64

    def made(key: str = secret, header: dict[str, Any] | None = None, **changes: Any) -> str:
        kept = {name: value for name, value in {**claims, **changes}.items() if value is not None}
        return jwt.encode(kept, key, algorithm="HS256", headers=header)

    return {
        "no algorithm": jwt.encode(claims, None, algorithm="none"),
        "no algorithm, its signature kept": f"{part({'alg': 'none', 'typ': 'JWT'})}.{payload}.{signature}",
        "no algorithm, in capitals": f"{part({'alg': 'nOnE'})}.{payload}.",
        "another key": made(other),
        "an empty key": f"{header}.{payload}." + base64.urlsafe_b64encode(b"").decode(),
        "a key from a path": made(other, {"kid": "../../../../dev/null"}),
        "a key from the token": made(other, {"jwk": {"kty": "oct", "k": "dHR0"}}),
        "a key from an address": made(other, {"jku": "http://127.0.0.1:1/keys", "x5u": "http://127.0.0.1:1/"}),
        "HS512": jwt.encode(claims, secret, algorithm="HS512"),
        "RS256 by name": f"{part({'alg': 'RS256', 'typ': 'JWT'})}.{payload}.{signature}",
        "expired": made(exp=int(time.time()) - 10),
        "without an end": made(exp=None),
        "not yet": made(nbf=int(time.time()) + 3600),
        "from the future": made(iat=int(time.time()) + 3600),
        "for somebody else": made(aud="another node"),
        "an end that is no number": made(exp="never"),
        "without an id": made(jti=None),
        "an id that is a number": made(jti=5),
        "without a process": made(process=None),
        "another process in the claims": f"{header}.{part({**claims, 'process': 'x' * 32})}.{signature}",
        "another role in the claims": f"{header}.{part({**claims, 'role': 'owner'})}.{signature}",
        "cut": good[:-2],
        "longer": good + "A",
        "without its signature": f"{header}.{payload}.",
        "two parts": f"{header}.{payload}",
        "five parts": f"{good}.x.y",
        "a header that is no JSON": f"eHg.{payload}.{signature}",
        "a header that is a list": f"{base64.urlsafe_b64encode(b'[]').decode()}.{payload}.{signature}",
        "critical members": made(other, {"crit": ["exp"]}),
        "7 KiB": "A" * 7000,
        "dots": "." * 1000,
    }


def test_w5_the_good_one_is_good(node: NodeUnderTest, good: str) -> None:
    with node.http(good) as http:
        assert http.get("/model-centric/retrieve-model", params={"name": "digits"}).status_code == 200


def test_w5_forged_tokens_get_one_answer_everywhere(node: NodeUnderTest, good: str) -> None:
    told = set()
    for why, token in forged(good, (node.data / "secret").read_text().strip()).items():
        for scheme in ("Bearer", "Api-Key"):
            with node.http(None, headers={"authorization": f"{scheme} {token}"}) as http:
                for path in ("/models/", "/model-centric/retrieve-model?name=digits", "/status/"):
                    answer = http.get(path)
                    assert (answer.status_code, answer.json()["code"]) == (401, "UNAUTHENTICATED"), (why, path)
                    told.add(answer.text)
        wish = {"model_name": "digits", "auth_token": token}
        with node.http(None) as http:
            answer = http.post("/model-centric/authenticate", json=wish)
            assert (answer.status_code, answer.json()["code"]) == (401, "UNAUTHENTICATED"), why
        message = talk(node, {"type": "model-centric/authenticate", "data": wish}, {"type": "socket-ping"})
        assert message[0]["data"]["code"] == "UNAUTHENTICATED" and message[1] == {"alive": "True"}, why
    assert len(told) == 1
    with node.http() as http:
        words = json.dumps([row for row in http.get("/audit").json()["rows"] if row["verdict"] == "UNAUTHENTICATED"])
    assert good.split(".")[1] not in words and "AAAAAAAA" not in words


def test_w5_a_token_beyond_any_length_is_refused_as_such(node: NodeUnderTest) -> None:
    with node.http("A" * 60_000) as http:
        assert http.get("/models/").status_code == 431
    told = talk(
        node, {"type": "model-centric/authenticate", "data": {"model_name": "digits", "auth_token": "A" * 9000}}
    )
    assert told[0]["data"]["code"] == "BAD_REQUEST"


def test_w5_another_key_ends_all_tokens(tmp_path: Path) -> None:
    node = NodeUnderTest(tmp_path / "data")
    try:
        with node.http() as http:
            files = host_files(tiny_plan(), {"num_cycles": 1}, "digits")
            token = http.post("/model-centric/host-training", files=files).json()["worker_token"]
        node.terminate()
        (node.data / "secret").unlink()
        node.start()
        assert (node.data / "secret").stat().st_mode & 0o777 == 0o600
        with node.http(token) as http:
            assert http.get("/model-centric/retrieve-model", params={"name": "digits"}).status_code == 401
    finally:
        node.terminate()
