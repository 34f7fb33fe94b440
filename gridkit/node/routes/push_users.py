"""Push participants over HTTP: ours at `/push/participants`, the fl-demonstrator's users under `/push/api/users/`."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gridkit.errors import ConflictError, ErrorCode, NodeError, NotFoundError
from gridkit.node import messages
from gridkit.node.messages_participants import AddParticipant, RegisterUser
from gridkit.node.participants import Wish
from gridkit.node.routes.http import body, id_in_path, idempotency_key, limits_of, principal_of, route, service_of
from gridkit.node.routes.push import PREFIX

_PROFILE = ("actor", "client", "first_name", "last_name", "email")
_ONCE = {"cache-control": "no-store"}
"""with what is told once"""


async def _json(request: Request) -> dict[str, Any]:
    return messages.parse_json(await body(request, limits_of(request).message_before_auth))


# -- ours


async def add(request: Request) -> Response:
    wish = messages.parse(AddParticipant, await _json(request))
    asked = Wish(wish.name, wish.endpoint, renew=wish.renew)
    made = await service_of(request).participants.register(principal_of(request), asked, idempotency_key(request))
    return JSONResponse({"success": True, **made}, 201, _ONCE)


async def listing(request: Request) -> Response:
    rows = await service_of(request).participants.listing(principal_of(request))
    members = ("name", "id", "endpoint", "signed", "created_at")
    shown = [{name: row[name] for name in members} for row in rows if row["client"]]
    return JSONResponse({"success": True, "participants": shown})


async def remove(request: Request) -> Response:
    await service_of(request).participants.remove(principal_of(request), id_in_path(request, "name"))
    return JSONResponse({"success": True})


# -- the fl-demonstrator's


async def register(request: Request) -> Response:
    """Its own doesn't check what comes; a name that is taken is a 400 here, as all that is wrong with a request."""
    wish = messages.parse(RegisterUser, await _json(request))
    profile = {name: getattr(wish, name) for name in _PROFILE}
    asked = Wish(wish.username, wish.message_endpoint, wish.password, wish.actor, signed=False, profile=profile)
    try:
        made = await service_of(request).participants.register(principal_of(request), asked, idempotency_key(request))
    except ConflictError as error:
        raise NodeError(error.message, error.hint, code=error.code, status=400) from None
    told = {"id": made["id"], "username": made["name"], "message_endpoint": made["endpoint"], **profile}
    return JSONResponse({**told, "token": made["token"]}, 201, _ONCE)


async def users(request: Request) -> Response:
    return JSONResponse(await _users(request))


async def myself(request: Request) -> Response:
    name = principal_of(request).name
    return JSONResponse(await _user(request, "username", name, f"'{name}' isn't registered as a participant"))


async def trainings(request: Request) -> Response:
    """Those that one owns or takes part in."""
    return JSONResponse(await service_of(request).push_trainings.listing(principal_of(request)))


async def user(request: Request) -> Response:
    return JSONResponse(await _user(request, "id", id_in_path(request, "user_id"), "there is no user of this id"))


async def _user(request: Request, member: str, value: str, otherwise: str) -> dict[str, Any]:
    for found in await _users(request):
        if found[member] == value:
            return found
    raise NotFoundError(otherwise, "register it with POST /push/api/users/", code=ErrorCode.NOT_FOUND, status=404)


async def _users(request: Request) -> list[dict[str, Any]]:
    """Those that whoever asks may see, as the fl-demonstrator shows them."""
    rows = await service_of(request).participants.listing(principal_of(request))
    return [
        {
            "id": row["id"],
            "username": row["name"],
            "message_endpoint": row["endpoint"],
            **{name: row[name] for name in _PROFILE if name in row},
        }
        for row in rows
    ]


ROUTES = [
    route("/push/participants", listing, "list-participants"),
    route("/push/participants", add, "add-participant", ["POST"]),
    route("/push/participants/{name}", remove, "remove-user", ["DELETE"]),
    route(f"{PREFIX}/users/", users, "list-participants"),
    route(f"{PREFIX}/users/", register, "add-participant", ["POST"]),
    route(f"{PREFIX}/users/myself/", myself, "list-participants"),
    route(f"{PREFIX}/users/trainings/", trainings, "observe-push"),
    route(f"{PREFIX}/users/{{user_id}}/", user, "list-participants"),
]
