"""host-training with push participants among the clients: alone, and together with workers that ask."""

from __future__ import annotations

import itertools
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from gridkit.wire.state import pack_state
from tests.hospitals import LOCAL, PUSH, Hospital, hospitals, moved, values
from tests.support import DIFF, MODEL, NodeUnderTest, RawWorker, host_files, rows, tiny_plan

_names = (f"training {number}" for number in itertools.count())


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeUnderTest]:
    node = NodeUnderTest(tmp_path_factory.mktemp("node") / "data", *LOCAL)
    yield node
    node.terminate()
    assert "Traceback" not in "".join(node.said)


@pytest.fixture(scope="module")
def http(node: NodeUnderTest) -> Iterator[httpx.Client]:
    with node.http() as http:
        yield http


@pytest.fixture(scope="module")
def both(node: NodeUnderTest) -> Iterator[list[Hospital]]:
    with hospitals(node, "north", "south") as opened:
        yield opened


def files(participants: Any, *, plans: bool = False, model: Any = None, name: str = "", **server: Any) -> Any:
    found = host_files(tiny_plan(), {"num_cycles": 1, **server}, name or next(_names), model=model)
    config = json.loads(found["config"][1])
    if not plans:
        del found["plan0"]
        config["plans"] = []
    config["participants"] = participants
    return {**found, "config": ("config", json.dumps(config).encode(), "application/json")}


def host(http: httpx.Client, participants: Any, key: str | None = None, **wish: Any) -> httpx.Response:
    headers = {"idempotency-key": key} if key else {}
    return http.post("/model-centric/host-training", files=files(participants, **wish), headers=headers)


def model_of(hospital: Hospital, training: str) -> str:
    hospital.called(training, "UPDATE_ROUND_START 0")
    return next(arrival.model for arrival in hospital.heard if arrival.training == training)


def test_participants_alone_need_no_plan_and_no_token(http: httpx.Client, both: list[Hospital]) -> None:
    hosted = host(http, {"0": "north", "1": "south"}, clients=2, weighting="samples")
    assert hosted.status_code == 200, hosted.text
    process, training = hosted.json()["process"], str(uuid.UUID(hosted.json()["process"]))
    assert hosted.json()["worker_tokens"] == [None, None] and hosted.json()["plans"] == {}
    (entry,) = [p for p in http.get("/model-centric/processes").json()["processes"] if p["id"] == process]
    assert entry["server_config"]["cycle_length"] == 3600
    for hospital, by, samples in zip(both, (1.0, 4.0), (1, 2), strict=True):
        model = model_of(hospital, training)
        fetched = values(hospital.fetch(model))
        assert all(np.array_equal(fetched[name], array) for name, array in MODEL.items())
        assert hospital.update(model, 0, moved(hospital.fetch(model), by), samples).status_code == 201
    for hospital in both:
        hospital.called(training, "MODEL_TEST_ROUND 1")
        assert hospital.test(model, loss=1.0).status_code == 201
    seen = {row["kind"]: row for row in rows(both[0].node, process)}
    assert seen["finished"]["outcome"] == "completed"
    assert np.allclose(values(both[0].fetch(model))["w"], MODEL["w"] + 3)
    found = http.get(f"{PUSH}/trainings/{training}/").json()
    assert (found["state"], found["target_num_updates"], found["actor"]) == ("C", 1, None)


def test_participants_and_workers_train_one_model(http: httpx.Client, both: list[Hospital]) -> None:
    name = next(_names)
    hosted = host(http, {"1": "north"}, plans=True, clients=2, weighting="samples", cycle_length=60, name=name).json()
    tokens, training = hosted["worker_tokens"], str(uuid.UUID(hosted["process"]))
    assert tokens[0] and tokens[1] is None
    worker, north = RawWorker(both[0].node, tokens[0], name), both[0]
    assert worker.ask()["slot"] == 0
    assert worker.report(DIFF, samples=3).status_code == 200
    model = model_of(north, training)
    assert north.update(model, 0, moved(north.fetch(model), 8.0), 1).status_code == 201
    north.called(training, "MODEL_TEST_ROUND 1")
    after = values(north.fetch(model))
    for part, array in MODEL.items():
        assert np.allclose(after[part], array + (3 * -DIFF[part] + 8.0) / 4), part
    assert worker.ask()["code"] == "CYCLE_CHANGING"  # its own data isn't tested on
    assert north.test(model, loss=1.0).status_code == 201
    kinds = [row["kind"] for row in rows(north.node, hosted["process"])]
    assert kinds.count("tested") == 1 and kinds[-1] == "finished"


