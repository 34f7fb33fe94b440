"""A hundred push participants on one machine, ten of which take connections and never answer: how soon everybody else
has been told, and what it costs the node."""

from __future__ import annotations

import asyncio
import os
import uuid
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from gridkit.node.accounts import put_token
from gridkit.node.identities import new_token
from gridkit.node.store import tables as db
from gridkit.node.store.database import Database
from tests.benchmarks.test_node_memory import memory
from tests.endpoints import Endpoint, Hanging
from tests.push_world import Hospital, PushWorld, push_world

pytestmark = [
    pytest.mark.benchmark,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc, which only Linux has"),
]

ALL, HANGING, ROUNDS = 100, 10, 2
MIB = 1 << 20


def registered(data: Path, endpoints: dict[str, Endpoint]) -> dict[str, dict[str, Any]]:
    """Accounts in the database of a node that doesn't run yet: a hundred registrations would hash a hundred
    passwords."""
    data.mkdir(parents=True)
    made: dict[str, dict[str, Any]] = {}

    def insert(c: sa.Connection) -> None:
        for name, endpoint in endpoints.items():
            token_id, token, digest = new_token()
            made[name] = {"id": str(uuid.uuid4()), "token": token, "secret": None}
            c.execute(db.account.insert().values(name=name, role="worker", password=None, created_at=0.0))
            put_token(c, name, token_id, digest, label="push", scopes=None, expires_at=4e9)
            row = {"id": made[name]["id"], "endpoint": endpoint.url, "profile": {}, "created_at": 0.0}
            c.execute(db.participant.insert().values(account=name, **row))

    async def write() -> None:
        database = Database(f"sqlite:///{data / 'grid.db'}")
        database.start()
        await database.write(insert)
        await asyncio.to_thread(database.close)

    asyncio.run(write())
    return made


def processor_seconds(world: PushWorld) -> float:
    fields = Path(f"/proc/{world.node.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_while_ten_of_a_hundred_hang_everybody_else_is_told(tmp_path: Path) -> None:
    with ExitStack() as stack:
        silent = {f"silent {n}": stack.enter_context(Hanging()) for n in range(HANGING)}
        free = {f"hospital {n}": stack.enter_context(Endpoint()) for n in range(ALL - HANGING)}
        accounts = registered(tmp_path / "data", {**silent, **free})
        for endpoint in free.values():
            endpoint.close()
        world = stack.enter_context(push_world(tmp_path / "data", "--limit", "push_attempts=1"))
        hospitals = [
            world.add(Hospital(world, name, 1.0, 1, account=accounts[name], port=free[name].port)) for name in free
        ]
        everybody = [accounts[name]["id"] for name in (*silent, *free)]
        base, spent = memory(world.node, "VmHWM"), processor_seconds(world)
        training = world.training(everybody, rounds=ROUNDS)
        training.ends("C")
        told = training.rows("notified")
        training.is_shifted(*[hospitals] * ROUNDS)
        peak, spent = memory(world.node, "VmHWM") - base, processor_seconds(world) - spent
        left = training.rows("left")

    failures = [row for row in told if row["worker"] in silent]
    assert len(failures) == len(left) == HANGING and all(row["answer"] is None and row["gone"] for row in failures)
    first = failures[0]
    before = [row for row in told if row["seq"] < first["seq"]]
    assert [row["notification"] for row in before].count("TRAINING_START") == ALL - HANGING
    assert [row["notification"] for row in before].count("UPDATE_ROUND_START") == ALL - HANGING
    assert {row["answer"] for row in before} == {200, 202} and len(before) == 2 * (ALL - HANGING)
    began = min(row["at"] - row["seconds"] for row in told)
    last = max(row["at"] for row in before)
    rest = max(row["at"] for row in told) - max(row["at"] for row in failures)
    print(
        f"\n{ALL} participants, {HANGING} of which hang: the other {ALL - HANGING} had taken START and UPDATE 0 after "
        f"{last - began:.1f} s, the first time-out came after {first['at'] - began:.1f} s; the rest of {ROUNDS} rounds "
        f"took {rest:.1f} s; node: {spent:.1f} s of processor time, {peak / MIB:.0f} MiB more than before"
    )
