"""W12: who may do what with push models and push trainings: one's own, those that one takes part in, others'."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.hospitals import LOCAL, PUSH, Hospital, file_part, hospitals, packed
from tests.support import NodeUnderTest, host_files, tiny_plan

Clients = dict[str, httpx.Client]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeUnderTest]:
    node = NodeUnderTest(tmp_path_factory.mktemp("node") / "data", *LOCAL)
    yield node
    node.terminate()


@pytest.fixture(scope="module")
def people(node: NodeUnderTest) -> Iterator[list[Hospital]]:
    """ana and her participants (one of whom has trainings too), and somebody else's participant."""
    with hospitals(node, "ana", "in", "out") as opened:
        scientist = Hospital(node, "in and scientist", actor=True)
        yield [*opened, scientist]
        scientist.close()


@pytest.fixture(scope="module")
def clients(node: NodeUnderTest, people: list[Hospital]) -> Iterator[Clients]:
    with node.http() as owner:
        hosted = owner.post("/model-centric/host-training", files=host_files(tiny_plan(), {"num_cycles": 1}, "other"))
    tokens = {
        "the node's token": None,
        "olga, an owner": node.add_user("olga", "owner"),
        "ben, a scientist": node.add_user("ben"),
        "wim, a worker": node.add_user("wim", "worker"),
        "a worker token": hosted.json()["worker_token"],
    }
    opened = {name: node.http() if token is None else node.http(token) for name, token in tokens.items()}
    opened |= {person.name: person.http for person in people}
    yield opened
    for client in opened.values():
        client.close()


OWNERS = {"the node's token", "olga, an owner", "ana"}
MEMBERS = {"in", "in and scientist"}


def allowed(clients: Clients, method: str, path: str, good: int = 200, **sent: object) -> set[str]:
    """Who is answered otherwise than with 403."""
    found = set()
    for name, client in clients.items():
        status = client.request(method, path, **sent).status_code  # type: ignore[arg-type]
        assert status in (good, 403), (name, method, path, status)
        found |= {name} if status == good else set()
    return found


def test_w12_reading(people: list[Hospital], clients: Clients) -> None:
    ana, inside, _, scientist = people
    training, model = ana.started(packed(), [inside.id, scientist.id])
    for path in ("", "metadata/", "metrics/"):
        assert allowed(clients, "GET", f"{PUSH}/models/{model}/{path}") == OWNERS | MEMBERS, path
    for path in ("", "models/", "models/latest/"):
        assert allowed(clients, "GET", f"{PUSH}/trainings/{training}/{path}") == OWNERS | MEMBERS, path
    for kind, id in (("models", model), ("trainings", training)):
        seen = {n for n, c in clients.items() if id in [row["id"] for row in c.get(f"{PUSH}/{kind}/").json()]}
        assert seen == OWNERS | MEMBERS, kind


def test_w12_a_model_without_a_training_is_its_owners(people: list[Hospital], clients: Clients) -> None:
    model = people[0].hosted(packed())
    assert allowed(clients, "GET", f"{PUSH}/models/{model}/") == OWNERS
    about = {"model_id": model, "target_num_updates": 1, "clients": [people[1].id]}
    assert allowed(clients, "POST", f"{PUSH}/trainings/", 201, json=about) == OWNERS


def test_w12_taking_part(people: list[Hospital], clients: Clients) -> None:
    """Not the owners either: whose update it is is told by who sends it."""
    ana, inside, _, scientist = people
    training, model = ana.started(packed(), [inside.id, scientist.id])
    for member in (inside, scientist):
        member.called(training, "UPDATE_ROUND_START 0")
    form = {"round": "0", "sample_size": "1"}
    path = f"{PUSH}/models/{model}/"
    assert allowed(clients, "POST", path, 201, data=form, files=file_part(packed())) == MEMBERS
    inside.called(training, "MODEL_TEST_ROUND 1")
    assert allowed(clients, "POST", f"{path}metrics/", 201) == MEMBERS


def test_w12_starting(people: list[Hospital], clients: Clients) -> None:
    ana, inside, _, scientist = people
    for name, client in clients.items():
        made = ana.create(ana.hosted(packed()), [inside.id, scientist.id]).json()["training_id"]
        started = client.post(f"{PUSH}/trainings/{made}/start/").status_code
        assert started == (202 if name in OWNERS | MEMBERS else 403), name


def test_w12_changing(people: list[Hospital], clients: Clients) -> None:
    ana, inside, outside, _ = people
    one = {"json": {"clients": [outside.id]}}
    for method, path, good, sent in (
        ("PUT", "clients/", 202, one),
        ("DELETE", "clients/", 200, one),
        ("DELETE", "", 200, {}),
    ):
        for name, client in clients.items():
            made = ana.create(ana.hosted(packed()), [inside.id]).json()["training_id"]
            answer = client.request(method, f"{PUSH}/trainings/{made}/{path}", **sent)  # type: ignore[arg-type]
            assert answer.status_code == (good if name in OWNERS else 403), (name, method, path)
    for name, client in clients.items():
        answer = client.delete(f"{PUSH}/models/{ana.hosted(packed())}/")
        assert answer.status_code == (200 if name in OWNERS else 403), name


def test_w12_nobody_in_particular(node: NodeUnderTest, people: list[Hospital]) -> None:
    ana, inside, *_ = people
    training, model = ana.started(packed(), [inside.id])
    with node.http(None) as nobody:
        for path in (f"models/{model}/", f"models/{model}/metrics/", f"trainings/{training}/", "models/", "trainings/"):
            for method in ("GET", "POST"):
                answer = nobody.request(method, f"{PUSH}/{path}")
                assert answer.status_code == (405 if (method, path) == ("POST", f"trainings/{training}/") else 401)


def test_w12_a_participants_place_is_no_workers(node: NodeUnderTest, people: list[Hospital]) -> None:
    """Not even with a token that names it."""
    ana, inside, *_ = people
    training, _ = ana.started(packed(), [inside.id])
    named = {"name": "a model", "version": training}
    token = ana.http.post("/model-centric/worker-token", json={**named, "slot": 0}).json()["worker_token"]
    wish = {"model_name": "a model", "model_version": training, "auth_token": token}
    with node.http(None) as worker:
        answer = worker.post("/model-centric/authenticate", json=wish)
    assert answer.status_code == 403 and "push participant's" in answer.json()["error"]
