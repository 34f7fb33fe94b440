"""What an owner does with a node: host trainings, follow them, fetch models, stop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gridkit.client.link import Link
from gridkit.errors import NodeUnreachable
from gridkit.plans.plan import Plan
from gridkit.wire.state import pack_state, read_state


@dataclass(frozen=True, slots=True)
class Hosted:
    """What hosting gave back. The tokens are secrets: they stay out of the repr."""

    process: str
    plans: Mapping[str, int]
    worker_token: str
    worker_tokens: tuple[str | None, ...] = ()  # one a slot; a participant's has none

    def __repr__(self) -> str:
        return f"Hosted({self.process!r}, plans={dict(self.plans)!r})"


class NodeClient:
    """The owner's half of the model-centric protocol over a `Link`."""

    def __init__(self, link: Link) -> None:
        self.link = link

    async def status(self) -> dict[str, Any]:
        return await self.link.json("GET", "/status/")

    async def host_training(
        self,
        state: Mapping[str, np.ndarray],
        plans: Mapping[str, Plan],
        client_config: Mapping[str, Any],
        server_config: Mapping[str, Any],
        averaging_plan: Plan | None = None,
        participants: Mapping[int, str] | None = None,
    ) -> Hosted:
        """Host a training process. See `gridkit.federated.cycle.CycleRules` for `server_config`, and
        `gridkit.averaging_plan` for a rule of one's own.

        Args:
            participants: the push participants of a fixed roster, slot to name; they need no plan.

        Raises:
            ConflictError: the name and version are taken.
            NotFoundError: no participant has one of these names.
        """
        config = {"client_config": client_config, "server_config": server_config, "plans": list(plans)}
        if participants:
            config["participants"] = {str(slot): name for slot, name in participants.items()}
        files = {
            "config": ("config", json.dumps(config).encode(), "application/json"),
            "model": ("model", pack_state(state), "application/octet-stream"),
        }
        for place, plan in enumerate(plans.values()):
            files[f"plan{place}"] = (f"plan{place}", plan.to_bytes(), "application/octet-stream")
        if averaging_plan is not None:
            data = averaging_plan.to_bytes()
            files["averaging_plan"] = ("averaging_plan", data, "application/octet-stream")
        answer = await self.link.json("POST", "/model-centric/host-training", files=files)
        return Hosted(
            answer["process"], answer["plans"], answer["worker_token"], tuple(answer.get("worker_tokens", ()))
        )

    async def processes(self) -> list[dict[str, Any]]:
        """Every process hosted on the node, oldest first."""
        return list((await self.link.json("GET", "/model-centric/processes"))["processes"])

    async def plan(self, plan_id: int) -> Plan:
        """A hosted plan, by its id (owner only)."""
        query = {"plan_id": plan_id, "receive_operations_as": "gridkit"}
        return Plan.from_bytes((await self.link.request("GET", "/model-centric/get-plan", params=query)).content)

    async def retrieve_model(
        self, name: str, version: str | None = None, checkpoint: int | None = None
    ) -> dict[str, np.ndarray]:
        """A model of a process: the newest, or that of a checkpoint (1 is the start model).

        Raises:
            NotFoundError: no such process, or that checkpoint is no longer kept.
        """
        query: dict[str, Any] = {"name": name, "checkpoint": "latest" if checkpoint is None else checkpoint}
        if version is not None:
            query["version"] = version
        response = await self.link.request("GET", "/model-centric/retrieve-model", params=query)
        return await asyncio.to_thread(read_state, response.content)

    async def stop(self, name: str, version: str, *, now: bool = False) -> None:
        """Stop a training after this round, or at once."""
        await self.link.json("POST", "/model-centric/stop", json={"name": name, "version": version, "now": now})

    async def worker_token(
        self, name: str, version: str, worker: str | None = None, *, once: bool = False, expires: float | None = None
    ) -> str:
        """A token with which a worker may join this training, and nothing else; `worker` is what it is called. With
        `once` it is good for one worker; it ends after `expires` seconds (by default the node's own 30 days)."""
        wish = {"name": name, "version": version, "worker": worker, "once": once, "expires": expires}
        wish = {key: value for key, value in wish.items() if value is not None}
        return str((await self.link.json("POST", "/model-centric/worker-token", json=wish))["worker_token"])

    async def rows(self, run: str, after: int = 0) -> AsyncGenerator[dict[str, Any]]:
        """The rows of a run, from the beginning until it is finished; goes on by itself after a broken connection."""
        failed_since: float | None = None
        clock = asyncio.get_running_loop().time
        while True:
            try:
                async with self.link.events(after, run) as rows:
                    async for row in rows:
                        failed_since = None
                        after = row["seq"]
                        yield row
                        if row["kind"] == "finished":
                            return
            except NodeUnreachable:
                failed_since = failed_since or clock()
                if self.link.patience is not None and clock() - failed_since > self.link.patience:
                    raise
            await asyncio.sleep(0.1)
