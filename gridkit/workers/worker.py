"""The loop of a worker process: ask for work for each of its clients, train where the data is, report.

A process may hold several clients, one shard and one identity each. They share the link, the plan and the model of a
round; one trains at a time (one torch thread), while others talk to the node.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from gridkit.client.job import Cycle, JobClient, Rejection
from gridkit.client.link import Link
from gridkit.errors import ErrorCode, NodeError, PlanError
from gridkit.plans.plan import Plan
from gridkit.wire.state import read_state
from gridkit.workers.local import LocalResult, train_client
from gridkit.workers.settings import LocalSettings, described

WAIT = 20.0
"""seconds for which the node may hold a rejection back until a later cycle is open"""
RETRY = 1.0
"""the same, when there may be work in the cycle that is open"""
SAME_CYCLE = (ErrorCode.CYCLE_FULL, ErrorCode.TOO_FEW_WORKERS, ErrorCode.IN_DRAW)
"""rejections that may be over before the cycle is"""


@dataclass(slots=True)
class Client:
    """One data shard and one worker identity. `x` and `y` never leave this process."""

    x: np.ndarray = field(repr=False)
    y: np.ndarray = field(repr=False)
    token: str | None = field(default=None, repr=False)
    label: str | None = None
    worker_id: str | None = field(default=None, repr=False)


class Worker:
    """All clients of one training in this process.

    Args:
        link: to the node; its patience decides how long an unreachable node is tried again.
        name, version: of the training.
        clients: the shards that this process holds.
        on_identity: called with a client when the node has given it its worker id.
        on_report: called when the node has answered a report.
        say: where one line of news goes.
    """

    def __init__(
        self,
        link: Link,
        name: str,
        version: str | None,
        clients: Sequence[Client],
        *,
        on_identity: Callable[[Client], None] = lambda client: None,
        on_report: Callable[[], None] = lambda: None,
        say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
    ) -> None:
        self._link = link
        self._name, self._version = name, version
        self._clients = clients
        self._on_identity = on_identity
        self._on_report = on_report
        self._say = say
        self._lane = ThreadPoolExecutor(1, thread_name_prefix="gridkit-train")
        self._talking = asyncio.Semaphore(8)
        self._shard: dict[JobClient, Client] = {}
        self._plans: dict[int, Plan] = {}
        self._model: tuple[tuple[str, int], asyncio.Future[dict[str, np.ndarray]]] | None = None

    async def run(self) -> None:
        """Work until the training is over.

        Raises:
            NodeError: the node refuses this worker altogether.
            NodeUnreachable: the link's patience is used up.
        """
        try:
            jobs = await asyncio.gather(*(self._join(client) for client in self._clients))
            turns = itertools.count()
            early: dict[JobClient, Cycle] = {}
            while jobs:
                got = await asyncio.gather(*(self._turn(job, early.pop(job, None)) for job in jobs))
                jobs = [job for job, answer in zip(jobs, got, strict=True) if not _for_ever(answer)]
                if jobs:
                    # One of them waits for all, until the node has opened a cycle in which one of them hasn't asked.
                    job = jobs[next(turns) % len(jobs)]
                    soon = any(isinstance(a, Rejection) and a.code in SAME_CYCLE for a in got)
                    seen = min(answer.sequence for answer in got)
                    answer = await job.request_cycle(RETRY if soon else WAIT, seen)
                    if isinstance(answer, Cycle):
                        early[job] = answer
        finally:
            self._lane.shutdown(wait=False)

    async def _join(self, client: Client) -> JobClient:
        job = JobClient(
            self._link,
            self._name,
            self._version,
            auth_token=client.token,
            worker_id=client.worker_id,
            label=client.label,
        )
        async with self._talking:
            client.worker_id = await job.authenticate()
        self._on_identity(client)
        self._shard[job] = client
        return job

    async def _turn(self, job: JobClient, cycle: Cycle | None) -> Cycle | Rejection:
        """One ask, and if it is accepted one round of training."""
        async with self._talking:
            answer = cycle or await job.request_cycle()
            if isinstance(answer, Cycle):
                try:
                    await self._work(job, answer)
                except NodeError as error:
                    if error.code in (ErrorCode.UNAUTHENTICATED, ErrorCode.FORBIDDEN, ErrorCode.NOT_FOUND):
                        raise
                    self._say(f"{self._shard[job].label or 'worker'}: round {answer.sequence}: {error.message}")
                self._on_report()
            return answer

    async def _work(self, job: JobClient, cycle: Cycle) -> None:
        try:
            plan = await self._plan(job, cycle)
            state = await self._state(job, cycle)
            loop = asyncio.get_running_loop()
            result = await loop.run_in_executor(self._lane, self._train, self._shard[job], plan, state, cycle)
        except NodeError:
            raise
        except Exception as error:  # noqa: BLE001  whatever went wrong here is reported as this worker's verdict
            await job.report_error(cycle, described(error))
            self._say(f"{self._shard[job].label or 'worker'}: round {cycle.sequence}: {error}")
            return
        await job.report(cycle, result.diff, samples=result.samples, metrics=result.metrics)

    @staticmethod
    def _train(client: Client, plan: Plan, state: Mapping[str, np.ndarray], cycle: Cycle) -> LocalResult:
        local = LocalSettings.from_config(cycle.client_config)
        return train_client(plan, state, client.x, client.y, round=cycle.sequence, slot=cycle.slot, **local.arguments())

    async def _plan(self, job: JobClient, cycle: Cycle) -> Plan:
        name = "training_plan" if "training_plan" in cycle.plans else next(iter(cycle.plans), None)
        if name is None:
            raise PlanError("the node sent no plan", "ask the training's owner")
        plan_id = cycle.plans[name]
        if plan_id not in self._plans:
            self._plans[plan_id] = Plan.from_bytes(await job.plan(cycle, plan_id))
        return self._plans[plan_id]

    async def _state(self, job: JobClient, cycle: Cycle) -> dict[str, np.ndarray]:
        """The round's model; fetched once for all clients of this process."""
        key = (cycle.process, cycle.sequence)
        if self._model is None or self._model[0] != key or self._model[1].cancelled() or self._failed():
            fetched = asyncio.ensure_future(self._fetch(job, cycle))
            self._model = (key, fetched)
        return await asyncio.shield(self._model[1])

    def _failed(self) -> bool:
        assert self._model is not None
        return self._model[1].done() and self._model[1].exception() is not None

    async def _fetch(self, job: JobClient, cycle: Cycle) -> dict[str, np.ndarray]:
        return await asyncio.to_thread(read_state, await job.model(cycle))


def _for_ever(answer: Cycle | Rejection) -> bool:
    return isinstance(answer, Rejection) and answer.timeout is None
