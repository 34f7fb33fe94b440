"""W12: every route and every message × every kind of credential × one's own and another's object.

The routes and messages are those of the app; who may do what stands here a second time, by hand, so that a change to
`rights.RULES` is made twice. A route, a message or an operation without an entry here fails.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
import websockets
from starlette.routing import Route, WebSocketRoute

from gridkit.client.paths import path_of
from gridkit.node.app import build
from gridkit.node.outbound import Outbound
from gridkit.node.rights import RULES, SCOPES
from gridkit.node.routes.socket import HANDLERS
from gridkit.node.settings import NodeSettings
from tests.datasets import SUM, publish, upload
from tests.node.grid import serve
from tests.support import TOKEN, NodeUnderTest, host_files, tiny_plan

OWNER, SCIENTIST, WORKER, ANYBODY = "owner", "data scientist", "worker", "anonymous"
ALL = {OWNER, SCIENTIST, WORKER, ANYBODY}
MEMBERS = {OWNER, SCIENTIST}
NAMED = {OWNER, SCIENTIST, WORKER}

# operation: (who may, the scope that a token needs, who may with their own objects only)
RIGHTS: dict[str, tuple[set[str], str | None, set[str]]] = {
    "status": (ALL, None, set()),
    "open-page": (ALL, None, set()),
    "login": (ALL, None, set()),
    "authenticate": (ALL, None, set()),
    "work": (ALL, None, set()),
    "enrol": (NAMED, "train", {SCIENTIST}),
    "retrieve-model": (NAMED, "train", {SCIENTIST}),
    "host-training": (MEMBERS, "host", set()),
    "issue-token": (MEMBERS, "host", {SCIENTIST}),
    "observe": (MEMBERS, "browse", {SCIENTIST}),
    "stop": (MEMBERS, "host", {SCIENTIST}),
    "offer-function": (MEMBERS, "host", {SCIENTIST}),
    "add-participant": ({OWNER}, "manage", set()),
    "list-participants": (NAMED, "browse", {WORKER}),
    "host-archive": (MEMBERS, "host", {SCIENTIST}),
    "host-push": (MEMBERS, "host", {SCIENTIST}),
    "start-push": (NAMED, "train", {SCIENTIST}),
    "observe-push": (NAMED, "browse", {SCIENTIST}),
    "take-part": (NAMED, "train", set()),
    "list-users": (NAMED, "browse", {SCIENTIST, WORKER}),
    "add-user": ({OWNER}, "manage", set()),
    "remove-user": ({OWNER}, "manage", set()),
    "set-password": (NAMED, "manage", {SCIENTIST, WORKER}),
    "list-tokens": (NAMED, "browse", {SCIENTIST, WORKER}),
    "create-token": (NAMED, "manage", {SCIENTIST, WORKER}),
    "revoke-token": (NAMED, "manage", {SCIENTIST, WORKER}),
    "read-audit": ({OWNER}, "manage", set()),
    "list-peers": (MEMBERS, "browse", set()),
    "connect-node": ({OWNER}, "manage", set()),
    "list-models": (MEMBERS, "browse", set()),
    "download-model": (MEMBERS, "browse", set()),
    "run-inference": (MEMBERS, "run", set()),
    "host-model": (MEMBERS, "host", set()),
    "upload": (MEMBERS, "host", set()),
    "replace-model": (MEMBERS, "host", {SCIENTIST}),
    "delete-model": (MEMBERS, "host", {SCIENTIST}),
    "list-datasets": (ALL, "browse", set()),
    "fetch-dataset": (ALL, "browse", set()),
    "rpc": (MEMBERS, "run", set()),
    "verify-key": (MEMBERS, "run", set()),
    "make-project": (MEMBERS, "run", set()),
    "keep-runs": (MEMBERS, "run", set()),
    "run-plan": (MEMBERS, "run", set()),
    "publish-dataset": (MEMBERS, "host", set()),
    "delete-dataset": (MEMBERS, "host", {SCIENTIST}),
}


@dataclass(frozen=True)
class Who:
    token: str | None
    role: str | None
    """None: nobody's credential"""
    name: str = ""
    scopes: frozenset[str] | None = None

    def may(self, operation: str) -> bool:
        roles, scope, own = RIGHTS[operation]
        if self.role is None or self.role not in roles or (self.role in own and not self.name):
            return False
        return self.scopes is None or scope is None or scope in self.scopes


