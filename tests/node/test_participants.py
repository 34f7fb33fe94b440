"""The directory of push participants on a real node: who registers whom, with which endpoint, and who sees it."""

from __future__ import annotations

import asyncio
import itertools
import json
import uuid
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from gridkit.client.paths import path_of
from gridkit.errors import AccessError, ConflictError, LimitError
from gridkit.node import participants as module
from gridkit.node.app import build
from gridkit.node.outbound import Outbound
from gridkit.node.participants import Participants, Wish
from gridkit.node.rights import ANONYMOUS, OWNER, Principal, Role
from gridkit.node.service import Service
from gridkit.node.settings import NodeSettings
from gridkit.node.store import tables as db
from gridkit.wire.notifications import Verifier, signed
from tests.datasets import publish
from tests.node.grid import refused, serve
from tests.support import NodeUnderTest, host_files, tiny_plan

PASSWORD = "a password of north"
ENDPOINT = "http://127.0.0.1:8101/"
OURS, USERS = "/push/participants", "/push/api/users/"
_numbers = itertools.count()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeUnderTest]:
    node = NodeUnderTest(tmp_path_factory.mktemp("node") / "data", "--allow-target", "127.0.0.1")
    yield node
    node.terminate()


@pytest.fixture(scope="module")
def open_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeUnderTest]:
    node = NodeUnderTest(tmp_path_factory.mktemp("open") / "data", "--open")
    yield node
    node.terminate()


@pytest.fixture
def http(node: NodeUnderTest) -> Iterator[httpx.Client]:
    with node.http() as client:
        yield client


@pytest.fixture
def name() -> str:
    return f"hospital {next(_numbers)}"


def user(name: str, **more: Any) -> dict[str, Any]:
    """A registration as the fl-demonstrator's scripts send it."""
    names = {"first_name": "Ada", "last_name": "L", "email": "ada@example.org"}
    wish = {"username": name, "password": PASSWORD, "message_endpoint": ENDPOINT, "actor": False, "client": True}
    return {**wish, **names, **more}


def ours(http: httpx.Client, name: str, **more: Any) -> dict[str, Any]:
    answer = http.post(OURS, json={"name": name, "endpoint": ENDPOINT, **more})
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def names(http: httpx.Client) -> list[str]:
    return [row["name"] for row in http.get(OURS).json()["participants"]]


def accounts(http: httpx.Client) -> dict[str, Any]:
    return {row["name"]: row for row in http.get("/users").json()["users"]}


def status(node: NodeUnderTest, **credentials: Any) -> int:
    """Of a question that each participant may ask."""
    with node.http(None, **credentials) as client:
        return client.get(f"{USERS}myself/").status_code


# -- the fl-demonstrator's face


def test_a_user_registers_as_the_fl_demonstrators_do(node: NodeUnderTest, http: httpx.Client, name: str) -> None:
    answer = http.post(USERS, json=user(name))
    made = answer.json()
    assert answer.status_code == 201 and answer.headers["cache-control"] == "no-store"
    assert str(uuid.UUID(made["id"])) == made["id"] and made["message_endpoint"] == ENDPOINT
    assert (made["username"], made["actor"], made["client"], made["email"]) == (name, False, True, "ada@example.org")
    assert "password" not in made and "secret" not in made
    told = {key: value for key, value in made.items() if key != "token"}
    assert status(node, headers={"authorization": f"Token {made['token']}"}) == 200
    for auth in ((name, PASSWORD), (made["token"], ""), (made["token"], "x")):
        assert status(node, auth=auth) == (401 if auth[1] == "x" else 200), auth
    with node.http(made["token"]) as north:
        assert north.get(f"{USERS}myself/").json() == north.get(f"{USERS}{made['id']}/").json() == told
        assert north.get(USERS).json() == [told]
    row = next(row for row in http.get(OURS).json()["participants"] if row["name"] == name)
    assert row["signed"] is False and set(row) == {"name", "id", "endpoint", "signed", "created_at"}
    assert accounts(http)[name]["role"] == "worker"


