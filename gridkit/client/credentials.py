"""Names, passwords and tokens that a person keeps in files which nobody else can read.

gridkit's own is ``~/.config/gridkit/credentials.json`` (under ``$XDG_CONFIG_HOME`` where that is set)::

    {"http://grid.example.org:5000": "gk_…", "credential": [{"username": "ada", "password": "…"}]}

The second member is as in PyGrid's file ``~/.openmined/auth.user``, which is read too.
"""

from __future__ import annotations

import getpass
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gridkit.errors import UsageError


@dataclass(frozen=True, slots=True)
class Login:
    """Who logs in, and with what. The password isn't in the repr."""

    username: str
    password: str = field(repr=False)


def login_of(user: str | Mapping[str, Any] | Login) -> Login:
    """What a person passes as `user`: ``{"username": …, "password": …}``, or a name that is in a credentials file.

    Raises:
        UsageError: it is neither, or the file can be read by others.
    """
    if isinstance(user, Login):
        return user
    if isinstance(user, str):
        known = stored_logins()
        if user not in known:
            raise UsageError(
                f"no credentials file has a password for '{user}'",
                f'add {{"credential": [{{"username": …, "password": …}}]}} to {own_file()}, or pass a dict',
            )
        return known[user]
    if isinstance(user, Mapping):
        username, password = user.get("username"), user.get("password")
        if isinstance(username, str) and isinstance(password, str):
            return Login(username, password)
    raise UsageError("user must say who logs in", 'pass {"username": …, "password": …}, or a name')


def can_ask() -> bool:
    """Whether there is somebody to ask."""
    return (sys.stdin is not None and sys.stdin.isatty()) or "ipykernel" in sys.modules


def ask(where: str) -> Login:
    """Ask on the terminal (in a notebook without widgets: under the cell).

    Raises:
        UsageError: there is nobody to ask.
    """
    if not can_ask():
        raise UsageError(f"there is nobody here to ask who logs in at {where}", "pass user=, or a token")
    return Login(input(f"user at {where}: "), getpass.getpass("password: "))


def stored_logins() -> dict[str, Login]:
    """Names with their passwords, of both files; gridkit's own comes first.

    Raises:
        UsageError: a file can be read by others, or not at all.
    """
    found: dict[str, Login] = {}
    for file in (own_file(), Path.home() / ".openmined" / "auth.user"):
        entries = _read(file).get("credential", [])
        if not isinstance(entries, list):
            raise UsageError(f'"credential" in {file} is no list', 'it holds {"username": …, "password": …} each')
        for entry in entries:
            try:
                login = login_of(entry if isinstance(entry, dict) else {})
            except UsageError:
                raise UsageError(f"an entry of {file} has no username and password", "complete or remove it") from None
            found.setdefault(login.username, login)
    return found


def stored_token(url: str) -> str | None:
    """The token for a node in gridkit's own file, if there is one.

    Raises:
        UsageError: others can read that file.
    """
    token = _read(own_file()).get(url.rstrip("/"))
    return token if isinstance(token, str) else None


def store_token(url: str, token: str) -> Path:
    """Put a token into gridkit's own file, where `gk.connect(url)` finds it; makes the file with mode 0600.

    The file is written beside and renamed, so that a crash leaves the old one or the new one.

    Raises:
        UsageError: there is a file that others can read, or that can't be read.
    """
    file = own_file()
    kept = {**_read(file), url.rstrip("/"): token}
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = file.with_name(file.name + ".new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as new:
        json.dump(kept, new, indent=2)
        new.flush()
        os.fsync(new.fileno())
    draft.replace(file)
    return file


def own_file() -> Path:
    """Where gridkit's own file is, or would be."""
    base = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return base / "gridkit" / "credentials.json"


def _read(file: Path) -> dict[str, Any]:
    try:
        with open(file, "rb") as opened:
            mode, text = os.fstat(opened.fileno()).st_mode, opened.read()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UsageError(f"{file} can't be read: {error.strerror}", "check who owns it") from None
    if mode & 0o077:
        raise UsageError(f"{file} can be read by others", f"chmod 600 {file}")
    try:
        kept = json.loads(text)
    except ValueError:  # its text may hold a piece of a secret: it isn't quoted, and no cause is shown
        raise UsageError(f"{file} isn't JSON", "correct it, or remove it") from None
    if not isinstance(kept, dict):
        raise UsageError(f"{file} holds no JSON object", "correct it, or remove it")
    return kept
