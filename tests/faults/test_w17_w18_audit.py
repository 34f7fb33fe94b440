"""W17: what a node writes down and answers holds no secret. W18: what it refuses leaves a row, on every route and for
every message."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from gridkit.client.paths import path_of
from gridkit.node.rights import RULES
from gridkit.node.routes.socket import HANDLERS
from tests.datasets import publish, run
from tests.faults.routes import place_of, routes_of
from tests.node.grid import serve, talk
from tests.raw import RawSocket, exchange, head
from tests.support import TOKEN, NodeUnderTest, host_files, tiny_plan

ALL = ("GET", "POST", "PUT", "PATCH", "DELETE")


def rows(http: httpx.Client) -> list[dict[str, Any]]:
    return list(http.get("/audit", params={"limit": 100_000}).json()["rows"])


def test_w18_every_route_that_refuses_leaves_its_row(node: NodeUnderTest, http: httpx.Client, tmp_path: Path) -> None:
    """Who has no credential, and a worker who has one for something else: one row a request, with what it was about."""
    wim = node.add_user("wim", "worker")
    for name, token, verdict in (("", None, "UNAUTHENTICATED"), ("wim", wim, "FORBIDDEN")):
        with node.http(token) as client:
            for method, path in routes_of(tmp_path, *ALL):
                place = place_of(path, f"{name} {method}")
                before = len(rows(http))
                with client.stream(method, place) as answer:
                    if answer.status_code not in (401, 403):
                        continue
                new = rows(http)[before:]
                told = [(row["who"], row["verdict"], row["address"]) for row in new]
                assert told == [(name, verdict, "127.0.0.1")], (method, path, new)
                assert new[0]["operation"] in RULES and new[0]["why"]
                assert f"{name} {method}" in new[0]["object"] or "{" not in path, (method, path, new)


def test_w18_every_message_that_is_refused_leaves_its_row(node: NodeUnderTest, http: httpx.Client) -> None:
    for kind, (operation, _) in HANDLERS.items():
        before = len(rows(http))
        message = {"type": kind, "model_id": "x", "username": "x", "password": "x", "data": {"model_name": "x"}}
        answer = talk(node, message)[0]
        code = {**answer, **answer.get("data", {})}.get("code")
        told = [(row["operation"], row["verdict"]) for row in rows(http)[before:]]
        assert told == ([(operation, code)] if code else []), (kind, answer, told)


def test_w18_what_is_wrong_with_bytes_leaves_a_row(node: NodeUnderTest, http: httpx.Client) -> None:
    """One of each kind, by a scientist: who, what, to which object, why."""
    eve = node.add_user("eve")
    with node.http(eve) as client:
        assert publish(client, "hers", policy={"run": {"any": "everyone"}}).status_code == 201
        gzipped = {"content-encoding": "gzip"}
        faults: dict[str, tuple[Callable[[], httpx.Response], str, str]] = {
            "UNSAFE_FORMAT": (lambda: serve(client, "S1", b"\x80\x04\x95"), "host-model", "S1"),
            "S2": (lambda: client.post("/run-inference/good", content=b"", headers=gzipped), "request", "good"),
            "MALFORMED": (lambda: serve(client, "S4", b"GKM1" + b"\xff" * 20), "host-model", "S4"),
            "BAD_JSON": (lambda: client.post("/delete-model", content=b"[" * 999), "delete-model", "/delete-model"),
            "FOREIGN_ORIGIN": (lambda: client.get("/models/", headers={"origin": "null"}), "request", "/models/"),
            "FOREIGN_HOST": (lambda: client.get("/models/", headers={"host": "a.b"}), "request", "/models/"),
            "W8": (lambda: client.get(path_of("datasets", "x" * 999)), "list-datasets", "/datasets/xxx"),
            "W9": (lambda: client.get("/datasets", params={"sort": "'"}), "list-datasets", "/datasets"),
            "NOT_FOUND": (lambda: client.delete("/datasets/nobodys"), "delete-dataset", "nobodys"),
            "BAD_PLAN": (lambda: run(client, "hers", b"GKP1"), "run-plan", "hers"),
            "ALREADY_EXISTS": (lambda: serve(client, "good"), "host-model", "good"),
            "WRONG_OFFSET": (lambda: _twice(client), "upload", "/uploads/"),
        }
        for fault, (attempt, operation, subject) in faults.items():
            before = len(rows(http))
            answer = attempt()
            assert answer.is_error, fault
            refused = [row for row in rows(http)[before:] if row["verdict"] != "done"]
            assert len(refused) == 1, (fault, refused)
            row = refused[0]
            assert row["verdict"] == answer.json()["code"] and row["why"] and row["address"] == "127.0.0.1"
            assert (row["who"], row["operation"]) == ("" if operation == "request" else "eve", operation), fault
            assert subject in row["object"] and len(row["object"]) <= 200, (fault, row)
        (told,) = talk(node, {"type": "connect-node", "address": "http://10.0.0.1:5000", "id": "x"}, token=TOKEN)
        exchange(node, head(node, "POST /search HTTP/1.1", "Content-Length: 999999999999"))
        last = [(row["operation"], row["verdict"]) for row in rows(http)[-2:]]
        assert told["code"] == "TARGET_REFUSED"
        assert last == [("connect-node", "TARGET_REFUSED"), ("request", "TOO_LARGE")]
        assert client.delete("/datasets/hers").is_success


def _twice(client: httpx.Client) -> httpx.Response:
    upload_id = client.post("/uploads", json={"size": 4}).json()["upload_id"]
    answer = client.patch(f"/uploads/{upload_id}", params={"offset": 2}, content=b"12")
    assert client.delete(f"/uploads/{upload_id}").is_success
    return answer


def test_w17_nothing_that_is_written_or_answered_holds_a_secret(node: NodeUnderTest, http: httpx.Client) -> None:
    """Passwords, right and wrong; tokens of every kind, good, revoked and mistyped; addresses with a password."""
    password, wrong, other = "s3cret of ana", "s3cret that is wrong", "s3cret of tomorrow"
    told: list[str] = []

    def ask(client: httpx.Client, method: str, path: str, **wish: Any) -> dict[str, Any]:
        answer = client.request(method, path, **wish)
        told.append(f"{answer.headers}")
        body = answer.json()
        told.append(
            json.dumps({name: value for name, value in body.items() if name not in ("token", "worker_token", "data")})
        )
        return dict(body)

    ask(http, "POST", "/users", json={"name": "ana", "password": password})
    login = ask(http, "POST", "/users/login", json={"username": "ana", "password": password})["token"]
    ask(http, "POST", "/users/login", json={"username": "ana", "password": wrong})
    ask(http, "POST", "/users", json={"name": "ana", "password": wrong})
    ask(http, "POST", "/users", json={"name": "bad/name", "password": wrong, "role": wrong})
    secrets = [password, wrong, other, login, TOKEN, (node.data / "secret").read_text().strip()]
    with node.http(login) as ana:
        key = ask(ana, "POST", "/tokens", json={"label": "script"})
        hosted = ask(ana, "POST", "/model-centric/host-training", files=host_files(tiny_plan(), {}, "told"))
        secrets += [key["token"], hosted["worker_token"]]
        ask(ana, "PUT", "/users/ana/password", json={"password": other})
        ask(ana, "PUT", "/users/eve/password", json={"password": wrong})
        ask(ana, "GET", "/tokens")
        ask(ana, "DELETE", f"/tokens/{key['id']}")
        ask(ana, "DELETE", path_of("tokens", key["token"]))  # the token where its id belongs
        ask(ana, "GET", "/users", params={"token": login})
    for credential in (key["token"], key["token"][:-1] + "x", hosted["worker_token"] + "x", wrong):
        secrets.append(credential)
        with node.http(credential) as stranger:
            ask(stranger, "GET", "/models/")
        with node.http(None, headers={"authorization": f"Api-Key {credential}"}) as stranger:
            ask(stranger, "DELETE", "/models/good")
    basic = base64.b64encode(f"ana:{wrong}".encode()).decode()
    with node.http(None, headers={"authorization": f"Basic {basic}"}) as stranger:
        ask(stranger, "GET", "/users")
    address = f"http://ana:{wrong.replace(' ', '%20')}@10.0.0.1:5000/{login}?token={login}"
    ask(http, "POST", "/connect-node", json={"address": address, "auth": {"username": "ana", "password": wrong}})
    auth = {"type": "authentication", "username": "ana"}
    enrol: dict[str, Any] = {
        "type": "model-centric/authenticate",
        "data": {"model_name": "told", "auth_token": key["token"]},
    }
    spoken: list[dict[str, Any]] = [
        {**auth, "password": wrong},
        {**auth, "password": password, "x": 1},
        {**auth, "password": other},
        enrol,
    ]
    told += map(str, talk(node, *spoken, {"type": "connect-node", "id": "x", "address": address}))
    told.append(exchange(node, head(node, f"GET /nowhere?token={login} HTTP/9.9", token=login)).decode())
    raw = RawSocket(node, "Origin: http://evil.example", token=login)
    told.append(raw.handshake.decode())
    raw.close()
    told.append(json.dumps(rows(http)))
    files = [path for path in node.data.rglob("*") if path.is_file() and path.name not in ("token", "secret")]
    told += [path.read_bytes().decode("latin-1") for path in files]
    told.append("".join(node.said))
    shown = "\n".join(told)
    assert [secret for secret in [*secrets, basic, wrong.replace(" ", "%20")] if secret in shown] == []
    assert "ana" in shown and key["id"] in shown
