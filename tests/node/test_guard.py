"""Tokens and the table of rights; what the guard lets through is tested on a running node in tests/faults."""

from __future__ import annotations

import base64

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridkit.errors import AccessError, ErrorCode
from gridkit.node.guard import ANONYMOUS, OPEN_TO_ALL, OWNER, RULES, Principal, Role, Tokens

TOKEN = "owner-token-of-the-test"
SECRET = "s" * 64


@pytest.fixture
def tokens() -> Tokens:
    return Tokens(TOKEN, SECRET)


def test_the_owner_by_each_scheme(tokens: Tokens) -> None:
    basic = base64.b64encode(f"anyone:{TOKEN}".encode()).decode()
    for value in (f"Bearer {TOKEN}", f"Api-Key {TOKEN}", f"bearer {TOKEN}", f"Basic {basic}"):
        assert tokens.of_headers([(b"authorization", value.encode())]) == OWNER
    two = [(b"authorization", b"Basic bm86bm8="), (b"authorization", f"Api-Key {TOKEN}".encode())]
    assert tokens.of_headers(two) == OWNER
    assert tokens.of_headers([]) == ANONYMOUS


def test_a_worker_token_names_its_process_and_slot(tokens: Tokens) -> None:
    assert tokens.principal(tokens.issue("p", 3, "client 3")) == Principal(Role.WORKER, "p", 3, "client 3")
    assert tokens.principal(tokens.issue("p")) == Principal(Role.WORKER, "p")


@given(st.text(max_size=60))
def test_any_other_text_is_refused_with_one_error(text: str) -> None:
    tokens = Tokens(TOKEN, SECRET)
    with pytest.raises(AccessError) as caught:
        tokens.principal(text)
    assert caught.value.code is ErrorCode.UNAUTHENTICATED
    assert caught.value.message == "the token is not one of this node's"


@pytest.mark.parametrize(
    "forged",
    [
        jwt.encode({"role": "worker", "process": "p"}, "t" * 64),
        jwt.encode({"role": "worker", "process": "p"}, SECRET, algorithm="HS512"),
        jwt.encode({"role": "worker", "process": "p"}, None, algorithm="none"),
        jwt.encode({"role": "worker"}, SECRET),
        jwt.encode({"role": "worker", "process": "p", "exp": 1}, SECRET),
    ],
)
def test_forged_tokens_are_refused(tokens: Tokens, forged: str) -> None:
    with pytest.raises(AccessError):
        tokens.principal(forged)


@pytest.mark.parametrize("operation", sorted(RULES))
@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("open_", [False, True])
def test_the_table_is_what_allow_says(operation: str, role: Role, open_: bool) -> None:
    tokens = Tokens(TOKEN, SECRET, open=open_)
    principal = Principal(role, "mine" if role is Role.WORKER else None)
    right = role in RULES[operation] or (open_ and role is Role.ANONYMOUS and operation in OPEN_TO_ALL)
    if right:
        tokens.allow(principal, operation)
        tokens.allow(principal, operation, "mine")
    else:
        with pytest.raises(AccessError) as caught:
            tokens.allow(principal, operation)
        assert caught.value.status == (401 if role is Role.ANONYMOUS else 403)


def test_a_worker_of_one_process_has_no_right_in_another(tokens: Tokens) -> None:
    with pytest.raises(AccessError, match="another training"):
        tokens.allow(Principal(Role.WORKER, "mine"), "retrieve-model", "other")
