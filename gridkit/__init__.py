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
    "simulate": "gridkit.session",
    "Run": "gridkit.run",
    "verify": "gridkit.run",
    "Plan": "gridkit.plans.plan",
    "training_plan": "gridkit.plans.training",
    "SGD": "gridkit.plans.optim",
    "GridkitError": "gridkit.errors",
}
_MODULES = ("aio", "errors")

__all__ = ["__version__", *_MODULES, *_WHERE]

if TYPE_CHECKING:
    from gridkit import aio, errors
    from gridkit.errors import GridkitError
    from gridkit.plans.optim import SGD
    from gridkit.plans.plan import Plan
    from gridkit.plans.training import training_plan
    from gridkit.run import Run, verify
    from gridkit.session import Session, connect, launch, simulate


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
