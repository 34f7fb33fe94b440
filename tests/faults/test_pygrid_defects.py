"""What went wrong in PyGrid and must not go wrong here: each defect, and the tests that show we don't have it.

Those that are about one rule have their tests with that rule, and stand in `SHOWN`; the others follow below.
"""

from __future__ import annotations

import ast
import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gridkit.federated import cycle
from gridkit.federated.rules import _ELSEWHERE, _KNOWN
from gridkit.wire.state import pack_state, read_state
from tests.federated.machine import Training, came
from tests.node.grid import talk
from tests.support import DIFF, MODEL, TOKEN, NodeUnderTest, host_files, plan_of, rows, tiny_plan, wait_for
from tests.transports import TRANSPORTS, Caller

Host = Callable[..., dict[str, Any]]

TESTS = Path(__file__).resolve().parents[1]
REPORTS, OFFERS = "faults/test_r1_r5_reports.py", "node/test_offers.py"
SHOWN: dict[str, list[tuple[str, str]]] = {
    # the cycle's state machine
    "late reports answer success and are stored": [
        (REPORTS, "test_r2_after_its_cycle_a_report_changes_nothing"),
        (REPORTS, "test_r2_after_a_stop_a_report_changes_nothing"),
    ],
    "repeated reports overwrite": [
        (REPORTS, "test_r1_other_bytes_are_refused_and_the_first_stay"),
        (REPORTS, "test_r1_the_same_bytes_again_are_a_success_and_count_once"),
    ],
    "one undecodable report stops the process for good": [
        ("faults/test_pygrid_defects.py", "test_an_undecodable_report_is_refused_and_the_process_goes_on")
    ],
    "a cycle past its end stays open until a report comes": [
        (REPORTS, "test_r4_a_cycle_closes_though_nobody_comes_by"),
        ("federated/test_cycle.py", "test_the_deadline_gives_slots_back_and_the_cycle_stays_open"),
    ],
    "a cycle's completion is dropped while another's runs": [
        ("faults/test_pygrid_defects.py", "test_cycles_that_complete_at_once_all_complete")
    ],
    "two completions of one cycle": [
        (REPORTS, "test_r5_of_a_hundred_reports_at_once_exactly_max_diffs_count"),
        ("faults/test_r6_r7_time_and_twins.py", "test_r6_two_nodes_close_a_cycle_once"),
    ],
    "settings are stored and never enforced": [
        ("faults/test_pygrid_defects.py", "test_every_setting_that_is_taken_is_enforced"),
        ("faults/test_pygrid_defects.py", "test_an_unknown_setting_is_refused"),
        (OFFERS, "test_min_workers"),
        (OFFERS, "test_a_random_pool_is_drawn_by_the_timer"),
        (OFFERS, "test_do_not_reuse_workers_until_cycle"),
    ],
    "a minimum speed shuts out who doesn't know its own": [(OFFERS, "test_minimum_speeds")],
    "a rejection fails where a setting is absent, or tells a negative time": [
        ("faults/test_pygrid_defects.py", "test_a_rejection_has_a_number_whatever_is_set")
    ],
    "a process that fails to be hosted leaves half of it behind": [
        ("faults/test_pygrid_defects.py", "test_what_cant_be_hosted_leaves_nothing_behind")
    ],
    "deadlines move with the wall clock; times are naive, or those of the import": [
        ("faults/test_r6_r7_time_and_twins.py", "test_r7_a_step_of_the_wall_clock_moves_no_deadline"),
        ("faults/test_r6_r7_time_and_twins.py", "test_r7_no_time_is_naive"),
        ("faults/test_pygrid_defects.py", "test_every_assignment_has_its_own_time"),
    ],
    "zip cuts off, broadcasting accepts wrong shapes, nothing looks for NaN": [
        (REPORTS, "test_m1_m2_m3_a_bad_diff_is_named_and_the_rest_counts")
    ],
    "all diffs are in memory at once": [
        ("faults/test_pygrid_defects.py", "test_averaging_takes_no_memory_for_each_report")
    ],
    # who it is
    "a closed socket takes another worker's place; the dead one is kept": [
        ("faults/test_pygrid_defects.py", "test_a_socket_that_closes_takes_nobody_with_it"),
        ("faults/test_r8_r10_connections.py", "test_r8_the_new_socket_wins_and_the_work_goes_on"),
    ],
    "a default secret": [
        ("node/test_bad_input.py", "test_w7_secrets_are_private_files"),
        ("node/test_accounts.py", "test_w7_files_of_secrets_are_the_owners_alone_and_no_log_has_them"),
    ],
    "tokens without an end, and without a list of algorithms": [
        ("faults/test_w5_worker_auth.py", "test_w5_a_secret"),
        ("faults/test_w5_worker_auth.py", "test_w5_public_keys_and_the_public_key_as_a_secret"),
        ("faults/test_w5_tokens.py", "test_w5_forged_tokens_get_one_answer_everywhere"),
    ],
    "every origin may read": [("faults/test_w1_w4_origins.py", "test_w4_no_page_of_another_origin_may_read_anything")],
    "the node calls whatever a hosted configuration names": [
        ("faults/test_w10_w15_calls.py", "test_w10_no_address_that_a_node_is_told_is_called")
    ],
    "keys are compared as text is": [("faults/test_pygrid_defects.py", "test_keys_are_compared_in_constant_time")],
    "a worker's id is good for every process": [
        (REPORTS, "test_r3_a_key_is_good_for_one_training"),
        ("faults/test_pygrid_defects.py", "test_a_workers_id_is_good_for_one_training"),
    ],
    "a token is looked at once, hosting and lists not at all": [
        ("node/test_w12_matrix.py", "test_w12_every_route_for_every_credential"),
        ("node/test_w12_matrix.py", "test_w12_every_message_for_every_credential"),
    ],
    # what comes in
    "tracebacks are answered": [("faults/test_pygrid_defects.py", "test_no_answer_has_a_traceback")],
    "base64 is guessed": [("faults/test_s5_s8_bytes.py", "test_s8_base64_is_not_guessed")],
    "messages of any size": [
        ("faults/test_s2_s3_sizes.py", "test_s3_a_message_that_is_too_long_is_ended_before_it_comes")
    ],
    "messages without a schema": [
        ("faults/test_s6_s7_json.py", "test_s7_members_of_every_kind_in_every_message"),
        ("faults/test_s6_s7_json.py", "test_s7_messages_that_are_none_are_answered_and_nothing_else_happens"),
    ],
}


