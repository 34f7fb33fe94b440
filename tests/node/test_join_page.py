"""The page `/join`, what it loads, and the invitations that it takes."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest

from gridkit.errors import GridkitError, UsageError
from gridkit.node.join import COMMAND, LIBRARIES, LICENSES, STATIC, build, is_built
from gridkit.node.rights import WRONG_TOKEN
from tests.joining import libraries
from tests.support import NodeUnderTest, RawWorker, host_files, rows

Host = Callable[..., dict[str, Any]]


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[NodeUnderTest]:
    """A node whose page isn't built."""
    monkeypatch.setenv("GRIDKIT_JOIN", str(tmp_path / "libraries"))
    node = NodeUnderTest(tmp_path / "data")
    yield node
    node.terminate()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeUnderTest]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRIDKIT_JOIN", str(libraries()))
        node = NodeUnderTest(tmp_path_factory.mktemp("join") / "data")
    yield node
    node.terminate()


def test_without_its_libraries_the_page_says_how_to_get_them(bare: NodeUnderTest) -> None:
    with bare.http(None) as nobody:
        page = nobody.get("/join", headers={"accept": "text/html,*/*;q=0.8"})
        assert page.status_code == 503 and page.headers["content-type"] == "text/html; charset=utf-8"
        assert COMMAND in page.text
        told = nobody.get("/join", headers={"accept": "application/json"})
        assert told.status_code == 503 and told.json()["code"] == "NOT_BUILT" and COMMAND in told.json()["hint"]
        for name in (*LIBRARIES, LICENSES):
            assert nobody.get(f"/join/{name}").status_code == 503
        assert nobody.get("/join/join.css").status_code == 200


def test_a_running_node_takes_the_libraries_as_soon_as_they_are_there(bare: NodeUnderTest, tmp_path: Path) -> None:
    with bare.http(None) as nobody:
        assert nobody.get("/join").status_code == 503
        (tmp_path / "libraries").symlink_to(libraries())
        assert nobody.get("/join").status_code == 200


def test_the_page_and_all_that_it_names_come_from_the_node(built: NodeUnderTest) -> None:
    with built.http(None) as nobody:
        page = nobody.get("/join")
        assert page.status_code == 200 and page.headers["content-type"] == "text/html; charset=utf-8"
        named = set(re.findall(r'(?:src|href)="([^"]+)"', page.text))
        scripts = [name for name in ("join.js", "guest.js", "pad.js", "data.js")]
        imported = {m for name in scripts for m in re.findall(r"from '\./([^']+)'", (STATIC / name).read_text())}
        assert imported == {"guest.js", "pad.js", "data.js"}
        for place in named | {f"join/{name}" for name in imported}:
            answer = nobody.get(f"/{place}")
            assert answer.status_code == 200 and not place.startswith(("http", "/")), place
            assert answer.headers["x-content-type-options"] == "nosniff"


def test_w11_the_page_runs_only_its_own_files(built: NodeUnderTest) -> None:
    with built.http(None) as nobody:
        for path in ("/join", "/join/join.js", "/join/syft.js", "/join/join.css"):
            headers = nobody.get(path).headers
            (policy,) = headers.get_list("content-security-policy")
            rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
            assert rules["default-src"] == "'self'" and "unsafe" not in policy and "http" not in policy
            assert rules["frame-ancestors"] == rules["base-uri"] == rules["object-src"] == "'none'"
            assert headers["referrer-policy"] == "no-referrer" and headers["x-content-type-options"] == "nosniff"
        for name in ("index.html", "missing.html"):
            text = (STATIC / name).read_text()
            assert not re.search(r"<script(?![^>]*src=)|\son\w+=|\sstyle=|<style", text)


@pytest.mark.parametrize("name", ["nothing.js", "..%2f__init__.py", "%2e%2e/build.py", "index.html", "lock", "LICENSE"])
def test_w8_the_page_has_no_other_files(built: NodeUnderTest, name: str) -> None:
    with built.http(None) as nobody:
        assert nobody.get(f"/join/{name}").status_code == 404


