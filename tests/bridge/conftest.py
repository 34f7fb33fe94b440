"""A bridge of each test's own, on each of the two nest libraries, and a client on it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import gridkit.bridge as module
from gridkit import waitloop
from gridkit.bridge import Bridge
from gridkit.waitloop import NEST_LIBRARIES
from tests.bridge.helpers import Echo
from tests.echo import EchoServer


@pytest.fixture(params=NEST_LIBRARIES)
def bridge(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bridge]:
    """A bridge of the test's own, on each of the two libraries (which patch a loop's class: so a class of its own)."""
    monkeypatch.setenv("GRIDKIT_WAIT", request.param)
    fresh = type("WaitLoop", (waitloop.GridkitLoop,), {})
    monkeypatch.setattr(waitloop, "WaitLoop", fresh)
    monkeypatch.setattr(module, "WaitLoop", fresh)
    made = Bridge()
    yield made
    made.close()


@pytest.fixture(scope="module")
def server() -> Iterator[EchoServer]:
    with EchoServer() as running:
        yield running


@pytest.fixture
def echo(bridge: Bridge, server: EchoServer) -> Iterator[Echo]:
    made = Echo(bridge, server.url)
    yield made
    bridge.sync(made.core.close())