def test_the_same_request_again_is_done_already(http: httpx.Client, both: list[Hospital]) -> None:
    name = next(_names)
    one, two = (host(http, {"0": "north"}, "a key of the test", clients=1, name=name).json() for _ in range(2))
    assert one["process"] == two["process"]
    training = str(uuid.UUID(one["process"]))
    assert [t["id"] for t in both[0].http.get(f"{PUSH}/trainings/").json()].count(training) == 1
    both[0].called(training, "UPDATE_ROUND_START 0")
    assert both[0].told(training).count("TRAINING_START") == 1


@pytest.mark.parametrize(
    ("participants", "wish", "status", "code", "says"),
    [
        ({"0": "nobody"}, {"clients": 1}, 404, "NOT_FOUND", "'nobody'"),
        ({"0": "north", "1": "north"}, {"clients": 2}, 400, "BAD_CONFIG", "twice"),
        ({"0": "north"}, {}, 400, "BAD_CONFIG", "roster"),
        ({"1": "north"}, {"clients": 1}, 400, "BAD_CONFIG", "place 1"),
        ({"0": "north"}, {"clients": 2}, 400, "BAD_PLAN", "needs a plan"),
        ({}, {"clients": 2}, 400, "BAD_PLAN", "needs a plan"),
        ({"first": "north"}, {"clients": 1}, 400, "BAD_REQUEST", "slots"),
        ({"0": 7}, {"clients": 1}, 400, "BAD_REQUEST", "one name a slot"),
        ({"0": "north", "00": "south"}, {"clients": 1}, 400, "BAD_REQUEST", "one name a slot"),
        (["north"], {"clients": 1}, 400, "BAD_REQUEST", "slots"),
        ({"0": "north"}, {"clients": 1, "model": {"n": np.array([1])}}, 400, "MALFORMED", "floating"),
    ],
)
def test_what_cannot_be_hosted(
    http: httpx.Client, both: list[Hospital], participants: Any, wish: dict[str, Any], status: int, code: str, says: str
) -> None:
    before = both[0].node.files()
    answer = host(http, participants, **wish)
    assert (answer.status_code, answer.json()["code"]) == (status, code) and says in answer.json()["error"], answer.text
    assert both[0].node.files() == before


def test_a_model_that_archives_do_not_have(http: httpx.Client, both: list[Hospital]) -> None:
    deep = {"w": np.zeros([1] * 9, np.float32)}
    assert pack_state(deep)
    answer = host(http, {"0": "north"}, clients=1, model=deep)
    assert answer.status_code == 400 and "9 dimensions" in answer.json()["error"]


def test_strangers_call_nobody(both: list[Hospital], tmp_path: Path) -> None:
    """Under --open anybody hosts trainings, but none that make the node call."""
    node = both[0].node
    with node.http(node.add_user("wim", "worker")) as worker:
        assert host(worker, {"0": "north"}, clients=1).status_code == 403
    node = NodeUnderTest(tmp_path / "data", "--open")
    with node.http(None) as nobody:
        assert host(nobody, {}, plans=True, clients=1).status_code == 200
        assert host(nobody, {"0": "north"}, clients=1).status_code == 401
    node.terminate()


def test_a_stopped_training_is_completed(http: httpx.Client, both: list[Hospital]) -> None:
    name = next(_names)
    hosted = host(http, {"0": "north"}, clients=1, num_cycles=5, name=name).json()
    training = str(uuid.UUID(hosted["process"]))
    both[0].called(training, "UPDATE_ROUND_START 0")
    stop = {"name": name, "version": "1.0", "now": True}
    assert http.post("/model-centric/stop", json=stop).json()["outcome"] == "stopped"
    both[0].called(training, "TRAINING_FINISHED")
    assert http.get(f"{PUSH}/trainings/{training}/").json()["state"] == "C"
