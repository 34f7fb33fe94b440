"""What goes wrong with push participants, each defect of the fl-demonstrator's server (specs/push.md 1.4) among it: the
others go on, the training ends, and whoever was lost is named."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.endpoints import Arrival, Endpoint, Hanging, agreeable
from tests.push_world import FAST, Hospital, PushTraining, PushWorld, push_world
from tests.support import wait_for

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def node_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PushWorld]:
    with push_world(tmp_path_factory.mktemp("push") / "data", *FAST) as world:
        yield world


@pytest.fixture
def world(node_world: PushWorld) -> Iterator[PushWorld]:
    world = PushWorld(node_world.node, node_world.spare)
    yield world
    world.give_back()


def untroubled(*hospitals: Hospital) -> None:
    for hospital in hospitals:
        assert hospital.trouble == []


def order_of(rounds: int) -> list[str]:
    told = ["TRAINING_START"]
    for round in range(rounds):
        told += [f"UPDATE_ROUND_START {round}", f"MODEL_TEST_ROUND {round + 1}"]
    return [*told, "TRAINING_FINISHED"]


def lost(training: PushTraining) -> dict[str, str]:
    """Who left, and why."""
    return {row["worker"]: row["reason"] for row in training.rows("left")}


def test_nothing_goes_wrong(world: PushWorld) -> None:
    hospitals = world.hospitals(3)
    training = world.training(hospitals, rounds=2)
    training.ends("C")
    for hospital in hospitals:
        hospital.waits_for("TRAINING_FINISHED")
        assert hospital.kinds() == order_of(2)
        assert [status for _, status in hospital.answered(4)] == [201] * 4
    untroubled(*hospitals)
    training.is_shifted(hospitals, hospitals)


def test_a_second_upload_is_nobody_elses(world: PushWorld) -> None:
    """1.4: there it counts as another's; the round closes early, the other's is refused, FINISHED comes thrice."""
    first, second = world.hospitals(2)
    sent: list[int] = []
    go = threading.Event()

    def twice(arrival: Arrival) -> None:
        if arrival.kind != "UPDATE_ROUND_START":
            return first.work(arrival)
        update = first.trained(arrival)
        sent.append(first.send(arrival, update).status_code)
        sent.append(first.send(arrival, update).status_code)
        first.delta *= 2
        sent.append(first.send(arrival, first.trained(arrival)).status_code)
        first.delta /= 2
        go.set()

    def late(arrival: Arrival) -> None:
        assert go.wait(20)
        second.work(arrival)

    first.works, second.works = twice, late
    training = world.training([first, second], rounds=1)
    training.ends("C")
    assert sent == [201, 201, 409]
    for hospital in (first, second):
        hospital.waits_for("TRAINING_FINISHED")
        assert hospital.kinds() == order_of(1)
    untroubled(first, second)
    training.is_shifted([first, second])


@pytest.mark.parametrize("what", ["TRAINING_START", "UPDATE_ROUND_START", "MODEL_TEST_ROUND"])
def test_who_rejects_is_out_and_the_others_finish(world: PushWorld, what: str) -> None:
    """1.4: there it stays in, and the training waits for it for ever."""
    first, second, rejects = world.hospitals(3)
    rejects.behaves = lambda arrival, connection: 500 if arrival.kind == what else rejects.take(arrival, connection)
    training = world.training([first, second, rejects], rounds=2)
    details = training.ends("C")
    assert sorted(details["participants"]) == sorted([first.id, second.id])
    told = {"TRAINING_START": what, "UPDATE_ROUND_START": f"{what} 0", "MODEL_TEST_ROUND": f"{what} 1"}[what]
    assert lost(training) == {rejects.name: f"answered 500 to {told}"}
    assert rejects.kinds()[-1] == told
    everybody = [first, second, rejects]
    training.is_shifted(everybody if what == "MODEL_TEST_ROUND" else [first, second], [first, second])
    untroubled(first, second, rejects)


def test_where_nobody_listens_any_more(world: PushWorld) -> None:
    """1.4: there the training stays open for ever."""
    first, second, dead = world.hospitals(3)
    dead.behaves = lambda arrival, connection: (dead.close(), agreeable(arrival, connection))[1]
    training = world.training([first, second, dead], rounds=2)
    details = training.ends("C")
    assert dead.id not in details["participants"]
    assert dead.kinds() == ["TRAINING_START"]
    reason = lost(training)[dead.name]
    assert reason.startswith("not reached in 2 attempts: ") and reason.endswith("no connection")
    training.is_shifted([first, second], [first, second])


def test_too_many_are_lost_and_the_error_names_them(world: PushWorld) -> None:
    first, second, third = world.hospitals(3)
    for hospital in (second, third):
        hospital.behaves = lambda *_: 500
    training = world.training([first, second, third], quorum=2)
    details = training.ends("E")
    assert f"{second.name}: WORKER_LEFT: answered 500 to TRAINING_START" in details["reason"]
    assert third.name in details["reason"] and "2 reports are needed" in details["reason"]
    first.waits_for("TRAINING_FINISHED")
    assert "TRAINING_FINISHED" not in (*second.kinds(), *third.kinds())


def test_whose_script_crashes_after_the_202(world: PushWorld) -> None:
    """1.4: there nobody notices. Here the round has an end, and the others are enough."""
    first, second, crashes = world.hospitals(3)
    crashes.works = lambda arrival: None if arrival.kind == "UPDATE_ROUND_START" else crashes.work(arrival)
    training = world.training([first, second, crashes], rounds=2, round_timeout=2, quorum=2)
    training.ends("C")
    expired = [(row["cycle"], row["worker"]) for row in training.rows("expired")]
    assert expired == [(1, crashes.name), (2, crashes.name)]
    assert lost(training) == {}  # it answers, and tests
    assert [what for what, _ in crashes.answered(2)] == ["MODEL_TEST_ROUND 1", "MODEL_TEST_ROUND 2"]
    for hospital in (first, second, crashes):
        hospital.waits_for("TRAINING_FINISHED")
        assert hospital.kinds() == order_of(2)
    training.is_shifted([first, second], [first, second])


def test_who_crashes_after_the_202_is_named_where_it_was_needed(world: PushWorld) -> None:
    first, crashes = world.hospitals(2)
    crashes.works = lambda arrival: None
    training = world.training([first, crashes], round_timeout=1.5, quorum=2)
    details = training.ends("E")
    assert f"{crashes.name}: NOT_ANSWERED" in details["reason"]
    for hospital in (first, crashes):
        hospital.waits_for("TRAINING_FINISHED")
        assert hospital.kinds() == ["TRAINING_START", "UPDATE_ROUND_START 0", "TRAINING_FINISHED"]


def test_who_never_tests_keeps_nobody(world: PushWorld) -> None:
    first, silent = world.hospitals(2)
    silent.works = lambda arrival: silent.work(arrival) if arrival.kind == "UPDATE_ROUND_START" else None
    training = world.training([first, silent], rounds=2, round_timeout=2)
    training.ends("C")
    assert [(row["cycle"], row["worker"]) for row in training.rows("untested")] == [(1, silent.name), (2, silent.name)]
    training.is_shifted([first, silent], [first, silent])


def test_late_and_foreign_metrics_end_nothing_twice(world: PushWorld) -> None:
    """1.4: there late metrics send FINISHED again, and anybody's count."""
    first, second = world.hospitals(2)
    outsider = world.hospital()
    tests: list[Arrival] = []
    refused: list[int] = []

    def late(arrival: Arrival) -> None:
        if arrival.kind == "MODEL_TEST_ROUND":
            tests.append(arrival)
            refused.append(outsider.test(arrival).status_code)
        second.work(arrival)

    second.works = late
    training = world.training([first, second], rounds=1)
    training.ends("C")
    for hospital in (first, second):
        hospital.waits_for("TRAINING_FINISHED")
    answers = [second.test(tests[0]).status_code, second.test(tests[0], 0.75).status_code]
    answers += [first.test(tests[0], 0.1).status_code, outsider.test(tests[0]).status_code]
    assert refused == [403] and answers == [201, 400, 400, 403]  # the same ones again are no others
    assert first.send(tests[0], b"", round="0").status_code == 400
    world.training([first, second], rounds=1).ends("C")  # all that was due before has been told meanwhile
    for hospital in (first, second):
        mine = [str(arrival) for arrival in hospital.heard if arrival.training == training.id]
        assert mine == order_of(1)
    assert outsider.heard == []