def test_who_says_to_be_a_superuser_is_none(node: NodeUnderTest, http: httpx.Client, name: str) -> None:
    rights = {"is_superuser": True, "is_staff": True, "role": "owner", "id": "1", "token": "gk_x", "groups": ["x"]}
    for number, actor in enumerate((False, True)):
        answer = http.post(USERS, json=user(f"{name} {number}", actor=actor, **rights))
        assert answer.status_code == 201 and answer.json()["id"] != "1", answer.text
        assert accounts(http)[f"{name} {number}"]["role"] == ("data scientist" if actor else "worker")
        with node.http(answer.json()["token"]) as client:
            refused(client.get("/audit"), 403, "FORBIDDEN")
            refused(client.post(OURS, json={"name": "x", "endpoint": ENDPOINT}), 403, "FORBIDDEN")


@pytest.mark.parametrize("path", [USERS, OURS])
def test_a_name_that_is_taken_changes_nothing(node: NodeUnderTest, http: httpx.Client, name: str, path: str) -> None:
    made = ours(http, name)
    node.add_user(f"{name} ana")
    before = http.get(OURS).json()
    for taken in (name, f"{name} ana"):
        wish = user(taken) if path == USERS else {"name": taken, "endpoint": ENDPOINT}
        answer = http.post(path, json={**wish, "message_endpoint": f"{ENDPOINT}other"})
        refused(answer, 400 if path == USERS else 409, "ALREADY_EXISTS")
        assert answer.json()["detail"] == f"there is an account '{taken}' already"
        assert ("renew=True" in answer.json()["hint"]) is (taken == name)
    refused(http.post(OURS, json={"name": f"{name} ana", "endpoint": ENDPOINT, "renew": True}), 409, "ALREADY_EXISTS")
    assert http.get(OURS).json() == before and status(node, auth=(name, made["password"])) == 200


# -- our own face


def test_a_participant_is_registered_renewed_and_removed(node: NodeUnderTest, http: httpx.Client, name: str) -> None:
    first = ours(http, name)
    assert set(first) == {"success", "name", "id", "endpoint", "token", "password", "secret"}
    body = b'{"notification_type": "TRAINING_START"}'
    Verifier(first["secret"]).check(signed(first["secret"], body).items(), body)
    assert len({first[part] for part in ("token", "password", "secret", "id")}) == 4
    with node.http(first["token"]) as held:
        assert held.get(f"{USERS}myself/").status_code == 200
        login = http.post("/users/login", json={"username": name, "password": first["password"]}).json()["token"]
        second = ours(http, name, endpoint="http://127.0.0.1:8102/x?y=1#z", renew=True)
        refused(held.get(f"{USERS}myself/"), 401, "UNAUTHENTICATED")
    assert second["id"] == first["id"] and second["endpoint"] == "http://127.0.0.1:8102/x?y=1"
    assert not {second[part] for part in ("token", "password", "secret")} & set(map(str, first.values()))
    assert status(node, auth=(name, first["password"])) == 401
    assert status(node, headers={"authorization": f"Bearer {login}"}) == 401
    assert status(node, auth=(name, second["password"])) == 200
    assert names(http).count(name) == 1 and accounts(http)[name]["role"] == "worker"

    refused(http.delete(path_of("push/participants", f"{name}x")), 404, "NOT_FOUND")
    assert http.delete(path_of("push/participants", name)).status_code == 200
    assert name not in names(http) and name not in accounts(http)
    assert status(node, auth=(name, second["password"])) == 401
    third = ours(http, name, renew=True)  # a cell that makes it, run again after somebody removed it
    assert third["id"] != first["id"]


def test_an_account_that_is_removed_is_no_participant(node: NodeUnderTest, http: httpx.Client, name: str) -> None:
    ours(http, name)
    assert http.delete(path_of("users", name)).status_code == 200
    assert name not in names(http)
    node.add_user(name)
    refused(http.delete(path_of("push/participants", name)), 404, "NOT_FOUND")
    assert name in accounts(http)


def test_a_participants_token_is_good_for_taking_part(node: NodeUnderTest, http: httpx.Client, name: str) -> None:
    made = ours(http, name)
    with node.http(made["token"]) as north:
        refused(north.post("/tokens", json={}), 403, "FORBIDDEN")
        refused(
            north.put(f"{path_of('users', name)}/password", json={"password": "another password"}), 403, "FORBIDDEN"
        )
    (row,) = (row for row in http.get("/tokens").json()["tokens"] if row["user"] == name)
    assert row["scopes"] == ["browse", "train"] and row["label"] == "push" and row["expires_at"] > 0


