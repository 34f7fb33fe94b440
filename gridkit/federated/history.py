"""What happened, as rows of plain JSON: written by `publish`, read back by `History`.

The node stores the rows and streams them, the simulator queues them; a Run is fed by either. A row names workers by
their labels and holds no key, no worker id and no token.

======== =============================================================================================================
kind     members beside `kind` and `at`
======== =============================================================================================================
opened   cycle, deadline, cohort (slots, or None)
assigned cycle, slot, worker
reported cycle, slot, worker, verdict ("accepted" or a code), message, tensor, samples, metrics, error, bytes, seconds,
         norm, warning
expired  cycle, slot, worker
drawn    cycle, draw (its number), slots, candidates (how many there were)
aggregated cycle, checkpoint, accepted, refused, samples, loss, seconds, bytes; metrics, if a notebook's function scored
         the model (numbers, or None)
testing  cycle, deadline, slots: who tests the model that this cycle made
tested   cycle, slot, worker, metrics (numbers, or text), samples (of its accepted report of this cycle, or None),
         seconds
untested cycle, slot, worker: no answer in time
left     cycle, slot, worker, reason
waiting  cycle, function: the notebook isn't there whose function averages. By the node's shell; so is the next
calling  cycle, function: it is there, after it wasn't
notified cycle, slot (None for the owner), worker, notification, round, attempt (from 1), answer (HTTP status, or None),
         seconds, message ("", or why there is none), gone (whether the worker left because of it). By the notifier
stopping now
finished outcome, reason, code (AVERAGING_FAILED where the averaging plan, or a notebook's function, is at fault;
         EVALUATION_FAILED where the function is that scores)
======== =============================================================================================================
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Mapping
from typing import Any

from gridkit.errors import ErrorCode
from gridkit.federated import cycle
from gridkit.federated.checks import Verdict
from gridkit.federated.cycle import Assignment, CycleState, Status

Row = dict[str, Any]


def publish(
    before: CycleState | None,
    event: cycle.Event | None,
    after: CycleState,
    decisions: Iterable[cycle.Decision],
) -> list[Row]:
    """The rows of one event; without an event those of a training's start."""
    when = after.opened_at if event is None else event.at
    rows: list[Row] = []
    if isinstance(event, cycle.StopAsked) and before is not None and before.outcome is None:
        rows.append({"kind": "stopping", "at": when, "now": event.now or before.stopping})
    if isinstance(event, cycle.Aggregated) and before is not None and before != after:
        scored = {"metrics": dict(event.metrics)} if event.metrics else {}
        rows.append({**_aggregated(before, when), **scored})
    for decision in decisions:
        match decision:
            case cycle.Open(sequence, deadline):
                fixed = after.rules.clients is not None
                cohort = list(cycle.cohort(after)) if fixed else None
                rows.append({"kind": "opened", "at": when, "cycle": sequence, "deadline": deadline, "cohort": cohort})
            case cycle.Accept(worker) if before is None or worker not in _at_work(before):
                assignment = after.assignments[worker]
                rows.append({"kind": "assigned", "at": when, **_who(after, assignment)})
            case cycle.Count(worker) if isinstance(event, cycle.TestCame):
                assert before is not None
                rows.append(_tested(before, event))
            case cycle.Count(worker) | cycle.Refuse(worker, verdict=Verdict()):
                assert isinstance(event, cycle.ReportCame)
                rows.append(_reported(after, after.assignments[worker], event))
            case cycle.Expire(_, workers):
                rows += [
                    {"kind": "expired", "at": when, **_who(after, after.assignments[worker])} for worker in workers
                ]
            case cycle.Test(sequence, deadline):
                slots = sorted(tested.slot for tested in after.tests.values())
                rows.append({"kind": "testing", "at": when, "cycle": sequence, "deadline": deadline, "slots": slots})
            case cycle.Miss(sequence, workers):
                missed = sorted((after.tests[worker] for worker in workers), key=lambda tested: tested.slot)
                rows += [
                    {"kind": "untested", "at": when, "cycle": sequence, "slot": one.slot, "worker": one.label}
                    for one in missed
                ]
            case cycle.Left():
                assert before is not None and isinstance(event, cycle.WorkerLeft)
                who = {"cycle": before.sequence, "slot": event.slot, "worker": event.label}
                rows.append({"kind": "left", "at": when, **who, "reason": event.reason})
            case cycle.Draw(sequence, number, slots, candidates):
                drawn = {"cycle": sequence, "draw": number, "slots": list(slots), "candidates": candidates}
                rows.append({"kind": "drawn", "at": when, **drawn})
            case cycle.Finish(outcome, reason):
                rows.append(
                    {"kind": "finished", "at": when, "outcome": outcome, "reason": reason, "code": _fault(event)}
                )
            case _:
                pass
    return rows


def _fault(event: cycle.Event | None) -> str | None:
    if isinstance(event, cycle.AggregationFailed):
        return str(ErrorCode.AVERAGING_FAILED)
    if isinstance(event, cycle.Aggregated) and event.failure:
        return str(ErrorCode.EVALUATION_FAILED)
    return None


