"""Models and trainings of push participants over REST, up to the start and after the end; rounds are in
test_push_updates.py."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import httpx
import pytest

from tests.hospitals import LOCAL, PUSH, Hospital, file_part, hospitals, moved, packed, values
from tests.support import NodeUnderTest
from tests.wire.archives import archive_of


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeUnderTest]:
    node = NodeUnderTest(tmp_path_factory.mktemp("node") / "data", *LOCAL, "--limit", "kept=100")
    yield node
    node.terminate()
    assert "Traceback" not in "".join(node.said)


@pytest.fixture(scope="module")
def both(node: NodeUnderTest) -> Iterator[list[Hospital]]:
    with hospitals(node, "north", "south") as opened:
        yield opened


@pytest.fixture
def north(both: list[Hospital]) -> Hospital:
    return both[0]


@pytest.fixture
def south(both: list[Hospital]) -> Hospital:
    return both[1]


def refused(answer: httpx.Response, status: int, code: str, says: str = "") -> None:
    body = answer.json()
    assert (answer.status_code, body["code"]) == (status, code) and says in body["detail"], body


# -- models


def test_a_model_is_listed_described_fetched_and_deleted(north: Hospital, node: NodeUnderTest) -> None:
    before = node.files()
    answer = north.host(packed(), "digits", description="two\nlines", input_shape=["None", "3"])
    assert answer.status_code == 201 and "TORCH_FORCE" not in answer.json()["detail"]
    model = answer.json()["model_id"]
    about = north.http.get(f"{PUSH}/models/{model}/metadata/").json()
    assert about == {
        "id": model,
        "name": "digits",
        "description": "two\nlines",
        "round": 0,
        "owner": north.id,
        "input_shape": [None, 3],
        "has_preprocessing": False,
        "stats": None,
    }
    assert about in north.http.get(f"{PUSH}/models/").json()
    fetched = north.http.get(f"{PUSH}/models/{model}/")
    assert fetched.content == packed() and fetched.headers["content-type"] == "application/octet-stream"
    assert fetched.headers["content-disposition"] == f'attachment; filename="{model}.pt"'
    assert north.http.get(f"{PUSH}/models/{model.upper()}/").content == packed()
    assert north.http.get(f"{PUSH}/models/{model}/metrics/").json() == []
    assert north.http.delete(f"{PUSH}/models/{model}/").status_code == 200
    refused(north.http.get(f"{PUSH}/models/{model}/"), 404, "NOT_FOUND")
    assert node.files() == before


@pytest.mark.parametrize("form", ["module", "torchscript"])
def test_who_hosts_what_torch_unpickles_is_told(north: Hospital, form: str) -> None:
    answer = north.host(archive_of("mlp", form))
    assert answer.status_code == 201 and "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD" in answer.json()["detail"]


def test_models_that_cannot_be_hosted(north: Hospital, node: NodeUnderTest) -> None:
    before = node.files()
    integers = {name: array for name, array in values(packed()).items() if array.dtype.kind == "i"}
    refused(north.host(packed(integers)), 400, "MALFORMED", "floating")
    refused(north.host(b""), 400, "BAD_REQUEST", "no file")
    refused(north.host(packed()[:-100]), 400, "MALFORMED")
    refused(north.host(packed(), ""), 400, "BAD_REQUEST", "name")
    refused(north.host(packed(), type="SWAG"), 400, "BAD_REQUEST", "type")
    refused(north.host(packed(), input_shape=["wide"]), 400, "BAD_REQUEST", "input_shape")
    refused(north.host(packed(), model_preprocessing_file="x"), 400, "BAD_REQUEST", "preprocessing")
    refused(north.http.post(f"{PUSH}/models/", data={"name": "m"}), 400, "BAD_REQUEST", "multipart")
    refused(north.http.post(f"{PUSH}/models/", data={"description": ""}, files=file_part(packed())), 400, "BAD_REQUEST")
    assert node.files() == before


def test_an_account_has_so_many_and_no_more(node: NodeUnderTest) -> None:
    with hospitals(node, "collector") as (collector,):
        many = [collector.host(packed()).status_code for _ in range(101)]
    assert many == [201] * 100 + [429]


# -- trainings


def test_a_training_before_its_start(north: Hospital, south: Hospital) -> None:
    model = north.hosted(packed())
    made = north.create(
        model,
        [north.id, north.id],
        3,
        metric_names=["loss"],
        uncertainty_method="MC_DROPOUT",
        aggregation_method="FedProx",
        options={"round_timeout": 5, "quorum": 2, "whatever": 1},
    )
    training = made.json()["training_id"]
    found = north.training(training)
    assert found.pop("last_update") and found == {
        "id": training,
        "state": "I",
        "target_num_updates": 3,
        "uncertainty_method": "MC_DROPOUT",
        "aggregation_method": "FedProx",
        "options": {"daisy_chain_period": 0, "round_timeout": 5.0, "quorum": 2},
        "locked": False,
        "model": model,
        "actor": north.id,
        "participants": [north.id],
        "local_models_arrived": 0,
        "local_models_expected": 1,
        "reason": None,
    }
    start, clients = f"{PUSH}/trainings/{training}/start/", f"{PUSH}/trainings/{training}/clients/"
    refused(north.http.post(start), 400, "BAD_REQUEST", "quorum is 2, and it has 1")
    assert north.http.put(clients, json={"clients": [south.id, north.id]}).status_code == 202
    assert north.training(training)["participants"] == [north.id, south.id]
    gone = north.http.request("DELETE", clients, json={"clients": [north.id, south.id]})
    assert gone.status_code == 200 and north.training(training)["participants"] == []
    refused(north.http.post(start), 400, "BAD_REQUEST", "no participants")
    refused(north.http.put(clients, json={"clients": [str(uuid.uuid4())]}), 400, "NOT_FOUND")
    refused(north.http.put(clients, json={"clients": ["north"]}), 400, "BAD_REQUEST")
    refused(north.http.delete(f"{PUSH}/models/{model}/"), 409, "ALREADY_EXISTS")
    assert north.http.delete(f"{PUSH}/trainings/{training}/").status_code == 200
    refused(north.http.get(f"{PUSH}/trainings/{training}/"), 404, "NOT_FOUND")
    assert north.http.delete(f"{PUSH}/models/{model}/").status_code == 200


def test_a_started_training_stays_as_it_is(north: Hospital, south: Hospital) -> None:
    training, model = north.started(packed(), [north.id, south.id])
    one = {"clients": [south.id]}
    clients = f"{PUSH}/trainings/{training}/clients/"
    refused(north.http.post(f"{PUSH}/trainings/{training}/start/"), 400, "BAD_REQUEST", "started already")
    refused(north.http.put(clients, json=one), 400, "BAD_REQUEST")
    refused(north.http.request("DELETE", clients, json=one), 400, "BAD_REQUEST")
    stays = north.http.delete(f"{PUSH}/trainings/{training}/")
    refused(stays, 400, "BAD_REQUEST")
    assert "stays as it is" in stays.json()["hint"]
    assert north.training(training)["state"] == "O"
    shown = north.http.get(f"{PUSH}/models/{model}/metadata/").json()
    for path in ("models", "models/latest"):
        assert north.http.get(f"{PUSH}/trainings/{training}/{path}/").json() == [shown]


def test_a_model_in_use_is_copied_for_another_training(north: Hospital, south: Hospital) -> None:
    training, model = north.started(packed(), [north.id, south.id])
    for hospital in (north, south):
        hospital.called(training, "UPDATE_ROUND_START 0")
        assert hospital.update(model, 0, moved(packed(), 1.0)).status_code == 201
    north.called(training, "MODEL_TEST_ROUND 1")
    other = north.training(north.create(model, [south.id]).json()["training_id"])
    assert other["model"] != model and other["state"] == "I"
    assert north.fetch(other["model"]) == packed() != north.fetch(model)


@pytest.mark.parametrize(
    ("wish", "says"),
    [
        ({"aggregation_method": "FedDC"}, "FedDC"),
        ({"aggregation_method": "FedSGD"}, "FedAvg or FedProx"),
        ({"uncertainty_method": "SWAG"}, "SWAG"),
        ({"uncertainty_method": "HOPE"}, "MC_DROPOUT"),
        ({"target_num_updates": 0}, "target_num_updates"),
        ({"target_num_updates": "2"}, "target_num_updates"),
        ({"options": {"daisy_chain_period": 2}}, "daisy_chain_period"),
        ({"options": {"round_timeout": 0}}, "round_timeout"),
        ({"options": {"quorum": 0}}, "quorum"),
        ({"options": []}, "options"),
        ({"clients": "all"}, "clients"),
        ({"model_id": "digits"}, "model_id"),
    ],
)
def test_trainings_that_cannot_be(north: Hospital, wish: dict[str, object], says: str) -> None:
    about = {"model_id": north.hosted(packed()), "target_num_updates": 1, "clients": [north.id], **wish}
    refused(north.http.post(f"{PUSH}/trainings/", json=about), 400, "BAD_REQUEST", says)


def test_what_is_not_there(north: Hospital) -> None:
    for id in (str(uuid.uuid4()), "nothing", "0" * 300):
        for method, path in (
            ("GET", "models/{}/"),
            ("POST", "models/{}/"),
            ("DELETE", "models/{}/"),
            ("GET", "models/{}/metadata/"),
            ("GET", "models/{}/metrics/"),
            ("POST", "models/{}/metrics/"),
            ("GET", "trainings/{}/"),
            ("DELETE", "trainings/{}/"),
            ("POST", "trainings/{}/start/"),
            ("GET", "trainings/{}/models/"),
        ):
            answer = north.http.request(method, f"{PUSH}/{path.format(id)}")
            refused(answer, 404, "NOT_FOUND")
    unknown = {"model_id": str(uuid.uuid4()), "target_num_updates": 1}
    refused(north.http.post(f"{PUSH}/trainings/", json=unknown), 404, "NOT_FOUND")


def test_without_the_slash_at_the_end_nothing_is_lost(north: Hospital) -> None:
    """The client is sent to where it is, with all that it sent."""
    model = north.hosted(packed())
    assert north.http.get(f"{PUSH}/models/{model}").status_code == 307
    wish = {"model_id": model, "target_num_updates": 1}
    answer = north.http.post(f"{PUSH}/trainings", json=wish)
    assert answer.status_code == 307 and answer.headers["location"].endswith(f"{PUSH}/trainings/")
    assert north.http.post(f"{PUSH}/trainings", json=wish, follow_redirects=True).status_code == 201
