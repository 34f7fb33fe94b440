"""Trainings of push participants over HTTP (`gridkit.node.push_trainings`); JSON both ways."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gridkit.node import messages
from gridkit.node.messages_push import Clients, CreateTraining
from gridkit.node.push_rows import canonical
from gridkit.node.push_trainings import PushTrainings
from gridkit.node.routes.http import body, principal_of, route, service_of
from gridkit.node.routes.push import PREFIX
from gridkit.node.settings import MIB

MAX_BODY = MIB
"""bytes of a training as it is asked for: ten thousand participants fit"""


def trainings_of(request: Request) -> PushTrainings:
    return service_of(request).push_trainings


def training_in_path(request: Request) -> str:
    return canonical(str(request.path_params["id"]), "training")


async def _json(request: Request) -> dict[str, Any]:
    return messages.parse_json(await body(request, MAX_BODY))


async def trainings(request: Request) -> Response:
    return JSONResponse(await trainings_of(request).listing(principal_of(request)))


async def create(request: Request) -> Response:
    wish = messages.parse(CreateTraining, await _json(request))
    training_id = await trainings_of(request).create(principal_of(request), wish)
    return JSONResponse({"detail": "the training was created", "training_id": training_id}, 201)


async def details(request: Request) -> Response:
    return JSONResponse(await trainings_of(request).details(principal_of(request), training_in_path(request)))


async def delete(request: Request) -> Response:
    await trainings_of(request).delete(principal_of(request), training_in_path(request))
    return JSONResponse({"detail": "the training was deleted"})


async def add_clients(request: Request) -> Response:
    wish = messages.parse(Clients, await _json(request))
    await trainings_of(request).add_clients(principal_of(request), training_in_path(request), wish.clients)
    return JSONResponse({"detail": "the participants were added"}, 202)


async def remove_clients(request: Request) -> Response:
    wish = messages.parse(Clients, await _json(request))
    await trainings_of(request).remove_clients(principal_of(request), training_in_path(request), wish.clients)
    return JSONResponse({"detail": "the participants were removed"})


async def start(request: Request) -> Response:
    await trainings_of(request).start(principal_of(request), training_in_path(request))
    return JSONResponse({"detail": "the training was started"}, 202)


async def models(request: Request) -> Response:
    return JSONResponse(await trainings_of(request).models(principal_of(request), training_in_path(request)))


ROUTES = [
    route(f"{PREFIX}/trainings/", trainings, "observe-push"),
    route(f"{PREFIX}/trainings/", create, "host-push", ["POST"]),
    route(f"{PREFIX}/trainings/{{id}}/", details, "observe-push"),
    route(f"{PREFIX}/trainings/{{id}}/", delete, "host-push", ["DELETE"]),
    route(f"{PREFIX}/trainings/{{id}}/clients/", add_clients, "host-push", ["PUT"]),
    route(f"{PREFIX}/trainings/{{id}}/clients/", remove_clients, "host-push", ["DELETE"]),
    route(f"{PREFIX}/trainings/{{id}}/start/", start, "start-push", ["POST"]),
    route(f"{PREFIX}/trainings/{{id}}/models/", models, "observe-push"),
    route(f"{PREFIX}/trainings/{{id}}/models/latest/", models, "observe-push"),
]
