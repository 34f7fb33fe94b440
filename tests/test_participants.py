"""Push participants as the owner of a notebook registers, lists and removes them."""

from __future__ import annotations

import http.client
import itertools
import json
import uuid
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pandas as pd
import pytest

import gridkit as gk
from gridkit.errors import AccessError, ConflictError, ErrorCode, NodeError, NotFoundError, UsageError
from gridkit.listings import Participants
from gridkit.registered import Registered
from gridkit.wire.notifications import signed

ENDPOINT = "http://127.0.0.1:8101/"
MARKUP = '<img src=x onerror="document.body.dataset.xss=1">'
_numbers = itertools.count()


@pytest.fixture(scope="module")
def grid() -> Iterator[gk.Session]:
    with gk.launch(workers=0, allow_targets=["127.0.0.1"]) as grid:
        yield grid


@pytest.fixture
def name() -> str:
    return f"hospital {next(_numbers)}"


def test_a_participant_is_registered_listed_and_removed(grid: gk.Session, name: str) -> None:
    before = list(grid.participants)
    made = grid.push_participant(name, ENDPOINT)
    assert isinstance(made, Registered) and (made.name, made.endpoint) == (name, ENDPOINT)
    assert made.node == f"{grid.url}/push" and str(uuid.UUID(made.id)) == made.id
    assert made.credentials == {"node": made.node, "user": name, "password": made.password, "secret": made.secret}

    listed = grid.participants
    assert isinstance(listed, Participants) and list(listed) == [*before, name] and name in listed
    assert listed[name] == {**listed[name], "name": name, "id": made.id, "endpoint": ENDPOINT, "signed": True}
    assert name in listed._ipython_key_completions_()
    row = listed.to_frame().set_index("name").loc[name]
    assert row["signed"] and isinstance(row["created_at"], pd.Timestamp) and row["id"] == made.id
    assert f"{len(listed)} participant" in listed._repr_html_() and ENDPOINT in listed._repr_html_()
    assert name in grid.users and grid.users[name]["role"] == "worker"

    grid.remove_participant(name)
    assert grid.participants == before and name not in grid.users
    with pytest.raises(NotFoundError, match=name):
        grid.remove_participant(name)
    with pytest.raises(UsageError, match="lists no participant"):
        grid.participants[name]


def test_w17_its_secrets_are_in_no_repr(grid: gk.Session, name: str) -> None:
    made = grid.push_participant(name, ENDPOINT)
    shown = f"{made!r}{made._repr_html_()}{made.command}{grid!r}{grid.participants._repr_html_()}{grid.tokens!r}"
    shown += grid.audit().to_string() + str(vars(grid.participants)) + grid.participants.to_frame().to_string()
    for secret in (made.password, made.token, made.secret):
        assert secret not in shown and len(secret) > 20
    assert name in shown and "GRIDKIT_SECRET" in shown
    with pytest.raises(AttributeError):
        made.secret = "another"  # type: ignore[misc]
    html = Registered(MARKUP, "id", MARKUP, MARKUP, "", "", "")._repr_html_()
    assert "<img" not in html and "&lt;img" in html


def test_its_credentials_are_those_of_serve_participant(grid: gk.Session, name: str) -> None:
    """The node's notifications are believed, a stranger's aren't, and the node knows who answers."""
    made = grid.push_participant(name, ENDPOINT)
    served = gk.serve_participant(train=lambda s, t: (s, 1, {}), test=lambda s, t: {}, port=0, **made.credentials)
    with served:
        body = json.dumps(
            {
                "notification_type": "TRAINING_START",
                "training_uuid": str(uuid.uuid4()),
                "body": {"global_model_uuid": str(uuid.uuid4())},
            }
        ).encode()
        place = urlsplit(served.url)
        for secret, status in ((made.secret, 200), ("a secret of somebody else", 401)):
            connection = http.client.HTTPConnection(str(place.hostname), place.port, timeout=20)
            connection.request("POST", "/", body, signed(secret, body))
            assert connection.getresponse().status == status
            connection.close()
    for auth in ((name, made.password), (made.token, "")):
        answer = httpx.get(f"{made.node}/api/users/myself/", auth=auth, trust_env=False)
        assert answer.status_code == 200 and answer.json()["id"] == made.id


def test_renew_makes_a_cell_that_can_be_run_again(grid: gk.Session, name: str) -> None:
    first = grid.push_participant(name, ENDPOINT, renew=True)
    with pytest.raises(ConflictError, match="already") as caught:
        grid.push_participant(name, "http://127.0.0.1:8102/")
    assert "renew=True" in str(caught.value) and grid.participants[name]["endpoint"] == ENDPOINT
    second = grid.push_participant(name, "http://127.0.0.1:8102/", renew=True)
    assert second.id == first.id and second.endpoint == "http://127.0.0.1:8102/"
    assert not {second.password, second.token, second.secret} & {first.password, first.token, first.secret}
    assert list(grid.participants).count(name) == 1
    with pytest.raises(AccessError):
        gk.connect(grid.url, user={"username": name, "password": first.password})


def test_what_is_refused_says_what_to_do(grid: gk.Session, name: str) -> None:
    before = grid.participants
    with pytest.raises(AccessError, match="private") as caught:
        grid.push_participant(name, "http://10.1.2.3:8101/")
    assert caught.value.code is ErrorCode.TARGET_REFUSED
    for way in ("--allow-target 10.1.2.3:8101", "gk.launch(allow_targets=['10.1.2.3:8101'])"):
        assert way in str(caught.value)
    with pytest.raises(AccessError, match="this node itself"):
        grid.push_participant(name, grid.url)
    for odd in ("hospital:8101", "file:///etc/passwd"):
        with pytest.raises(NodeError, match="URL"):
            grid.push_participant(name, odd)
    with pytest.raises(NodeError, match="name"):
        grid.push_participant("a/b", ENDPOINT)
    assert grid.participants == before


def test_the_advice_of_a_refusal_works() -> None:
    with gk.launch(workers=0) as closed, pytest.raises(AccessError) as caught:
        closed.push_participant("north", ENDPOINT)
    advised = str(caught.value).rpartition("allow_targets=['")[2].partition("'")[0]
    with gk.launch(workers=0, allow_targets=[advised]) as grid:
        assert grid.push_participant("north", ENDPOINT).endpoint == ENDPOINT


def test_a_data_scientist_trains_with_them_and_registers_nobody(grid: gk.Session, name: str) -> None:
    hook = f"{ENDPOINT}hook/4711"
    grid.push_participant(name, hook)
    grid.add_user(f"{name} ada", password="analytical engine")
    with gk.connect(grid.url, user={"username": f"{name} ada", "password": "analytical engine"}) as ada:
        assert (
            ada.participants[name]["endpoint"] == "http://127.0.0.1:8101"
            and "4711" not in ada.participants._repr_html_()
        )
        for attempt in (
            lambda: ada.push_participant(f"{name} x", ENDPOINT),
            lambda: ada.push_participant(name, ENDPOINT, renew=True),
            lambda: ada.remove_participant(name),
        ):
            with pytest.raises(AccessError, match="doesn't allow"):
                attempt()
    assert grid.participants[name]["endpoint"] == hook and f"{name} x" not in grid.users