def test_a_token_with_scopes_registers_nobody(node: NodeUnderTest, http: httpx.Client, name: str) -> None:
    """It would give out a password, and whoever logs in with one has all rights of that account."""
    token = http.post("/tokens", json={"scopes": ["manage"]}).json()["token"]
    with node.http(token) as scoped:
        for path, wish in ((OURS, {"name": name, "endpoint": ENDPOINT}), (USERS, user(name, actor=True))):
            refused(scoped.post(path, json=wish), 403, "FORBIDDEN")
    assert name not in accounts(http)


def test_who_sees_whom(node: NodeUnderTest, http: httpx.Client, name: str) -> None:
    """A worker themselves; a data scientist all, but of others only where they are called; the owner everything."""
    hook = f"{ENDPOINT}hook/4711"
    north, other = ours(http, name, endpoint=hook), ours(http, f"{name} other")
    with node.http(north["token"]) as client:
        assert names(client) == [name]
        assert client.get(OURS).json()["participants"][0]["endpoint"] == hook
        refused(client.get(f"{USERS}{other['id']}/"), 404, "NOT_FOUND")
        unknown = client.get(f"{USERS}{uuid.uuid4()}/").json()
        assert client.get(f"{USERS}{other['id']}/").json() == unknown  # it isn't told from nobody
    with node.http(http.post(USERS, json=user(f"{name} ana", actor=True, client=False)).json()["token"]) as ana:
        shown = {row["username"]: row for row in ana.get(USERS).json()}
        assert shown[name]["message_endpoint"] == "http://127.0.0.1:8101" and "email" not in shown[name]
        assert shown[f"{name} ana"]["message_endpoint"] == ENDPOINT and shown[f"{name} ana"]["email"]
        assert name in names(ana) and f"{name} ana" not in names(ana)  # who only makes trainings is never called to one
    assert next(row for row in http.get(USERS).json() if row["username"] == name)["message_endpoint"] == hook
    refused(http.get(f"{USERS}myself/"), 404, "NOT_FOUND")  # the node's own token is no account


# -- what is refused


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://10.0.0.1:8101/",
        "http://192.168.1.1/",
        "http://169.254.169.254/latest/meta-data/",
        "http://[fe80::1]:8101/",
        "http://[::1]:8101/",
        "http://127.0.0.1:22/",
        "http://no.such.host.example:8101/",
        "http://8.8.8.8/",
        "http://127.0.0.1:{}/push/participants",
        "http://localhost:{}/",
        "http://[::ffff:127.0.0.1]:{}/",
    ],
)
def test_an_endpoint_that_no_rule_covers(node: NodeUnderTest, http: httpx.Client, name: str, endpoint: str) -> None:
    """W10: this node was started with --allow-target 127.0.0.1."""
    url = endpoint.format(node.port)
    before = http.get(OURS).json()
    for path, wish in ((OURS, {"name": name, "endpoint": url}), (USERS, user(name, message_endpoint=url))):
        body = refused(http.post(path, json=wish), 403, "TARGET_REFUSED")
        if url == endpoint:  # else it is the node itself, which no rule allows
            assert "--allow-target" in body["hint"] and "gk.launch(allow_targets=[" in body["hint"]
    made = ours(http, f"{name} there")
    refused(http.post(OURS, json={"name": f"{name} there", "endpoint": url, "renew": True}), 403, "TARGET_REFUSED")
    assert status(node, auth=(f"{name} there", made["password"])) == 200  # nothing changed
    assert http.delete(path_of("push/participants", f"{name} there")).is_success
    assert http.get(OURS).json() == before and name not in accounts(http)


@pytest.mark.parametrize(
    "endpoint",
    [
        *(
            "",
            "hospital",
            "127.0.0.1:8101",
            "ftp://127.0.0.1:8101/",
            "file:///etc/passwd",
            "http://",
            "http:///x",
            7,
            None,
        ),
        *("http://u:s3cret@127.0.0.1:8101/", "http://2130706433:8101/", "http://127.0.0.1:0/", "http://a\nb/"),
        *("http://127.0.0.1:8101/" + "x" * 2000, ["http://127.0.0.1:8101/"]),
    ],
)
def test_what_is_no_endpoint(http: httpx.Client, name: str, endpoint: Any) -> None:
    for path, wish in ((OURS, {"name": name, "endpoint": endpoint}), (USERS, user(name, message_endpoint=endpoint))):
        body = refused(http.post(path, json=wish), 400, "BAD_REQUEST")
        assert "s3cret" not in json.dumps(body)
    assert name not in accounts(http)