def _at_work(state: CycleState) -> set[str]:
    return {a.worker for a in state.with_status(Status.ASSIGNED)}


def _who(state: CycleState, assignment: Assignment) -> Row:
    return {"cycle": state.sequence, "slot": assignment.slot, "worker": assignment.label}


def _reported(state: CycleState, assignment: Assignment, event: cycle.ReportCame) -> Row:
    verdict = event.verdict
    return {
        "kind": "reported",
        "at": event.at,
        **_who(state, assignment),
        "verdict": "accepted" if verdict.accepted else str(verdict.code),
        "message": verdict.message,
        "tensor": verdict.tensor,
        "samples": event.samples,
        "metrics": dict(event.metrics),
        "error": None if event.error is None else dict(event.error),
        "bytes": event.size,
        "seconds": event.at - assignment.at,
        "norm": verdict.norm,
        "warning": verdict.warning,
    }


def _tested(state: CycleState, event: cycle.TestCame) -> Row:
    tested, report = state.tests[event.worker], state.assignments.get(event.worker)
    return {
        "kind": "tested",
        "at": event.at,
        "cycle": state.sequence,
        "slot": tested.slot,
        "worker": tested.label,
        "metrics": dict(event.metrics),
        "samples": report.samples if report is not None and report.status is Status.ACCEPTED else None,
        "seconds": event.at - tested.at,
    }


def _aggregated(state: CycleState, at: float) -> Row:
    accepted = state.with_status(Status.ACCEPTED)
    lost = state.with_status(Status.REFUSED, Status.FAILED)
    weighed = [(a.loss, a.samples or 1) for a in accepted if a.loss is not None]
    total = sum(samples for _, samples in weighed)
    return {
        "kind": "aggregated",
        "at": at,
        "cycle": state.sequence,
        "checkpoint": state.sequence + 1,
        "accepted": len(accepted),
        "refused": len(lost),
        "samples": sum(a.samples or 0 for a in accepted),
        "loss": sum(loss * samples for loss, samples in weighed) / total if total else None,
        "seconds": at - state.opened_at,
        "bytes": sum(a.size for a in (*accepted, *lost)),
    }


class Standing(enum.StrEnum):
    """Where a worker stands in a round, in words for people."""

    WAITING = "waiting"
    TRAINING = "training"
    REPORTED = "reported"
    REFUSED = "refused"
    FAILED = "failed"
    NO_ANSWER = "no answer"
    TESTING = "testing"
    TESTED = "tested"
    LEFT = "left"
    STOPPED = "stopped"
    ABSENT = "not in this round"


