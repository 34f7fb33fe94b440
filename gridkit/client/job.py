"""A data holder's half of the model-centric protocol: authenticate, ask for work, download, report.

Source: the syft.js 0.1.4 protocol, sections a and e of its description; the order of requests is the original's. Ours
are the members `wait`, `worker_id`, `worker` and the octet-stream report.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gridkit.client.link import Link
from gridkit.wire.state import pack_state

PREFIX = "/model-centric"


@dataclass(frozen=True, slots=True)
class Cycle:
    """An accepted request: what to train, from which checkpoint, as which slot. The key is a secret."""

    request_key: str
    process: str
    plans: Mapping[str, int]
    client_config: Mapping[str, Any]
    sequence: int
    slot: int

    def __repr__(self) -> str:
        return f"Cycle({self.sequence}, slot={self.slot})"


@dataclass(frozen=True, slots=True)
class Rejection:
    """No work now.

    Attributes:
        reason: why, in words; `code` for programs.
        timeout: seconds after which to come back; None is never.
        sequence: the cycle in which it was said.
    """

    reason: str
    code: str
    timeout: float | None
    sequence: int


class JobClient:
    """One worker identity in one training.

    Args:
        link: to the node; needs no token of its own.
        name, version: of the training.
        auth_token: the worker's token (or the owner's); sent with `authenticate` only.
        worker_id: an identity from an earlier `authenticate`, to take it up again.
        label: how the worker wishes to be called in reports.
    """

    def __init__(
        self,
        link: Link,
        name: str,
        version: str | None,
        *,
        auth_token: str | None = None,
        worker_id: str | None = None,
        label: str | None = None,
    ) -> None:
        self.link = link
        self.name = name
        self.version = version
        self._auth_token = auth_token
        self.worker_id = worker_id
        self.label = label

    async def authenticate(self) -> str:
        """Get (or take up) the worker id.

        Raises:
            AccessError: no token, or not one for this training.
            NotFoundError: no such training.
        """
        wish = {
            "model_name": self.name,
            "model_version": self.version,
            "auth_token": self._auth_token,
            "worker_id": self.worker_id,
            "worker": self.label,
        }
        known = {key: value for key, value in wish.items() if value is not None}
        self.worker_id = str((await self.link.json("POST", f"{PREFIX}/authenticate", json=known))["worker_id"])
        return self.worker_id

    async def request_cycle(self, wait: float = 0.0, seen_cycle: int | None = None) -> Cycle | Rejection:
        """Ask for work; a rejection may be held back for `wait` seconds, until a cycle later than `seen_cycle` is
        open."""
        wish = {"worker_id": self.worker_id, "model": self.name, "version": self.version, "seen_cycle": seen_cycle}
        known: dict[str, Any] = {key: value for key, value in wish.items() if value is not None}
        known |= {"ping": 0, "download": 0, "upload": 0, "wait": float(wait)}
        got = await self.link.json("POST", f"{PREFIX}/cycle-request", json=known, timeout=wait + 60)
        if got["status"] != "accepted":
            timeout = got.get("timeout")
            return Rejection(
                str(got.get("reason", "no reason given")),
                str(got.get("code", "")),
                None if timeout is None else float(timeout),
                int(got.get("cycle", 0)),
            )
        return Cycle(
            got["request_key"], str(got["model_id"]), got["plans"], got["client_config"], got["cycle"], got["slot"]
        )

    async def model(self, cycle: Cycle) -> bytes:
        """The model to start from: a State message."""
        query = {**self._ids(cycle), "model_id": cycle.process}
        return (await self.link.request("GET", f"{PREFIX}/get-model", params=query)).content

    async def plan(self, cycle: Cycle, plan_id: int) -> bytes:
        """A plan in gridkit's own form. Foreign bytes: `Plan.from_bytes` validates them."""
        query = {**self._ids(cycle), "plan_id": plan_id, "receive_operations_as": "gridkit"}
        return (await self.link.request("GET", f"{PREFIX}/get-plan", params=query)).content

    async def report(
        self, cycle: Cycle, diff: Mapping[str, np.ndarray], *, samples: int, metrics: Mapping[str, float]
    ) -> None:
        """Send a diff (model as downloaded minus trained). The same bytes again count once.

        Raises:
            NodeError: the report was refused; `code` says why (SHAPE_MISMATCH, NOT_FINITE, CYCLE_CLOSED, …).
        """
        query = {**self._ids(cycle), "samples": samples, "metrics": json.dumps(_finite(metrics))}
        headers = {"content-type": "application/octet-stream"}
        data = pack_state(diff)
        await self.link.json("POST", f"{PREFIX}/report", params=query, content=data, headers=headers)

    async def report_error(self, cycle: Cycle, error: Mapping[str, str]) -> None:
        """Say that this worker failed in this cycle, and of what: ``{type, message, traceback}``."""
        await self.link.json("POST", f"{PREFIX}/report", json={**self._ids(cycle), "error": dict(error)})

    def _ids(self, cycle: Cycle) -> dict[str, str]:
        return {"worker_id": self.worker_id or "", "request_key": cycle.request_key}


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """A loss that is not finite is left out: JSON has no word for it, and the verdict on the diff tells."""
    return {name: float(value) for name, value in metrics.items() if np.isfinite(value)}