@pytest.mark.parametrize(
    "odd",
    [
        "",
        "owner",
        "Anonymous",
        "a/b",
        "../x",
        "a:b",
        "a\u202eb",
        "a\nb",
        "ﬁne",
        "x" * 65,
        "<img src=x>",
        "a\0b",
        7,
        None,
    ],
)
def test_w8_what_is_no_name(http: httpx.Client, odd: Any) -> None:
    before = accounts(http)
    refused(http.post(OURS, json={"name": odd, "endpoint": ENDPOINT}), 400, "BAD_REQUEST")
    refused(http.post(USERS, json=user(odd)), 400, "BAD_REQUEST")
    assert accounts(http) == before


@pytest.mark.parametrize(
    "more",
    [{"password": "short"}, {"password": None}, {"actor": "yes"}, {"email": "x" * 201}, {"first_name": "a\x1b[31m"}],
)
def test_what_is_no_registration(http: httpx.Client, name: str, more: dict[str, Any]) -> None:
    refused(http.post(USERS, json=user(name, **more)), 400, "BAD_REQUEST")
    wish = user(name)
    del wish["message_endpoint"]
    refused(http.post(USERS, json=wish), 400, "BAD_REQUEST")
    assert name not in accounts(http)


def test_errors_have_the_shape_that_clients_of_the_protocol_read(node: NodeUnderTest, http: httpx.Client) -> None:
    with node.http(None) as nobody:
        for method, path in (("GET", USERS), ("POST", USERS), ("GET", f"{USERS}myself/"), ("DELETE", f"{OURS}/x")):
            answer = nobody.request(method, path)
            refused(answer, 401, "UNAUTHENTICATED")
            assert answer.headers["www-authenticate"] == "Token"
            assert answer.json()["detail"] == answer.json()["message"]
        for header in ("Token", "Token x", "Basic x", "Basic OnBhc3N3b3Jk", "Token gk_0000000000000000_x", "Digest x"):
            assert status(node, headers={"authorization": header}) == 401
        assert "www-authenticate" not in nobody.get("/users").headers
    for method, path, code in (("GET", "/push/nowhere/", 404), ("PATCH", USERS, 405), ("POST", USERS, 400)):
        answer = http.request(method, path)
        assert answer.status_code == code and answer.json()["detail"] == answer.json()["message"], answer.text


def test_without_the_slash_at_the_end_nothing_is_lost(http: httpx.Client, name: str) -> None:
    assert http.get(USERS.rstrip("/"), follow_redirects=True).status_code == 200
    answer = http.post(USERS.rstrip("/"), json=user(name))
    assert answer.status_code == 307 and name not in accounts(http)  # the method and the body stay (RFC 9110, 15.4.8)
    again = http.post(USERS.rstrip("/"), json=user(name), follow_redirects=True)
    assert again.status_code == 201 and name in accounts(http)


# -- a node that is open


def test_anybody_registers_on_an_open_node_and_sees_nobody(open_node: NodeUnderTest, name: str) -> None:
    with open_node.http(None) as nobody, open_node.http() as owner:
        made = nobody.post(USERS, json=user(name))
        assert made.status_code == 201
        second = ours(nobody, f"{name} ours")
        for path in (OURS, USERS, f"{USERS}myself/", f"{USERS}{made.json()['id']}/"):
            refused(nobody.get(path), 401, "UNAUTHENTICATED")
        renew = {"name": f"{name} ours", "endpoint": ENDPOINT, "renew": True}
        refused(nobody.post(OURS, json=renew), 401, "UNAUTHENTICATED")
        refused(nobody.delete(path_of("push/participants", name)), 401, "UNAUTHENTICATED")
        refused(nobody.post(OURS, json={"name": f"{name} x", "endpoint": open_node.url}), 403, "TARGET_REFUSED")
        refused(nobody.post(OURS, json={"name": f"{name} x", "endpoint": "http://10.0.0.1/"}), 403, "TARGET_REFUSED")
        assert sorted(names(owner)) == sorted([name, f"{name} ours"])
        assert status(open_node, auth=(f"{name} ours", second["password"])) == 200
        row = next(row for row in owner.get("/audit").json()["rows"] if row["object"] == name)
        assert (row["operation"], row["role"], row["verdict"]) == ("add-participant", "anonymous", "done")


