"""Functions of the node's own, which need no tensors."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine
from typing import Any, Final

from gridkit.errors import ErrorCode, UsageError
from gridkit.node.rpc.session import Asked

LONGEST_SLEEP: Final = 3600.0

Function = Callable[[Asked], Coroutine[Any, Any, Any]]


async def sleep(asked: Asked) -> dict[str, Any]:
    """``Sleep(seconds)``: something slow, which tells how far it is."""
    seconds = asked.params.args[0] if len(asked.params.args) == 1 else None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= LONGEST_SLEEP:
        raise UsageError(f"Sleep takes seconds, 0 to {LONGEST_SLEEP:g}", code=ErrorCode.BAD_REQUEST)
    asked.work.progress.update(phase="sleeping", done=0, total=math.ceil(seconds))
    for passed in range(math.ceil(seconds)):
        asked.work.progress["done"] = passed
        await asyncio.sleep(min(1.0, seconds - passed))
    return {"data": float(seconds)}


FUNCTIONS: Final[dict[str, Function]] = {"Sleep": sleep}