class History:
    """Rows put together: a row a round, a row a worker and round, and how it ended.

    Attributes:
        rounds: dicts with round, loss, accepted, refused, samples, seconds, bytes.
        reports: dicts with round, worker, slot, samples, loss, verdict, message, tensor, seconds, bytes, norm,
            warning, error; the verdict of a worker that didn't answer in time is NOT_ANSWERED, of one that left
            before it reported WORKER_LEFT.
        tests: dicts with round, worker, slot, samples (that it trained on in this round, or None), metrics (by name, a
            number or text), seconds: what each tester said of the model that the round made.
        notifications: dicts with time (epoch seconds), round (the cycle), worker, slot (None for the owner),
            notification, attempt, answer (HTTP status, or None), seconds, message: each call to a push participant.
        outcome, reason, code: None until the training is over; `code` also after, but for a failure's.
        stopping: whether a stop was asked for.
        waits: what the training waits for, such as "round 3 waits for median of the notebook"; "" if for nothing.
        workers: by slot, where each one that is known stands in the newest round: dicts with worker, state (a
            `Standing`), since (when its work began, or None), samples, seconds, verdict, message, told (the newest
            call to it and its answer, as "UPDATE_ROUND_START 3: 202 at attempt 2, 0.1 s"; "" without).
        cohort_size: clients of the newest round, with a fixed roster; else 0.
    """

    def __init__(self) -> None:
        self.seq = 0
        self.cycle = 0
        self.cohort_size = 0
        self.rounds: list[Row] = []
        self.reports: list[Row] = []
        self.tests: list[Row] = []
        self.notifications: list[Row] = []
        self.workers: dict[int, Row] = {}
        self.outcome: str | None = None
        self.reason: str | None = None
        self.code: str | None = None
        self.stopping = False
        self.waits = ""

    def apply(self, row: Mapping[str, Any]) -> bool:
        """Take in the next row. A row with a number that was seen changes nothing; then False."""
        if row["seq"] <= self.seq:
            return False
        self.seq = row["seq"]
        if row["kind"] in ("waiting", "calling", "aggregated", "opened", "finished"):
            waits = row["kind"] == "waiting"
            self.waits = f"round {row['cycle']} waits for {row['function']} of the notebook" if waits else ""
        match row["kind"]:
            case "opened":
                self.cycle = row["cycle"]
                self.cohort_size = len(row["cohort"] or ())
                cohort = set(row["cohort"] or ())
                for slot in sorted(self.workers.keys() | cohort):
                    if slot in cohort:
                        self._stands(slot, self._name(slot), Standing.WAITING)
                    elif self.workers[slot]["state"] is not Standing.LEFT:
                        self._stands(slot, self._name(slot), Standing.ABSENT)
            case "assigned":
                self._stands(row["slot"], row["worker"], Standing.TRAINING, since=row["at"])
            case "reported":
                self._heard(_report_row(row), Standing.FAILED if row["error"] else Standing.REFUSED)
            case "expired":
                verdict = str(ErrorCode.NOT_ANSWERED)
                named = {**row, "worker": self._name(row["slot"], row["worker"]), "verdict": verdict}
                self._heard(_report_row(named), Standing.NO_ANSWER)
            case "aggregated":
                names = ("loss", "accepted", "refused", "samples", "seconds", "bytes")
                self.rounds.append({"round": row["cycle"], **{name: row[name] for name in names}})
            case "testing":
                for slot in row["slots"]:
                    self._stands(slot, self._name(slot), Standing.TESTING, since=row["at"])
            case "tested":
                told = {name: row[name] for name in ("worker", "slot", "samples", "metrics", "seconds")}
                self.tests.append({"round": row["cycle"], **told})
                known = {"samples": row["samples"], "seconds": row["seconds"]}
                self._stands(row["slot"], row["worker"], Standing.TESTED, **known)
            case "untested":
                self._stands(row["slot"], row["worker"], Standing.NO_ANSWER)
            case "left":
                self._left(row)
            case "notified":
                self._told(row)
            case "stopping":
                self.stopping = True
            case "finished":
                self.outcome, self.reason, self.code = row["outcome"], row["reason"], row.get("code")
                for worker in self.workers.values():
                    if worker["state"] in (Standing.WAITING, Standing.TRAINING, Standing.TESTING):
                        worker["state"] = Standing.STOPPED
        return True

    def _heard(self, report: Row, otherwise: Standing) -> None:
        self.reports.append(report)
        state = Standing.REPORTED if report["verdict"] == "accepted" else otherwise
        told = {name: report[name] for name in ("samples", "seconds", "verdict", "message")}
        self._stands(report["slot"], report["worker"], state, **told)

    def _left(self, row: Mapping[str, Any]) -> None:
        verdict, reason = str(ErrorCode.WORKER_LEFT), row["reason"]
        undecided = (Standing.WAITING, Standing.TRAINING)
        if row["slot"] in self.workers and self.workers[row["slot"]]["state"] in undecided:
            self._heard(_report_row({**row, "verdict": verdict, "message": reason}), Standing.LEFT)
        else:
            self._stands(row["slot"], row["worker"], Standing.LEFT, verdict=verdict, message=reason)

    def _told(self, row: Mapping[str, Any]) -> None:
        names = ("worker", "slot", "notification", "attempt", "answer", "seconds", "message")
        self.notifications.append({"time": row["at"], "round": row["cycle"], **{name: row[name] for name in names}})
        slot = row["slot"]
        if slot is None:
            return
        if slot not in self.workers:
            self._stands(slot, row["worker"], Standing.ABSENT)
        which = row["notification"] if row["round"] is None else f"{row['notification']} {row['round']}"
        answer = row["message"] or "no answer" if row["answer"] is None else row["answer"]
        told = f"{which}: {answer} at attempt {row['attempt']}, {row['seconds']:.1f} s"
        self.workers[slot] |= {"worker": row["worker"], "told": told}

    def _name(self, slot: int, otherwise: str | None = None) -> str:
        """What this slot's worker is called as far as is known: a row may have been written by who never met it."""
        if slot in self.workers:
            return str(self.workers[slot]["worker"])
        return f"client {slot}" if otherwise is None else otherwise

    def _stands(self, slot: int, worker: str, state: Standing, **known: Any) -> None:
        told = self.workers[slot]["told"] if slot in self.workers else ""
        nothing = {"since": None, "samples": None, "seconds": math.nan, "verdict": "", "message": "", "told": told}
        self.workers[slot] = {"worker": worker, "state": state, **nothing, **known}

    def failures(self, round: int) -> list[Row]:
        """The reports of a round that don't count."""
        return [row for row in self.reports if row["round"] == round and row["verdict"] != "accepted"]


def _report_row(row: Mapping[str, Any]) -> Row:
    loss = (row.get("metrics") or {}).get("loss")
    return {
        "round": row["cycle"],
        "worker": row["worker"],
        "slot": row["slot"],
        "samples": row.get("samples"),
        "loss": math.nan if loss is None else loss,
        "verdict": row["verdict"],
        "message": row.get("message", ""),
        "tensor": row.get("tensor"),
        "seconds": row.get("seconds", math.nan),
        "bytes": row.get("bytes", 0),
        "norm": row.get("norm", math.nan),
        "warning": row.get("warning"),
        "error": row.get("error"),
    }
