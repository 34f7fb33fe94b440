"""Counts of uses: added up, written once in a while, kept when the disk is full."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from gridkit.node import usage
from gridkit.node.store.database import Database
from gridkit.node.store.tables import model, model_version
from gridkit.node.usage import Usage

FLAGS = {"allow_download": True, "allow_remote_inference": True, "mpc": False}
ROW = {"version": 1, "digest": "d", "size": 1, "kind": "plan", "inputs": [], "created_at": 0.0, **FLAGS}
COLUMNS = model_version.c


async def started(tmp_path: Path) -> Database:
    """A database with two models, of the keys 1 and 2."""
    database = Database(f"sqlite:///{tmp_path / 'grid.db'}")
    database.start()

    def insert(c: sa.Connection) -> None:
        for key, name in ((1, "a"), (2, "b")):
            c.execute(model.insert().values(id=name, owner="", versions=1))
            c.execute(model_version.insert().values(key=key, model=name, uses=0, downloads=0, **ROW))

    await database.write(insert)
    return database


async def counts(database: Database) -> list[tuple[int, int, float | None]]:
    wanted = sa.select(COLUMNS.uses, COLUMNS.downloads, COLUMNS.last_used).order_by(COLUMNS.key)
    return [tuple(row) for row in await database.read(lambda c: c.execute(wanted).all())]


def test_counts_add_up_and_those_of_models_that_are_gone_are_forgotten(tmp_path: Path) -> None:
    async def run() -> None:
        database, now = await started(tmp_path), iter(range(1, 100))
        counted = Usage(database, lambda: float(next(now)))
        counted.used(1)
        counted.used(1)
        counted.downloaded(1)
        counted.used(3)
        assert await counts(database) == [(0, 0, None), (0, 0, None)]
        await counted.write()
        counted.used(1)
        await counted.close()
        assert await counts(database) == [(3, 1, 5.0), (0, 0, None)]
        database.close()

    asyncio.run(run())


def test_c3_a_disk_that_is_full_delays_counts_and_loses_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        database = await started(tmp_path)
        counted = Usage(database, lambda: 1.0)

        async def full(_job: Any) -> None:
            counted.used(2)  # somebody comes meanwhile
            raise OperationalError("UPDATE", {}, Exception("database or disk is full"))

        counted.used(1)
        with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
            patch.setattr(database, "write", full)
            await counted.write()
        assert "wait" in caplog.text
        counted.downloaded(1)
        await counted.write()
        assert await counts(database) == [(1, 1, 1.0), (1, 0, 1.0)]
        database.close()

    asyncio.run(run())


def test_they_are_written_by_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "SECONDS", 0.01)

    async def run() -> None:
        database = await started(tmp_path)
        counted = Usage(database, lambda: 1.0)
        counted.start()
        counted.used(2)
        async with asyncio.timeout(20):
            while (await counts(database))[1][0] == 0:
                await asyncio.sleep(0.01)
        await counted.close()
        database.close()

    asyncio.run(run())
