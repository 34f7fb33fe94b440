"""The same training without a node: `decide` with a thread for a shell, everything in this process.

Events, checks, averaging, rows and arithmetic are those of the node, so the model is too, bit for bit.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import numpy as np

from gridkit import threads
from gridkit.errors import ErrorCode, NotFoundError, PlanError, UsageError
from gridkit.evaluation import Evaluate
from gridkit.federated import cycle, history
from gridkit.federated.aggregate import aggregate, flat, subtract
from gridkit.federated.checks import Verdict, check_report
from gridkit.federated.rules import CycleRules
from gridkit.plans.plan import Plan
from gridkit.run import AsyncRun, Run, RunBase, RunSource
from gridkit.wire.tensors import Array, Arrays
from gridkit.workers.local import one_thread, train_client
from gridkit.workers.settings import (
    LocalSettings,
    Strategy,
    check_evaluate,
    configurations,
    described,
    shards,
    start_state,
)

if TYPE_CHECKING:
    from torch import nn

    from gridkit.workers.notebook_rule import NotebookRule

RunT = TypeVar("RunT", bound=RunBase)
P = ParamSpec("P")
T = TypeVar("T")


def _simulate(
    kind: type[RunT],
    model: nn.Module,
    plan: Plan,
    *,
    clients: Sequence[tuple[Any, Any]],
    rounds: int = 10,
    name: str = "simulation",
    version: str = "1.0",
    batch_size: int = 8,
    local_epochs: int = 1,
    lr: float | None = None,
    fraction: float = 1.0,
    strategy: Strategy = "fedavg",
    evaluate: Evaluate | None = None,
    seed: int = 0,
    tolerate: int = 0,
    weighting: str = "samples",
    max_samples: int | None = None,
    max_norm: float | None = None,
    round_timeout: float | None = None,
    keep_last: int = 20,
    keep_every: int = 0,
    engine: str = "inline",
) -> RunT:
    """Train without a node: the same arguments as `grid.train`, the same Run, the same model bit for bit.

    Returns at once; the training runs on a thread of this process, one client after the other.

    Args:
        engine: "inline".

    The other arguments are those of `gridkit.aio.SessionCore.train`.

    Raises:
        UsageError: an argument is wrong.

    Example:
        >>> run = gk.simulate(model, plan, clients=shards, rounds=10).wait()        # doctest: +SKIP
    """
    if engine != "inline":
        raise UsageError(f"there is no engine {engine!r}", 'use engine="inline"')
    check_evaluate(evaluate, "a simulation has no node: pass the function itself")
    data = shards(clients)
    client_config, server_config = configurations(
        clients=len(data),
        rounds=rounds,
        batch_size=batch_size,
        local_epochs=local_epochs,
        lr=lr,
        seed=seed,
        round_timeout=round_timeout,
        fraction=fraction,
        strategy=strategy,
        tolerate=tolerate,
        weighting=weighting,
        max_samples=max_samples,
        max_norm=max_norm,
        keep_last=keep_last,
        keep_every=keep_every,
    )
    rule = None if isinstance(strategy, str) else strategy
    source = Simulation(start_state(model, plan), plan, data, client_config, server_config, rule)
    return kind(
        name,
        version,
        source,
        rounds=rounds,
        model=model,
        plan=plan,
        clients=data,
        settings=client_config,
        evaluate=evaluate,
    )


def _face(kind: type[RunT], function: Callable[Concatenate[type[RunT], P], RunT]) -> Callable[P, RunT]:
    """`simulate` for this kind of Run, with its signature: one for plain cells, one for `gridkit.aio`."""

    def simulate(*args: P.args, **kwargs: P.kwargs) -> RunT:
        return function(kind, *args, **kwargs)

    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())[1:]
    simulate.__signature__ = signature.replace(parameters=parameters, return_annotation=kind)  # type: ignore[attr-defined]
    simulate.__doc__ = function.__doc__
    return simulate


simulate = _face(Run, _simulate)
simulate_async = _face(AsyncRun, _simulate)


class Simulation(RunSource):
    """The shell: a thread that asks, trains, reports and averages for all clients in turn."""

    def __init__(
        self,
        state: dict[str, Array],
        plan: Plan,
        data: Sequence[tuple[Array, Array]],
        client_config: Mapping[str, Any],
        server_config: Mapping[str, Any],
        rule: Plan | Callable[..., Any] | None = None,
    ) -> None:
        self._rules = CycleRules.from_config(server_config)
        self._size = sum(spec.size for spec in plan.averaged)
        self._averaging: Plan | None = None
        self._function: NotebookRule | None = None
        if isinstance(rule, Plan):
            from gridkit.plans.averaging_form import check_averaging, check_rounds

            check_averaging(rule, self._size)
            check_rounds(rule, self._rules.fewest, self._rules.most)
            self._averaging = rule
        elif rule is not None:
            from gridkit.workers.notebook_rule import NotebookRule

            self._function = NotebookRule(rule)
        self._local = LocalSettings.from_config(client_config).arguments()
        self._plan = plan
        self._data = data
        self._models = {1: state}
        self._stops: list[bool] = []
        self._diffs: dict[int, Arrays] = {}
        self._seq = 0

    def start(self, take: Callable[[history.Row], None], fail: Callable[[BaseException], None]) -> None:
        self._take = take

        def work() -> None:
            try:
                self._run()
            except Exception as error:  # noqa: BLE001  a defect here must end the Run, which raises it
                fail(error)

        threads.start(work, name="gridkit-simulate", end=lambda: self._stops.append(True))

    async def model(self, checkpoint: int | None) -> dict[str, Array]:
        model = self._models.get(max(self._models) if checkpoint is None else checkpoint)
        if model is None:
            raise NotFoundError(
                f"checkpoint {checkpoint} isn't kept", "use a larger keep_last", code=ErrorCode.NOT_FOUND, status=404
            )
        return {name: array.copy() for name, array in model.items()}

    async def stop(self, now: bool) -> None:
        self._stops.append(now)

    async def lend(self, role: str, fn: Any) -> None:
        raise UsageError("a simulation runs in this process, with the function that it was given")

    def raised(self) -> BaseException | None:
        return None if self._function is None else self._function.raised

    def in_thread(self, call: Coroutine[Any, Any, T]) -> T:
        return asyncio.run(call)

    def _run(self) -> None:
        self._state, decisions = cycle.CycleState.start(self._rules, time.time())
        self._publish(history.publish(None, None, self._state, decisions))
        while self._state.phase is cycle.Phase.OPEN:
            for slot in cycle.cohort(self._state):
                self._hear_stops()
                if self._state.phase is cycle.Phase.OPEN:
                    self._work(slot)

    def _hear_stops(self) -> None:
        while self._stops:
            self._apply(cycle.StopAsked(time.time(), self._stops.pop(0)))

    def _work(self, slot: int) -> None:
        worker = f"client {slot}"
        sequence = self._state.sequence
        key = f"{sequence}/{slot}"
        self._apply(cycle.WorkerAsked(time.time(), worker, worker, slot, key))
        if worker not in self._state.assignments:
            return
        x, y = self._data[slot]
        try:
            result = train_client(self._plan, self._models[sequence], x, y, round=sequence, slot=slot, **self._local)
        except Exception as error:  # noqa: BLE001  it is this client's verdict, as on a worker
            said = described(error)
            verdict = Verdict(ErrorCode.WORKER_ERROR, f"{said['type']}: {said['message']}")
            self._apply(cycle.ReportCame(time.time(), worker, key, key, verdict, error=said))
            return
        diff = Arrays(result.diff)
        verdict = check_report(
            diff, self._plan.averaged, max_norm=self._rules.max_norm, usual_norm=cycle.usual_norm(self._state)
        )
        self._diffs[slot] = diff
        size = sum(array.nbytes for array in result.diff.values())
        metrics = {name: value for name, value in result.metrics.items() if np.isfinite(value)}
        self._apply(cycle.ReportCame(time.time(), worker, key, key, verdict, result.samples, metrics, size))

    def _apply(self, event: cycle.Event) -> None:
        before = self._state
        self._state, decisions = cycle.decide(before, event)
        self._publish(history.publish(before, event, self._state, decisions))
        for decision in decisions:
            match decision:
                case cycle.Open():
                    self._diffs = {}
                case cycle.Aggregate():
                    self._aggregate(decision)

    def _aggregate(self, order: cycle.Aggregate) -> None:
        started = time.perf_counter()
        old = self._models[order.sequence]
        reports = [(part.weight, self._diffs[part.slot]) for part in order.parts]
        new: dict[str, Array] = {}
        try:
            chunks = self._averaged(Arrays(old), reports, max(1, *(a.size for a in old.values())))
            for name, array in old.items():
                new[name] = next(chunks).reshape(array.shape) if array.size else array
        except PlanError as error:
            self._apply(cycle.AggregationFailed(time.time(), order.sequence, self._failure(error)))
            return
        self._models[order.sequence + 1] = new
        self._retire(order.sequence)
        self._diffs = {}
        self._apply(cycle.Aggregated(time.time(), order.sequence, time.perf_counter() - started))

    def _averaged(self, old: Arrays, reports: list[tuple[float, Arrays]], chunk: int) -> Iterator[Array]:
        """The new model, a chunk a tensor."""
        if self._function is not None:
            result = self._function.run([(w, list(flat(diff))) for w, diff in reports], self._size)
            return subtract(old, result, chunk)
        if self._averaging is None:
            return aggregate(self._rules.strategy, old, reports, chunk)
        from gridkit.plans.averaging import run_averaging  # few have one, and the first round comes sooner without

        with one_thread():
            result = run_averaging(self._averaging, [(w, np.concatenate(list(flat(diff)))) for w, diff in reports])
        return subtract(old, result, chunk)

    def _failure(self, error: PlanError) -> str:
        if self._function is not None:
            return self._function.failure(error)
        from gridkit.plans.averaging_form import failure

        return failure(error)

    def _retire(self, closed: int) -> None:
        rules = self._rules
        for number in list(self._models):
            kth = rules.keep_every and number % rules.keep_every == 0
            if 1 < number <= closed + 1 - rules.keep_last and not kth:
                del self._models[number]

    def _publish(self, rows: list[history.Row]) -> None:
        for row in rows:
            self._seq += 1
            self._take({"seq": self._seq, "run": "simulation", **row})
