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
aggregated cycle, checkpoint, accepted, refused, samples, loss, seconds, bytes
stopping now
finished outcome, reason, code (AVERAGING_FAILED where the averaging plan is at fault)
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
        rows.append(_aggregated(before, when))
    for decision in decisions:
        match decision:
            case cycle.Open(sequence, deadline):
                fixed = after.rules.clients is not None
                cohort = list(cycle.cohort(after.rules, sequence)) if fixed else None
                rows.append({"kind": "opened", "at": when, "cycle": sequence, "deadline": deadline, "cohort": cohort})
            case cycle.Accept(worker) if before is None or worker not in _at_work(before):
                assignment = after.assignments[worker]
                rows.append({"kind": "assigned", "at": when, **_who(after, assignment)})
            case cycle.Count(worker) | cycle.Refuse(worker, verdict=Verdict()):
                assert isinstance(event, cycle.ReportCame)
                rows.append(_reported(after, after.assignments[worker], event))
            case cycle.Expire(_, workers):
                rows += [
                    {"kind": "expired", "at": when, **_who(after, after.assignments[worker])} for worker in workers
                ]
            case cycle.Draw(sequence, number, slots, candidates):
                drawn = {"cycle": sequence, "draw": number, "slots": list(slots), "candidates": candidates}
                rows.append({"kind": "drawn", "at": when, **drawn})
            case cycle.Finish(outcome, reason):
                code = str(ErrorCode.AVERAGING_FAILED) if isinstance(event, cycle.AggregationFailed) else None
                rows.append({"kind": "finished", "at": when, "outcome": outcome, "reason": reason, "code": code})
            case _:
                pass
    return rows


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
    STOPPED = "stopped"
    ABSENT = "not in this round"


class History:
    """Rows put together: a row a round, a row a worker and round, and how it ended.

    Attributes:
        rounds: dicts with round, loss, accepted, refused, samples, seconds, bytes.
        reports: dicts with round, worker, slot, samples, loss, verdict, message, tensor, seconds, bytes, norm,
            warning, error; the verdict of a worker that didn't answer in time is NOT_ANSWERED.
        outcome, reason, code: None until the training is over; `code` also after, but for a failure's.
        stopping: whether a stop was asked for.
        workers: by slot, where each one that is known stands in the newest round: dicts with worker, state (a
            `Standing`), since (when it was assigned, or None), samples, seconds, verdict, message.
        cohort_size: clients of the newest round, with a fixed roster; else 0.
    """

    def __init__(self) -> None:
        self.seq = 0
        self.cycle = 0
        self.cohort_size = 0
        self.rounds: list[Row] = []
        self.reports: list[Row] = []
        self.workers: dict[int, Row] = {}
        self.outcome: str | None = None
        self.reason: str | None = None
        self.code: str | None = None
        self.stopping = False

    def apply(self, row: Mapping[str, Any]) -> bool:
        """Take in the next row. A row with a number that was seen changes nothing; then False."""
        if row["seq"] <= self.seq:
            return False
        self.seq = row["seq"]
        match row["kind"]:
            case "opened":
                self.cycle = row["cycle"]
                self.cohort_size = len(row["cohort"] or ())
                known = {slot: worker["worker"] for slot, worker in self.workers.items()}
                for slot in sorted(known.keys() | set(row["cohort"] or ())):
                    state = Standing.WAITING if slot in (row["cohort"] or ()) else Standing.ABSENT
                    self._stands(slot, known.get(slot, f"client {slot}"), state)
            case "assigned":
                self._stands(row["slot"], row["worker"], Standing.TRAINING, since=row["at"])
            case "reported":
                self._heard(_report_row(row), Standing.FAILED if row["error"] else Standing.REFUSED)
            case "expired":
                self._heard(_report_row({**row, "verdict": str(ErrorCode.NOT_ANSWERED)}), Standing.NO_ANSWER)
            case "aggregated":
                names = ("loss", "accepted", "refused", "samples", "seconds", "bytes")
                self.rounds.append({"round": row["cycle"], **{name: row[name] for name in names}})
            case "stopping":
                self.stopping = True
            case "finished":
                self.outcome, self.reason, self.code = row["outcome"], row["reason"], row.get("code")
                for worker in self.workers.values():
                    if worker["state"] in (Standing.WAITING, Standing.TRAINING):
                        worker["state"] = Standing.STOPPED
        return True

    def _heard(self, report: Row, otherwise: Standing) -> None:
        self.reports.append(report)
        state = Standing.REPORTED if report["verdict"] == "accepted" else otherwise
        told = {name: report[name] for name in ("samples", "seconds", "verdict", "message")}
        self._stands(report["slot"], report["worker"], state, **told)

    def _stands(self, slot: int, worker: str, state: Standing, **known: Any) -> None:
        nothing = {"since": None, "samples": None, "seconds": math.nan, "verdict": "", "message": ""}
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