def test_pages_elsewhere_stay_without_rights(built: NodeUnderTest) -> None:
    with built.http(None) as nobody:
        policies = nobody.get("/status/").headers.get_list("content-security-policy")
        assert policies == ["default-src 'none'; frame-ancestors 'none'; sandbox"]


# -- building


def test_the_libraries_are_the_known_files(tmp_path: Path) -> None:
    folder = libraries()
    assert is_built(folder) and "Apache License" in (folder / LICENSES).read_text()
    assert "@license" in (folder / "tf-core.min.js").read_text()[:100]


def test_another_file_under_the_same_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archives = tmp_path / "archives"
    archives.mkdir()
    for library in build.FILES:
        folder = tmp_path / library.archive / "package"
        (folder / library.file).parent.mkdir(parents=True)
        (folder / library.file).write_text("alert(1)")
        subprocess.run(["tar", "czf", archives / library.archive, "-C", folder.parent, "package"], check=True)
    npm = tmp_path / "npm"
    npm.write_text(f'#!/bin/sh\nexec cp "{archives}"/*.tgz .\n')
    npm.chmod(0o755)
    monkeypatch.setattr(build.shutil, "which", lambda name: str(npm))
    with pytest.raises(GridkitError, match="isn't the known file"):
        build.build(tmp_path / "libraries")
    assert not (tmp_path / "libraries").exists()
    npm.write_text("#!/bin/sh\necho 'npm error network' >&2\nexit 1\n")
    with pytest.raises(GridkitError, match="npm error network"):
        build.build(tmp_path / "libraries")


def test_without_npm_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build.shutil, "which", lambda name: None)
    with pytest.raises(UsageError, match="npm isn't installed"):
        build.build(tmp_path)
    done = subprocess.run(
        [sys.executable, *COMMAND.split()[1:]], capture_output=True, text=True, env={"PATH": str(tmp_path)}
    )
    assert done.returncode == 1 and "npm isn't installed" in done.stderr and "Traceback" not in done.stderr


# -- invitations


def invite(node: NodeUnderTest, name: str, **wish: Any) -> str:
    with node.http() as http:
        answer = http.post("/model-centric/worker-token", json={"name": name, "version": "1.0", "once": True, **wish})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["worker_token"])


def enter(node: NodeUnderTest, name: str, token: str, **wish: str) -> httpx.Response:
    with node.http(None) as nobody:
        body = {"model_name": name, "model_version": "1.0", "auth_token": token, **wish}
        return nobody.post("/model-centric/authenticate", json=body)


def refused(answer: httpx.Response) -> bool:
    return (answer.status_code, answer.json()["code"], answer.json()["error"]) == (401, "UNAUTHENTICATED", WRONG_TOKEN)


def test_an_invitation_is_good_for_one_worker(node: NodeUnderTest, host: Host) -> None:
    name = host(num_cycles=1)["name"]
    token = invite(node, name)
    with node.http(token) as http:  # and for nothing else
        assert http.get("/model-centric/retrieve-model", params={"name": name}).status_code == 403
        assert http.get("/users").status_code == 403 and http.get("/status/").status_code == 200
    guest = enter(node, name, token)
    assert guest.status_code == 200
    assert refused(enter(node, name, token))
    assert refused(enter(node, name, token, worker_id=guest.json()["worker_id"]))
    with node.http(token) as http:
        assert http.get("/model-centric/retrieve-model", params={"name": name}).status_code == 401


def test_its_worker_works_on_without_it(node: NodeUnderTest, host: Host) -> None:
    hosted = host(num_cycles=1, min_diffs=1, max_diffs=1)
    worker = RawWorker(node, invite(node, hosted["name"]), hosted["name"])
    assert worker.ask()["status"] == "accepted"
    told = [row["worker"] for row in rows(node, hosted["process"], until="assigned") if row["kind"] == "assigned"]
    assert told == ["guest 1"]