@dataclass(frozen=True)
class World:
    node: NodeUnderTest
    who: dict[str, Who]
    number: Iterator[int]

    def http(self, name: str) -> httpx.Client:
        return self.node.http(self.who[name].token)

    def training(self, owner: str) -> dict[str, Any]:
        with self.http(owner) as http:
            return self.training_by(http)

    def training_by(self, http: httpx.Client) -> dict[str, Any]:
        name = f"training {next(self.number)}"
        hosted = http.post("/model-centric/host-training", files=host_files(tiny_plan(), {"num_cycles": 1}, name))
        assert hosted.status_code == 200, hosted.text
        return {**hosted.json(), "name": name}

    def model(self, owner: str) -> str:
        name = f"model {next(self.number)}"
        with self.http(owner) as http:
            assert serve(http, name).status_code == 200
        return name

    def dataset(self, owner: str) -> str:
        name = f"dataset {next(self.number)}"
        with self.http(owner) as http:
            assert publish(http, name).is_success
        return name


ENDPOINT = "http://127.0.0.1:9999/"


def participant(node: NodeUnderTest, name: str, *, actor: bool) -> str:
    """Register one; a token of its account that is good for all that its role may."""
    wish = {"username": name, "password": "a long password", "message_endpoint": ENDPOINT, "actor": actor}
    with node.http() as http:
        made = http.post("/push/api/users/", json=wish)
        assert made.status_code == 201, made.text
        return str(http.post("/tokens", json={"user": name}).json()["token"])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    options = ["--limit", "wrong_rate=1000", "--allow-target", "127.0.0.1"]
    node = NodeUnderTest(tmp_path_factory.mktemp("w12") / "data", *options)
    who = {
        "the node's token": Who(TOKEN, OWNER, "owner"),
        "olga": Who(node.add_user("olga", "owner"), OWNER, "olga"),
        "ana": Who(participant(node, "ana", actor=True), SCIENTIST, "ana"),
        "ben": Who(node.add_user("ben"), SCIENTIST, "ben"),
        "wim": Who(participant(node, "wim", actor=False), WORKER, "wim"),
        "anonymous": Who(None, ANYBODY),
        "garbage": Who("gk_0000000000000000_" + "0" * 43, None),
    }
    with node.http() as owner:
        for scope in sorted(SCOPES):
            token = owner.post("/tokens", json={"user": "ana", "scopes": [scope]}).json()["token"]
            who[f"ana for {scope}"] = Who(token, SCIENTIST, "ana", frozenset({scope}))
        ended = owner.post("/tokens", json={"user": "olga", "expires": 0.01}).json()["token"]
        who["expired"] = Who(ended, None)
        revoked = owner.post("/tokens", json={"user": "olga"}).json()
        owner.delete(f"/tokens/{revoked['id']}")
        who["revoked"] = Who(revoked["token"], None)
        gone = node.add_user("gone", "owner")
        owner.delete("/users/gone")
        who["removed"] = Who(gone, None)
        made = World(node, who, itertools.count())
        who["a worker token"] = Who(made.training("ana")["worker_token"], WORKER)
        ended = made.training("ana")["worker_token"]
        token_id = jwt.decode(ended, options={"verify_signature": False})["jti"]
        assert owner.delete(f"/tokens/{token_id}").status_code == 200
        who["a revoked worker token"] = Who(ended, None)
    time.sleep(0.02)
    yield made
    node.terminate()