def test_who_works_before_it_answers(world: PushWorld) -> None:
    """Its uploads come before its 202s; nothing waits for the one because of the other."""

    def inline(hospital: Hospital) -> Any:
        def take(arrival: Arrival, connection: socket.socket) -> int:
            if arrival.round is not None:
                hospital.work(arrival)
            return agreeable(arrival, connection)

        return take

    hospitals = world.hospitals(2)
    for hospital in hospitals:
        hospital.behaves = inline(hospital)
    training = world.training(hospitals, rounds=2)
    training.ends("C")
    for hospital in hospitals:
        hospital.waits_for("TRAINING_FINISHED")
        assert hospital.kinds() == order_of(2)
        assert [status for _, status in hospital.answered(4)] == [201] * 4
    training.is_shifted(hospitals, hospitals)


def test_one_who_hangs_keeps_neither_its_training_nor_others_waiting(world: PushWorld) -> None:
    """1.4: there one dead endpoint holds a worker for 75 s a message, and other trainings hear nothing for minutes."""
    first, second, third = world.hospitals(3)
    with Hanging() as hanging:
        stuck = world.hospital()
        change = {"name": stuck.name, "endpoint": hanging.url, "renew": True}
        assert world.http.post("/push/participants", json=change).status_code == 201
        stuck.close()
        mixed = world.training([first, second, stuck], rounds=1)
        hanging.waits_for("TRAINING_START")
        other = world.training([third], rounds=2)
        other.ends("C")
        for hospital in (first, second):
            hospital.waits_for("UPDATE_ROUND_START 0")
        hanging.waits_for("TRAINING_START", 2)
        tried_again = hanging.heard[1].at  # so the first attempt had timed out
        mixed.ends("C")
    assert all(arrival.at < tried_again for arrival in third.heard)
    assert third.kinds() == order_of(2)
    for hospital in (first, second):
        assert [str(a) for a in hospital.heard if a.at < tried_again] == ["TRAINING_START", "UPDATE_ROUND_START 0"]
    assert lost(mixed)[stuck.name].startswith("not reached in 2 attempts: ")
    mixed.is_shifted([first, second])


