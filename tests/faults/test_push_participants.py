"""W10, W17, C1: what strangers, thieves and crashes find of push participants, on a real node and in a training."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from gridkit.client.paths import path_of
from gridkit.errors import AccessError
from gridkit.wire.notifications import Verifier
from tests.endpoints import Endpoint
from tests.hospitals import LOCAL, PUSH, hospitals, moved, packed
from tests.node.grid import refused
from tests.node.test_participants import ENDPOINT, OURS, USERS, accounts, names, ours, status, user
from tests.support import TOKEN, NodeUnderTest


def test_w10_an_endpoint_that_was_allowed_once_is_called_no_more(tmp_path: Path) -> None:
    """Rules are those of the call, not of the registration: who is not to be called leaves, and nobody was called."""
    quick = ("--limit", "push_attempts=2")
    node = NodeUnderTest(tmp_path / "data", *LOCAL, *quick)
    try:
        with hospitals(node, "north", "south") as (north, south):
            model = north.hosted(packed())
            training = north.create(model, [north.id, south.id]).json()["training_id"]
            node.terminate()
            node.arguments = quick
            node.start()
            assert north.http.post(f"{PUSH}/trainings/{training}/start/").status_code == 202
            ended = north.ends(training)
            assert (ended["state"], ended["participants"]) == ("E", []) and "may not call" in ended["reason"]
            assert north.connections == south.connections == 0
    finally:
        node.terminate()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeUnderTest]:
    node = NodeUnderTest(tmp_path_factory.mktemp("node") / "data", *LOCAL)
    yield node
    node.terminate()


def test_w5_renewed_credentials_end_in_the_middle_of_a_training(node: NodeUnderTest) -> None:
    """Whoever stole the old ones sends nothing more and hears nothing more; the training goes on with the new ones."""
    with hospitals(node, "north", "south") as (north, south), Endpoint() as elsewhere, node.http() as owner:
        training, model = north.started(packed(), [north.id, south.id])
        south.called(training, "UPDATE_ROUND_START 0")
        renewed = ours(owner, "south", endpoint=elsewhere.url, renew=True)
        trained = moved(packed(), 1.0)
        refused(south.update(model, 0, trained), 401, "UNAUTHENTICATED")
        refused(south.http.get(f"{PUSH}/models/{model}/"), 401, "UNAUTHENTICATED")
        assert south.id == renewed["id"]
        south.http.headers["authorization"] = f"Token {renewed['token']}"
        assert south.update(model, 0, trained).status_code == north.update(model, 0, trained).status_code == 201
        told = elsewhere.waits_for("MODEL_TEST_ROUND 1")
        Verifier(renewed["secret"]).check(told.headers.items(), told.body)
        with pytest.raises(AccessError):
            Verifier("the secret of somebody else").check(told.headers.items(), told.body)
        assert south.told(training) == ["TRAINING_START", "UPDATE_ROUND_START 0"]
        assert south.test(model).status_code == north.test(model).status_code == 201
        assert north.ends(training)["state"] == "C"


def test_w6_who_takes_no_part_learns_nothing_of_a_training(node: NodeUnderTest) -> None:
    with hospitals(node, "east", "west", "far") as (east, west, far):
        training, model = east.started(packed(), [east.id, west.id])
        assert [one["id"] for one in west.http.get(f"{PUSH}/users/trainings/").json()] == [training]
        assert far.http.get(f"{PUSH}/users/trainings/").json() == []
        for path in (f"users/{west.id}", f"trainings/{training}", f"models/{model}"):
            answer = far.http.get(f"{PUSH}/{path}/")
            assert answer.status_code in (403, 404) and "west" not in answer.text, answer.text
        assert [one["username"] for one in far.http.get(f"{PUSH}/users/").json()] == ["far"]


def test_c1_a_node_that_dies_between_account_and_participant_has_neither(tmp_path: Path) -> None:
    node = NodeUnderTest(tmp_path / "data", "--allow-target", "127.0.0.1", failpoint="participant-account")
    try:
        with node.http() as http, pytest.raises(httpx.TransportError):
            http.post(OURS, json={"name": "north", "endpoint": ENDPOINT})
        assert node.process.wait(20) == -signal.SIGKILL
        node.start()
        with node.http() as http:
            assert names(http) == [] and accounts(http) == {}
            made = ours(http, "north")
            node.kill()
        node.start()
        with node.http() as http:
            assert names(http) == ["north"] and list(accounts(http)) == ["north"]
            assert status(node, auth=("north", made["password"])) == 200
    finally:
        node.terminate()


def test_w17_what_is_told_once_stands_nowhere(tmp_path: Path) -> None:
    """Neither in the database (what is signed with is made of a number that stands there and of the node's own secret)
    nor in the log, the audit, or any later answer; nor is what an endpoint's path may hold shown to others."""
    node = NodeUnderTest(tmp_path / "data", "--allow-target", "127.0.0.1")
    told: list[str] = []
    try:
        with node.http() as http:
            made = [ours(http, "north"), ours(http, "south"), ours(http, "south", renew=True)]
            secrets = [one[part] for one in made for part in ("token", "password", "secret")]
            http.post(USERS, json=user("west", password="s3cret of west"))
            http.post(USERS, json=user("west", password="s3cret of another"))
            http.post(OURS, json={"name": "x", "endpoint": "http://u:s3cret-url@127.0.0.1:8101/"})
            http.post(OURS, json={"name": "x", "endpoint": "http://10.0.0.1:8101/s3cret-path?token=s3cret"})
            http.post(OURS, json={"name": "a/b", "endpoint": ENDPOINT, "password": "s3cret"})
            with node.http(None, auth=(made[0]["token"], "")) as north:
                north.post(OURS, json={"name": "y", "endpoint": ENDPOINT})
                north.delete(path_of("push/participants", made[0]["token"]))
            for path in (OURS, USERS, "/users", "/tokens", "/audit"):
                told.append(http.get(path).text)
    finally:
        node.terminate()
    files = [path for path in node.data.rglob("*") if path.is_file() and path.name not in ("token", "secret")]
    told += [path.read_bytes().decode("latin-1") for path in files]
    shown = "\n".join([*told, *node.said])
    assert [secret for secret in [*secrets, "s3cret", TOKEN] if secret in shown] == []
    assert "north" in shown and made[0]["id"] in shown