RPC = ("/ws/v0/rpc", "/ws/v0/rpc/")
"""the WebSocket of sessions: who may have one is asked at its door"""


def all_routes(folder: Path) -> list[tuple[str, str, str]]:
    """(method, path, operation) of each."""
    settings = NodeSettings(data=folder)
    app, service = build(settings, Outbound(settings, set()))
    service.watch.close()
    listed = []
    for route in app.routes:
        if isinstance(route, WebSocketRoute):
            assert route.path in ("/", *RPC)  # both are walked below
            continue
        assert isinstance(route, Route) and route.name in RULES, f"{route} names no operation"
        listed += [(method, route.path, route.name) for method in sorted((route.methods or set()) - {"HEAD"})]
    return listed


def spelling(path: str) -> str:
    """One of the ways in which a route of the grid's own API is written."""
    for prefix in ("/data-centric", "/data_centric"):
        path = path.removeprefix(prefix)
    head, brace, rest = path.partition("{")
    return (head.replace("_", "-").rstrip("/") + ("/" if brace else "") if head.strip("/") else head) + brace + rest


def test_w12_every_operation_stands_in_both_tables() -> None:
    assert set(RIGHTS) == set(RULES)
    for operation, (roles, scope, own) in RIGHTS.items():
        rule = RULES[operation]
        assert {str(role) for role in rule.roles} == roles, operation
        assert rule.scope == scope, operation
        limited = {str(role) for role in rule.roles - rule.others} - {OWNER} if rule.own else set()
        assert limited == own, operation


def test_w12_every_route_for_every_credential(world: World, tmp_path: Path) -> None:
    """Without a body, on an object that doesn't exist: the right is asked before anything else is looked at."""
    wrong = []
    routes = all_routes(tmp_path)
    each = {(method, spelling(path)): (method, path, operation) for method, path, operation in routes}.values()
    for name, who in world.who.items():
        with world.http(name) as http:
            for method, path, operation in routes if who.role == ANYBODY else each:
                place = path.split("{")[0] + ("nothing" if "{" in path else "") + path.partition("}")[2]
                with http.stream(method, place) as answer:  # a stream: /events doesn't end
                    refused = answer.status_code in (401, 403)
                    text = "" if not refused else answer.read().decode()
                if who.may(operation) and who.role in RIGHTS[operation][2]:
                    refused &= "is for who owns the object" not in text
                status = 401 if who.role in (None, ANYBODY) else 403
                if refused is who.may(operation) or (refused and answer.status_code != status):
                    wrong.append((name, method, place, answer.status_code, text))
    assert wrong == []


def test_w12_every_message_for_every_credential(world: World) -> None:
    async def codes(who: Who) -> dict[str, str]:
        headers = {"authorization": f"Bearer {who.token}"} if who.token else {}
        address = world.node.url.replace("http", "ws") + "/"
        seen = {}
        async with websockets.connect(address, additional_headers=headers) as socket:
            for kind in HANDLERS:
                await socket.send(json.dumps({"type": kind, "model_id": "nothing", "data": {}}))
                answer = json.loads(await socket.recv())
                seen[kind] = {**answer, **answer.get("data", {})}.get("code", "")
        return seen

    wrong = []
    for name, who in world.who.items():
        if who.role is None:
            with pytest.raises(websockets.InvalidStatus) as caught:
                asyncio.run(codes(who))
            assert caught.value.response.status_code == 403
            continue
        for kind, code in asyncio.run(codes(who)).items():
            refused = code in ("UNAUTHENTICATED", "FORBIDDEN")
            if refused is who.may(HANDLERS[kind][0]):
                wrong.append((name, kind, code))
    assert wrong == []


