"""What the tests of the engine share: short ways to make events, and one step with all that must hold at each."""

from __future__ import annotations

import json
from typing import Any

from gridkit.errors import ErrorCode
from gridkit.federated import cycle, history
from gridkit.federated.checks import Verdict
from gridkit.federated.cycle import Answer, CycleState, Phase, Status
from gridkit.federated.rules import CycleRules

GOOD = Verdict(None, norm=1.0)
BAD = Verdict(ErrorCode.NOT_FINITE, "tensor 'w' has 1 values that are not finite", "w")
ERROR = {"type": "ValueError", "message": "no", "traceback": "Traceback …"}
FAILED = Verdict(ErrorCode.WORKER_ERROR, "ValueError: no")


def asked(at: float, worker: int, key: str = "", **line: float | None) -> cycle.WorkerAsked:
    """Worker number n sits in slot n; its id never looks like its label."""
    return cycle.WorkerAsked(at, f"id-{worker}", f"client {worker}", worker, key or f"key-{worker}-{at}", **line)


def came(
    at: float,
    worker: int,
    key: str,
    digest: str = "d",
    verdict: Verdict = GOOD,
    samples: int | None = 10,
    loss: float = 0.5,
    size: int = 100,
) -> cycle.ReportCame:
    error = ERROR if verdict.code is ErrorCode.WORKER_ERROR else None
    return cycle.ReportCame(at, f"id-{worker}", key, digest, verdict, samples, {"loss": loss}, size, error)