@pytest.mark.parametrize("defect", SHOWN)
def test_each_defect_has_its_test(defect: str) -> None:
    for file, name in SHOWN[defect]:
        functions = {n.name for n in ast.walk(ast.parse((TESTS / file).read_text())) if isinstance(n, ast.FunctionDef)}
        assert name in functions, f"{file} has no {name}"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeUnderTest]:
    node = NodeUnderTest(tmp_path_factory.mktemp("node") / "data", "--limit=wrong_rate=100000")
    yield node
    assert node.terminate() == 0
    assert "Traceback" not in "".join(node.said)


@pytest.fixture
def host(node: NodeUnderTest, request: pytest.FixtureRequest) -> Host:
    def host(suffix: str = "", **server: Any) -> dict[str, Any]:
        name = request.node.name[:150] + suffix
        with node.http() as http:
            answer = http.post("/model-centric/host-training", files=host_files(tiny_plan(), server, name))
        assert answer.status_code == 200, answer.text
        return {**answer.json(), "name": name}

    return host


# ---- reports and cycles


UNDECODABLE = {
    "nothing": b"",
    "noise": bytes(range(256)),
    "cut": bytes(pack_state(DIFF))[:-3],
    "a pickle": b"\x80\x04N.",
    "a field that never ends": b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
}