@pytest.mark.parametrize("subprotocol", [None, "gridkit.v1"])
def test_w12_the_door_of_sessions_for_every_credential(world: World, subprotocol: Any) -> None:
    async def status(who: Who, path: str) -> int:
        headers = {"authorization": f"Bearer {who.token}"} if who.token else {}
        address = world.node.url.replace("http", "ws") + path
        wish = [subprotocol] if subprotocol else None
        try:
            async with websockets.connect(address, additional_headers=headers, subprotocols=wish) as socket:
                assert socket.response is not None and socket.subprotocol == subprotocol
                return socket.response.status_code
        except websockets.InvalidStatus as refused:
            return refused.response.status_code

    seen = {(name, path): asyncio.run(status(who, path)) for name, who in world.who.items() for path in RPC}
    assert seen == {(name, path): 101 if world.who[name].may("rpc") else 403 for name, path in seen}


OPEN = {"enrol", "retrieve-model", "host-training", "list-peers", "connect-node", "list-models", "download-model"}
OPEN |= {"run-inference", "host-model", "upload", "replace-model", "delete-model", "run-plan", "publish-dataset"}
OPEN |= {"delete-dataset", "add-participant", "rpc"}
"""what --open opens: the old protocols, and nothing of accounts, tokens and other people's trainings"""


def test_w12_what_open_opens(tmp_path: Path) -> None:
    assert {operation for operation, rule in RULES.items() if rule.open} == OPEN
    node = NodeUnderTest(tmp_path / "data", "--open", "--limit", "wrong_rate=1000")
    wrong = []
    try:
        with node.http() as owner, node.http(None) as nobody:
            for method, path, operation in all_routes(tmp_path):
                with nobody.stream(method, path.replace("{", "").replace("}", "")) as answer:
                    if (answer.status_code == 401) is (operation in OPEN or ANYBODY in RIGHTS[operation][0]):
                        wrong.append((method, path, answer.status_code))
            assert wrong == []
            assert serve(owner, "the owner's").status_code == 200 and serve(nobody, "nobody's").status_code == 200
            refused = [
                nobody.delete(path_of("models", "the owner's")),
                serve(nobody, "the owner's", new_version="True"),
            ]
            assert [answer.status_code for answer in refused] == [403, 403]
            assert nobody.delete(path_of("models", "nobody's")).status_code == 200
            assert owner.get("/models/").json()["models"] == ["the owner's"]
    finally:
        node.terminate()


# -- one's own and another's object

Try = Callable[[World, httpx.Client, str], httpx.Response]
"""An attempt, by a client, on a new object of this owner."""


def _form(name: str) -> dict[str, str]:
    return {"name": name, "version": "1.0"}


def _revoke(world: World, http: httpx.Client, owner: str) -> httpx.Response:
    with world.node.http() as boss:
        made = boss.post("/tokens", json={"user": owner}).json()
    return http.delete(f"/tokens/{made['id']}")


def _revoke_worker(world: World, http: httpx.Client, owner: str) -> httpx.Response:
    token = jwt.decode(world.training(owner)["worker_token"], options={"verify_signature": False})
    return http.delete(f"/tokens/{token['jti']}")


def _sees(answer: httpx.Response, found: bool) -> httpx.Response:
    """A list holds the object or not, which is what counts."""
    assert answer.status_code == 200
    return httpx.Response(200 if found else 403)


def _processes(world: World, http: httpx.Client, owner: str) -> httpx.Response:
    process = world.training(owner)["process"]
    answer = http.get("/model-centric/processes")
    return answer if answer.is_error else _sees(answer, process in [p["id"] for p in answer.json()["processes"]])


def _events(world: World, http: httpx.Client, owner: str) -> httpx.Response:
    process = world.training(owner)["process"]
    with http.stream("GET", "/events", params={"after": 0}) as stream:
        if stream.is_error:
            return httpx.Response(stream.status_code)
        later = world.training_by(http)["process"]
        for line in stream.iter_lines():
            row = json.loads(line[6:]) if line.startswith("data: ") else {}
            if row.get("run") in (process, later):
                return httpx.Response(200 if row["run"] == process else 403)
    raise AssertionError("the stream ended")


