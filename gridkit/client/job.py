"""A data holder's half of the model-centric protocol: authenticate, ask for work, download, report.

Source: the syft.js 0.1.4 protocol, sections a and e of its description; the order of requests is the original's. Ours
are the members `wait`, `worker_id`, `worker` and the octet-stream report. Messages go over HTTP, or through a
`JobSocket`; models and plans always come over HTTP, as there.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gridkit.client.job_socket import JobSocket
from gridkit.client.link import Link
from gridkit.client.speed_test import UNKNOWN, Speeds
from gridkit.errors import NodeError
from gridkit.wire.state import pack_state

PREFIX = "/model-centric"
TEXT_LIMIT = 32 << 20
"""bytes of a diff that go as base64 in a message; what is larger goes as octets over HTTP, a way that is ours"""


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
        socket: what messages go through; None sends them over HTTP.

    Attributes:
        requires_speed_test: whether the node wants to be told speeds; known after `authenticate`.
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
        socket: JobSocket | None = None,
    ) -> None:
        self.link = link
        self.name = name
        self.version = version
        self._auth_token = auth_token
        self.worker_id = worker_id
        self.label = label
        self.requires_speed_test = False
        self._socket = socket

    async def authenticate(self) -> str:
        """Get (or take up) the worker id.

        Raises:
            AccessError: no token, or not one for this training.
            NotFoundError: no such training.
        """
        got = await self._introduce()
        if not got.get("worker_id"):
            raise NodeError(f"{self.link.url} gave this worker no id")
        self.worker_id = str(got["worker_id"])
        self.requires_speed_test = bool(got.get("requires_speed_test"))
        return self.worker_id

    async def _introduce(self) -> dict[str, Any]:
        wish = {
            "model_name": self.name,
            "model_version": self.version,
            "auth_token": self._auth_token,
            "worker_id": self.worker_id,
            "worker": self.label,
        }
        return await self._ask("authenticate", {key: value for key, value in wish.items() if value is not None})

    async def request_cycle(
        self, wait: float = 0.0, seen_cycle: int | None = None, speeds: Speeds = UNKNOWN
    ) -> Cycle | Rejection:
        """Ask for work; a rejection may be held back for `wait` seconds, until a cycle later than `seen_cycle` is
        open.

        Raises:
            NodeError: the node refuses this worker, or answers otherwise than the protocol says.
        """
        wish = {"worker_id": self.worker_id, "model": self.name, "version": self.version, "seen_cycle": seen_cycle}
        known: dict[str, Any] = {key: value for key, value in wish.items() if value is not None}
        known |= {"ping": speeds.ping, "download": speeds.download, "upload": speeds.upload, "wait": float(wait)}
        got = await self._ask("cycle-request", known, timeout=wait + 60)
        try:
            if got.get("status") == "accepted":
                return _cycle(got)
            if got.get("status") == "rejected":
                return _rejection(got)
        except (KeyError, TypeError, ValueError) as error:
            raise NodeError(
                f"{self.link.url} answered '{got['status']}', but not as the protocol has it: {error!r}"
            ) from None
        raise NodeError(f"{self.link.url} answered with the unknown cycle status {str(got.get('status'))[:100]!r}")

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
        await self._octets(query, pack_state(diff))

    async def _octets(self, query: Mapping[str, Any], diff: bytes) -> None:
        headers = {"content-type": "application/octet-stream"}
        await self.link.json("POST", f"{PREFIX}/report", params=query, content=diff, headers=headers)

    async def report_bytes(
        self, cycle: Cycle, diff: bytes, *, samples: int | None = None, metrics: Mapping[str, float] | None = None
    ) -> None:
        """As `report`, for a diff that is a State message already, in the form that every node of the protocol takes.

        Up to `TEXT_LIMIT` bytes it goes as base64 in a message, beyond that as octets.
        """
        more = {"samples": samples, "metrics": None if metrics is None else _finite(metrics)}
        known = {**self._ids(cycle), **{key: value for key, value in more.items() if value is not None}}
        if len(diff) > TEXT_LIMIT:
            known |= {"metrics": json.dumps(known["metrics"])} if "metrics" in known else {}
            await self._octets(known, diff)
            return
        if self._socket is not None and not self._socket.is_open:
            await self._introduce()  # a node may take small messages only from a socket that hasn't said who it is
        await self._ask("report", {**known, "diff": base64.b64encode(diff).decode()})

    async def report_error(self, cycle: Cycle, error: Mapping[str, str]) -> None:
        """Say that this worker failed in this cycle, and of what: ``{type, message, traceback}``."""
        await self._ask("report", {**self._ids(cycle), "error": dict(error)})

    async def _ask(self, what: str, data: dict[str, Any], **options: Any) -> dict[str, Any]:
        """A message and the members of its answer; an `error` among them is raised, as syft.js does."""
        if self._socket is not None:
            return await self._socket.ask(f"model-centric/{what}", data)
        got = await self.link.json("POST", f"{PREFIX}/{what}", json=data, **options)
        found = got["data"] if isinstance(got.get("data"), dict) else got  # the envelope, from nodes that send it
        if found.get("error"):
            raise NodeError(str(found["error"]), status=200)
        return found

    def _ids(self, cycle: Cycle) -> dict[str, str]:
        return {"worker_id": self.worker_id or "", "request_key": cycle.request_key}


def _cycle(got: Mapping[str, Any]) -> Cycle:
    return Cycle(
        str(got["request_key"]),
        str(got["model_id"]),
        dict(got["plans"]),
        dict(got["client_config"]),
        int(got.get("cycle", 0)),
        int(got.get("slot", 0)),
    )


def _rejection(got: Mapping[str, Any]) -> Rejection:
    timeout = got.get("timeout")
    return Rejection(
        str(got.get("reason", "no reason given")),
        str(got.get("code", "")),
        None if timeout is None else float(timeout),
        int(got.get("cycle", 0)),
    )


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """A loss that is not finite is left out: JSON has no word for it, and the verdict on the diff tells."""
    return {name: float(value) for name, value in metrics.items() if np.isfinite(value)}