@pytest.mark.parametrize("how", TRANSPORTS)
def test_an_undecodable_report_is_refused_and_the_process_goes_on(node: NodeUnderTest, host: Host, how: str) -> None:
    hosted = host(num_cycles=2)
    for diff in UNDECODABLE.values():
        bad = Caller(node, how, hosted)
        bad.ask()
        assert bad.report(diff)["code"] in ("MALFORMED", "UNSAFE_FORMAT", "COUNT_MISMATCH")
        bad.close()
    good = Caller(node, how, hosted)
    for _ in range(2):
        wait_for(lambda: good.ask()["status"] == "accepted", what="work")
        assert good.report(DIFF)["code"] is None
    got = rows(node, hosted["process"])
    assert got[-1]["outcome"] == "completed"
    assert [(row["accepted"], row["refused"]) for row in got if row["kind"] == "aggregated"] == [(1, 5), (1, 0)]
    good.close()


def test_cycles_that_complete_at_once_all_complete(node: NodeUnderTest, host: Host) -> None:
    """Their deadlines fall into one moment, and their last reports too."""
    hosted = [host(f" {n}", num_cycles=1, cycle_length=1.0, max_diffs=9) for n in range(12)]
    hosted += [host(f" full {n}", num_cycles=1) for n in range(12)]
    workers = [Caller(node, "octets", one) for one in hosted]
    for worker in workers:
        worker.ask()
    for worker in workers:
        while worker.report(DIFF)["code"] is not None:  # its deadline came first
            assert worker.ask()["status"] == "accepted"
        worker.close()
    for one in hosted:
        assert rows(node, one["process"])[-1]["outcome"] == "completed"


def test_the_numbers_of_the_original(node: NodeUnderTest, host: Host) -> None:
    """Diffs of 1 and 3 move parameters from 0 to -2; the third request after `num_cycles` 2 is for good."""
    hosted = host(max_diffs=2, min_diffs=2, num_cycles=2)
    workers = [Caller(node, "json", hosted) for _ in range(2)]
    for number in (1, 2):
        for worker in workers:
            wait_for(lambda worker=worker: worker.ask()["status"] == "accepted", what="work")
        for worker, value in zip(workers, (1, 3), strict=True):
            assert worker.report({name: np.full_like(a, value) for name, a in MODEL.items()})["code"] is None
        with node.http() as http:
            query = {"name": hosted["name"], "checkpoint": str(number + 1)}
            asked = lambda: http.get("/model-centric/retrieve-model", params=query)  # noqa: B023, E731
            new = read_state(wait_for(lambda: (a := asked()).status_code == 200 and a, what="the model").content)  # noqa: B023
        assert all(np.array_equal(a, np.full_like(a, -2.0 * number)) for a in new.values())
    over = wait_for(lambda: (a := workers[0].ask())["code"] == "TRAINING_OVER" and a, what="the end")
    assert over["status"] == "rejected" and "timeout" not in over
    for worker in workers:
        worker.close()


def test_every_assignment_has_its_own_time(node: NodeUnderTest, host: Host) -> None:
    hosted = host(min_diffs=3, max_diffs=3, num_cycles=1)
    for _ in range(3):
        worker = Caller(node, "json", hosted)
        worker.ask()
        worker.report(DIFF)
        worker.close()
    times = [row["at"] for row in rows(node, hosted["process"]) if row["kind"] == "assigned"]
    assert times == sorted(times) and len(set(times)) == 3


