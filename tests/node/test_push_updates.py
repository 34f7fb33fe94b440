"""Rounds of push participants over REST: what an update comes to, which counts, what is refused."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.endpoints import agreeable
from tests.hospitals import LOCAL, PUSH, START, Hospital, file_part, hospitals, moved, packed, pairs, values
from tests.support import NodeUnderTest, rows, wait_for
from tests.wire.archives import archive_of


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeUnderTest]:
    node = NodeUnderTest(tmp_path_factory.mktemp("node") / "data", *LOCAL)
    yield node
    node.terminate()
    assert "Traceback" not in "".join(node.said)


@pytest.fixture(scope="module")
def both(node: NodeUnderTest) -> Iterator[list[Hospital]]:
    with hospitals(node, "north", "south") as opened:
        yield opened


@pytest.fixture
def two(both: list[Hospital]) -> list[Hospital]:
    for hospital in both:
        hospital.behaves = agreeable
    return both


def ids(opened: list[Hospital]) -> list[str]:
    return [hospital.id for hospital in opened]


def refused(answer: httpx.Response, status: int, code: str) -> str:
    body = answer.json()
    assert (answer.status_code, body["code"]) == (status, code), body
    assert body["detail"] == body["message"]
    return str(body["message"])


def process_of(training: str) -> str:
    return uuid.UUID(training).hex


@pytest.mark.parametrize("form", ["state_dict", "module", "torchscript"])
@pytest.mark.parametrize("model", ["cnn", "tied"])
def test_two_rounds_give_the_weighted_mean_in_the_format_that_was_hosted(
    two: list[Hospital], model: str, form: str
) -> None:
    north, south = two
    first = archive_of(model, form)
    training, model_id = north.started(first, ids(two), rounds=2)
    now = values(first)
    for turn in range(2):
        for hospital, by, samples in ((north, 0.5, 10), (south, -1.0, 30)):
            hospital.called(training, f"UPDATE_ROUND_START {turn}")
            fetched = hospital.fetch(model_id)
            assert len(fetched) == len(first)
            assert all(np.array_equal(array, values(fetched)[name], equal_nan=True) for name, array in now.items())
            answer = hospital.update(model_id, turn, moved(fetched, by), samples, loss=by)
            assert answer.status_code == 201, answer.text
        for hospital in two:
            hospital.called(training, f"MODEL_TEST_ROUND {turn + 1}")
        step = (0.5 * 10 - 1.0 * 30) / 40
        for name, array in values(north.fetch(model_id)).items():
            expected = now[name] + array.dtype.type(step) if array.dtype.kind == "f" else now[name]
            assert np.allclose(array, expected, atol=1e-5), name
        now = values(north.fetch(model_id))
        assert [h.test(model_id, loss=0.25).status_code for h in two] == [201, 201]
    assert north.ends(training)["state"] == "C"
    losses = [r["loss"] for r in rows(north.node, process_of(training)) if r["kind"] == "aggregated"]
    assert losses == [pytest.approx((0.5 * 10 - 1.0 * 30) / 40)] * 2
    assert south.http.get(f"{PUSH}/models/{model_id}/metadata/").json()["round"] == 2


def test_the_first_update_of_a_round_counts_and_the_same_again_is_taken(two: list[Hospital]) -> None:
    north, south = two
    training, model = north.started(packed(), ids(two), rounds=2)
    north.called(training, "UPDATE_ROUND_START 0")
    one = moved(packed(), 1.0)
    assert [north.update(model, 0, one).status_code for _ in range(3)] == [201, 201, 201]
    refused(north.update(model, 0, moved(packed(), 7.0)), 409, "ALREADY_REPORTED")
    assert north.training(training)["local_models_arrived"] == 1
    south.called(training, "UPDATE_ROUND_START 0")
    assert south.update(model, 0, moved(packed(), 3.0)).status_code == 201
    north.called(training, "MODEL_TEST_ROUND 1")
    assert np.array_equal(values(north.fetch(model))["w"], START["w"] + 2)
    assert north.update(model, 0, one).status_code == 201  # its answer was lost
    refused(north.update(model, 0, moved(packed(), 7.0)), 400, "CYCLE_CLOSED")
    for hospital in two:
        assert hospital.test(model).status_code == 201
    north.called(training, "UPDATE_ROUND_START 1")
    assert north.update(model, 0, one).status_code == 201  # still, a round later
    assert refused(north.update(model, 0, moved(packed(), 7.0)), 400, "CYCLE_CLOSED")
    seen = [r["worker"] for r in rows(north.node, process_of(training), "aggregated") if r["kind"] == "reported"]
    assert sorted(seen) == sorted(hospital.name for hospital in two)


def test_updates_that_are_not_of_this_round(two: list[Hospital]) -> None:
    north, south = two
    model = north.hosted(packed())
    refused(north.update(model, 0, packed()), 404, "NOT_FOUND")  # no training
    training = north.create(model, ids(two)).json()["training_id"]
    refused(north.update(model, 0, packed()), 400, "CYCLE_CLOSED")  # not started
    assert north.http.post(f"{PUSH}/trainings/{training}/start/").status_code == 202
    north.called(training, "UPDATE_ROUND_START 0")
    for turn in (1, 7, 2**40):
        assert "round 0" in refused(north.update(model, turn, packed()), 400, "CYCLE_CLOSED")
    for turn in ("-1", "x", "0.5", ""):
        refused(north.update(model, turn, packed()), 400, "BAD_REQUEST")
    for samples in ("0", "-1", "1.5", "many", ""):
        refused(north.update(model, 0, packed(), samples), 400, "BAD_REQUEST")
    refused(north.test(model, loss=1.0), 400, "CYCLE_CLOSED")  # no test yet
    assert north.update(model, 0, packed()).status_code == 201
    south.called(training, "UPDATE_ROUND_START 0")
    assert south.update(model, 0, packed()).status_code == 201
    south.called(training, "MODEL_TEST_ROUND 1")
    assert [hospital.test(model).status_code for hospital in two] == [201, 201]
    assert north.ends(training)["state"] == "C"
    refused(north.update(model, 0, moved(packed(), 1.0)), 400, "CYCLE_CLOSED")
    assert north.update(model, 0, packed()).status_code == 201  # once more, after the end


def test_files_that_do_not_fit_leave_the_round_as_it_is(two: list[Hospital], node: NodeUnderTest) -> None:
    north = two[0]
    training, model = north.started(packed(), ids(two))
    for hospital in two:
        hospital.called(training, "UPDATE_ROUND_START 0")
    kept = node.files()
    wrong = {
        "no model": b"this is no model",
        "other names": packed({"v" if name == "w" else name: array for name, array in START.items()}),
        "other shapes": packed({**START, "w": START["w"].T}),
        "other dtypes": packed({**START, "w": START["w"].astype(np.float64)}),
        "fewer": packed({"w": START["w"]}),
        "more": packed({**START, "x": START["w"]}),
        "another kind": archive_of("mlp", "module"),
    }
    for why, data in wrong.items():
        assert refused(north.update(model, 0, data), 400, "MALFORMED"), why
    form = {"owner": north.id, "round": "0", "sample_size": "1"}
    path = f"{PUSH}/models/{model}/"
    refused(north.http.post(path, data=form), 400, "BAD_REQUEST")
    refused(north.http.post(path, data=form, files={"model_file": ("model_file", b"")}), 400, "BAD_REQUEST")
    refused(north.http.post(path, data=form, files={"model": ("model", packed())}), 400, "BAD_REQUEST")
    refused(north.http.post(path, data={"round": "0"}, files=file_part(packed())), 400, "BAD_REQUEST")
    refused(north.http.post(path, content=packed()), 400, "BAD_REQUEST")
    assert north.update(model, 0, packed() + bytes(40 << 20)).status_code == 413
    assert node.files() == kept
    for hospital in two:
        assert hospital.update(model, 0, moved(packed(), 1.0)).status_code == 201
    north.called(training, "MODEL_TEST_ROUND 1")
    assert np.array_equal(values(north.fetch(model))["b"], START["b"] + 1)
    assert north.training(training)["state"] == "O"


def test_an_update_that_is_not_finite_is_that_participants_failure(two: list[Hospital]) -> None:
    north, south = two
    training, model = north.started(packed(), ids(two))
    for hospital in two:
        hospital.called(training, "UPDATE_ROUND_START 0")
    assert "'w'" in refused(north.update(model, 0, moved(packed(), np.nan)), 400, "NOT_FINITE")
    assert south.update(model, 0, moved(packed(), 2.0)).status_code == 201
    south.called(training, "MODEL_TEST_ROUND 1")
    assert np.array_equal(values(south.fetch(model))["w"], START["w"] + 2)  # the quorum is half of them
    assert north.training(training)["local_models_arrived"] == 1


def test_metrics_that_are_no_numbers_break_nothing(two: list[Hospital]) -> None:
    north, south = two
    training, model = north.started(packed(), ids(two))
    for hospital in two:
        hospital.called(training, "UPDATE_ROUND_START 0")
    answer = north.update(model, 0, packed(), 5, loss="nan", accuracy=0.5, note="fine <b>")
    assert answer.status_code == 201 and "loss, note" in answer.json()["detail"]
    assert south.update(model, 0, packed(), 5, loss="1e999").status_code == 201
    for hospital in two:
        hospital.called(training, "MODEL_TEST_ROUND 1")
    sent = {"loss": "inf", "accuracy": 0.75, "note": "no number", "empty": "", "Ω": "-1e-3"}
    assert north.test(model, **sent).status_code == 201
    assert south.test(model).status_code == 201  # an entirely empty form: nothing to tell
    assert north.ends(training)["state"] == "C"
    reports = [r for r in rows(north.node, process_of(training)) if r["kind"] == "reported"]
    assert {r["worker"]: r["metrics"] for r in reports} == {north.name: {"accuracy": 0.5}, south.name: {}}
    found = south.http.get(f"{PUSH}/models/{model}/metrics/")
    assert "Infinity" not in found.text and "NaN" not in found.text
    assert {(r["key"], r["value_float"], r["value_binary"]) for r in found.json()} == {
        ("loss", None, "inf"),
        ("accuracy", 0.75, None),
        ("note", None, "no number"),
        ("empty", None, ""),
        ("Ω", -0.001, None),
    }
    assert {(r["step"], r["model"], r["reporter"], r["identifier"]) for r in found.json()} == {
        (1, model, north.id, None)
    }
    assert sorted(r["id"] for r in found.json()) == [1, 2, 3, 4, 5]


def test_metrics_that_do_not_pair_up_are_refused(two: list[Hospital]) -> None:
    north, south = two
    training, model = north.started(packed(), ids(two))
    for hospital in two:
        hospital.called(training, "UPDATE_ROUND_START 0")
        refused(_uneven(hospital, model), 400, "BAD_REQUEST")
        assert hospital.update(model, 0, packed()).status_code == 201
    north.called(training, "MODEL_TEST_ROUND 1")
    path = f"{PUSH}/models/{model}/metrics/"
    wrong: list[dict[str, list[str]]] = [
        {"metric_names": ["a", "b"], "metric_values": ["1"]},
        {"metric_names": ["a"]},
        {"metric_values": ["1"]},
        {"metric_names": ["a", "a"], "metric_values": ["1", "2"]},
        {"metric_names": [""], "metric_values": ["1"]},
        {"metric_names": ["a"], "metric_values": ["1" * 201]},
        {"metric_names": ["a\0"], "metric_values": ["1"]},
        {"names": ["a"], "values": ["1"]},
        pairs({f"metric {number}": number for number in range(51)}),
        {"metric_names": ["a"] * 200, "metric_values": ["1"]},
    ]
    for form in wrong:
        refused(north.http.post(path, data=form), 400, "BAD_REQUEST")
    as_parts = [(name, (None, value)) for name, (value,) in pairs({"loss": 1.5}).items()]
    assert north.http.post(path, files=as_parts).status_code == 201
    refused(north.test(model, loss=2.5), 409, "ALREADY_REPORTED")
    assert north.test(model, loss=1.5).status_code == 201
    assert south.test(model).status_code == 201
    assert north.ends(training)["state"] == "C"
    assert [row["value_float"] for row in north.http.get(path).json()] == [1.5]
    refused(north.test(model, loss=9.5), 400, "CYCLE_CLOSED")  # late


def _uneven(hospital: Hospital, model: str) -> httpx.Response:
    form = {"owner": hospital.id, "round": "0", "sample_size": "1", "metric_names": ["a", "b"], "metric_values": ["1"]}
    return hospital.http.post(f"{PUSH}/models/{model}/", data=form, files=file_part(packed()))


def test_who_rejects_a_round_takes_no_further_part(two: list[Hospital]) -> None:
    north, south = two
    south.behaves = lambda arrival, _: 500 if arrival.kind == "UPDATE_ROUND_START" else 200
    training, model = north.started(packed(), ids(two))
    north.called(training, "UPDATE_ROUND_START 0")
    wait_for(lambda: north.training(training)["participants"] == [north.id])
    assert "answered 500" in refused(south.update(model, 0, packed()), 403, "FORBIDDEN")
    assert north.update(model, 0, moved(packed(), 1.0)).status_code == 201
    north.called(training, "MODEL_TEST_ROUND 1")
    refused(south.test(model), 403, "FORBIDDEN")
    assert north.test(model, loss=1.0).status_code == 201
    assert north.ends(training)["state"] == "C" and "TRAINING_FINISHED" not in south.told(training)


def test_a_round_ends_at_its_time_with_those_that_came(two: list[Hospital]) -> None:
    north, south = two
    training, model = north.started(packed(), ids(two), options={"round_timeout": 1.5, "quorum": 1})
    north.called(training, "UPDATE_ROUND_START 0")
    assert north.update(model, 0, moved(packed(), 1.0)).status_code == 201
    north.called(training, "MODEL_TEST_ROUND 1")
    assert north.test(model, loss=1.0).status_code == 201  # south never does: its time runs out too
    assert north.ends(training)["state"] == "C"
    assert np.array_equal(values(north.fetch(model))["w"], START["w"] + 1)
    refused(south.update(model, 0, packed()), 400, "CYCLE_CLOSED")


def test_a_round_without_a_quorum_fails_by_name(two: list[Hospital]) -> None:
    north, south = two
    training, model = north.started(packed(), ids(two), options={"round_timeout": 1.0, "quorum": 2})
    north.called(training, "UPDATE_ROUND_START 0")
    assert north.update(model, 0, packed()).status_code == 201
    found = north.ends(training)
    assert found["state"] == "E" and south.name in found["reason"]
    north.called(training, "TRAINING_FINISHED")
    south.called(training, "TRAINING_FINISHED")


def test_a_node_that_was_killed_goes_on_with_the_round(tmp_path: Path) -> None:
    node = NodeUnderTest(tmp_path / "data", *LOCAL)
    with hospitals(node, "north", "south") as two:
        north, south = two
        training, model = north.started(packed(), ids(two))
        for hospital in two:
            hospital.called(training, "UPDATE_ROUND_START 0")
        one = moved(packed(), 1.0)
        assert north.update(model, 0, one, 3).status_code == 201
        node.kill()
        node.start()
        assert north.update(model, 0, one, 3).status_code == 201  # the same again
        assert north.fetch(model) == packed()
        assert south.update(model, 0, moved(packed(), 5.0), 1).status_code == 201
        for hospital in two:
            hospital.called(training, "MODEL_TEST_ROUND 1")
            assert hospital.test(model, loss=1.0).status_code == 201
        assert north.ends(training)["state"] == "C"
        assert np.array_equal(values(north.fetch(model))["w"], START["w"] + 2)
    node.terminate()
