"""What importing gridkit costs: nothing heavy before it is used, and never torch in the node's own process."""

from __future__ import annotations

import importlib
import subprocess
import sys
import types

import pytest

import gridkit

HEAVY = (
    "torch",
    "pandas",
    "numpy",
    "asyncio",
    "matplotlib",
    "ipywidgets",
    "IPython",
    "httpx",
    "websockets",
    "sqlalchemy",
)


def loaded_by(statement: str, names: tuple[str, ...]) -> list[str]:
    """Which of `names` a fresh interpreter has loaded after `statement`."""
    code = f"{statement}\nimport sys\nprint(*sorted(set({names!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_import_gridkit_loads_nothing_heavy() -> None:
    assert loaded_by("import gridkit; dir(gridkit); gridkit.GridkitError", HEAVY) == []


@pytest.mark.parametrize(
    "module",
    [
        "gridkit.node.app",
        "gridkit.node.launch",
        "gridkit.wire.state",
        "gridkit.wire.tensors",
        "gridkit.federated.cycle",
        "gridkit.federated.checks",
        "gridkit.federated.aggregate",
        "gridkit.federated.history",
        "gridkit.federated.strategies",
        "gridkit.plans.form",
        "gridkit.plans.table.ops",
        "gridkit.plans.plan",
        "gridkit.client",
        "gridkit.cli",
    ],
)
def test_the_node_and_the_arithmetic_know_no_torch(module: str) -> None:
    assert loaded_by(f"import {module}", ("torch", "pandas", "matplotlib", "ipywidgets")) == []


@pytest.mark.parametrize("name", gridkit.__all__)
def test_every_public_name_resolves_and_is_documented(name: str) -> None:
    value = getattr(gridkit, name)
    assert name in dir(gridkit)
    if name == "__version__":
        assert value.count(".") == 2
        return
    if isinstance(value, types.ModuleType):
        assert value is importlib.import_module(f"gridkit.{name}")
    assert (value.__doc__ or "").strip(), f"gridkit.{name} has no docstring"


def test_the_clients_have_async_twins() -> None:
    for name in ("RpcClient", "Syft", "WebsocketGridClient"):
        twin = getattr(gridkit.aio, name)
        assert twin is not getattr(gridkit, name) and twin.__doc__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        _ = gridkit.no_such_name