def test_nobody_takes_what_a_removed_account_has_left(open_node: NodeUnderTest, name: str) -> None:
    """Objects belong to names: a stranger who registers under one that was removed would have them."""
    with open_node.http(None) as nobody, open_node.http() as owner:
        leaves: list[Callable[[httpx.Client], httpx.Response]] = [
            lambda ana: serve(ana, f"model of {name}"),
            lambda ana: publish(ana, f"set of {name}"),
            lambda ana: ana.post("/model-centric/host-training", files=host_files(tiny_plan(), {}, name)),
        ]
        for number, leave in enumerate(leaves):
            left = f"{name} {number}"
            with open_node.http(open_node.add_user(left)) as ana:
                assert leave(ana).is_success
            assert owner.delete(path_of("users", left)).is_success
            body = refused(nobody.post(USERS, json=user(left, actor=True)), 400, "ALREADY_EXISTS")
            assert body["error"] == f"there is an account '{left}' already"
            assert left not in accounts(owner)
        policy = {"see": "everyone", "fetch": [f"{name} é"]}
        assert publish(owner, f"policy of {name}", policy=policy).is_success
        refused(nobody.post(USERS, json=user(f"{name} é")), 400, "ALREADY_EXISTS")  # may fetch it, once it is there
        assert nobody.post(USERS, json=user(f"{name} è")).is_success
        assert owner.post(USERS, json=user(f"{name} 0")).status_code == 201  # the owner knows whom they add


def test_without_open_nobody_registers(node: NodeUnderTest, name: str) -> None:
    with node.http(None) as nobody, node.http() as owner:
        refused(nobody.post(USERS, json=user(name)), 401, "UNAUTHENTICATED")
        refused(nobody.post(OURS, json={"name": name, "endpoint": ENDPOINT}), 401, "UNAUTHENTICATED")
        assert name not in accounts(owner)


def test_registrations_have_a_rate(tmp_path: Path) -> None:
    node = NodeUnderTest(tmp_path / "data", "--open", "--limit", "member_rate=2")
    try:
        with node.http(None) as nobody:
            answers = [nobody.post(USERS, json=user(f"u{number}", password="short")) for number in range(20)]
        late = answers[-1]
        assert {answer.status_code for answer in answers} == {400, 429}
        assert late.json()["code"] == "TOO_MANY" and late.json()["detail"] and float(late.headers["retry-after"]) > 0
    finally:
        node.terminate()


# -- accidents


@pytest.mark.parametrize("path", [OURS, USERS])
def test_a_registration_whose_answer_was_lost(node: NodeUnderTest, http: httpx.Client, name: str, path: str) -> None:
    wish = user(name) if path == USERS else {"name": name, "endpoint": ENDPOINT}
    key = {"idempotency-key": uuid.uuid4().hex}
    lost, told = (http.post(path, json=wish, headers=key) for _ in range(2))
    assert (lost.status_code, told.status_code) == (201, 201)
    first, second = lost.json(), told.json()
    assert second["id"] == first["id"] and second["token"] != first["token"] and names(http).count(name) == 1
    assert [status(node, headers={"authorization": f"Token {made['token']}"}) for made in (first, second)] == [401, 200]
    for other in ({"idempotency-key": uuid.uuid4().hex}, {}):
        answer = http.post(path, json=wish, headers=other)
        refused(answer, 400 if path == USERS else 409, "ALREADY_EXISTS")
    refused(http.post(path, json=wish, headers={"idempotency-key": "short"}), 400, "BAD_REQUEST")


# -- for whoever calls them