def test_averaging_takes_no_memory_for_each_report(node: NodeUnderTest, request: pytest.FixtureRequest) -> None:
    """24 reports of 8 MB: the node's peak grows by a small part of them."""
    count, values = 24, 2_000_000
    files = host_files(plan_of({"w": (values,)}), {"num_cycles": 1, "max_diffs": count, "min_diffs": count}, "large")
    files["model"] = ("model", pack_state({"w": np.zeros(values, np.float32)}), "application/octet-stream")
    with node.http() as http:
        hosted = {**http.post("/model-centric/host-training", files=files).json(), "name": "large"}
    before = _peak(node)
    for place in range(count):
        worker = Caller(node, "octets", hosted)
        worker.ask()
        assert worker.report({"w": np.full(values, place, np.float32)})["code"] is None
        worker.close()
    assert rows(node, hosted["process"])[-1]["outcome"] == "completed"
    assert _peak(node) - before < count * values * 4 / 4


def _peak(node: NodeUnderTest) -> int:
    lines = Path(f"/proc/{node.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


# ---- settings


ENFORCED = {
    "num_cycles": "federated/test_cycle.py",
    "cycle_length": "federated/test_cycle.py",
    "min_diffs": "federated/test_cycle.py",
    "max_diffs": "federated/test_cycle.py",
    "min_workers": "federated/test_selection.py",
    "max_workers": "federated/test_cycle.py",
    "pool_selection": "federated/test_selection.py",
    "selection_length": "federated/test_selection.py",
    "do_not_reuse_workers_until_cycle": "federated/test_selection.py",
    "minimum_download_speed": "federated/test_selection.py",
    "minimum_upload_speed": "federated/test_selection.py",
    "clients": "federated/test_cycle.py",
    "fraction": "federated/test_cycle.py",
    "tolerate": "federated/test_cycle.py",
    "seed": "federated/test_selection.py",
    "weighting": "federated/test_cycle.py",
    "max_samples": "federated/test_cycle.py",
    "max_norm": "faults/test_r1_r5_reports.py",
    "strategy": "test_training.py",
    "evaluate": "federated/test_scoring.py",
    "keep_last": "node/test_model_centric.py",
    "keep_every": "node/test_model_centric.py",
    "iterative_plan": "node/test_averaging.py",
    "authentication": "node/test_worker_auth.py",
}


def test_every_setting_that_is_taken_is_enforced() -> None:
    """A new one comes with the test that shows it; `name` and `version` stand in PyGrid's configurations as well."""
    assert set(_KNOWN) | set(_ELSEWHERE) == {*ENFORCED, "name", "version"}
    for key, file in ENFORCED.items():
        assert key in (TESTS / file).read_text(), f"{file} says nothing of {key}"


@pytest.mark.parametrize("socket", [False, True], ids=["http", "socket"])
def test_an_unknown_setting_is_refused(node: NodeUnderTest, socket: bool) -> None:
    before = node.files()
    if socket:
        config = {"client_config": {"name": "typo", "version": "1"}, "server_config": {"min_worker": 3}}
        data = {"model": bytes(pack_state(MODEL)).hex(), "plans": {"p": tiny_plan().hex()}, **config}
        (answer,) = talk(node, {"type": "model-centric/host-training", "data": data}, token=TOKEN)
    else:
        with node.http() as http:
            files = host_files(tiny_plan(), {"min_worker": 3}, "typo")
            answer = http.post("/model-centric/host-training", files=files).json()
    told = answer.get("data", answer)
    assert told["code"] == "BAD_CONFIG" and "min_worker" in told["error"]
    assert node.files().keys() <= before.keys()


@pytest.mark.parametrize("config", [{}, {"num_cycles": 0}, {"cycle_length": None}, {"cycle_length": 0.01}], ids=str)
def test_a_rejection_has_a_number_whatever_is_set(config: dict[str, Any]) -> None:
    """Also past the cycle's end, where PyGrid told "-1 day, 23:59:58"."""
    for rules in ({"max_workers": 1}, {"min_workers": 9}, {"pool_selection": "random"}, {"minimum_upload_speed": 5}):
        training = Training(**{**config, **rules})
        training.ask(0)
        for at in (1.0, 100.0, 1e6):
            answer = training.ask(1, at=at, upload=1.0)
            if isinstance(answer, cycle.Reject):
                assert answer.retry_after is not None and 0 < answer.retry_after <= 60
    resting = Training(**config, do_not_reuse_workers_until_cycle=4, max_diffs=1)
    resting.work(0)
    resting.aggregated()
    late = resting.ask(0, at=1e6)
    assert isinstance(late, cycle.Reject) and late.retry_after is not None and 0 < late.retry_after <= 60


def test_what_cant_be_hosted_leaves_nothing_behind(node: NodeUnderTest) -> None:
    before = node.files()
    with node.http() as http:
        bad = host_files(b"no plan", {"num_cycles": 1}, "again")
        assert http.post("/model-centric/host-training", files=bad).status_code == 400
        assert node.files().keys() <= before.keys()
        again = http.post("/model-centric/host-training", files=host_files(tiny_plan(), {"num_cycles": 1}, "again"))
        assert again.status_code == 200, "its name is free"
        assert sum(p["name"] == "again" for p in http.get("/model-centric/processes").json()["processes"]) == 1


# ---- who it is


def test_keys_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []
    monkeypatch.setattr(cycle.hmac, "compare_digest", lambda a, b: compared.append((a, b)) or a == b)
    training = Training()
    key = training.ask(0).request_key  # type: ignore[union-attr]
    cycle.check_key(training.state, "id-0", key)
    training.step(came(1.0, 0, "key-wrong"))
    assert (key.encode(), key.encode()) in compared and (key.encode(), b"key-wrong") in compared


@pytest.mark.parametrize("how", TRANSPORTS)
def test_a_workers_id_is_good_for_one_training(node: NodeUnderTest, host: Host, how: str) -> None:
    here, there = host(" a"), host(" b")
    worker = Caller(node, how, here)
    assert worker.ask(model=there["name"])["code"] == "FORBIDDEN"
    assert worker.ask(version="2.0")["code"] == "FORBIDDEN"
    assert worker.ask()["status"] == "accepted"
    worker.close()


def test_a_socket_that_closes_takes_nobody_with_it(node: NodeUnderTest, host: Host) -> None:
    hosted = host(min_diffs=4, max_diffs=4, num_cycles=1)
    workers = [Caller(node, "socket", hosted) for _ in range(6)]
    for worker in workers:
        worker.ask()
    for gone in (workers.pop(0), workers.pop(2)):
        gone.close()
    assert [worker.report(DIFF)["code"] for worker in workers] == [None] * 4
    assert rows(node, hosted["process"])[-1]["outcome"] == "completed"
    for worker in workers:
        worker.close()


# ---- what is answered


def test_no_answer_has_a_traceback(node: NodeUnderTest, host: Host) -> None:
    hosted = host(num_cycles=1)
    worker = Caller(node, "socket", hosted)
    worker.ask()
    kinds = ["host-training", "authenticate", "cycle-request", "report", "get-model", "get-plan", "retrieve-model", "?"]
    members: list[Any] = [{}, {"worker_id": 1}, {"model": "é" * 300}, {**worker.ids(), "diff": "%%"}]
    members += [{**worker.ids(), "diff": base64.b64encode(b"\x80\x04N.").decode()}, {"plans": [], "model": "zz"}]
    asked = [{"type": f"model-centric/{kind}", "data": data} for kind in kinds for data in members]
    answers = [json.dumps(answer) for answer in talk(node, *asked, "[]", "{", token=TOKEN)]
    with node.http() as http:
        for kind in kinds:
            for data in members:
                answers.append(http.post(f"/model-centric/{kind}", json=data).text)
                answers.append(http.get(f"/model-centric/{kind}", params={k: str(v) for k, v in data.items()}).text)
    assert not any("Traceback" in answer or 'File "' in answer or ".py" in answer for answer in answers)
    assert all("error" in answer or "status" in answer or answer == "Method Not Allowed" for answer in answers[:50])
    worker.close()
