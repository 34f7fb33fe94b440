"""Projects, runs and metrics over HTTP, as the original's client asks for them."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from gridkit.node.projects import MAX_PROJECTS
from tests.node.grid import refused
from tests.support import TOKEN, NodeUnderTest

PLACE = "/api/v0/teacher/projects/"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeUnderTest]:
    node = NodeUnderTest(tmp_path_factory.mktemp("node") / "data")
    yield node
    assert node.terminate() == 0
    assert "Traceback" not in "".join(node.said)


@pytest.fixture
def http(node: NodeUnderTest) -> Iterator[httpx.Client]:
    with keyed(node, TOKEN) as client:
        yield client


def keyed(node: NodeUnderTest, key: str) -> httpx.Client:
    return node.http(None, headers={"authorization": f"Api-Key {key}"})


def made(http: httpx.Client, title: str) -> str:
    """A new project; its path."""
    answer = http.post(PLACE, json={"display_name": title, "visibility": "RESTRICTED"})
    assert answer.status_code == 201, answer.text
    return f"{PLACE}{answer.json()['slug']}/"


def begun(http: httpx.Client, place: str, **wish: Any) -> dict[str, Any]:
    answer = http.post(f"{place}runs/", json={"status": "RUNNING", **wish})
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def moment(text: str) -> datetime:
    assert text.endswith("Z")
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def test_a_key_is_verified(node: NodeUnderTest, http: httpx.Client) -> None:
    assert http.get("/api/v0/verify-api-key/").json()["username"] == "owner"
    ana = node.add_user("ana")
    wrong = [keyed(node, key) for key in ("None", ana[:-1], "x" * 24)]
    with keyed(node, ana) as hers:
        told = hers.get("/api/v0/verify-api-key/")
        assert (told.status_code, told.json()["username"], told.json()["email"]) == (200, "ana", "")
    for stranger in wrong:
        refused(stranger.get("/api/v0/verify-api-key/"), 401, "UNAUTHENTICATED")


def test_a_project_is_what_clients_read_of_it(http: httpx.Client) -> None:
    refused(http.get(f"{PLACE}lesson-1/"), 404, "NOT_FOUND")
    new = http.post(PLACE, json={"display_name": "Lesson 1", "visibility": "TEAM"})
    shown = new.json()
    assert new.status_code == 201
    assert (shown["display_name"], shown["slug"], shown["visibility"]) == ("Lesson 1", "lesson-1", "RESTRICTED")
    assert (shown["role"], shown["org_slug"], shown["org_display_name"]) == ("OWNER", "teacher", "teacher")
    assert uuid.UUID(shown["uuid"]) and uuid.UUID(shown["org_uuid"]) and shown["last_run_date"] is None
    assert abs(moment(shown["date_created"]) - datetime.now(UTC)) < timedelta(minutes=5)
    assert http.get(f"{PLACE}lesson-1/").json() == shown
    again = http.post(PLACE, json={"display_name": "lesson 1"})
    assert (again.status_code, again.json()) == (201, shown)  # two notebooks that look for it at one time
    run = begun(http, f"{PLACE}lesson-1/")
    assert http.get(f"{PLACE}lesson-1/").json() == {**shown, "last_run_date": run["date_created"]}


def test_a_run_is_what_clients_read_of_it(http: httpx.Client) -> None:
    place = made(http, "Runs")
    run = begun(http, place, name="first", description="of\nmany")
    assert run["project"] == {"uuid": run["project"]["uuid"], "display_name": "Runs", "slug": "runs"}
    assert run["user"]["username"] == run["user"]["slug"] == "owner" and uuid.UUID(run["user"]["uuid"])
    assert (run["name"], run["description"], run["status"]) == ("first", "of\nmany", "RUNNING")
    names = [begun(http, place, **wish)["name"] for wish in ({"name": "first"}, {}, {"name": "run_3"}, {"name": "fir"})]
    assert names == ["first_1", "run_3", "run_3_1", "fir"]
    ended = http.patch(f"{place}runs/{run['uuid']}/", json={"status": "COMPLETED"})
    assert (ended.status_code, ended.json()["status"]) == (200, "COMPLETED")
    assert moment(ended.json()["date_updated"]) > moment(ended.json()["date_created"])
    listed = http.get(f"{place}runs/").json()["runs"]
    assert listed[0] == ended.json() and [one["name"] for one in listed] == ["first", *names]
    assert [one["name"] for one in http.get(f"{place}runs/", params={"after": 3}).json()["runs"]] == names[2:]


def test_a_name_with_signs_of_a_pattern_is_a_name(http: httpx.Client) -> None:
    place = made(http, "Patterns")
    names = [begun(http, place, name=name)["name"] for name in ("a_1", "a%", "a", "a", "a", "a%", "b", "aX1")]
    assert names == ["a_1", "a%", "a", "a_2", "a_3", "a%_1", "b", "aX1"]


def test_metrics_are_kept_in_order(http: httpx.Client) -> None:
    place = made(http, "Metrics")
    log = f"{place}runs/{begun(http, place)['uuid']}/metrics/"
    wishes: list[dict[str, Any]] = [
        {"name": "loss", "value": 0.5},
        {"name": "loss", "value": 0.25, "step": 10},
        {"name": "loss", "value": 0.125},
        {"name": "table", "value": {"a": [1, None, "x"]}},
        {"name": "loss", "value": None, "step": -1},
    ]
    for wish in wishes:
        assert http.post(log, json=wish).status_code == 201
    listed = http.get(log).json()["metrics"]
    assert [(row["name"], row["value"]) for row in listed] == [(wish["name"], wish["value"]) for wish in wishes]
    assert [row["step"] for row in listed] == [0, 10, 11, 0, -1]
    assert http.get(log, params={"after": 3}).json()["metrics"] == listed[3:]
    for wrong in ({"name": "loss"}, {"value": 1}, {"name": "a", "value": 1, "step": "1"}, {"name": "", "value": 1}):
        refused(http.post(log, json=wrong), 400, "BAD_REQUEST")
    refused(http.get(log, params={"after": "-1"}), 400, "BAD_REQUEST")
    assert http.patch(log.removesuffix("metrics/"), json={"status": "CRASHED"}).status_code == 200
    refused(http.post(log, json=wishes[0]), 409, "RUN_OVER")
    assert http.get(log).json()["metrics"] == listed


def test_what_is_wrong_changes_nothing(http: httpx.Client) -> None:
    place = made(http, "Wrong")
    for title in ("", "数据", "a\nb", 5, None, "x" * 201):
        refused(http.post(PLACE, json={"display_name": title}), 400, "BAD_REQUEST")
    refused(http.post(PLACE, json={"display_name": "fine", "visibility": "SECRET"}), 400, "BAD_REQUEST")
    refused(http.post(f"{place}runs/", json={"status": "PAUSED"}), 400, "BAD_REQUEST")
    refused(http.post(f"{PLACE}nothing/runs/", json={}), 404, "NOT_FOUND")
    run, other = begun(http, place), begun(http, made(http, "Other"))
    refused(http.patch(f"{place}runs/{run['uuid']}/", json={"status": "PAUSED"}), 400, "BAD_REQUEST")
    for id in (other["uuid"], "nothing", run["uuid"].upper()):  # another project's, or nobody's
        refused(http.patch(f"{place}runs/{id}/", json={"status": "FAILED"}), 404, "NOT_FOUND")
        refused(http.post(f"{place}runs/{id}/metrics/", json={"name": "a", "value": 1}), 404, "NOT_FOUND")
        refused(http.get(f"{place}runs/{id}/metrics/"), 404, "NOT_FOUND")
    assert http.get(f"{place}runs/").json()["runs"] == [run]


def test_each_account_has_its_own(node: NodeUnderTest, http: httpx.Client) -> None:
    place = made(http, "Shared name")
    run = begun(http, place)
    with keyed(node, node.add_user("ben")) as his:
        for path in (place, f"{place}runs/", f"{place}runs/{run['uuid']}/metrics/"):
            refused(his.get(path), 404, "NOT_FOUND")
        refused(his.delete(place), 404, "NOT_FOUND")
        assert made(his, "Shared name") == place
        refused(his.get(f"{place}runs/{run['uuid']}/metrics/"), 404, "NOT_FOUND")
        assert begun(his, place)["user"]["username"] == "ben"
    assert http.get(f"{place}runs/").json()["runs"] == [run]
    assert http.get(f"/api/v0/another/projects/{place.split('/')[-2]}/").status_code == 404


def test_an_account_has_as_much_as_it_may(tmp_path: Path) -> None:
    node = NodeUnderTest(tmp_path / "data", "--limit", "project_rows=6", "--limit", "project_bytes=2000")
    try:
        with keyed(node, TOKEN) as http, keyed(node, node.add_user("ana")) as hers:
            place = made(http, "Full")
            log = f"{place}runs/{begun(http, place)['uuid']}/metrics/"
            refused(http.post(log, json={"name": "large", "value": "x" * 2000}), 429, "TOO_MANY")
            for value in range(4):
                assert http.post(log, json={"name": "loss", "value": value}).status_code == 201
            refused(http.post(log, json={"name": "loss", "value": 5}), 429, "TOO_MANY")
            refused(http.post(f"{place}runs/", json={}), 429, "TOO_MANY")
            refused(http.post(PLACE, json={"display_name": "one more"}), 429, "TOO_MANY")
            assert len(http.get(log).json()["metrics"]) == 4
            made(hers, "Full")
            assert http.delete(place).status_code == 204
            refused(http.get(place), 404, "NOT_FOUND")
            assert begun(http, made(http, "Full"))["name"] == "run_1"  # nothing of the old one is left
    finally:
        node.terminate()


def test_an_account_has_so_many_projects(tmp_path: Path) -> None:
    node = NodeUnderTest(tmp_path / "data")
    try:
        with keyed(node, TOKEN) as http:
            made(http, "First")
            with sqlite3.connect(tmp_path / "data" / "grid.db", timeout=20) as c:
                columns = "id, owner, namespace, slug, title, created_at, rows, size"
                rows = [(f"{n}", "owner", "teacher", f"p{n}", f"P{n}", 0.0, 1, 2) for n in range(MAX_PROJECTS - 1)]
                c.executemany(f"INSERT INTO project ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
            refused(http.post(PLACE, json={"display_name": "one more"}), 429, "TOO_MANY")
            assert made(http, "First") and begun(http, f"{PLACE}p0/")["project"]["display_name"] == "P0"
            assert http.delete(f"{PLACE}p0/").status_code == 204
            made(http, "one more")
    finally:
        node.terminate()


def test_all_is_there_after_a_kill(tmp_path: Path) -> None:
    node = NodeUnderTest(tmp_path / "data")
    try:
        with keyed(node, TOKEN) as http:
            place = made(http, "Kept")
            run = begun(http, place)
            http.post(f"{place}runs/{run['uuid']}/metrics/", json={"name": "loss", "value": 0.5})
            paths = (place, f"{place}runs/", f"{place}runs/{run['uuid']}/metrics/")
            before = [http.get(path).json() for path in paths]
            node.kill()
        node.start()
        with keyed(node, TOKEN) as http:
            assert [http.get(path).json() for path in paths] == before
            assert (
                http.post(f"{place}runs/{run['uuid']}/metrics/", json={"name": "loss", "value": 1}).json()["step"] == 1
            )
    finally:
        node.terminate()
