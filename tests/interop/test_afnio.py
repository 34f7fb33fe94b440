"""afnio's client from PyPI, unmodified, against a node: calls both ways, links that break, tensors, runs."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from gridkit.node.slugs import slug_of
from tests.interop.afnio_peer import Afnio, Raised
from tests.support import TOKEN, NodeUnderTest

pytestmark = pytest.mark.interop


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeUnderTest]:
    node = NodeUnderTest(tmp_path_factory.mktemp("node") / "data")
    yield node
    assert node.terminate() == 0
    assert "Traceback" not in "".join(node.said), "".join(node.said)


@pytest.fixture(scope="module")
def afnio(node: NodeUnderTest) -> Iterator[Afnio]:
    afnio = Afnio(node)
    afnio("login")
    afnio("connect", client="plain")
    afnio("connect", client="named", named=True)
    yield afnio
    afnio.close()


# ---- calls


def test_calls(afnio: Afnio) -> None:
    sent = {"n": 1, "x": [1.5, None, True], "text": "größe ∇f 🧮", "large": "y" * 700_000}
    assert afnio("call", client="plain", method="echo", params=sent)["result"] == sent
    assert afnio("many", client="plain", calls=50) == list(range(50))
    error = afnio("call", client="plain", method="nothing")["error"]
    assert error["code"] == -32601 and error["data"]["method"] == "nothing"


def test_a_slow_call_outlives_its_timeout_and_holds_up_nothing(afnio: Afnio) -> None:
    came = afnio("slow", seconds=3.0)
    assert came["reply"] == {"data": 3.0} and came["ahead"] is True
    assert came["beats"] >= 2 and came["of"] == 1


def test_a_wrong_key_is_none(afnio: Afnio) -> None:
    for verb, arguments in (("connect", {"client": "stranger"}), ("verify", {})):
        with pytest.raises(Raised) as raised:
            afnio(verb, key="of nobody here", **arguments)
        assert raised.value.kind in ("RuntimeError", "InvalidAPIKeyError")


@pytest.mark.parametrize("connects", [100, pytest.param(600, marks=[pytest.mark.soak, pytest.mark.timeout(600)])])
def test_of_many_clients_under_load_none_is_deaf(afnio: Afnio, connects: int) -> None:
    """Weak spot 1: its listener and its `connect` read from one socket; the first message must come with the 101."""
    loads = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        assert afnio("deaf", connects=connects) == 0
    finally:
        for load in loads:
            load.kill()
            load.wait()


# ---- links

VARIABLE = {"data": [1.0], "role": "kept", "requires_grad": False, "obj_type": "__variable__"}


def test_it_comes_back_by_hand(afnio: Afnio) -> None:
    first = afnio("connect", client="by hand")
    assert afnio("reconnect", client="by hand") != first
    assert afnio("call", client="by hand", method="echo", params={"n": 1})["result"] == {"n": 1}
    assert afnio("close", client="by hand") is True


@pytest.mark.parametrize("code", [None, 1012], ids=["cut", "1012"])
def test_it_comes_back_by_itself_and_its_call_goes_on(afnio: Afnio, code: int | None) -> None:
    """Asked over one link, answered over another; the variable is still there."""
    kept = afnio("call", client="named", method="create_variable", params=VARIABLE)["result"]["variable_id"]
    ask = {"function_name": "Sleep", "args": [2.0], "kwargs": {}, "grad_enabled": False}
    afnio("start", client="named", method="run_function", params=ask, timeout=6.0)
    afnio("drop", client="named", code=code)
    assert afnio("finish", client="named") == {"result": {"data": 2.0}, "another": True}
    got = afnio("call", client="named", method="get_variable", params={"variable_id": kept})
    assert got["result"]["data"] == [1.0]


def test_it_comes_back_to_a_node_that_starts_again(afnio: Afnio, tmp_path: Path) -> None:
    """It closes with 1012; with another code the client would stay away. What it held is said to be gone."""
    node = NodeUnderTest(tmp_path / "data")
    try:
        afnio("connect", client="kept", named=True, port=node.port)
        lost = afnio("call", client="kept", method="create_variable", params=VARIABLE)["result"]["variable_id"]
        afnio("remember", client="kept")
        assert node.terminate() == 0
        node.start()
        afnio("returned", client="kept")
        assert afnio("call", client="kept", method="echo", params={"n": 1})["result"] == {"n": 1}
        error = afnio("call", client="kept", method="get_variable", params={"variable_id": lost})["error"]
        assert "no variable" in error["data"]["exception"]
    finally:
        node.terminate()


# ---- tensors


def test_a_graph_as_it_is_built(afnio: Afnio) -> None:
    came = afnio("forward")
    assert came["data"] == [11.0, 44.0] and came["sum"] == [22.0, 66.0] and came["leaf"] is False
    leaf = ["AccumulateGrad"]
    assert came["graph"] == ["MulBackward0", ["AddBackward0", leaf, None], leaf]
    assert came["without"] == [False, None]


def test_data_is_what_was_written(afnio: Afnio) -> None:
    """A tensor of the shape that it has: the client demands its own numbers back, digit by digit."""
    for data in ([[1.0, 2.0], [0.1, 3e-8]], 0.5, [1e30, -0.0, 0.7], [[[]]]):
        assert afnio("change", data=data, to=data) == [data, data]
    for wrong in ("a prompt", [1.0, 2.0]):
        with pytest.raises(Raised, match=r"here are str|it is float32\[1\]"):
            afnio("change", data=[0.0], to=wrong)


def test_backward_is_torchs(afnio: Afnio) -> None:
    x, w, seed = [[0.1, 2.0], [3.0, -4.0]], [[0.3, 7.0], [1e-3, 2.5]], [[1.0, 0.5], [0.25, 3.0]]
    came = afnio("backward", x=x, w=w, seed=seed)
    tx, tw = (torch.tensor(values, requires_grad=True) for values in (x, w))
    y = (tx + tx) * tw
    y.backward(torch.tensor(seed))
    assert tx.grad is not None and tw.grad is not None
    assert torch.equal(torch.tensor(came["y"]), y.detach())
    for name, gradient in (("x", tx.grad), ("w", tw.grad)):
        assert torch.equal(torch.tensor(came[name]), torch.stack([gradient, gradient]))


def test_what_is_added_in_place_is_in_the_graph(afnio: Afnio) -> None:
    came = afnio("accumulate", a=[2.0, 3.0], b=[5.0, 7.0])
    assert came == {"c": [20.0, 35.0], "a": [[5.0, 7.0]], "b": [[4.0, 5.0]]}


@pytest.mark.parametrize("options", [{"lr": 0.1}, {"lr": 0.05, "momentum": 0.9}], ids=["plain", "momentum"])
def test_an_optimizer_steps_as_torchs_does(afnio: Afnio, options: dict[str, float]) -> None:
    start, target = [1.0, -0.7, 3.0], [0.3, 0.1, -2.0]
    came = afnio("descend", start=start, target=target, steps=4, **options)
    w, t = torch.nn.Parameter(torch.tensor(start)), torch.tensor(target)
    optimizer = torch.optim.SGD([w], **options)
    for seen in came["seen"]:
        ((w + t) * (w + t)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        assert torch.equal(torch.tensor(seen), w.detach())
    assert came["left"] == []


def test_a_private_function_stays_where_it_is(afnio: Afnio) -> None:
    prediction, target = [1.0, 0.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]
    assert afnio("private", prediction=prediction, target=target) == {"score": 0.75, "got": [[prediction, target]]}
    with pytest.raises(Raised, match="the notebook's own words"):
        afnio("private_that_fails")


@pytest.mark.parametrize("what", ["function", "shapes", "backward", "optimizer"])
def test_what_is_refused_is_said_and_the_session_goes_on(afnio: Afnio, what: str) -> None:
    with pytest.raises(Raised) as raised:
        afnio("refused", what=what)
    assert raised.value.kind == "RuntimeError" and str(raised.value)
    assert afnio("forward")["data"] == [11.0, 44.0]


# ---- runs


def test_login(node: NodeUnderTest, afnio: Afnio) -> None:
    who = afnio("login")
    assert who["username"] == "owner" and who["session_id"]
    assert afnio("verify", key=node.add_user("ana"))["username"] == "ana"


def test_runs_and_what_they_log(node: NodeUnderTest, afnio: Afnio) -> None:
    title = "Übung 1: Größe & Form"
    metrics = [["loss", 0.5, None], ["loss", 0.25, 7], ["loss", 0.125, None], ["table", {"a": [1, None]}, None]]
    first = afnio("begin", namespace="class a", title=title, name="first", metrics=metrics)
    again = afnio("begin", namespace="class a", title=title, name="first", fails=True)
    named = afnio("begin", namespace="class a", title=title)
    assert (first["name"], first["status"], first["user"]) == ("first", "COMPLETED", "owner")
    assert (again["name"], again["status"], named["status"]) == ("first_1", "CRASHED", "COMPLETED")
    place = "/api/v0/class a/projects/ubung-1-grosse-form/"
    with node.http(None, headers={"authorization": f"Api-Key {TOKEN}"}) as http:
        listed = http.get(f"{place}runs/").json()["runs"]
        assert [run["uuid"] for run in listed] == [run["uuid"] for run in (first, again, named)]
        assert [run["status"] for run in listed] == ["COMPLETED", "CRASHED", "COMPLETED"]
        rows = http.get(f"{place}runs/{first['uuid']}/metrics/").json()["metrics"]
    assert [(row["name"], row["value"]) for row in rows] == [(name, value) for name, value, _ in metrics]
    assert [row["step"] for row in rows] == [0, 7, 8, 0]
    assert afnio("find", namespace="class a", slug="ubung-1-grosse-form") == {"title": title, "ran": True}
    assert afnio("find", namespace="class b", slug="ubung-1-grosse-form") is None
    afnio("forget", namespace="class a", slug="ubung-1-grosse-form")
    assert afnio("find", namespace="class a", slug="ubung-1-grosse-form") is None


def test_paths_are_made_of_titles_as_the_client_makes_them(afnio: Afnio) -> None:
    """Wherever the node makes one. Letters of which it knows less than the client it refuses."""
    letters = [chr(number) for number in (*range(32, 0x250), *range(0x2010, 0x2040), 0x3A9, 0x6570)]
    chance = random.Random(11)
    known = [letter for letter in letters if made_of(f"a{letter}b")]
    titles = [f"a{letter}b" for letter in known] + [f"1{letter}2 x" for letter in known]
    titles += ["".join(chance.choices(known, k=chance.randrange(1, 30))) for _ in range(2000)]
    made = {title: slug for title in titles if (slug := made_of(title))}
    assert len(made) > 2000
    assert dict(zip(made, afnio("slugs", titles=list(made)), strict=True)) == made


def made_of(title: str) -> str | None:
    try:
        return slug_of(title)
    except ValueError:
        return None
