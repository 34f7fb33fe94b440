"""grid.invite: who may be invited to what, what an invitation shows, and through which interface guests come."""

from __future__ import annotations

import asyncio
import datetime as dt
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
import segno
import torch
from torch import nn

import gridkit as gk
from gridkit.aio.invitations import own_address
from gridkit.errors import ConflictError, NodeError, NodeUnreachable, NotFoundError, PlanError
from gridkit.invitation import Invitation
from gridkit.node.join import COMMAND
from tests.joining import libraries
from tests.training import mlp, plan_of, shards


@pytest.fixture(scope="module")
def grid() -> Iterator[gk.Session]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRIDKIT_JOIN", str(libraries()))
        with gk.launch(workers=0) as grid:
            yield grid


def hosted(grid: gk.Session, name: str, model: nn.Module | None = None, **server: Any) -> Any:
    model = model or mlp()
    plan = plan_of(model, shards())
    return grid.host_training(model, plan, name=name, client_config={"lr": None}, server_config=server)


def facts_of(invitation: Invitation) -> dict[str, str]:
    return {key: values[0] for key, values in parse_qs(urlsplit(invitation.url).fragment).items()}


def enter(invitation: Invitation) -> httpx.Response:
    facts = facts_of(invitation)
    wish = {"model_name": facts["name"], "model_version": facts["version"], "auth_token": facts["token"]}
    node = invitation.page.removesuffix("/join")
    return httpx.post(f"{node}/model-centric/authenticate", json=wish, trust_env=False)


def test_an_invitation_is_for_the_training_hosted_last(grid: gk.Session) -> None:
    hosted(grid, "first")
    hosted(grid, "second & <third>", num_cycles=3)
    grid.train(mlp(), plan_of(mlp(), shards()), name="a roster", clients=shards(2), rounds=1).wait(60)
    invitation = grid.invite()
    assert (invitation.name, invitation.version) == ("second & <third>", "1.0")
    assert invitation.page == f"{grid.url}/join" and invitation.local
    facts = facts_of(invitation)
    assert (facts["name"], facts["features"], facts["classes"], facts["lr"]) == ("second & <third>", "12", "4", "0.1")
    left = invitation.expires_at - dt.datetime.now(dt.UTC)
    assert dt.timedelta(hours=23) < left <= dt.timedelta(hours=24)
    assert [enter(invitation).status_code for _ in range(2)] == [200, 401]
    assert enter(grid.invite("first")).status_code == 200


def test_a_training_of_images_names_what_a_drawing_has(grid: gk.Session) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 36, 10))
    plan = gk.training_plan(
        model, nn.functional.cross_entropy, gk.SGD(lr=0.1), (torch.zeros(4, 1, 8, 8), torch.zeros(4, dtype=torch.int64))
    )
    grid.host_training(model, plan, name="images", client_config={"lr": 0.5})
    facts = facts_of(grid.invite("images", "1.0"))
    assert (facts["features"], facts["classes"]) == ("64", "10") and "lr" not in facts


def test_an_invitation_ends_when_it_was_said_to(grid: gk.Session) -> None:
    hosted(grid, "soon over")
    invitation = grid.invite("soon over", expires=0.01)
    assert enter(invitation).status_code == 401
    with pytest.raises(NodeError, match="expires"):
        grid.invite("soon over", expires=-1)


def test_who_can_not_be_invited(grid: gk.Session) -> None:
    with pytest.raises(NotFoundError, match="'nothing'"):
        grid.invite("nothing")
    grid.train(mlp(), plan_of(mlp(), shards()), name="its own workers", clients=shards(2), rounds=1).wait(60)
    with pytest.raises(ConflictError, match="is over"):
        grid.invite("its own workers")
    process = hosted(grid, "stopped")
    process.run.stop(now=True)
    process.run.wait(30)
    with pytest.raises(ConflictError, match="is over"):
        grid.invite("stopped")
    model = mlp()
    plan = plan_of(model, shards(), momentum=0.9)
    grid.host_training(model, plan, name="with momentum")
    with pytest.raises(PlanError, match=r"guests can't train 'with momentum' 1.0: the optimiser keeps"):
        grid.invite("with momentum")