def test_guests_are_numbered_or_called_as_they_wish(node: NodeUnderTest, host: Host) -> None:
    hosted = host(num_cycles=1)
    wishes: list[tuple[dict[str, Any], dict[str, str]]] = [
        ({}, {}),
        ({}, {}),
        ({}, {"worker": "Ada"}),
        ({}, {"worker": "Ada"}),
        ({"worker": "front row"}, {"worker": "Ada"}),
    ]
    seen = []
    for wish, said in wishes:
        entered = enter(node, hosted["name"], invite(node, hosted["name"], **wish), **said).json()
        with node.http(None) as nobody:
            ask = {"worker_id": entered["worker_id"], "model": hosted["name"], "version": "1.0"}
            assert nobody.post("/model-centric/cycle-request", json=ask).json()["status"] == "accepted"
        until = [row["worker"] for row in _assigned(node, hosted["process"], len(seen) + 1)]
        seen = until
    assert seen == ["guest 1", "guest 2", "Ada", "Ada (2)", "front row"]


def _assigned(node: NodeUnderTest, run: str, count: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    with node.http() as http, http.stream("GET", "/events", params={"after": 0, "run": run}) as stream:
        for line in stream.iter_lines():
            if line.startswith("data: ") and '"assigned"' in line:
                found.append(httpx.Response(200, content=line[6:]).json())
                if len(found) == count:
                    break
    return found


def test_an_invitation_is_for_its_training(node: NodeUnderTest, host: Host, plan_bytes: bytes) -> None:
    name = host(num_cycles=1)["name"]
    with node.http() as http:
        assert http.post("/model-centric/host-training", files=host_files(plan_bytes, {}, "another")).is_success
    token = invite(node, name)
    assert enter(node, "another", token).status_code == 403
    assert enter(node, name, token).status_code == 200  # it wasn't spent by that


def test_an_invitation_ends(node: NodeUnderTest, host: Host) -> None:
    name = host(num_cycles=1)["name"]
    assert refused(enter(node, name, invite(node, name, expires=0.001)))
    token = invite(node, name)
    token_id = jwt.decode(token, options={"verify_signature": False})["jti"]
    with node.http() as owner:
        assert owner.delete(f"/tokens/{token_id}").status_code == 200
    assert refused(enter(node, name, token))


def test_an_invitation_to_a_full_roster_is_not_spent(node: NodeUnderTest, host: Host) -> None:
    hosted = host(clients=1, num_cycles=1)
    RawWorker(node, hosted["worker_tokens"][0], hosted["name"])
    token = invite(node, hosted["name"])
    for _ in range(2):
        answer = enter(node, hosted["name"], token)
        assert (answer.status_code, answer.json()["code"]) == (403, "FORBIDDEN")


@pytest.mark.faults
def test_c1_what_was_spent_stays_spent_when_the_node_is_killed(tmp_path: Path, plan_bytes: bytes) -> None:
    node = NodeUnderTest(tmp_path / "data")
    try:
        with node.http() as http:
            assert http.post("/model-centric/host-training", files=host_files(plan_bytes, {}, "digits")).is_success
        spent, kept = invite(node, "digits"), invite(node, "digits")
        assert enter(node, "digits", spent).status_code == 200
        node.kill()
        node.start()
        assert refused(enter(node, "digits", spent))
        assert enter(node, "digits", kept).status_code == 200
    finally:
        node.terminate()


def test_of_two_who_come_at_once_one_gets_in(node: NodeUnderTest, host: Host) -> None:
    from concurrent.futures import ThreadPoolExecutor

    name = host(num_cycles=1)["name"]
    token = invite(node, name)
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: enter(node, name, token).status_code, range(8)))
    assert sorted(answers) == [200] + [401] * 7
