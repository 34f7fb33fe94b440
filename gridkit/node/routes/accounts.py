"""Accounts over HTTP: `/users`, `/users/login`, `/tokens`, `/audit`; JSON both ways."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gridkit.errors import ErrorCode, NodeError
from gridkit.node import messages
from gridkit.node.accounts import Accounts
from gridkit.node.rates import source
from gridkit.node.routes.http import body, id_in_path, idempotency_key, limits_of, principal_of, route, service_of

MAX_ROWS = 100_000


def accounts_of(request: Request) -> Accounts:
    return service_of(request).accounts


async def _json(request: Request) -> dict[str, Any]:
    return messages.parse_json(await body(request, limits_of(request).message_before_auth))


def _secret(data: dict[str, Any]) -> Response:
    return JSONResponse({"success": True, **data}, headers={"cache-control": "no-store"})


async def users(request: Request) -> Response:
    return JSONResponse({"success": True, "users": await accounts_of(request).users(principal_of(request))})


async def add_user(request: Request) -> Response:
    wish = messages.parse(messages.AddUser, await _json(request))
    await accounts_of(request).add(principal_of(request), wish, idempotency_key(request))
    return JSONResponse({"success": True, "name": wish.name, "role": wish.role})


async def remove_user(request: Request) -> Response:
    await accounts_of(request).remove(principal_of(request), id_in_path(request, "name"))
    return JSONResponse({"success": True})


async def set_password(request: Request) -> Response:
    wish = messages.parse(messages.SetPassword, await _json(request))
    await accounts_of(request).set_password(principal_of(request), id_in_path(request, "name"), wish)
    return JSONResponse({"success": True})


async def login(request: Request) -> Response:
    wish = messages.parse(messages.Login, await _json(request))
    return _secret(await accounts_of(request).login(wish, source(request.scope.get("client"))))


async def tokens(request: Request) -> Response:
    return JSONResponse({"success": True, "tokens": await accounts_of(request).tokens(principal_of(request))})


async def create_token(request: Request) -> Response:
    wish = messages.parse(messages.CreateToken, await _json(request))
    made = await accounts_of(request).create_token(principal_of(request), wish, idempotency_key(request))
    return _secret(made)


async def revoke_token(request: Request) -> Response:
    await accounts_of(request).revoke(principal_of(request), id_in_path(request, "token_id"))
    return JSONResponse({"success": True})


async def audit(request: Request) -> Response:
    asked = request.query_params.get("limit", "1000")
    limit = int(asked) if asked.isdecimal() and len(asked) < 10 else 0
    if not 0 < limit <= MAX_ROWS:
        raise NodeError(f"limit is a number from 1 to {MAX_ROWS}", code=ErrorCode.BAD_REQUEST, status=400)
    rows = await asyncio.to_thread(service_of(request).watch.audit.read, limit)
    return JSONResponse({"success": True, "rows": rows})


ROUTES = [
    route("/users", users, "list-users"),
    route("/users", add_user, "add-user", ["POST"]),
    route("/users/login", login, "login", ["POST"]),
    route("/users/{name}", remove_user, "remove-user", ["DELETE"]),
    route("/users/{name}/password", set_password, "set-password", ["PUT"]),
    route("/tokens", tokens, "list-tokens"),
    route("/tokens", create_token, "create-token", ["POST"]),
    route("/tokens/{token_id}", revoke_token, "revoke-token", ["DELETE"]),
    route("/audit", audit, "read-audit"),
]