def test_a_node_without_a_training_or_without_the_page_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRIDKIT_JOIN", str(tmp_path))
    with gk.launch(workers=0) as grid:
        with pytest.raises(NotFoundError, match=r"no training on .* is open to guests"):
            grid.invite()
        hosted(grid, "digits")
        with pytest.raises(NodeError, match="no page for guests") as caught:
            grid.invite()
        assert caught.value.hint is not None and COMMAND in caught.value.hint


def test_the_async_session_invites_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRIDKIT_JOIN", str(libraries()))

    async def invited() -> str:
        async with await gk.aio.launch(workers=0) as grid:
            model = mlp()
            await grid.host_training(model, plan_of(model, shards()), name="digits")
            return (await grid.invite()).name

    assert asyncio.run(invited()) == "digits"


# -- what it shows

TOKEN = "eyJhbGciOiJIUzI1NiJ9.secret-of-the-guest.sig"
UNTIL = dt.datetime(2026, 5, 4, 9, 30, tzinfo=dt.UTC)


def invitation(page: str = "http://10.0.0.7:5000/join", name: str = "digits") -> Invitation:
    return Invitation(page, name, "1.0", TOKEN, UNTIL, features=64, classes=10)


class Read(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def one(self, tag: str) -> dict[str, str | None]:
        (found,) = [attributes for name, attributes in self.found if name == tag]
        return found


def test_w17_the_token_stands_in_no_text(capsys: pytest.CaptureFixture[str]) -> None:
    made = invitation()
    print(made, repr(made), str(made), f"{made}", dir(made), [made])
    assert TOKEN not in capsys.readouterr().out
    assert repr(made) == (
        "<Invitation to 'digits' 1.0 for one guest, until 2026-05-04 09:30 UTC, at http://10.0.0.7:5000/join>"
    )


def test_the_token_stands_where_no_server_is_told_it() -> None:
    parts = urlsplit(invitation().url)
    assert TOKEN in parts.fragment and not parts.query and parts.path == "/join"


def test_the_card_has_the_code_and_the_address_as_text() -> None:
    made = invitation()
    read = Read(made._repr_html_())
    assert made.url in read.text and read.one("a")["href"] == made.url
    assert read.one("a")["rel"] == "noopener noreferrer"
    label = read.one("svg")["aria-label"]
    assert read.one("svg")["role"] == "img" and label is not None and "'digits' 1.0" in label and TOKEN not in label
    assert "Only this machine" not in read.text and "Without TLS" in read.text
    assert "Without TLS" not in Read(invitation("https://grid.example.org/join")._repr_html_()).text


def test_the_code_is_the_address() -> None:
    made = invitation(name="a name of ünïcode & spaces")
    read = Read(made.qr())
    sides = read.one("svg")["viewbox"]
    assert sides is not None
    side = int(sides.split()[-1])
    drawn = [[0] * side for _ in range(side)]
    for x, y, run in re.findall(r"M(\d+) (\d+)h(\d+)v1h-\3z", str(read.one("path")["d"])):
        drawn[int(y)][int(x) : int(x) + int(run)] = [1] * int(run)
    code = segno.make_qr(made.url, error="l", boost_error=False)
    assert drawn == [[int(dark) for dark in row] for row in code.matrix_iter(border=4)]
    assert facts_of(made)["name"] == "a name of ünïcode & spaces"


def test_on_one_machine_it_says_what_opens_it_to_others() -> None:
    made = invitation("http://127.0.0.1:41234/join")
    assert made.local and "on this machine" in repr(made)
    assert 'gk.launch(host="0.0.0.0")' in Read(made._repr_html_()).text


def test_w11_names_are_text_in_the_card() -> None:
    read = Read(invitation(name='<img src=x onerror="alert(1)">')._repr_html_())
    assert "img" not in {tag for tag, _ in read.found}


# -- how guests come


@pytest.mark.parametrize(
    ("host", "page"),
    [
        ("192.168.1.5", "http://192.168.1.5:{port}/join"),
        ("lab.example.org", "http://lab.example.org:{port}/join"),
        ("lab.example.org:80", "http://lab.example.org:80/join"),
        ("2001:db8::7", "http://[2001:db8::7]:{port}/join"),
        ("https://grid.example.org/grid/", "https://grid.example.org/grid/join"),
    ],
)
def test_guests_come_by_the_host_that_is_named(grid: gk.Session, host: str, page: str) -> None:
    hosted(grid, f"by {host}")
    made = grid.invite(f"by {host}", host=host)
    assert made.page == page.format(port=urlsplit(grid.url).port) and not made.local


def test_a_node_on_all_interfaces_is_reached_by_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRIDKIT_JOIN", str(libraries()))
    with gk.launch(host="0.0.0.0", workers=1) as grid:
        assert grid.url.startswith("http://127.0.0.1:")
        grid.train(mlp(), plan_of(mlp(), shards()), name="work", clients=shards(2), rounds=1).wait(60)
        hosted(grid, "open")
        made = grid.invite()
        own = own_address()
        if own is None:  # a machine without a network
            assert made.local
            return
        assert made.page == f"http://{own}:{urlsplit(grid.url).port}/join" and not made.local
        assert httpx.get(made.page, trust_env=False).status_code == 200  # its Host is one of the node's own
        asked = {"origin": made.page.removesuffix("/join"), "accept": "*/*"}
        assert httpx.get(f"{made.page}/join.js", headers=asked, trust_env=False).status_code == 200
        assert enter(made).status_code == 200


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, Path]]:
    folder, made = tmp_path_factory.mktemp("tls"), []
    for name in ("lab", "other"):
        paths = folder / f"{name}.pem", folder / f"{name}.key"
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"]
        more = ["-addext", f"subjectAltName=DNS:{name}.example.org", "-out", str(paths[0]), "-keyout", str(paths[1])]
        subprocess.run([*command, *more], check=True, capture_output=True)
        made.append(paths)
    return made