class Training:
    """A training whose every step is checked: pure, the same after a round trip through JSON, rows without secrets."""

    def __init__(self, **config: Any) -> None:
        self.rules = CycleRules.from_config(config)
        self.state, decisions = CycleState.start(self.rules, 0.0)
        self.now = 0.0
        self.history = history.History()
        self.rows: list[dict[str, Any]] = []
        self.aggregations: list[cycle.Aggregate] = []
        self.finishes: list[cycle.Finish] = []
        self.last: tuple[cycle.Decision, ...] = ()
        self._take(None, None, decisions)

    def step(self, event: cycle.Event) -> tuple[cycle.Decision, ...]:
        before, frozen = self.state, json.dumps(self.state.to_json())
        after, decisions = cycle.decide(before, event)
        assert json.dumps(before.to_json()) == frozen, "decide changed the state that it was given"
        again = CycleState.from_json(json.loads(frozen))
        assert again == before
        assert cycle.decide(again, event) == (after, decisions), "a restored state decides otherwise"
        if before.phase is Phase.FINISHED:
            assert after == before
        self.state, self.now, self.last = after, max(self.now, event.at), decisions
        self._take(before, event, decisions)
        self._check(before, event, decisions)
        return decisions

    def ask(self, worker: int, at: float | None = None, **line: float | None) -> cycle.Accept | cycle.Reject:
        decisions = self.step(asked(self.now if at is None else at, worker, **line))
        (answer,) = (d for d in decisions if isinstance(d, cycle.Accept | cycle.Reject))
        return answer

    def work(self, worker: int, **report: Any) -> tuple[cycle.Decision, ...]:
        """Ask, then report."""
        answer = self.ask(worker)
        assert isinstance(answer, cycle.Accept), answer
        return self.step(came(self.now, worker, answer.request_key, **report))

    def aggregated(self, *testers: int) -> tuple[cycle.Decision, ...]:
        assert self.state.phase is Phase.AGGREGATING
        everybody = tuple(cycle.Tester(f"id-{n}", f"client {n}", n) for n in testers)
        return self.step(cycle.Aggregated(self.now, self.state.sequence, 0.1, everybody))

    def tests(self, worker: int, digest: str = "t", accuracy: float | str = 0.5) -> cycle.Decision:
        """The answer to what a tester says."""
        decisions = self.step(cycle.TestCame(self.now, f"id-{worker}", digest, {"accuracy": accuracy}))
        (answer,) = (d for d in decisions if isinstance(d, cycle.Count | cycle.Refuse | cycle.Duplicate))
        return answer

    def leave(self, worker: int, reason: str = "answered 500") -> tuple[cycle.Decision, ...]:
        return self.step(cycle.WorkerLeft(self.now, f"id-{worker}", worker, f"client {worker}", reason))

    def status(self, worker: int) -> Status:
        return self.state.assignments[f"id-{worker}"].status

    def _take(self, before: CycleState | None, event: cycle.Event | None, decisions: Any) -> None:
        self.aggregations += [d for d in decisions if isinstance(d, cycle.Aggregate)]
        self.finishes += [d for d in decisions if isinstance(d, cycle.Finish)]
        for row in history.publish(before, event, self.state, decisions):
            text = json.dumps(row, allow_nan=False)
            assert "key-" not in text and "id-" not in text, f"a row tells a secret: {text}"
            self.rows.append({"seq": len(self.rows) + 1, "run": "r", **row})
            assert self.history.apply(self.rows[-1])
            assert not self.history.apply(self.rows[-1]), "a row counted twice"

    def _check(self, before: CycleState, event: cycle.Event, decisions: tuple[cycle.Decision, ...]) -> None:
        state, rules = self.state, self.rules
        if isinstance(event, cycle.WorkerAsked):
            assert sum(isinstance(d, cycle.Accept | cycle.Reject) for d in decisions) == 1
        if isinstance(event, cycle.ReportCame | cycle.TestCame):
            assert sum(isinstance(d, cycle.Count | cycle.Refuse | cycle.Duplicate) for d in decisions) == 1
        if isinstance(event, cycle.WorkerLeft):
            fresh = event.slot not in before.left and event.slot < (rules.clients or 0)
            assert (cycle.Left(event.worker) in decisions) == (fresh and before.phase is not Phase.FINISHED)
        if isinstance(event, cycle.Tick) and state.due is not None:
            assert state.due > event.at, "the shell's timer would spin"
        if rules.max_diffs is not None:
            assert len(state.with_status(Status.ACCEPTED)) <= rules.max_diffs
        sequences = [order.sequence for order in self.aggregations]
        assert sequences == sorted(set(sequences)), "a cycle was averaged twice"
        assert (state.phase is Phase.AGGREGATING) == (cycle.pending_aggregation(state) is not None)
        if state.phase is Phase.AGGREGATING:
            assert cycle.pending_aggregation(state) == self.aggregations[-1]
            assert state.due is None
        self._check_places(state, decisions)
        self._check_tests(state)
        if rules.clients is not None:
            self._check_roster(state, rules.clients)
        assert len(self.finishes) == (state.phase is Phase.FINISHED)
        assert (state.outcome is not None) == (state.phase is Phase.FINISHED)
        assert self.history.outcome == state.outcome
        self._check_orders()

    def _check_places(self, state: CycleState, decisions: tuple[cycle.Decision, ...]) -> None:
        """Nobody sits where there is no place, and a draw gives away what is free."""
        rules = self.rules
        at_work, kept = (
            len(state.with_status(Status.ASSIGNED)),
            [c for c in state.queue.values() if c.drawn_at is not None],
        )
        assert not state.queue or (state.phase is Phase.OPEN and rules.pool_selection == "random")
        assert not state.queue.keys() & {a.worker for a in state.with_status(Status.ASSIGNED)}
        if rules.max_workers is not None:
            assert at_work + len(kept) <= rules.max_workers
        elif rules.pool_selection == "random" and rules.max_diffs is not None:
            assert at_work + len(kept) + len(state.with_status(Status.ACCEPTED)) <= rules.max_diffs
        for draw in decisions:
            if isinstance(draw, cycle.Draw):
                assert draw.slots == tuple(sorted(set(draw.slots))) and 0 < len(draw.slots) <= draw.candidates
                assert draw.number == state.draws

    def _check_tests(self, state: CycleState) -> None:
        """Somebody is waited for exactly while a model is being tested, and nobody who has left."""
        pending = {tested.slot for tested in state.tests.values() if tested.status is Answer.PENDING}
        assert (state.phase is Phase.TESTING) == bool(pending)
        assert not pending & state.left.keys()
        heard = [(row["round"], row["slot"]) for row in self.history.tests]
        assert len(heard) == len(set(heard)), "a test counted twice"
        at_it = {slot for slot, worker in self.history.workers.items() if worker["state"] == "testing"}
        assert at_it == pending

    def _check_roster(self, state: CycleState, clients: int) -> None:
        """A round's cohort stays as it was, without those who had left, and can still have its quorum."""
        members = cycle.cohort(state)
        opened = next(row for row in reversed(self.rows) if row["kind"] == "opened")
        assert (opened["cycle"], opened["cohort"]) == (state.sequence, list(members))
        gone = {slot for slot, departure in state.left.items() if departure.cycle < state.sequence}
        assert not gone & set(members)
        assert len(members) == min(self.rules.cohort_size, clients - len(gone))
        taken = [a.slot for a in state.assignments.values()]
        assert len(taken) == len(set(taken)) and set(taken) <= set(members)
        lost = state.with_status(Status.REFUSED, Status.FAILED, Status.EXPIRED)
        decided = {a.slot for a in (*lost, *state.with_status(Status.ACCEPTED))}
        if state.phase is not Phase.FINISHED:
            assert len(members) - len(lost) >= self.rules.quorum, "waits for what can't come"
        if state.phase is Phase.OPEN:
            assert set(members) - decided - state.left.keys(), "open, and nobody is waited for"
        reports = [row["slot"] for row in self.history.reports if row["round"] == state.sequence]
        assert sorted(reports) == sorted(decided)
        away = {slot for slot, worker in self.history.workers.items() if worker["state"] == "left"}
        assert away == state.left.keys()

    def _check_orders(self) -> None:
        for order in self.aggregations[-1:]:
            slots = [part.slot for part in order.parts]
            assert slots == sorted(set(slots)) and len(slots) >= 1
