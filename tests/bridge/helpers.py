"""What the tests of the bridge share."""

from __future__ import annotations

import asyncio
from typing import Any

from gridkit.bridge import Bridge
from tests.echo import AsyncEchoClient


class Echo:
    """AsyncEchoClient driven through the test's own bridge."""

    def __init__(self, bridge: Bridge, url: str) -> None:
        self.bridge, self.core = bridge, AsyncEchoClient(bridge)
        bridge.sync(self.core.open(url))

    def call(self, name: str, *args: Any, timeout: float | None = None) -> Any:
        return self.bridge.sync(self.core.call(name, *args), timeout)


async def value_of(value: Any, seconds: float = 0.0) -> Any:
    await asyncio.sleep(seconds)
    return value


async def fail_with(error: BaseException) -> None:
    raise error