def in_node(folder: Path, work: Callable[[Service], Coroutine[Any, Any, None]], **settings: Any) -> None:
    """Run `work` with the parts of a node, in this process."""
    wired = NodeSettings(data=folder, allow_targets=("127.0.0.1",), **settings)

    async def run() -> None:
        outbound = Outbound(wired, {5000})
        _, service = build(wired, outbound)
        service.trainings.rounds.db.start()
        try:
            await work(service)
        finally:
            service.accounts.close()
            service.watch.close()
            await asyncio.to_thread(service.trainings.rounds.db.close)
            outbound.close()

    asyncio.run(run())


def test_the_table_as_the_notifier_reads_it(tmp_path: Path) -> None:
    async def work(service: Service) -> None:
        directory, database = service.participants, service.trainings.rounds.db
        north = await directory.register(OWNER, Wish("north", ENDPOINT))
        plain = await directory.register(OWNER, Wish("plain", ENDPOINT, "a long password", signed=False))
        assert plain["secret"] is None and plain["password"] == "a long password"

        def read(c: sa.Connection) -> None:
            found = directory.of_account(c, "north")
            assert found is not None and (found.id, found.endpoint) == (north["id"], ENDPOINT)
            assert (
                found.secret == north["secret"] and north["secret"] not in repr(found) and ENDPOINT not in repr(found)
            )
            assert directory.of_account(c, "nobody") is None
            both = directory.of_accounts(c, ["plain", "north", "nobody"])
            assert set(both) == {"plain", "north"} and both["plain"].secret is None
            assert {one.account for one in directory.of_ids(c, [north["id"], "x"]).values()} == {"north"}
            assert directory.of_ids(c, []) == {}
            assert north["secret"] not in str(c.execute(sa.select(db.participant)).all())

        await database.read(read)
        later = await directory.register(OWNER, Wish("north", "http://127.0.0.1:9000/", renew=True))
        fresh = await database.read(lambda c: directory.of_account(c, "north"))
        assert fresh is not None and (fresh.secret, fresh.endpoint) == (later["secret"], "http://127.0.0.1:9000/")
        assert repr(Wish("x", "http://h/s3cret", "s3cret")).count("s3cret") == 0

    in_node(tmp_path, work)


def test_the_same_data_folder_has_the_same_secrets_another_has_others(tmp_path: Path) -> None:
    made: dict[str, Any] = {}

    async def register(service: Service) -> None:
        made.update(await service.participants.register(OWNER, Wish("north", ENDPOINT)))

    async def again(service: Service) -> None:
        found = await service.trainings.rounds.db.read(lambda c: service.participants.of_account(c, "north"))
        assert found is not None and found.secret == made["secret"]
        stolen = Participants(
            service.trainings.rounds.db, service.access, service.accounts, Outbound(NodeSettings()), "another key"
        )
        other = await service.trainings.rounds.db.read(lambda c: stolen.of_account(c, "north"))
        assert other is not None and other.secret != made["secret"]

    in_node(tmp_path, register)
    in_node(tmp_path, again)


def test_a_node_has_so_many_participants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PARTICIPANTS", 1)

    async def work(service: Service) -> None:
        await service.participants.register(OWNER, Wish("north", ENDPOINT))
        with pytest.raises(LimitError, match="1 participants") as caught:
            await service.participants.register(OWNER, Wish("south", ENDPOINT))
        assert caught.value.status == 429 and [row["name"] for row in await service.accounts.users(OWNER)] == ["north"]
        await service.participants.register(OWNER, Wish("north", ENDPOINT, renew=True))

    in_node(tmp_path, work)


def test_the_use_cases_ask_for_the_right_themselves(tmp_path: Path) -> None:
    async def work(service: Service) -> None:
        directory = service.participants
        ana = Principal(Role.SCIENTIST, "ana")
        for who in (ana, Principal(Role.WORKER, "wim"), ANONYMOUS):
            with pytest.raises(AccessError):
                await directory.register(who, Wish("north", ENDPOINT))
            with pytest.raises(AccessError):
                await directory.remove(who, "north")
        for who in (ANONYMOUS, Principal(Role.WORKER, process="p" * 32)):
            with pytest.raises(AccessError):
                await directory.listing(who)
        assert await directory.listing(ana) == []
        await directory.register(OWNER, Wish("north", ENDPOINT), "k" * 16)
        with pytest.raises(ConflictError):
            await directory.register(OWNER, Wish("north", ENDPOINT), "l" * 16)

    in_node(tmp_path, work)
