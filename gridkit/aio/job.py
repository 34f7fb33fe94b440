"""A job of the syft.js API as coroutines: ask for work, train where the data is, report.

Source: syft.js 0.1.4 (`Job`, `SyftModel`, `Plan`), its life cycle, events and order of requests.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import numpy as np

from gridkit.aio.job_model import JobPlan, SyftModel
from gridkit.cells import ShortDir
from gridkit.client.job import Cycle, JobClient, Rejection
from gridkit.client.speed_test import UNKNOWN, Speeds, measure
from gridkit.errors import UsageError
from gridkit.plans.plan import Plan
from gridkit.wire.state import read_state
from gridkit.workers.job_training import Progress, Trained, train
from gridkit.workers.settings import LocalSettings, shard

if TYPE_CHECKING:
    pass

MEASURED_SECONDS = 60.0
"""for which a speed test holds: a node allows each worker only so many"""

Event = Literal["accepted", "rejected", "error"]
Handler = Callable[[Any], Any]
HandlerT = TypeVar("HandlerT", bound=Handler)


@dataclass(frozen=True, slots=True)
class Accepted:
    """What handlers of the event "accepted" get.

    Attributes:
        job: the Job; its `plans` and `model` are those of this cycle.
        model: the SyftModel to start from.
        client_config: what the one who hosts the training asks for, such as `batch_size`, `lr`, `max_updates`.
        cycle: number of the cycle, from 1.
    """

    job: Any = field(repr=False)
    model: Any
    client_config: Mapping[str, Any]
    cycle: int

    @property
    def clientConfig(self) -> Mapping[str, Any]:
        return self.client_config


@dataclass(frozen=True, slots=True)
class Rejected:
    """What handlers of the event "rejected" get.

    Attributes:
        job: the Job; `job.start()` asks again.
        timeout: seconds after which to ask again; None is never: the training is over.
        reason: why, in words; `code` (of `gridkit.errors.ErrorCode`) for programs.
    """

    job: Any = field(repr=False)
    timeout: float | None
    reason: str
    code: str


async def _settled(result: Any) -> None:
    if inspect.isawaitable(result):
        await result


class Job(ShortDir):
    """One worker of one training. `start` asks for work; what comes of it are events; each start is one cycle.

    ::

        start() ── speed test, if the node asks for it ── cycle request ─┬─ model, plans ── event "accepted"
                                                                         ├─ event "rejected"
                                                                         └─ event "error" (of any step)

    Made by `Syft.new_job`. Handlers are functions or coroutine functions, are called in the order in which they were
    registered, and are awaited. Where one of "accepted" or "rejected" fails, its error becomes an "error" event.

    Attributes:
        worker: the Syft.
        model_name, model_version: of the training.
        model: of the cycle that accepted this job last; None before.
        plans: of that cycle, by name.
        protocols: always empty.
        client_config: of that cycle.
        worker_id: this worker's identity, which is its right to ask for work: not in any repr.
    """

    def __init__(self, worker: Any, client: JobClient, say: Callable[[str], object] | None = None) -> None:
        self.worker = worker
        self.model: Any = None
        self.plans: dict[str, Any] = {}
        self.protocols: dict[str, Any] = {}
        self.client_config: dict[str, Any] = {}
        self._client = client
        self._say = say
        self._handlers: dict[str, list[Handler]] = {"accepted": [], "rejected": [], "error": []}
        self._cycle: Cycle | None = None
        self._answer = "not accepted yet"
        self._arrays: dict[str, np.ndarray] = {}
        self._read_plans: dict[str, Plan] = {}
        self._speeds = (-math.inf, UNKNOWN)
        self._training = threading.Lock()
        self._stop = threading.Event()
        # What a sync face puts in place of these
        self._shown: Any = self
        self._model_class: Callable[[Mapping[str, np.ndarray]], Any] = SyftModel
        self._plan_class: Callable[[Plan], Any] = JobPlan

    def __repr__(self) -> str:
        return f"Job({self.model_name!r}, {self.model_version!r}, {self._answer})"

    @property
    def model_name(self) -> str:
        return self._client.name

    @property
    def model_version(self) -> str | None:
        return self._client.version

    @property
    def worker_id(self) -> str:
        return self._client.worker_id or ""

    @property
    def modelName(self) -> str:
        return self.model_name

    @property
    def modelVersion(self) -> str | None:
        return self.model_version

    @property
    def clientConfig(self) -> dict[str, Any]:
        return self.client_config

    @overload
    def on(self, event: Event, handler: HandlerT) -> HandlerT: ...
    @overload
    def on(self, event: Event) -> Callable[[HandlerT], HandlerT]: ...
    def on(self, event: Event, handler: Handler | None = None) -> Any:
        """Register a handler of an event: "accepted", "rejected" or "error"; without one this is a decorator.

        A handler gets an `Accepted`, a `Rejected`, or the exception.

        Raises:
            UsageError: there is no such event, or the handler is no function.

        Example:
            >>> @job.on("accepted")                                                 # doctest: +SKIP
            ... async def work(accepted):
            ...     await job.report(await job.train(x, y))
        """
        if event not in self._handlers:
            raise UsageError(f"a job has no event {event!r}", f"use one of {', '.join(map(repr, self._handlers))}")
        if handler is None:
            return partial(self.on, event)
        if not callable(handler):
            raise UsageError(
                f"the handler of {event!r} is no function: {type(handler).__name__}",
                f"job.on({event!r}, work) names the function; work(…) would call it at once",
            )
        self._handlers[event].append(handler)
        return handler

    async def start(self) -> None:
        """Ask for work once, and call the handlers of the event that comes of it. May be called again, to retry or
        for the next cycle; the worker stays the same.

        Raises:
            Exception: what an "error" event carries, if there is no handler for it, or what such a handler raised.
        """
        await self._dispatch(*await self._turn())

    async def _turn(self) -> tuple[Event, Any]:
        """All requests of one start: an event and its payload. Raises nothing but interruptions."""
        client = self._client
        try:
            answer = await client.request_cycle(speeds=await self._measured())
            if isinstance(answer, Rejection):
                self._answer = f"rejected: {answer.reason}"
                self._log(self._answer)
                return "rejected", Rejected(self._shown, answer.timeout, answer.reason, answer.code)
            self._log(f"accepted into cycle {answer.sequence}")
            arrays = await asyncio.to_thread(read_state, await client.model(answer))
            plans = {}
            for name, plan_id in answer.plans.items():
                plans[name] = await asyncio.to_thread(Plan.from_bytes, await client.plan(answer, plan_id))
            model = self._model_class(arrays)
        except Exception as error:  # noqa: BLE001  it is the event's payload
            self._log(f"error: {error}")
            return "error", error
        self._cycle, self._arrays, self._read_plans = answer, arrays, plans
        self._answer = f"cycle {answer.sequence}"
        self.model, self.client_config = model, dict(answer.client_config)
        self.plans = {name: self._plan_class(plan) for name, plan in plans.items()}
        return "accepted", Accepted(self._shown, model, self.client_config, answer.sequence)

    async def _measured(self) -> Speeds:
        """How fast the way to the node is, where it asks; who starts again soon isn't measured again."""
        if not self._client.requires_speed_test:
            return UNKNOWN
        if time.monotonic() - self._speeds[0] > MEASURED_SECONDS:
            found = await measure(self._client.link, self.worker_id)
            self._speeds = (time.monotonic(), found)
            self._log(f"speed test: {found}")
        return self._speeds[1]

    async def _dispatch(self, event: Event, payload: Any) -> None:
        """Call the handlers, on this thread."""
        try:
            if event == "error":
                raise payload
            for handler in tuple(self._handlers[event]):
                await _settled(handler(payload))
        except Exception as error:
            handlers = tuple(self._handlers["error"])
            if not handlers:
                raise
            for handler in handlers:
                await _settled(handler(error))

    async def report(self, diff: bytes | Trained) -> None:
        """Send the diff of the cycle that accepted this job last. The same bytes again count once.

        Args:
            diff: of `SyftModel.create_serialized_diff`, or what `train` gave; the latter also tells the node the number
                of samples and the loss.

        Raises:
            UsageError: no cycle has accepted this job; or the training is of another cycle, or was stopped; or this is
                neither.
            NodeError: the node refused the report; `code` says why (SHAPE_MISMATCH, CYCLE_CLOSED, …).
            NodeUnreachable: no answer.
        """
        cycle = self._accepted()
        if not isinstance(diff, Trained):
            if not isinstance(diff, bytes | bytearray | memoryview):
                raise UsageError(
                    f"a report is a diff, as bytes, or what job.train gave, and this is a {type(diff).__name__}",
                    "job.report(job.model.create_serialized_diff(updated_params))",
                )
            await self._client.report_bytes(cycle, diff)
            return
        if not diff.finished:
            raise UsageError(
                f"the training was stopped after {diff.step} of {diff.steps} steps",
                "job.train with a checkpoint goes on with it; job.report(trained.diff) sends it as it is",
            )
        if diff.cycle != cycle.sequence:
            raise UsageError("this was trained in another cycle", "train again from the model of this one")
        await self._client.report_bytes(cycle, diff.diff, samples=diff.samples, metrics=diff.metrics)
        if diff.checkpoint is not None:
            diff.checkpoint.unlink(missing_ok=True)

    async def train(
        self,
        x: Any,
        y: Any,
        *,
        epochs: int | None = None,
        steps: int | None = None,
        batch_size: int | None = None,
        lr: float | None = None,
        seed: int | None = None,
        plan: str | None = None,
        on_progress: Callable[[Progress], object] | None = None,
        checkpoint: str | Path | None = None,
        save_every: float = 5.0,
    ) -> Trained:
        """Train the cycle's model on this worker's data: the loop of gridkit's own workers, to the same bits.

        What isn't given is what the training's `client_config` says: `max_epochs` (1), `max_updates`, `batch_size`
        (32), `lr` (the plan's), `seed` (0).

        Args:
            x, y: arrays or tensors with equal first dimension, as the plan's example had them (classes, not one-hot).
            epochs: passes over the data.
            steps: optimiser steps at most; without `epochs` as many epochs as they take.
            plan: name of the plan, where the training has several.
            on_progress: called after each step, on the thread that trains, in the context of the caller.
            checkpoint: file to leave the training in, every `save_every` seconds and when it ends or is stopped, and to
                go on from: the result is that of an undisturbed training, bit for bit. It belongs to this training,
                cycle, plan, data and arguments: one of an earlier cycle is replaced. `report` removes it. It holds no
                code and none of the data, but what the model has learned: keep it as you keep the data.

        Returns:
            What `report` takes. Stopped by `stop`, it is not `finished`.

        Raises:
            UsageError: no cycle has accepted this job; the data or an argument doesn't fit; `checkpoint` is of another
                training.
            PlanError: the plan can't run with this batch size.

        Example:
            >>> trained = await job.train(x, y, epochs=2)                           # doctest: +SKIP
        """
        cycle = self._accepted()
        if on_progress is not None and inspect.iscoroutinefunction(on_progress):
            raise UsageError("on_progress is a coroutine function", "pass a plain one: it is called by a thread")
        data = shard("the worker", x, y)
        given = {"batch_size": batch_size, "max_epochs": epochs, "max_updates": steps, "lr": lr, "seed": seed}
        given = {key: value for key, value in given.items() if value is not None}
        local = LocalSettings.from_config({**cycle.client_config, **given})
        arguments = {**local.arguments(), "round": cycle.sequence, "slot": cycle.slot}
        if steps is not None and epochs is None:
            arguments["epochs"] = -(-steps // -(-len(data[0]) // local.batch_size))
        stop = self._stop = threading.Event()
        work = partial(
            train,
            self._plan(plan),
            self._arrays,
            *data,
            arguments,
            {"name": self.model_name, "version": self.model_version},
            stop=stop,
            on_progress=on_progress,
            checkpoint=None if checkpoint is None else Path(checkpoint),
            save_every=save_every,
        )
        try:
            return await asyncio.to_thread(self._alone, work)
        finally:
            stop.set()  # cancelled, as by an interrupt: the thread ends after its step

    def stop(self) -> None:
        """End the training under way after its step, from any thread: `train` returns what it has so far."""
        self._stop.set()

    def _alone(self, work: Callable[[], Trained]) -> Trained:
        """One training of a job at a time: one that was interrupted may still be writing its checkpoint."""
        with self._training:
            return work()

    def _accepted(self) -> Cycle:
        if self._cycle is None:
            raise UsageError(
                f"no cycle of '{self.model_name}' has accepted this job ({self._answer})",
                "start it, and do this in the handler of accepted",
            )
        return self._cycle

    def _plan(self, name: str | None) -> Plan:
        if name is None:
            name = "training_plan" if "training_plan" in self._read_plans else next(iter(self._read_plans), "")
        if name not in self._read_plans:
            raise UsageError(f"there is no plan {name!r}", f"the training has {', '.join(self._read_plans) or 'none'}")
        return self._read_plans[name]

    def _log(self, line: str) -> None:
        if self._say is not None:
            self._say(f"{self.model_name}: {line}".splitlines()[0])
