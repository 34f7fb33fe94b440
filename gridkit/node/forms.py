"""Hosted plans in the form that other clients execute: translated when one first asks, and kept in memory.

The translation only rewrites the plan (no torch, nothing runs), so the node itself may do it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence

from gridkit.errors import ErrorCode, NodeError, PlanError
from gridkit.node.store.blobs import Blobs
from gridkit.plans.form import decode
from gridkit.wire.tensors import TensorSpec

MAX_KEPT = 64
"""plans whose translation is kept, the last used"""
MAX_KEPT_SIZE = 1 << 20
"""bytes of a translation that is kept: a model's plan has a few thousand, a large one is translated each time"""

_Made = tuple[bytes, tuple[TensorSpec, ...]] | PlanError


class Forms:
    """Translations of the plans of one node."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._kept: OrderedDict[str, _Made] = OrderedDict()
        self._lock = asyncio.Lock()  # a thousand workers may ask at once for one translation

    async def tfjs(self, name: str, digest: str, model: Sequence[TensorSpec]) -> bytes:
        """A plan as syft.js takes it; see `Plan.to_tfjs`.

        Args:
            name: what the training calls the plan.
            digest: where its bytes are.
            model: the training's model, whose tensors such a client gives to the plan in their order.

        Raises:
            NodeError: `BAD_PLAN`, with what is missing.
        """
        async with self._lock:
            made = self._kept.get(digest)
            if made is None:
                made = await asyncio.to_thread(self._translated, digest)
                if isinstance(made, PlanError) or len(made[0]) <= MAX_KEPT_SIZE:
                    self._kept[digest] = made
                    while len(self._kept) > MAX_KEPT:
                        self._kept.popitem(last=False)
            else:
                self._kept.move_to_end(digest)
        if isinstance(made, PlanError):
            raise _bad_plan(f"plan '{name}': {made.message}", made.hint)
        data, state = made
        if tuple(model) != state:
            raise _bad_plan(
                f"plan '{name}' takes its state in another order than the model's, or other tensors",
                "host the plan with the model that it was traced from",
            )
        return data

    def _translated(self, digest: str) -> _Made:
        try:
            plan = decode(self._blobs.read(digest))
            return plan.to_tfjs(), plan.state
        except PlanError as error:
            return error


def _bad_plan(message: str, hint: str | None) -> NodeError:
    return NodeError(message, hint, code=ErrorCode.BAD_PLAN, status=400)
