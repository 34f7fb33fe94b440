"""A session and its node's accounts: logging in, managing users and tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import gridkit as gk
from gridkit.client import credentials
from gridkit.errors import AccessError, ConflictError, NodeError, NotFoundError, UsageError
from tests.training import mlp, plan_of, shards

ADA = {"username": "ada", "password": "analytical engine"}


@pytest.fixture(scope="module")
def owner() -> Iterator[gk.Session]:
    with gk.launch(workers=0) as grid:
        grid.add_user("ada", password=ADA["password"])
        yield grid


@pytest.fixture
def ada(owner: gk.Session) -> Iterator[gk.Session]:
    with gk.connect(owner.url, user=ADA) as grid:
        yield grid


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.delenv("GRIDKIT_TOKEN", raising=False)


def test_the_owner_manages_accounts(owner: gk.Session) -> None:
    owner.add_user("bob", "worker")
    with pytest.raises(ConflictError, match="bob"):
        owner.add_user("bob")
    assert owner.users == ["ada", "bob"] and owner.users["bob"]["role"] == "worker"
    assert owner.users["ada"]["password"] is True and owner.users["bob"]["password"] is False
    owner.remove_user("bob")
    with pytest.raises(NotFoundError, match="bob"):
        owner.remove_user("bob")
    with pytest.raises(NodeError):
        owner.add_user("a/b")
    with pytest.raises(NodeError):
        owner.add_user("eve", "emperor")
    assert owner.users == ["ada"]


def test_the_session_acts_as_who_logged_in(owner: gk.Session) -> None:
    with gk.connect(owner.url, token=owner._core._embedded.token) as grid:
        assert "acts as" not in repr(grid)
        assert grid.authenticate(ADA) is None
        assert "acts as ada" in repr(grid) and "acts as ada" in grid._repr_html_()
        assert grid.users == ["ada"]
        with pytest.raises(AccessError, match="add-user"):
            grid.add_user("eve")
        model = mlp()
        hosted = grid.host_training(
            model, plan_of(model, shards()), name="adas", server_config={"num_cycles": 1, "min_diffs": 1}
        )
        assert list(grid.runs) == [("adas", "1.0")]
        hosted.run.stop(now=True)


def test_a_refused_login_changes_nothing(owner: gk.Session, ada: gk.Session) -> None:
    with pytest.raises(AccessError, match="Invalid username/password!"):
        ada.authenticate({**ADA, "password": "wrong password"})
    with pytest.raises(AccessError, match="Invalid username/password!"):
        ada.authenticate({**ADA, "username": "nobody"})
    assert "acts as ada" in repr(ada) and ada.users == ["ada"]
    with pytest.raises(AccessError, match="Invalid username/password!"):
        gk.connect(owner.url, user={**ADA, "password": "wrong password"})


def test_a_login_works_when_the_former_token_has_ended(owner: gk.Session) -> None:
    token = owner.issue_token(user="ada", label="short")
    with gk.connect(owner.url, token=token.secret) as grid:
        owner.revoke_token(token)
        with pytest.raises(AccessError):
            _ = grid.users
        grid.authenticate(ADA)
        assert grid.users == ["ada"]


def test_a_name_of_the_credentials_file_logs_in(owner: gk.Session, tmp_path: Path) -> None:
    file = tmp_path / ".openmined" / "auth.user"
    file.parent.mkdir()
    file.write_text(f'{{"credential": [{{"username": "ada", "password": "{ADA["password"]}"}}]}}')
    file.chmod(0o600)
    with gk.connect(owner.url, user="ada") as grid:
        assert "acts as ada" in repr(grid)
        with pytest.raises(UsageError, match="'bob'"):
            grid.authenticate("bob")


def test_tokens_are_api_keys_with_scope_and_end(owner: gk.Session, ada: gk.Session) -> None:
    token = ada.issue_token(scopes=["browse"], expires=timedelta(hours=1), label="nightly")
    assert (token.user, token.scopes, token.label) == ("ada", ("browse",), "nightly")
    assert timedelta(minutes=59) < token.expires - datetime.now(UTC) <= timedelta(hours=1)
    known = ada.tokens[token.id]
    assert (known["user"], known["scopes"], known["label"]) == ("ada", ["browse"], "nightly")
    assert token.id in owner.tokens
    with gk.connect(owner.url, token=token.secret) as script:
        assert script.users == ["ada"]
        with pytest.raises(AccessError, match="scope 'manage'"):
            script.issue_token()
    ada.revoke_token(token.id)
    assert token.id not in ada.tokens
    with pytest.raises(AccessError):
        gk.connect(owner.url, token=token.secret)
    with pytest.raises(NotFoundError):
        ada.revoke_token(token.id)


def test_a_saved_token_is_found_by_connect(owner: gk.Session, ada: gk.Session) -> None:
    token = ada.issue_token(label="saved")
    assert token.save() == credentials.own_file()
    with gk.connect(owner.url) as script:
        assert script.users == ["ada"]


def test_a_password_is_changed_by_who_has_it(owner: gk.Session) -> None:
    owner.add_user("carol", password="first password")
    with gk.connect(owner.url, user={"username": "carol", "password": "first password"}) as carol:
        carol.set_password("carol", "second password")
        with pytest.raises(AccessError):
            carol.set_password("ada", "third password")
    with pytest.raises(AccessError, match="Invalid username/password!"):
        gk.connect(owner.url, user={"username": "carol", "password": "first password"})
    gk.connect(owner.url, user={"username": "carol", "password": "second password"}).close()
    owner.remove_user("carol")


def test_w17_no_secret_is_in_what_a_notebook_shows(owner: gk.Session, ada: gk.Session) -> None:
    token = ada.issue_token(label="shown")
    token_of_login = ada._core._link._http.headers["authorization"].removeprefix("Bearer ")
    shown: list[Any] = [ada, ada._core, ada._core._link, token, ada.tokens, ada.users]
    text = "".join(map(repr, shown))
    text += ada._repr_html_() + ada.tokens._repr_html_() + ada.tokens.to_frame().to_string(max_colwidth=None)
    for secret in (token.secret, token.secret[-20:], token_of_login, ADA["password"], owner._core._embedded.token):
        assert secret not in text
    assert token.id in text


def test_the_audit_log_is_a_frame_for_the_owner(owner: gk.Session, ada: gk.Session) -> None:
    owner.add_user("dora")
    owner.remove_user("dora")
    with pytest.raises(AccessError):
        ada.add_user("eve")
    log = owner.audit()
    assert str(log["time"].dt.tz) == "UTC" and log["time"].is_monotonic_increasing
    done = log[log["object"] == "dora"]
    assert list(done["who"]) == ["owner", "owner"] and set(done["verdict"]) == {"done"}
    refused = log[(log["verdict"] == "FORBIDDEN") & (log["who"] == "ada")].iloc[-1]
    assert (refused["role"], refused["suppressed"], refused["lost"]) == ("data scientist", 0, 0)
    assert ADA["password"] not in log.to_csv()
    assert len(owner.audit(limit=2)) == 2
    with pytest.raises(AccessError, match="read-audit"):
        ada.audit()


def test_the_terminal_is_asked_where_there_are_no_widgets(ada: gk.Session, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(credentials, "can_ask", lambda: True)
    monkeypatch.setattr("builtins.input", lambda text: asked.append(text) or "ada")
    monkeypatch.setattr("getpass.getpass", lambda text: asked.append(text) or ADA["password"])
    ada.authenticate()
    assert asked == [f"user at {ada.url}: ", "password: "] and "acts as ada" in repr(ada)


def test_the_same_in_async_code(owner: gk.Session) -> None:
    async def main() -> None:
        async with await gk.aio.connect(owner.url, user=ADA) as grid:
            assert await grid.users() == ["ada"]
            token = await grid.issue_token(expires=60)
            await grid.revoke_token(token)
            assert await grid.authenticate(ADA) is None and "acts as ada" in repr(grid)

    asyncio.run(main())
