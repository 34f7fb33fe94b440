"""gridkit: federated learning from a notebook.

>>> import gridkit as gk
>>> with gk.launch() as grid:                                    # doctest: +SKIP
...     run = grid.train(model, plan, name="digits", version="1.0", clients=shards, rounds=10)
...     run.wait()

Names load when they are first used: importing gridkit itself imports neither torch nor pandas nor numpy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_WHERE = {
    "launch": "gridkit.session",
    "connect": "gridkit.session",
    "Session": "gridkit.session",
    "Grid": "gridkit.grid",
    "simulate": "gridkit.workers.simulate",
    "Run": "gridkit.run",
    "verify": "gridkit.run",
    "Plan": "gridkit.plans.plan",
    "training_plan": "gridkit.plans.training",
    "averaging_plan": "gridkit.plans.averaging",
    "plan": "gridkit.plans.function",
    "spec": "gridkit.plans.function",
    "SGD": "gridkit.plans.optim",
    "Adam": "gridkit.plans.optim",
    "AdamW": "gridkit.plans.optim",
    "Policy": "gridkit.policy",
    "WebsocketGridClient": "gridkit.websocket_grid",
    "Syft": "gridkit.syft",
    "Job": "gridkit.syft",
    "SyftModel": "gridkit.syft",
    "serve_participant": "gridkit.participant",
    "ClientServerHandler": "gridkit.client.push_listener",
    "Communication": "gridkit.client.push_listener",
    "RpcClient": "gridkit.rpc",
    "RemoteTensor": "gridkit.tensors.remote",
    "GridkitError": "gridkit.errors",
}
_MODULES = ("aio", "errors", "options")

__all__ = ["__version__", *_MODULES, *_WHERE]

if TYPE_CHECKING:  # `as`: that a type checker takes them for public
    from gridkit import aio as aio
    from gridkit import errors as errors
    from gridkit import options as options
    from gridkit.client.push_listener import ClientServerHandler as ClientServerHandler
    from gridkit.client.push_listener import Communication as Communication
    from gridkit.errors import GridkitError as GridkitError
    from gridkit.grid import Grid as Grid
    from gridkit.participant import serve_participant as serve_participant
    from gridkit.plans.averaging import averaging_plan as averaging_plan
    from gridkit.plans.function import plan as plan
    from gridkit.plans.function import spec as spec
    from gridkit.plans.optim import SGD as SGD
    from gridkit.plans.optim import Adam as Adam
    from gridkit.plans.optim import AdamW as AdamW
    from gridkit.plans.plan import Plan as Plan
    from gridkit.plans.training import training_plan as training_plan
    from gridkit.policy import Policy as Policy
    from gridkit.rpc import RpcClient as RpcClient
    from gridkit.run import Run as Run
    from gridkit.run import verify as verify
    from gridkit.session import Session as Session
    from gridkit.session import connect as connect
    from gridkit.session import launch as launch
    from gridkit.syft import Job as Job
    from gridkit.syft import Syft as Syft
    from gridkit.syft import SyftModel as SyftModel
    from gridkit.tensors.remote import RemoteTensor as RemoteTensor
    from gridkit.websocket_grid import WebsocketGridClient as WebsocketGridClient
    from gridkit.workers.simulate import simulate as simulate


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"gridkit.{name}")
    if name in _WHERE:
        value = getattr(importlib.import_module(_WHERE[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'gridkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
