"""Projects, runs and metrics of JSON-RPC's clients over HTTP, under ``/api/v0``; JSON both ways.

Source: the calls that afnio's client makes beside its WebSocket. Every path ends with a slash; one without is sent
there. Lists are ours.
"""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gridkit.errors import ErrorCode, NodeError
from gridkit.node import messages
from gridkit.node.messages_projects import ChangeRun, CreateProject, CreateRun, LogMetric
from gridkit.node.projects import Projects
from gridkit.node.routes.http import body, id_in_path, limits_of, principal_of, route, service_of


def projects_of(request: Request) -> Projects:
    return service_of(request).projects


def _place(request: Request) -> tuple[str, str]:
    return id_in_path(request, "namespace"), str(request.path_params["slug"])


async def _json(request: Request) -> dict[str, Any]:
    return messages.parse_json(await body(request, limits_of(request).message_before_auth))


def _after(request: Request) -> int:
    text = request.query_params.get("after", "0")
    if not (text.isdecimal() and text.isascii() and len(text) < 10):
        raise NodeError("after is a number from 0", code=ErrorCode.BAD_REQUEST, status=400)
    return int(text)


async def verify(request: Request) -> Response:
    return JSONResponse(projects_of(request).account(principal_of(request)))


async def project(request: Request) -> Response:
    return JSONResponse(await projects_of(request).project(principal_of(request), *_place(request)))


async def create(request: Request) -> Response:
    wish = messages.parse(CreateProject, await _json(request))
    made = await projects_of(request).create(principal_of(request), id_in_path(request, "namespace"), wish)
    return JSONResponse(made, 201)


async def delete(request: Request) -> Response:
    await projects_of(request).delete(principal_of(request), *_place(request))
    return Response(status_code=204)


async def runs(request: Request) -> Response:
    listed = await projects_of(request).runs(principal_of(request), *_place(request), _after(request))
    return JSONResponse({"runs": listed})


async def begin(request: Request) -> Response:
    wish = messages.parse(CreateRun, await _json(request))
    return JSONResponse(await projects_of(request).begin(principal_of(request), *_place(request), wish), 201)


async def change(request: Request) -> Response:
    wish = messages.parse(ChangeRun, await _json(request))
    run_id = str(request.path_params["run_id"])
    return JSONResponse(await projects_of(request).change(principal_of(request), *_place(request), run_id, wish))


async def metrics(request: Request) -> Response:
    run_id = str(request.path_params["run_id"])
    listed = await projects_of(request).metrics(principal_of(request), *_place(request), run_id, _after(request))
    return JSONResponse({"metrics": listed})


async def log(request: Request) -> Response:
    wish = messages.parse(LogMetric, await _json(request))
    run_id = str(request.path_params["run_id"])
    return JSONResponse(await projects_of(request).log(principal_of(request), *_place(request), run_id, wish), 201)


_ALL = "/api/v0/{namespace}/projects/"
_ONE = f"{_ALL}{{slug}}/"
_RUN = f"{_ONE}runs/{{run_id}}/"

ROUTES = [
    route("/api/v0/verify-api-key/", verify, "verify-key"),
    route(_ALL, create, "make-project", ["POST"]),
    route(_ONE, project, "keep-runs"),
    route(_ONE, delete, "make-project", ["DELETE"]),
    route(f"{_ONE}runs/", runs, "keep-runs"),
    route(f"{_ONE}runs/", begin, "keep-runs", ["POST"]),
    route(_RUN, change, "keep-runs", ["PATCH"]),
    route(f"{_RUN}metrics/", metrics, "keep-runs"),
    route(f"{_RUN}metrics/", log, "keep-runs", ["POST"]),
]