def test_a_launched_node_may_speak_tls(
    certificates: list[tuple[Path, Path]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its session and its workers know its certificate, whatever names stand in it; and no other one."""
    monkeypatch.setenv("GRIDKIT_JOIN", str(libraries()))
    (certificate, key), (_, _) = certificates
    chain = tmp_path / "chain.pem"
    chain.write_text(certificate.read_text() + certificates[1][0].read_text())
    with gk.launch(host="0.0.0.0", certfile=chain, keyfile=key, workers=1) as grid:
        assert grid.url.startswith("https://127.0.0.1:")
        grid.train(mlp(), plan_of(mlp(), shards()), name="work", clients=shards(2), rounds=1).wait(60)
        hosted(grid, "open")
        assert grid.invite(host="lab.example.org").page.startswith("https://lab.example.org:")
        token = grid._core._embedded.token
        with pytest.raises(NodeUnreachable, match="certificate verify failed"):
            gk.connect(grid.url, token=token)


def test_a_session_trusts_its_own_nodes_certificate_only(certificates: list[tuple[Path, Path]], tmp_path: Path) -> None:
    """Not those that stand behind it in the file: who signed it may sign others."""
    from gridkit.client.link import Link
    from tests.support import NodeUnderTest

    (certificate, _), (other, key) = certificates
    chain = tmp_path / "chain.pem"
    chain.write_text(certificate.read_text() + other.read_text())
    node = NodeUnderTest(tmp_path / "data", "--certfile", str(other), "--keyfile", str(key))
    try:
        script = (
            "import asyncio, sys\n"
            "from gridkit.client.link import Link\n"
            "print(asyncio.run(Link(sys.argv[1], certificate=sys.argv[2]).json('GET', '/status/')))\n"
        )
        for file, well in ((chain, False), (other, True)):
            done = subprocess.run([sys.executable, "-c", script, node.url, file], capture_output=True, text=True)
            assert (done.returncode == 0) is well and well is not ("verify failed" in done.stderr), done.stderr
    finally:
        node.terminate()
    assert Link("http://127.0.0.1:1", certificate="nowhere.pem").tls is None
