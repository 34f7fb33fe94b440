"""Policies on a real node: who sees, fetches and computes is decided by who was authenticated, and what gets out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from gridkit.client.paths import path_of
from gridkit.plans.plan import Dtype, Input, Node, Output, Plan, Ref
from gridkit.policy import plan_digest
from gridkit.wire.safetensors import pack_tensors, read_tensors
from tests.datasets import BOTH, MOCK, SAME, SUM, Clients, X, code, function_plan, publish, run
from tests.support import NodeUnderTest

# -- the policy


def test_private_tensor_opens_for_no_name_that_the_caller_states(
    clients: Clients, published: Callable[..., str]
) -> None:
    """The original's PrivateTensor asked the caller for the user's name, and believed it (the spec's flaw 8.8)."""
    id = published(policy={"see": "anyone", "fetch": ["alice"], "run": {"any": ["alice"]}})
    claims: list[dict[str, Any]] = [
        {"params": {"user": "alice", "name": "alice", "username": "alice", "owner": "alice"}},
        {"headers": {"x-user": "alice", "x-forwarded-user": "alice", "remote-user": "alice", "cookie": "user=alice"}},
        {"headers": {"authorization": "Basic YWxpY2U6"}},  # alice without a password
        {"headers": {"authorization": "Bearer alice"}},
    ]
    for http in (clients.nobody, clients.bob):
        for claim in claims:
            assert http.get(path_of("dataset-data", id), **claim).status_code in (401, 403)
            assert http.post(path_of("run-plan", id), content=SUM.to_bytes(), **claim).status_code in (401, 403)
    body = json.dumps({"user": "alice"}).encode()
    assert clients.bob.request("GET", path_of("dataset-data", id), content=body).status_code == 403
    assert clients.alice.get(path_of("dataset-data", id)).content == pack_tensors([X]).tobytes()


@pytest.mark.parametrize(
    ("policy", "seen_by"),
    [
        ({"see": "anyone"}, {"owner", "alice", "bob", "nobody"}),
        ({"see": "everyone"}, {"owner", "alice", "bob"}),
        ({"see": ["bob"]}, {"owner", "alice", "bob"}),
        ({"see": ["carol"]}, {"owner", "alice"}),
        ({"see": "nobody"}, {"owner", "alice"}),
        ({"see": "nobody", "fetch": ["bob"]}, {"owner", "alice", "bob"}),
        ({"see": ["anyone"]}, {"owner", "alice"}),
    ],
)
def test_what_may_not_be_seen_is_not_there(
    clients: Clients, published: Callable[..., str], policy: dict[str, Any], seen_by: set[str]
) -> None:
    """In no list, and by its id the answers are those for an id that was never given."""
    id = published(policy=policy, tags=["#hidden"], description="hidden words", mock=MOCK)
    for name in ("owner", "alice", "bob", "nobody"):
        http: httpx.Client = getattr(clients, name)
        seen = name in seen_by
        assert ("#hidden" in http.get("/dataset-tags").json()) is seen
        for query in ("#hidden", "hidden words", id):
            assert http.post("/search", json={"query": query}).json()["content"] is seen
        listed = http.get("/datasets", params={"filter": "hidden"}).json()
        assert (listed["total"], len(listed["datasets"])) == ((1, 1) if seen else (0, 0))
        if not seen:
            for what in ("datasets", "dataset-data", "dataset-mock"):
                answers = [http.get(path_of(what, asked)) for asked in (id, id + "?")]
                assert [code(answer) for answer in answers] == [(404, "NOT_FOUND")] * 2
                assert answers[0].text == answers[1].text.replace(id + "?", id)
        else:
            assert read_tensors(http.get(path_of("dataset-mock", id)).content)[0].shape == (2, 3)


def test_a_workers_token_is_nobodys_name(clients: Clients, node: NodeUnderTest, host: Callable[..., Any]) -> None:
    with node.http(host(min_diffs=1, max_diffs=1)["worker_token"]) as worker:
        assert publish(clients.alice, "for accounts").status_code == 201
        assert worker.get(path_of("datasets", "for accounts")).status_code == 404
        assert worker.delete(path_of("datasets", "for accounts")).status_code == 403
        assert worker.put("/datasets/x", json={}).status_code == 403
    assert clients.alice.delete(path_of("datasets", "for accounts")).status_code == 200


@pytest.mark.parametrize(
    ("fetch", "bob", "nobody"),
    [("anyone", 200, 200), ("everyone", 200, 401), (["bob"], 200, 401), (["carol"], 403, 401), ("nobody", 403, 401)],
)
def test_who_may_fetch(clients: Clients, published: Callable[..., str], fetch: Any, bob: int, nobody: int) -> None:
    id = published(policy={"see": "anyone", "fetch": fetch})
    answers = [
        http.get(path_of("dataset-data", id)) for http in (clients.owner, clients.alice, clients.bob, clients.nobody)
    ]
    assert [answer.status_code for answer in answers] == [200, 200, bob, nobody]
    assert {answer.content for answer in answers if answer.is_success} == {pack_tensors([X]).tobytes()}
    digest = hashlib.sha256(answers[0].content).hexdigest()
    assert answers[0].headers["etag"] == f'"{digest}"'


def test_only_its_owners_delete_it(clients: Clients, node: NodeUnderTest, published: Callable[..., str]) -> None:
    before = node.files()
    id = published(policy={"see": "anyone", "fetch": "anyone"}, data=np.full((5, 1), 7, np.float32), mock=None)
    assert code(clients.bob.delete(path_of("datasets", id))) == (403, "FORBIDDEN")
    assert clients.nobody.delete(path_of("datasets", id)).status_code == 401
    assert clients.alice.delete(path_of("datasets", id)).status_code == 200
    assert clients.alice.delete(path_of("datasets", id)).status_code == 404
    assert clients.alice.get(path_of("dataset-data", id)).status_code == 404
    assert node.files() == before


# -- plans


def test_a_named_plan_runs_and_its_results_get_out(clients: Clients, published: Callable[..., str]) -> None:
    id = published(policy={"run": {plan_digest(BOTH): ["bob"]}})
    (same, total) = read_tensors(run(clients.bob, id, BOTH).content)
    assert np.array_equal(same, 2 * X) and total == X.sum()


def test_another_plan_or_another_name_is_refused(clients: Clients, published: Callable[..., str]) -> None:
    """The bytes count, not what the plan is called."""
    id = published(policy={"see": "anyone", "run": {plan_digest(SUM): ["carol"], plan_digest(BOTH): "everyone"}})
    disguised = function_plan("both", "sum", "same")
    assert disguised.name == BOTH.name
    for plan in (SUM, SAME, disguised, BOTH.to_bytes() + b" ", b"", b"GKP1"):
        assert code(run(clients.bob, id, plan)) == (403, "NOT_ALLOWED")
    assert run(clients.nobody, id, BOTH).status_code == 401
    assert run(clients.bob, id, BOTH).status_code == 200
    assert run(clients.owner, id, SAME).status_code == run(clients.alice, id, SAME).status_code == 200


def test_only_the_results_that_the_policy_names_get_out(clients: Clients, published: Callable[..., str]) -> None:
    id = published(policy={"run": {"any": "everyone"}, "results": [1], "max_values": 1})
    (total,) = read_tensors(run(clients.bob, id, BOTH).content)
    assert total == X.sum()
    assert code(run(clients.bob, id, SUM)) == (403, "NOT_ALLOWED")  # it has no second result
    assert len(read_tensors(run(clients.alice, id, BOTH).content)) == 2  # who may fetch isn't bound


def test_more_values_than_the_policy_lets_out_are_refused(clients: Clients, published: Callable[..., str]) -> None:
    id = published(policy={"run": {"any": "everyone"}, "max_values": 11})
    refused = run(clients.bob, id, SAME)
    assert code(refused) == (403, "NOT_ALLOWED") and "12 values" in refused.json()["error"]
    assert code(run(clients.bob, id, BOTH)) == (403, "NOT_ALLOWED")
    assert run(clients.bob, id, SUM).status_code == 200
    none_out = published(policy={"run": {"any": "everyone"}, "max_values": 0})
    assert code(run(clients.bob, none_out, SUM)) == (403, "NOT_ALLOWED")


def test_plans_that_cannot_be(clients: Clients, published: Callable[..., str], plan_bytes: bytes) -> None:
    id = published(policy={"run": {"any": "everyone"}})
    narrow = Plan("narrow", (Input(0, "x", "arg", "float32", ("B", 4)),), SUM.outputs, SUM.nodes)
    double = Plan("double", (Input(0, "x", "arg", "float64", ("B", 3)),), SUM.outputs, SUM.nodes)
    two = Plan("two", (SUM.inputs[0], Input(9, "y", "arg", "float32", ("B", 3))), SUM.outputs, SUM.nodes)
    for plan in (narrow, double, two):
        assert code(run(clients.bob, id, plan)) == (400, "BAD_INPUT")
    for wrong in (b"", b"\x80\x04K\x01.", b"GKP1", plan_bytes, SUM.to_bytes()[:-9]):
        assert code(run(clients.bob, id, wrong)) == (400, "BAD_PLAN")


def test_errors_of_a_run_do_not_tell_of_the_data(clients: Clients, published: Callable[..., str]) -> None:
    """A plan that fails for some values only: the answer doesn't say for which."""
    nodes = (
        Node("aten._to_copy.default", (Ref(0),), (("dtype", Dtype("int64")),), (1,)),
        Node("aten.index_select.default", (Ref(0), 0, Ref(2)), (), (3,)),
    )
    picks = (
        nodes[0],
        Node("aten.select.int", (Ref(1), 1, 2), (), (2,)),
        nodes[1],
    )
    plan = Plan("picks", SUM.inputs, (Output(3, "result.0", "result"),), picks)
    id = published(policy={"run": {"any": "everyone"}})
    failed = run(clients.bob, id, plan)
    assert not failed.is_success
    assert not any(number in failed.text.replace("SHA-256", "") for number in ("2,", "5", "8", "11")), failed.text


def test_a_range_of_the_data_is_as_private_as_the_data(clients: Clients, published: Callable[..., str]) -> None:
    id = published(policy={"see": "anyone", "fetch": ["bob"]})
    wish = {"range": "bytes=-12"}
    last = clients.bob.get(path_of("dataset-data", id), headers=wish)
    assert (last.status_code, last.content) == (206, X[-1].tobytes())
    assert clients.nobody.get(path_of("dataset-data", id), headers=wish).status_code == 401


def test_w18_who_got_at_data_and_who_did_not_is_written_down(clients: Clients, published: Callable[..., str]) -> None:
    id = published(policy={"run": {plan_digest(SUM): "everyone"}})
    with clients.account("carol") as carol:
        run(carol, id, SUM)
        run(carol, id, SAME)
        carol.get(path_of("dataset-data", id))
    clients.alice.get(path_of("dataset-data", id))
    rows = [row for row in clients.owner.get("/audit").json()["rows"] if row["object"].startswith(id)]
    assert [(row["who"], row["operation"], row["verdict"]) for row in rows] == [
        ("alice", "publish-dataset", "done"),
        ("carol", "run-plan", "done"),
        ("carol", "run-plan", "NOT_ALLOWED"),
        ("carol", "fetch-dataset", "NOT_ALLOWED"),
        ("alice", "fetch-dataset", "done"),
    ]
    assert [plan_digest(plan)[:16] in row["object"] for plan, row in zip((SUM, SAME), rows[1:3], strict=True)] == [
        True
    ] * 2


def test_scopes_of_a_token_come_before_the_policy(clients: Clients, node: NodeUnderTest) -> None:
    """A key for browsing can't publish, delete or compute, also where its account could."""
    assert publish(clients.alice, "scoped").status_code == 201
    browse, compute = (
        clients.alice.post("/tokens", json={"scopes": [scope]}).json()["token"] for scope in ("browse", "run")
    )
    with node.http(browse) as browsing, node.http(compute) as computing:
        assert browsing.get(path_of("dataset-data", "scoped")).status_code == 200
        row = browsing.get(path_of("datasets", "scoped")).json()
        assert (row["may_fetch"], row["may_run"], row["plans"]) == (True, False, [])
        assert code(run(browsing, "scoped", SUM)) == (403, "FORBIDDEN")
        assert code(browsing.delete(path_of("datasets", "scoped"))) == (403, "FORBIDDEN")
        assert code(computing.get(path_of("dataset-data", "scoped"))) == (403, "FORBIDDEN")
        assert run(computing, "scoped", SUM).status_code == 200
    assert clients.alice.delete(path_of("datasets", "scoped")).status_code == 200


def test_anonymous_data_is_everybodys_only_under_open(tmp_path: Path) -> None:
    """Without --open nobody in particular owns nothing, also what was published before."""
    node = NodeUnderTest(tmp_path / "data", "--open")
    try:
        with node.http(None) as nobody, node.http() as owner:
            assert publish(nobody, "found", tags=["#found"]).status_code == 201
            assert publish(owner, "for accounts", policy={"run": {"any": "everyone"}}).status_code == 201
            assert nobody.get("/dataset-tags").json() == ["#found"]
            assert nobody.get(path_of("datasets", "for accounts")).status_code == 404
            assert run(nobody, "for accounts", SUM).status_code == 404
            assert read_tensors(run(nobody, "found", SAME).content)[0].shape == X.shape
            assert owner.get(path_of("dataset-data", "found")).status_code == 200
        assert node.terminate() == 0
        node.arguments = ()
        node.start()
        with node.http(None) as nobody:
            assert nobody.get("/dataset-tags").json() == []
            assert nobody.get(path_of("dataset-data", "found")).status_code == 404
            assert nobody.delete(path_of("datasets", "found")).status_code == 401
            assert run(nobody, "found", SUM).status_code == 401
    finally:
        node.terminate()
