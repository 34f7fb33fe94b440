"""Credentials and the table of rights; what the guard lets through is tested on a running node in tests/faults."""

from __future__ import annotations

import asyncio
import base64

import jwt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gridkit.errors import AccessError, ErrorCode
from gridkit.node.rights import ANONYMOUS, OWNER, RULES, Access, Principal, Role, basic_name

TOKEN = "owner-token-of-the-test"
SECRET = "s" * 64


class NoAccounts:
    """A node without accounts, and with one worker token that was revoked."""

    async def of_token(self, token: str) -> Principal | None:
        return None

    async def of_password(self, name: str, password: str, address: str) -> Principal | None:
        return None

    def is_revoked(self, token_id: str) -> bool:
        return token_id == "p-revoked"


@pytest.fixture
def access() -> Access:
    return Access(TOKEN, SECRET, NoAccounts())


def test_the_owner_by_each_scheme(access: Access) -> None:
    basic = base64.b64encode(f"anyone:{TOKEN}".encode()).decode()
    for value in (f"Bearer {TOKEN}", f"Api-Key {TOKEN}", f"bearer {TOKEN}", f"Basic {basic}"):
        assert asyncio.run(access.of_headers([(b"authorization", value.encode())])) == OWNER
    two = [(b"authorization", b"Basic bm86bm8="), (b"authorization", f"Api-Key {TOKEN}".encode())]
    assert asyncio.run(access.of_headers(two)) == OWNER
    assert asyncio.run(access.of_headers([])) == ANONYMOUS


def test_a_worker_token_names_its_process_and_slot(access: Access) -> None:
    named = Principal(Role.WORKER, process="p", slot=3, label="client 3")
    assert asyncio.run(access.principal(access.issue("p", 3, "client 3"))) == named
    assert asyncio.run(access.principal(access.issue("p"))) == Principal(Role.WORKER, process="p")


@given(st.text(st.characters(), max_size=60))
@example("\ud800")
@example("gk_\ud800")
@example("gk_")
@example("\udc80.\udc80.\udc80")
def test_any_other_text_is_refused_with_one_error(text: str) -> None:
    access = Access(TOKEN, SECRET, NoAccounts())
    with pytest.raises(AccessError) as caught:
        asyncio.run(access.principal(text))
    assert caught.value.code is ErrorCode.UNAUTHENTICATED
    assert caught.value.message == "the token is not one of this node's"


@pytest.mark.parametrize(
    "forged",
    [
        jwt.encode({"role": "worker", "process": "p"}, "t" * 64),
        jwt.encode({"role": "worker", "process": "p"}, SECRET, algorithm="HS512"),
        jwt.encode({"role": "worker", "process": "p", "exp": 2**33, "jti": "p-1"}, None, algorithm="none"),
        jwt.encode(
            {"role": "worker", "process": "p", "exp": 2**33, "jti": "p-1"}, "t" * 64, headers={"kid": "../secret"}
        ),
        jwt.encode({"role": "worker"}, SECRET),
        jwt.encode({"role": "worker", "process": "p"}, SECRET),
        jwt.encode({"role": "worker", "process": "p", "exp": 2**33, "jti": "p-revoked"}, SECRET),
        jwt.encode({"role": "worker", "process": "p", "exp": 2**33, "nbf": 2**32, "jti": "p-1"}, SECRET),
        jwt.encode({"role": "worker", "process": "p", "exp": 1, "jti": "p-1"}, SECRET),
        f"gk_{'0' * 16}_{'s' * 43}",
    ],
)
def test_w5_forged_tokens_are_refused(access: Access, forged: str) -> None:
    with pytest.raises(AccessError):
        asyncio.run(access.principal(forged))


@pytest.mark.parametrize("operation", sorted(RULES))
@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("open_", [False, True])
def test_the_table_is_what_allow_says(operation: str, role: Role, open_: bool) -> None:
    access = Access(TOKEN, SECRET, NoAccounts(), open=open_)
    principal = Principal(
        role, "" if role is Role.ANONYMOUS else "ana", process="mine" if role is Role.WORKER else None
    )
    rule = RULES[operation]
    right = role in rule.roles or (open_ and role is Role.ANONYMOUS and rule.open)
    if right:
        access.allow(principal, operation)
        access.allow(principal, operation, process="mine")
    else:
        with pytest.raises(AccessError) as caught:
            access.allow(principal, operation)
        assert caught.value.status == (401 if role is Role.ANONYMOUS else 403)


def test_a_worker_of_one_process_has_no_right_in_another(access: Access) -> None:
    with pytest.raises(AccessError, match="another training"):
        access.allow(Principal(Role.WORKER, process="mine"), "retrieve-model", process="other")


def test_a_right_to_own_objects_is_the_owners_of_the_object_and_the_nodes() -> None:
    access = Access(TOKEN, SECRET, NoAccounts())
    ana = Principal(Role.SCIENTIST, "ana")
    access.allow(ana, "delete-model", owner="ana")
    access.allow(OWNER, "delete-model", owner="ana")
    with pytest.raises(AccessError) as caught:
        access.allow(ana, "delete-model", owner="bob")
    assert caught.value.code is ErrorCode.FORBIDDEN and "not for 'ana'" in caught.value.message


def test_a_worker_token_owns_nothing_also_of_what_is_nobodys() -> None:
    access = Access(TOKEN, SECRET, NoAccounts(), open=True)
    worker = Principal(Role.WORKER, process="p")
    for operation in ("revoke-token", "create-token", "set-password", "list-users", "list-tokens"):
        for owner in ("", None, "ana"):
            with pytest.raises(AccessError):
                access.allow(worker, operation, owner=owner)
    access.allow(worker, "retrieve-model", owner="ana", process="p")


def test_a_credential_that_ended_meanwhile_is_nobodys() -> None:
    access = Access(TOKEN, SECRET, NoAccounts())
    for ended in (Principal(Role.OWNER, "owner", expires_at=1.0), Principal(Role.WORKER, token="p-revoked")):
        with pytest.raises(AccessError) as caught:
            access.allow(ended, "status")
        assert caught.value.status == 401


def test_a_token_with_scopes_is_good_for_these_only() -> None:
    access = Access(TOKEN, SECRET, NoAccounts())
    reader = Principal(Role.SCIENTIST, "ana", frozenset({"browse"}))
    access.allow(reader, "list-models")
    with pytest.raises(AccessError, match="scope 'host'"):
        access.allow(reader, "host-model")


@pytest.mark.parametrize(
    ("headers", "name"),
    [
        ([], ""),
        (["Bearer x"], ""),
        (["Api-Key None", f"Basic {base64.b64encode(b'one:token').decode()}"], "one"),
        ([f"basic {base64.b64encode('größe 1:a:b'.encode()).decode()}", "Api-Key x"], "größe 1"),
        ([f"Basic {base64.b64encode(b'token').decode()}"], ""),
        ([f"Basic {base64.b64encode(b'token:').decode()}"], ""),
    ],
)
def test_the_name_in_basic_credentials(headers: list[str], name: str) -> None:
    assert basic_name([(b"host", b"h"), *((b"authorization", header.encode()) for header in headers)]) == name
