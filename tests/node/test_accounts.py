"""Accounts over HTTP on a real node: users, passwords, tokens, and what ends them."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
import websockets

from gridkit.errors import AccessError, LimitError
from gridkit.node import intake, messages
from gridkit.node.accounts import Accounts
from gridkit.node.identities import Identities
from gridkit.node.messages_grid import HostModel
from gridkit.node.models import Models
from gridkit.node.passwords import Passwords
from gridkit.node.quota import Quota
from gridkit.node.rates import TOKENS, Rates
from gridkit.node.rights import OWNER, Access
from gridkit.node.settings import Limits
from gridkit.node.store.blobs import Blobs
from gridkit.node.store.database import Database
from tests.support import TOKEN, NodeUnderTest, RawWorker, host_files, tiny_model, tiny_plan, wait_for

PASSWORD = "correct horse battery staple"


def refused(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    return dict(answer.json())


def add(node: NodeUnderTest, name: str, password: str | None = PASSWORD, role: str = "data scientist") -> None:
    with node.http() as http:
        answer = http.post("/users", json={"name": name, "role": role, "password": password})
        assert answer.status_code == 200, answer.text


def login(node: NodeUnderTest, name: str, password: str = PASSWORD) -> httpx.Response:
    with node.http(None) as http:
        return http.post("/users/login", json={"username": name, "password": password})


def test_a_user_is_added_logs_in_and_is_removed(node: NodeUnderTest) -> None:
    add(node, "ana maría")
    made = login(node, "ana maría").json()
    assert made["user"] == "ana maría" and made["role"] == "data scientist" and made["expires_at"] > time.time()
    with node.http(made["token"]) as ana, node.http() as owner:
        (row,) = ana.get("/users").json()["users"]
        assert (row["name"], row["role"], row["password"]) == ("ana maría", "data scientist", True)
        refused(owner.post("/users", json={"name": "ana maría"}), 409, "ALREADY_EXISTS")
        assert owner.delete("/users/ana%20mar%C3%ADa").status_code == 200
        refused(ana.get("/users"), 401, "UNAUTHENTICATED")
        refused(owner.delete("/users/ana%20mar%C3%ADa"), 404, "NOT_FOUND")
    refused(login(node, "ana maría"), 401, "UNAUTHENTICATED")


@pytest.mark.parametrize(
    "wish",
    [
        {"name": ""},
        {"name": "owner"},
        {"name": "Owner"},
        {"name": "anonymous"},
        {"name": "a/b"},
        {"name": "a:b"},
        {"name": " a"},
        {"name": "a  b"},
        {"name": "a\u202eb"},
        {"name": "a\nb"},
        {"name": "ﬁne"},
        {"name": "\ud800"},
        {"name": "a" * 65},
        {"name": "short", "password": "1234567"},
        {"name": "long", "password": "1" * 1001},
        {"name": "lone", "password": "\ud800" * 10},
        {"name": "admin", "role": "admin"},
        {"name": "admin", "role": None},
        {"name": 7},
        {"role": "owner"},
    ],
)
def test_names_roles_and_passwords_that_nobody_may_have(node: NodeUnderTest, wish: dict[str, Any]) -> None:
    with node.http() as http:
        before = http.get("/users").json()
        answer = http.post("/users", content=json.dumps(wish), headers={"content-type": "application/json"})
        assert answer.status_code == 400 and answer.json()["code"] in ("BAD_REQUEST", "BAD_JSON")
        assert http.get("/users").json() == before


def test_tokens_are_told_once_and_kept_as_digests(node: NodeUnderTest) -> None:
    add(node, "kim")
    token = login(node, "kim").json()["token"]
    with node.http(token) as http:
        key = http.post("/tokens", json={"label": "nightly script", "scopes": ["run"], "expires": 3600}).json()
        listed = http.get("/tokens")
    assert key["token"].startswith(f"gk_{key['id']}_") and key["scopes"] == ["run"]
    assert {row["kind"] for row in listed.json()["tokens"]} == {"login", "key"}
    secrets = [token.rpartition("_")[2], key["token"].removeprefix(f"gk_{key['id']}_"), PASSWORD, TOKEN]
    kept = b"".join(p.read_bytes() for p in node.data.iterdir() if p.is_file() and p.name not in ("token", "secret"))
    assert all(secret.encode() not in kept and secret not in listed.text for secret in secrets)
    with sqlite3.connect(node.data / "grid.db") as c:
        assert {row[0][:10] for row in c.execute("SELECT password FROM account WHERE password IS NOT NULL")} == {
            "$argon2id$"
        }


def test_w7_files_of_secrets_are_the_owners_alone_and_no_log_has_them(node: NodeUnderTest) -> None:
    add(node, "vera")
    token = login(node, "vera").json()["token"]
    with node.http(token) as http:
        http.get("/users", params={"token": "x"})
        refused(http.delete("/users/vera"), 403, "FORBIDDEN")
    assert login(node, "vera", "wrong password").status_code == 401
    with node.http() as http:
        http.get("/audit")  # written when this is answered
    for name in ("token", "secret", "audit.jsonl"):
        assert (node.data / name).stat().st_mode & 0o077 == 0
    assert (node.data / "secret").read_text().strip() not in ("", TOKEN)
    for said in ((node.data / "audit.jsonl").read_text(), "".join(node.said)):
        assert token not in said and PASSWORD not in said and TOKEN not in said and "wrong password" not in said


def test_a_token_gives_out_no_more_than_it_has(node: NodeUnderTest) -> None:
    add(node, "lea")
    with node.http(login(node, "lea").json()["token"]) as http:
        wish = {"scopes": ["browse", "manage"], "expires": 100}
        narrow = http.post("/tokens", json=wish).json()
    with node.http(narrow["token"]) as http:
        refused(http.post("/tokens", json={}), 403, "FORBIDDEN")
        refused(http.post("/tokens", json={"scopes": ["host", "browse"]}), 403, "FORBIDDEN")
        child = http.post("/tokens", json={"scopes": ["browse"], "expires": 1000}).json()
        assert child["expires_at"] <= narrow["expires_at"]
        refused(http.post("/tokens", json={"user": "owner", "scopes": ["browse"]}), 403, "FORBIDDEN")
    with node.http(child["token"]) as http:
        assert http.get("/users").status_code == 200
        refused(http.post("/tokens", json={"scopes": ["browse"]}), 403, "FORBIDDEN")
        assert http.get("/status").status_code == 200


def test_a_token_with_scopes_makes_nobody_who_has_all_rights(node: NodeUnderTest) -> None:
    add(node, "mia")
    with node.http() as owner:
        narrow = [owner.post("/tokens", json={"user": name, "scopes": ["manage"]}).json() for name in ("owner", "mia")]
    with node.http(narrow[0]["token"]) as http:
        wish = {"name": "noah", "role": "owner"}
        refused(http.post("/users", json={**wish, "password": PASSWORD}), 403, "FORBIDDEN")
        refused(http.put("/users/mia/password", json={"password": PASSWORD * 2}), 403, "FORBIDDEN")
        assert http.post("/users", json=wish).status_code == 200
        refused(http.post("/tokens", json={"user": "noah"}), 403, "FORBIDDEN")
    with node.http(narrow[1]["token"]) as http:
        refused(http.put("/users/mia/password", json={"password": PASSWORD * 2}), 403, "FORBIDDEN")
    assert login(node, "mia").status_code == 200


@pytest.mark.parametrize(
    "wish",
    [{"expires": 0}, {"expires": -1}, {"expires": 400 * 86400}, {"scopes": []}, {"scopes": ["all"]}, {"label": "\n"}],
)
def test_no_token_is_for_ever_or_for_nothing(node: NodeUnderTest, wish: dict[str, Any]) -> None:
    with node.http() as http:
        refused(http.post("/tokens", json=wish), 400, "BAD_REQUEST")


def test_another_password_ends_logins_but_the_one_that_asks(node: NodeUnderTest) -> None:
    add(node, "rob")
    first, second = (node.http(login(node, "rob").json()["token"]) for _ in range(2))
    key = node.http(first.post("/tokens", json={}).json()["token"])
    basic = httpx.Client(base_url=node.url, auth=("rob", PASSWORD), trust_env=False)
    assert basic.get("/users").status_code == 200
    assert first.put("/users/rob/password", json={"password": "another long one"}).status_code == 200
    assert [c.get("/users").status_code for c in (first, second, key, basic)] == [200, 401, 200, 401]
    refused(login(node, "rob"), 401, "UNAUTHENTICATED")
    assert login(node, "rob", "another long one").status_code == 200
    for client in (first, second, key, basic):
        client.close()


def test_accounts_and_tokens_outlive_the_node(tmp_path: Path) -> None:
    node = NodeUnderTest(tmp_path / "data")
    try:
        add(node, "ida")
        token = login(node, "ida").json()["token"]
        with node.http() as http:
            hosted = http.post("/model-centric/host-training", files=host_files(tiny_plan(), {"num_cycles": 1}, "t"))
            worker = hosted.json()["worker_token"]
            ended = http.post("/model-centric/worker-token", json={"name": "t", "version": "1.0"}).json()[
                "worker_token"
            ]
            ended_id = jwt.decode(ended, options={"verify_signature": False})["jti"]
            assert http.delete(f"/tokens/{ended_id}").status_code == 200
        node.kill()
        node.start()
        with node.http(token) as http:
            assert http.get("/users").json()["users"][0]["name"] == "ida"
        assert RawWorker(node, worker, "t").ask()["status"] == "accepted"
        with node.http(None) as http:
            wish = {"model_name": "t", "model_version": "1.0", "auth_token": ended}
            refused(http.post("/model-centric/authenticate", json=wish), 401, "UNAUTHENTICATED")
    finally:
        node.terminate()


def test_w5_worker_tokens_end(node: NodeUnderTest, host: Any) -> None:
    name = host(num_cycles=1)["name"]
    with node.http() as http:
        wish = {"name": name, "version": "1.0", "expires": 0.5}
        token = http.post("/model-centric/worker-token", json=wish).json()["worker_token"]
        claims = jwt.decode(token, options={"verify_signature": False})
        assert claims["exp"] <= time.time() + 1 and claims["jti"].startswith(claims["process"])

        def ended() -> bool:
            asked = http.get(
                "/model-centric/retrieve-model", params={"name": name}, headers={"authorization": f"Bearer {token}"}
            )
            return bool(asked.status_code == 401)

        wait_for(ended, 5, "the token's end")


@pytest.mark.parametrize("end", ["revoke", "remove", "password"])
def test_an_open_socket_is_nobodys_once_its_credential_ended(node: NodeUnderTest, end: str) -> None:
    name = f"sol-{end}"
    add(node, name)
    made = login(node, name).json()

    async def listed(socket: Any) -> dict[str, Any]:
        await socket.send(json.dumps({"type": "list-models"}))
        return dict(json.loads(await socket.recv()))

    async def run() -> None:
        address = node.url.replace("http", "ws") + "/"
        headers = {"authorization": f"Bearer {made['token']}"}
        async with (
            websockets.connect(address, additional_headers=headers) as by_token,
            websockets.connect(address) as by_password,
        ):
            await by_password.send(json.dumps({"type": "authentication", "username": name, "password": PASSWORD}))
            assert json.loads(await by_password.recv())["success"] == "True"
            assert [(await listed(s))["success"] for s in (by_token, by_password)] == [True, True]
            with node.http() as owner:
                done = {
                    "revoke": lambda: owner.delete(f"/tokens/{made['id']}"),
                    "remove": lambda: owner.delete(f"/users/{name}"),
                    "password": lambda: owner.put(f"/users/{name}/password", json={"password": "a new password"}),
                }[end]()
                assert done.status_code == 200
            codes = [(await listed(s)).get("code") for s in (by_token, by_password)]
            assert codes == ["UNAUTHENTICATED", None if end == "revoke" else "UNAUTHENTICATED"]

    asyncio.run(run())


def test_an_open_stream_ends_with_its_credential(node: NodeUnderTest, host: Any) -> None:
    token = node.add_user("streamer", "owner")
    host(num_cycles=1)
    with node.http(token) as http, http.stream("GET", "/events", params={"after": 0}) as stream:
        lines = stream.iter_lines()
        next(lines)
        with node.http() as owner:
            assert owner.delete("/users/streamer").status_code == 200
        host_again = host_files(tiny_plan(), {"num_cycles": 1}, "after the end")
        with node.http() as owner:
            process = owner.post("/model-centric/host-training", files=host_again).json()["process"]
        assert all(process not in line for line in lines)  # and it ends


def test_what_is_remembered_of_ended_tokens_is_bounded(node: NodeUnderTest, host: Any) -> None:
    process = host(num_cycles=1)["process"]
    with node.http() as http:
        for id in (f"{process}-", f"{process}-{'0' * 30}", f"{process}-{'g' * 16}"):  # the node gave out none such
            refused(http.delete(f"/tokens/{id}"), 404, "NOT_FOUND")
    rates = Rates(Limits())
    for _ in range(TOKENS):
        rates.token("ada")
    with pytest.raises(LimitError) as caught:
        rates.token("ada")
    assert caught.value.retry_after
    rates.token("bob")


def test_an_account_removed_while_its_model_is_looked_at_hosts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        database, blobs = Database(f"sqlite:///{tmp_path / 'grid.db'}"), Blobs(str(tmp_path / "blobs"))
        database.start()
        passwords, rates = Passwords(), Rates(Limits())
        identities = Identities(database, passwords, rates)
        access = Access("o" * 20, "s" * 64, identities)
        accounts = Accounts(database, access, identities, passwords, rates)
        no_runner: Any = None
        models = Models(database, blobs, access, no_runner, Quota(Limits()), time.time)
        await accounts.add(OWNER, messages.AddUser(name="ada"))
        token = await accounts.create_token(OWNER, messages.CreateToken(user="ada"))
        ada = await access.principal(token["token"])
        loop, look = asyncio.get_running_loop(), intake.check_model_bytes

        def remove(draft: Any) -> Any:
            asyncio.run_coroutine_threadsafe(accounts.remove(OWNER, "ada"), loop).result()
            return look(draft)

        draft = models.draft()
        draft.write(tiny_model())
        with monkeypatch.context() as patched:
            patched.setattr(intake, "check_model_bytes", remove)
            with pytest.raises(AccessError):
                await models.host(ada, HostModel(model_id="late"), draft)
        assert await models.ids(OWNER) == []
        assert [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()] == []
        accounts.close()
        database.close()

    asyncio.run(run())


def test_a_token_revoked_while_it_was_looked_up_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        database = Database(f"sqlite:///{tmp_path / 'grid.db'}")
        database.start()
        passwords = Passwords()
        rates = Rates(Limits())
        identities = Identities(database, passwords, rates)
        accounts = Accounts(database, Access("o" * 20, "s" * 64, identities), identities, passwords, rates)
        made = await accounts.create_token(OWNER, messages.CreateToken())
        looked_up, revoked = asyncio.Event(), asyncio.Event()
        read = database.read

        async def slow(job: Any) -> Any:
            row = await read(job)
            looked_up.set()
            await revoked.wait()
            return row

        with monkeypatch.context() as patched:
            patched.setattr(database, "read", slow)
            asking = asyncio.create_task(identities.of_token(made["token"]))
            await looked_up.wait()
            await accounts.revoke(OWNER, made["id"])
            revoked.set()
            await asking  # the node had it before it ended
        assert await identities.of_token(made["token"]) is None
        accounts.close()
        database.close()

    asyncio.run(run())
