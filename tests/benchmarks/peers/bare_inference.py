"""The least that a server can do: a Starlette route that runs the digits MLP in its own process.

``python bare_inference.py`` prints its port and serves until its standard input closes. The model's values are those of
`tests.models.digits`, by the same seed.
"""

from __future__ import annotations

import os
import socket
import sys
import threading

import safetensors.torch
import torch
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from torch import nn

torch.manual_seed(0)
torch.set_num_threads(1)
MODEL = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


async def infer(request: Request) -> Response:
    x = safetensors.torch.load(await request.body())["0"]
    with torch.inference_mode():
        y = MODEL(x)
    return Response(safetensors.torch.save({"0": y}), media_type="application/octet-stream")


def end_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=end_with_parent, daemon=True).start()
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    app = Starlette(routes=[Route("/run-inference/{model_id:path}", infer, methods=["POST"])])
    print(listening.getsockname()[1], flush=True)
    config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off")
    uvicorn.Server(config).run(sockets=[listening])
