"""Files with names, passwords and tokens, which nobody else can read."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from gridkit.client import credentials
from gridkit.client.credentials import Login, login_of, store_token, stored_logins, stored_token
from gridkit.errors import UsageError

URL = "http://127.0.0.1:5000"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    return tmp_path


def write(file: Path, kept: Any, mode: int = 0o600) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(kept if isinstance(kept, bytes) else json.dumps(kept).encode())
    file.chmod(mode)


def test_without_files_nothing_is_known() -> None:
    assert stored_logins() == {} and stored_token(URL) is None
    with pytest.raises(UsageError, match="no credentials file has a password for 'ada'"):
        login_of("ada")


def test_logins_come_from_both_files_and_ours_comes_first(home: Path) -> None:
    ours = {URL: "t" * 20, "credential": [{"username": "ada", "password": "ours"}]}
    theirs = {"credential": [{"username": "ada", "password": "theirs"}, {"username": "bob", "password": "b"}]}
    write(credentials.own_file(), ours)
    write(home / ".openmined" / "auth.user", theirs)
    assert login_of("ada") == Login("ada", "ours") and login_of("bob") == Login("bob", "b")
    assert stored_token(URL + "/") == "t" * 20


def test_a_dict_says_who_logs_in_and_stays_as_it_is() -> None:
    user = {"username": "ada", "password": "secret"}
    login = login_of(user)
    assert login == Login("ada", "secret") and user == {"username": "ada", "password": "secret"}
    assert "secret" not in repr(login)
    for wrong in ({}, {"username": "ada"}, {"username": "ada", "password": 5}, 5):
        with pytest.raises(UsageError, match="who logs in"):
            login_of(wrong)  # type: ignore[arg-type]


def test_w7_a_file_that_others_can_read_is_refused(home: Path) -> None:
    for file in (credentials.own_file(), home / ".openmined" / "auth.user"):
        write(file, {"credential": []}, 0o644)
        with pytest.raises(UsageError, match="can be read by others") as caught:
            login_of("ada")
        assert caught.value.hint == f"chmod 600 {file}"
        file.unlink()


@pytest.mark.parametrize(
    "kept", [b"{not json: hunter2", [1], {"credential": 5}, {"credential": [{"username": "hunter2"}]}, b"\xff"]
)
def test_w17_a_file_that_cannot_be_understood_is_named_and_not_quoted(kept: Any) -> None:
    file = credentials.own_file()
    write(file, kept)
    with pytest.raises(UsageError) as caught:
        login_of("ada")
    assert str(file) in str(caught.value) and "hunter2" not in str(caught.value)
    assert caught.value.__context__ is None or caught.value.__suppress_context__


def test_a_stored_token_is_found_again_and_the_rest_stays() -> None:
    write(credentials.own_file(), {"credential": [{"username": "ada", "password": "p"}], "http://other": "x"})
    file = store_token(URL + "/", "gk_1_s")
    assert stored_token(URL) == "gk_1_s" and stored_token("http://other") == "x" and login_of("ada").password == "p"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in file.parent.iterdir()] == ["credentials.json"]


def test_the_first_token_makes_the_file_for_its_owner_alone(home: Path) -> None:
    file = store_token(URL, "gk_1_s")
    assert file == home / ".config" / "gridkit" / "credentials.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_a_file_that_others_can_read_gets_no_token() -> None:
    write(credentials.own_file(), {"http://other": "x"}, 0o640)
    with pytest.raises(UsageError, match="can be read by others"):
        store_token(URL, "gk_1_s")
    assert json.loads(credentials.own_file().read_text()) == {"http://other": "x"}


def test_nobody_is_asked_where_nobody_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "can_ask", lambda: False)
    with pytest.raises(UsageError, match="nobody here to ask"):
        credentials.ask(URL)
