"""Model-centric federated learning over HTTP, as PyGrid's clients and syft.js speak it."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gridkit.errors import ErrorCode, NodeError
from gridkit.node import messages
from gridkit.node.rights import Principal
from gridkit.node.routes.http import (
    answer,
    body,
    body_to,
    declared_size,
    file_answer,
    idempotency_key,
    limits_of,
    needed,
    principal_of,
    route,
    service_of,
)
from gridkit.node.trainings import Trainings

PREFIX = "/model-centric"
MAX_PLANS = 16


def trainings_of(request: Request) -> Trainings:
    return service_of(request).trainings


async def host_training(request: Request) -> Response:
    """Multipart: `config` (JSON: client_config, server_config, plans: [name, …], and perhaps participants: {slot: name
    of a push participant, …}), `model`, `plan0`, `plan1`, …, and perhaps `averaging_plan`."""
    trainings, principal = trainings_of(request), principal_of(request)
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise NodeError("host-training takes multipart/form-data", code=ErrorCode.BAD_REQUEST, status=400)
    limits = limits_of(request)
    async with request.form(max_files=3 + MAX_PLANS, max_fields=2, max_part_size=1 << 20) as form:
        config = messages.parse_json(await _part(form.get("config"), "config", 1 << 20))
        names = config.get("plans")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(names) > MAX_PLANS:
            raise NodeError("config.plans is not a list of names", code=ErrorCode.BAD_REQUEST, status=400)
        model = form.get("model")
        if not isinstance(model, UploadFile):
            raise NodeError("the form has no file 'model'", code=ErrorCode.BAD_REQUEST, status=400)
        plans = {
            name: await _part(form.get(f"plan{place}"), f"plan{place}", limits.plan) for place, name in enumerate(names)
        }
        averaging = form.get("averaging_plan")
        hosted = await trainings.host(
            principal,
            model.file,
            plans,
            _object(config, "client_config"),
            _object(config, "server_config"),
            averaging_plan=None if averaging is None else await _part(averaging, "averaging_plan", limits.plan),
            participants=_participants(config),
            request=idempotency_key(request),
        )
    return answer("model-centric/host-training", hosted)


async def _part(part: Any, name: str, limit: int) -> bytes:
    if isinstance(part, UploadFile):
        data = await part.read(limit + 1)
    elif isinstance(part, str):
        data = part.encode()
    else:
        raise NodeError(f"the form has no part '{name}'", code=ErrorCode.BAD_REQUEST, status=400)
    if len(data) > limit:
        raise NodeError(f"'{name}' is larger than {limit} bytes", code=ErrorCode.TOO_LARGE, status=413)
    return data


def _object(config: dict[str, Any], name: str) -> dict[str, Any]:
    value = config.get(name)
    if not isinstance(value, dict):
        raise NodeError(f"config.{name} is not an object", code=ErrorCode.BAD_REQUEST, status=400)
    return value


def _participants(config: dict[str, Any]) -> dict[int, str]:
    """`config.participants`: keys of JSON objects are text."""
    value = config.get("participants", {})
    if not isinstance(value, dict) or not all(re.fullmatch("[0-9]{1,6}", slot) for slot in value):
        raise NodeError("config.participants has no slots for keys", code=ErrorCode.BAD_REQUEST, status=400)
    if not all(isinstance(name, str) for name in value.values()) or len({int(slot) for slot in value}) < len(value):
        raise NodeError("config.participants isn't one name a slot", code=ErrorCode.BAD_REQUEST, status=400)
    return {int(slot): name for slot, name in value.items()}


async def authenticate(request: Request) -> Response:
    principal = principal_of(request)
    wish = messages.parse(messages.Authenticate, await _json(request))
    return answer("model-centric/authenticate", await trainings_of(request).authenticate(principal, wish))


async def cycle_request(request: Request) -> Response:
    principal = principal_of(request)
    wish = messages.parse(messages.CycleRequest, await _json(request))
    return answer("model-centric/cycle-request", await trainings_of(request).request_cycle(principal, wish))


async def get_model(request: Request) -> Response:
    asked = (needed(request, name) for name in ("worker_id", "request_key", "model_id"))
    return file_answer(await trainings_of(request).open_model(principal_of(request), *asked))


async def get_plan(request: Request) -> Response:
    query = request.query_params
    plan_id = needed(request, "plan_id")
    file = await trainings_of(request).open_plan(
        principal_of(request),
        query.get("worker_id"),
        query.get("request_key"),
        int(plan_id) if plan_id.isdecimal() and len(plan_id) < 16 else -1,
        query.get("receive_operations_as", "list"),
    )
    return file_answer(file)


async def get_protocol(request: Request) -> Response:
    worker_id, request_key = (needed(request, name) for name in ("worker_id", "request_key"))
    await trainings_of(request).find_protocol(principal_of(request), worker_id, request_key)


async def report(request: Request) -> Response:
    """JSON with a base64 diff, or the diff as octets with the ids (and samples, loss) in the query."""
    if request.headers.get("content-type", "").startswith("application/octet-stream"):
        return await _binary_report(request)
    trainings, principal, limits = trainings_of(request), principal_of(request), limits_of(request)
    size = declared_size(request, limits.message)
    async with request.app.state.budget.take(2 * size):
        wish = messages.parse(messages.Report, messages.parse_json(await body(request, limits.message)))
        return answer("model-centric/report", await take_report(trainings, principal, wish))


async def take_report(trainings: Trainings, principal: Principal, wish: messages.Report) -> dict[str, Any]:
    """A report whose diff came as text: over HTTP or over a socket."""
    process, _ = await trainings.expect_report(principal, wish)
    draft = trainings.draft()
    try:
        if wish.error is None:
            diff = messages.from_base64(wish.diff or "")
            await asyncio.to_thread(draft.write, diff)
        return await trainings.report(process, wish, draft)
    finally:
        await asyncio.to_thread(draft.discard)


async def _binary_report(request: Request) -> Response:
    trainings, principal = trainings_of(request), principal_of(request)
    query = request.query_params
    samples = query.get("samples")
    if samples is not None and not (samples.isdecimal() and len(samples) < 16):
        raise NodeError("samples is not a number", code=ErrorCode.BAD_REQUEST, status=400)
    metrics = messages.parse_json(query["metrics"]) if "metrics" in query else {}
    wish = messages.parse(
        messages.Report,
        {
            "worker_id": needed(request, "worker_id"),
            "request_key": needed(request, "request_key"),
            "samples": None if samples is None else int(samples),
            "metrics": metrics,
        },
    )
    process, limit = await trainings.expect_report(principal, wish)
    declared_size(request, limit)
    draft = trainings.draft()
    try:
        await body_to(request, draft, limit)
        return answer("model-centric/report", await trainings.report(process, wish, draft))
    finally:
        await asyncio.to_thread(draft.discard)


async def retrieve_model(request: Request) -> Response:
    query = request.query_params
    file, number = await trainings_of(request).open_checkpoint(
        principal_of(request), needed(request, "name"), query.get("version"), query.get("checkpoint", "latest")
    )
    return file_answer(file, {"x-gridkit-checkpoint": str(number)})


async def processes(request: Request) -> Response:
    return JSONResponse({"processes": await trainings_of(request).processes(principal_of(request))})


async def stop(request: Request) -> Response:
    principal = principal_of(request)
    wish = messages.parse(messages.Stop, await _json(request))
    return answer("model-centric/stop", await trainings_of(request).stop(principal, wish))


async def worker_token(request: Request) -> Response:
    principal = principal_of(request)
    wish = messages.parse(messages.IssueToken, await _json(request))
    token = await trainings_of(request).issue_token(principal, wish)
    return answer("model-centric/worker-token", {"status": "success", "worker_token": token})


async def _json(request: Request) -> dict[str, Any]:
    return messages.parse_json(await body(request, limits_of(request).message_before_auth))


ROUTES = [
    route(f"{PREFIX}/host-training", host_training, "host-training", ["POST"]),
    route(f"{PREFIX}/authenticate", authenticate, "authenticate", ["POST"]),
    route(f"{PREFIX}/cycle-request", cycle_request, "work", ["POST"]),
    route(f"{PREFIX}/get-model", get_model, "work"),
    route(f"{PREFIX}/get-plan", get_plan, "work"),
    route(f"{PREFIX}/get-protocol", get_protocol, "work"),
    route(f"{PREFIX}/report", report, "work", ["POST"]),
    route(f"{PREFIX}/retrieve-model", retrieve_model, "retrieve-model"),
    route(f"{PREFIX}/processes", processes, "observe"),
    route(f"{PREFIX}/stop", stop, "stop", ["POST"]),
    route(f"{PREFIX}/worker-token", worker_token, "issue-token", ["POST"]),
]