def _plan(world: World, http: httpx.Client, owner: str) -> httpx.Response:
    plan = world.training(owner)["plans"]["training_plan"]
    return http.get("/model-centric/get-plan", params={"plan_id": plan, "receive_operations_as": "gridkit"})


def _enrol(world: World, http: httpx.Client, owner: str) -> httpx.Response:
    wish = {"model_name": world.training(owner)["name"], "model_version": "1.0"}
    return http.post("/model-centric/authenticate", json=wish)


def _users(world: World, http: httpx.Client, owner: str) -> httpx.Response:
    answer = http.get("/users")
    return answer if answer.is_error else _sees(answer, owner in [user["name"] for user in answer.json()["users"]])


def _tokens(world: World, http: httpx.Client, owner: str) -> httpx.Response:
    answer = http.get("/tokens")
    return answer if answer.is_error else _sees(answer, owner in [token["user"] for token in answer.json()["tokens"]])


def _participants(world: World, http: httpx.Client, owner: str) -> httpx.Response:
    answer = http.get("/push/participants")
    return answer if answer.is_error else _sees(answer, owner in [one["name"] for one in answer.json()["participants"]])


def _push_users(world: World, http: httpx.Client, owner: str) -> httpx.Response:
    answer = http.get("/push/api/users/")
    return answer if answer.is_error else _sees(answer, owner in [user["username"] for user in answer.json()])


def _push_user(world: World, http: httpx.Client, owner: str) -> httpx.Response:
    with world.node.http() as boss:
        (id,) = (user["id"] for user in boss.get("/push/api/users/").json() if user["username"] == owner)
    answer = http.get(f"/push/api/users/{id}/")
    return httpx.Response(403) if answer.status_code == 404 else answer  # to others it doesn't exist


def _push_myself(world: World, http: httpx.Client, owner: str) -> httpx.Response:
    answer = http.get("/push/api/users/myself/")
    return answer if answer.is_error else _sees(answer, answer.json()["username"] == owner)


def _new_version(world: World, http: httpx.Client, owner: str) -> httpx.Response:
    return serve(http, world.model(owner), new_version="True")


def _upload(world: World, http: httpx.Client, owner: str, method: str) -> httpx.Response:
    with world.http(owner) as theirs:
        upload_id = upload(theirs, b"1234")
        answer = http.request(method, f"/uploads/{upload_id}", params={"offset": 4} if method == "PATCH" else {})
        theirs.delete(f"/uploads/{upload_id}")
    return httpx.Response(403) if answer.status_code == 404 else answer  # to others it doesn't exist


def _in_project(method: str, rest: str = "", **wish: Any) -> Try:
    """A request about a new project of this owner, or about a run in it."""

    def attempt(world: World, http: httpx.Client, owner: str) -> httpx.Response:
        title = f"p{next(world.number)}"
        with world.http(owner) as theirs:
            assert theirs.post("/api/v0/class/projects/", json={"display_name": title}).status_code == 201
            run = theirs.post(f"/api/v0/class/projects/{title}/runs/", json={})
        return http.request(method, f"/api/v0/class/projects/{title}/" + rest.format(run=run.json()["uuid"]), **wish)

    return attempt


def _make_project(world: World, http: httpx.Client, owner: str) -> httpx.Response:
    """Everybody makes their own; it isn't the one that another has."""
    title = {"display_name": f"p{next(world.number)}"}
    with world.http(owner) as theirs:
        first = theirs.post("/api/v0/class/projects/", json=title).json()
    made = http.post("/api/v0/class/projects/", json=title)
    return made if made.is_error else _sees(httpx.Response(200), made.json()["uuid"] == first["uuid"])


