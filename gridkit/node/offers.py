"""The answer to a worker that asks for work: an offer, or why not and when to come back."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

from gridkit.federated import cycle
from gridkit.node.messages import CycleRequest
from gridkit.node.processes import Process, plans_of
from gridkit.node.rounds import Rounds


async def offer(rounds: Rounds, process: Process, wish: CycleRequest, slot: int, label: str) -> dict[str, Any]:
    """`accepted` with key and ids, or `rejected` with `reason`, `code` and, unless it is for good, `timeout` (s)."""
    until = rounds.clock() + wish.wait
    while True:
        news = rounds.news
        process, decisions = await rounds.apply(
            process.id,
            lambda at: cycle.WorkerAsked(
                at, wish.worker_id, label, slot, secrets.token_hex(32), wish.download, wish.upload
            ),
        )
        answer = next(d for d in decisions if isinstance(d, cycle.Accept | cycle.Reject))
        if isinstance(answer, cycle.Accept):
            return await _accepted(rounds, process, answer)
        seen = process.state.sequence if wish.seen_cycle is None else wish.seen_cycle
        told = answer.retry_after is None or _is_later(process.state, seen)
        if told or not await _later_cycle(rounds, process, seen, news, until):
            return _rejected(process, answer)


async def _accepted(rounds: Rounds, process: Process, accept: cycle.Accept) -> dict[str, Any]:
    plans = await rounds.db.read(lambda c: plans_of(c, process.id))
    return {
        "status": "accepted",
        "request_key": accept.request_key,
        "model": process.name,
        "version": process.version,
        "model_id": process.id,
        "plans": {row.name: row.id for row in plans},
        "protocols": {},
        "client_config": process.client_config,
        "cycle": accept.sequence,
        "checkpoint": accept.sequence,
        "slot": accept.slot,
    }


def _rejected(process: Process, reject: cycle.Reject) -> dict[str, Any]:
    timeout = {} if reject.retry_after is None else {"timeout": reject.retry_after}
    return {
        "status": "rejected",
        "reason": reject.reason,
        "code": str(reject.code),
        "model": process.name,
        "version": process.version,
        "cycle": process.state.sequence,
        **timeout,
    }


async def _later_cycle(rounds: Rounds, process: Process, seen: int, news: asyncio.Event, until: float) -> bool:
    """Wait until a later cycle than `seen` is open, or the training over; False when `until` comes first."""
    while not rounds.closing and (left := until - rounds.clock()) > 0:
        if _is_later(process.state, seen):
            return True
        await rounds.changed(news, left)
        news = rounds.news
        process = await rounds.process(process.id)
    return False


def _is_later(state: cycle.CycleState, seen: int) -> bool:
    later = state.phase is cycle.Phase.OPEN and state.sequence > seen
    return later or state.phase is cycle.Phase.FINISHED