@pytest.mark.parametrize("now", [False, True])
def test_a_training_that_is_stopped_is_finished_once(world: PushWorld, now: bool) -> None:
    first, second = world.hospitals(2)
    go = threading.Event()

    def waits(arrival: Arrival) -> None:
        assert go.wait(20)
        second.work(arrival)

    second.works = waits
    training = world.training([first, second], rounds=50)
    for hospital in (first, second):
        hospital.waits_for("UPDATE_ROUND_START 0")
    wait_for(lambda: first.done, what="the first update")
    training.stop(now=now)
    go.set()
    training.ends("C")
    for hospital in (first, second):
        hospital.waits_for("TRAINING_FINISHED")
    wait_for(lambda: second.done, what="what came too late")
    if now:
        assert second.done == [("UPDATE_ROUND_START 0", 400)]
        training.is_shifted()
    else:
        training.is_shifted([first, second])
    for hospital in (first, second):
        told = order_of(1)
        assert hospital.kinds() == ([*told[:2], told[-1]] if now else told)


def test_who_asked_for_it_is_told_of_the_end_once(world: PushWorld) -> None:
    """An actor with an endpoint, who takes no part, and whose notifications aren't signed."""
    with Endpoint() as endpoint:
        wish = {"username": "actor", "password": "a-long-enough-secret", "message_endpoint": endpoint.url}
        made = world.http.post("/push/api/users/", json={**wish, "actor": True, "client": True})
        assert made.status_code == 201, made.text
        hospital = world.hospital()
        world.http.headers["authorization"] = f"Token {made.json()['token']}"
        training = world.training([hospital], rounds=1)
        training.ends("C")
        endpoint.waits_for("TRAINING_FINISHED")
        hospital.waits_for("TRAINING_FINISHED")
        assert endpoint.kinds() == ["TRAINING_FINISHED"]
        assert endpoint.heard[0].training == training.id
        assert "x-gridkit-signature" not in endpoint.heard[0].headers
        assert "x-gridkit-signature" in hospital.heard[0].headers