def _dataset(what: str, method: str = "GET") -> Try:
    def attempt(world: World, http: httpx.Client, owner: str) -> httpx.Response:
        body = SUM.to_bytes() if method == "POST" else None
        answer = http.request(method, path_of(what, world.dataset(owner)), content=body)
        return httpx.Response(403) if answer.status_code == 404 else answer  # to others it doesn't exist

    return attempt


PASSWORD = {"password": "a long password"}

OWNED: dict[tuple[str, str], tuple[str, Try]] = {
    ("POST", "/model-centric/authenticate"): ("enrol", _enrol),
    ("GET", "/model-centric/retrieve-model"): (
        "retrieve-model",
        lambda w, http, owner: http.get(
            "/model-centric/retrieve-model", params={"name": w.training(owner)["name"], "version": "1.0"}
        ),
    ),
    ("GET", "/model-centric/get-plan"): ("observe", _plan),
    ("GET", "/model-centric/processes"): ("observe", _processes),
    ("GET", "/events"): ("observe", _events),
    ("POST", "/model-centric/stop"): (
        "stop",
        lambda w, http, owner: http.post("/model-centric/stop", json=_form(w.training(owner)["name"])),
    ),
    ("POST", "/model-centric/worker-token"): (
        "issue-token",
        lambda w, http, owner: http.post("/model-centric/worker-token", json=_form(w.training(owner)["name"])),
    ),
    ("GET", "/push/participants"): ("list-participants", _participants),
    ("GET", "/push/api/users"): ("list-participants", _push_users),
    ("GET", "/push/api/users/{user_id}/"): ("list-participants", _push_user),
    ("GET", "/users"): ("list-users", _users),
    ("PUT", "/users/{name}/password"): (
        "set-password",
        lambda w, http, owner: http.put(f"/users/{owner}/password", json=PASSWORD),
    ),
    ("GET", "/tokens"): ("list-tokens", _tokens),
    ("POST", "/tokens"): ("create-token", lambda w, http, owner: http.post("/tokens", json={"user": owner})),
    ("DELETE", "/tokens/{token_id}"): ("revoke-token", _revoke),
    ("POST", "/serve-model"): ("replace-model", _new_version),
    ("POST", "/delete-model"): (
        "delete-model",
        lambda w, http, owner: http.post("/delete-model/", json={"model_id": w.model(owner)}),
    ),
    ("DELETE", "/models/{model_id:path}"): (
        "delete-model",
        lambda w, http, owner: http.delete(path_of("models", w.model(owner))),
    ),
    ("DELETE", "/datasets/{dataset_id:path}"): ("delete-dataset", _dataset("datasets", "DELETE")),
}
"""routes on objects that have an owner, with the operation that is asked of the object"""

PRIVATE: dict[tuple[str, str], Try] = {
    ("GET", "/push/api/users/myself"): _push_myself,
    ("GET", "/uploads/{upload_id}"): lambda w, http, owner: _upload(w, http, owner, "GET"),
    ("PATCH", "/uploads/{upload_id}"): lambda w, http, owner: _upload(w, http, owner, "PATCH"),
    ("DELETE", "/uploads/{upload_id}"): lambda w, http, owner: _upload(w, http, owner, "DELETE"),
    ("POST", "/api/v0/{namespace}/projects/"): _make_project,
    ("GET", "/api/v0/{namespace}/projects/{slug}/"): _in_project("GET"),
    ("DELETE", "/api/v0/{namespace}/projects/{slug}/"): _in_project("DELETE"),
    ("GET", "/api/v0/{namespace}/projects/{slug}/runs/"): _in_project("GET", "runs/"),
    ("POST", "/api/v0/{namespace}/projects/{slug}/runs/"): _in_project("POST", "runs/", json={}),
    ("PATCH", "/api/v0/{namespace}/projects/{slug}/runs/{run_id}/"): _in_project(
        "PATCH", "runs/{run}/", json={"status": "FAILED"}
    ),
    ("GET", "/api/v0/{namespace}/projects/{slug}/runs/{run_id}/metrics/"): _in_project("GET", "runs/{run}/metrics/"),
    ("POST", "/api/v0/{namespace}/projects/{slug}/runs/{run_id}/metrics/"): _in_project(
        "POST", "runs/{run}/metrics/", json={"name": "loss", "value": 1.0}
    ),
}
"""routes on objects that only their owner has, not the node's either"""

