"""A small push node for tests of participants: the three routes that they call, and notifications over real sockets."""

from __future__ import annotations

import asyncio
import base64
import http.client
import io
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gridkit.wire.notifications import signed
from gridkit.wire.safetensors import TensorFile, pack_file

SECRET = "shared by node and hospital"


def packed(arrays: Mapping[str, np.ndarray]) -> bytes:
    return pack_file(arrays).tobytes()


def unpacked(data: bytes) -> dict[str, np.ndarray]:
    file = TensorFile(io.BytesIO(data))
    return {s.name: file.read(i, 0, s.size).reshape(s.shape).copy() for i, s in enumerate(file.specs)}


class PushNode:
    """One training of one model.

    Attributes:
        model: the bytes that are served.
        uploads: of updates: forms with `user`, `round`, `samples`, `metrics`, `model`, in the order in which they came.
        metrics: of tests: ``(user, metrics)``.
        refusals: statuses to answer uploads with, one each, before any is taken.
        lost_answers: so many updates are taken and answered as a proxy does that got no answer.
        open_round: updates of another round are refused; None takes all.
        before_metrics, before_refusal: called before metrics, or an update of `refusals`, are answered.
    """

    def __init__(self, model: bytes, users: Mapping[str, str]) -> None:
        self.users = users
        self.url = ""
        self.begin(model)

    def begin(self, model: bytes) -> None:
        """Another training."""
        self.model = model
        self.training, self.model_id = uuid.uuid4(), uuid.uuid4()
        self.uploads: list[dict[str, Any]] = []
        self.metrics: list[tuple[str, dict[str, str]]] = []
        self.refusals: list[int] = []
        self.downloads = 0
        self.lost_answers = 0
        self.open_round: int | None = None
        self.before_metrics: Callable[[], object] = lambda: None
        self.before_refusal: Callable[[], object] = lambda: None

    def _user(self, request: Request) -> str | None:
        scheme, _, rest = request.headers.get("authorization", "").partition(" ")
        if scheme != "Basic":
            return None
        user, _, password = base64.b64decode(rest).decode().partition(":")
        return user if self.users.get(user) == password else None

    async def _get(self, request: Request) -> Response:
        if self._user(request) is None:
            return JSONResponse({"detail": "no"}, 401)
        if request.path_params["id"] != str(self.model_id):
            return JSONResponse({"detail": "no such model"}, 400)
        self.downloads += 1
        return Response(self.model, media_type="application/octet-stream")

    async def _post(self, request: Request) -> Response:
        user = self._user(request)
        if user is None:
            return JSONResponse({"detail": "no"}, 401)
        async with request.form() as form:
            if self.refusals:
                await asyncio.to_thread(self.before_refusal)
                return JSONResponse({"detail": "not now"}, self.refusals.pop(0))
            names, values = form.getlist("metric_names"), form.getlist("metric_values")
            file = form["model_file"]
            assert not isinstance(file, str) and file.filename == "model_file" and len(names) == len(values)
            uuid.UUID(str(form["owner"]))
            if self.open_round is not None and int(str(form["round"])) != self.open_round:
                return JSONResponse({"detail": "this round is over"}, 400)
            upload = {
                "user": user,
                "round": int(str(form["round"])),
                "samples": int(str(form["sample_size"])),
                "metrics": dict(zip(names, values, strict=True)),
                "model": await file.read(),
            }
        self.uploads.append(upload)
        if self.lost_answers:
            self.lost_answers -= 1
            return JSONResponse({}, 504)
        return JSONResponse({"detail": "taken"}, 201)

    async def _post_metrics(self, request: Request) -> Response:
        user = self._user(request)
        if user is None:
            return JSONResponse({"detail": "no"}, 401)
        assert request.headers["content-type"].startswith("application/x-www-form-urlencoded")
        form = await request.form()
        names, values = form.getlist("metric_names"), form.getlist("metric_values")
        await asyncio.to_thread(self.before_metrics)
        self.metrics.append((user, {str(n): str(v) for n, v in zip(names, values, strict=True)}))
        return JSONResponse({"detail": "taken"}, 201)

    @contextmanager
    def running(self) -> Iterator[PushNode]:
        routes = [
            Route("/push/api/models/{id}/", self._get, methods=["GET"]),
            Route("/push/api/models/{id}/", self._post, methods=["POST"]),
            Route("/push/api/models/{id}/metrics/", self._post_metrics, methods=["POST"]),
        ]
        server = uvicorn.Server(uvicorn.Config(Starlette(routes=routes), port=0, log_level="critical", lifespan="off"))
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            while not server.started:
                time.sleep(0.005)
            self.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/push"
            yield self
        finally:
            server.should_exit = True
            thread.join()

    def body(self, kind: str, round: int | str | None = None, **more: Any) -> bytes:
        data = {"global_model_uuid": str(self.model_id), **more}
        if round is not None:
            data["round"] = round
        return json.dumps({"notification_type": kind, "training_uuid": str(self.training), "body": data}).encode()

    def notify(self, endpoint: str, kind: str, round: int | str | None = None, secret: str | None = SECRET) -> int:
        """The status that the participant answers."""
        return post(endpoint, self.body(kind, round), secret)


def post(endpoint: str, body: bytes, secret: str | None = SECRET, headers: Mapping[str, str] | None = None) -> int:
    parts = urlsplit(endpoint)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=10)
    try:
        given = {} if secret is None else signed(secret, body)
        connection.request("POST", "/", body, {**given, **(headers or {})})
        response = connection.getresponse()
        assert response.read() == b"" and response.version == 10
        return response.status
    finally:
        connection.close()