ELSEWHERE = {
    "work": "the worker's id and its key are the right: tests/node/test_bad_input.py",
    "list-models": "flags, the same for everybody: tests/node/test_models.py",
    "download-model": "flags, the same for everybody: tests/node/test_models.py",
    "run-inference": "flags, the same for everybody: tests/node/test_models.py",
    "list-datasets": "each dataset's policy: tests/node/test_dataset_policies.py",
    "fetch-dataset": "each dataset's policy: tests/node/test_dataset_policies.py",
    "run-plan": "each dataset's policy: tests/node/test_dataset_policies.py",
    "offer-function": "own trainings: tests/node/rpc/test_notebook_rule.py",
    "host-archive": "own archives: tests/node/test_push_rights.py",
    "host-push": "own trainings: tests/node/test_push_rights.py",
    "start-push": "own trainings, and those that one takes part in: tests/node/test_push_rights.py",
    "observe-push": "own trainings, and those that one takes part in: tests/node/test_push_rights.py",
    "take-part": "trainings that one takes part in: tests/node/test_push_rights.py",
}
NO_OBJECT = {
    "status",
    "open-page",
    "login",
    "host-training",
    "add-user",
    "remove-user",
    "read-audit",
    "list-peers",
    "connect-node",
}
NO_OBJECT |= {"host-model", "upload", "publish-dataset", "authenticate", "add-participant", "verify-key"}


def test_w12_every_route_on_an_object_has_an_entry(tmp_path: Path) -> None:
    missing = []
    for method, path, operation in all_routes(tmp_path):
        known = (method, spelling(path)) in OWNED or (method, spelling(path)) in PRIVATE
        if not known and operation not in ELSEWHERE and not (operation in NO_OBJECT and "upload_id" not in path):
            missing.append((method, path, operation))
    assert missing == []


@pytest.mark.parametrize("route", sorted(OWNED))
def test_w12_ones_own_and_anothers(world: World, route: tuple[str, str]) -> None:
    operation, attempt = OWNED[route]
    wrong = []
    limited = RIGHTS[operation][2]
    for name in ("the node's token", "olga", "ana", "ben", "wim", "anonymous"):
        who = world.who[name]
        for owner in ("ana", "wim" if WORKER in limited else "ben"):
            with world.http(name) as http:
                answer = attempt(world, http, owner)
            mine = owner == who.name or who.role not in limited
            if (answer.status_code < 400) is not (who.may(operation) and mine):
                wrong.append((name, owner, answer.status_code, answer.text))
    assert wrong == []


@pytest.mark.parametrize("route", sorted(PRIVATE))
def test_w12_what_only_its_owner_has(world: World, route: tuple[str, str]) -> None:
    for name in ("ana", "ben", "olga", "the node's token", "wim", "anonymous"):
        with world.http(name) as http:
            answer = PRIVATE[route](world, http, "ana")
        assert (answer.status_code < 400) is (name == "ana"), (name, answer.text)


def test_w12_a_worker_token_is_good_for_its_training_only(world: World) -> None:
    token = world.training("ana")["worker_token"]
    other = world.training("ana")["name"]
    with world.node.http(token) as http:
        assert http.get("/model-centric/retrieve-model", params=_form(other)).status_code == 403
        wish = {"model_name": other, "model_version": "1.0"}
        assert http.post("/model-centric/authenticate", json=wish).status_code == 403
    revoked = _revoke_worker(world, world.http("ben"), "ana")
    assert revoked.status_code == 403
    assert _revoke_worker(world, world.http("ana"), "ana").status_code == 200
