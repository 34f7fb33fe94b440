"""The store: what `write` returned for is there, groups don't take each other down, blobs are whole or absent."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import sqlalchemy as sa

from gridkit.node.store import tables as db
from gridkit.node.store.blobs import DRAFT, Blobs
from gridkit.node.store.database import Database


@pytest.fixture
def base(tmp_path: Path) -> Database:
    base = Database(f"sqlite:///{tmp_path / 'grid.db'}")
    base.start()
    yield base
    base.close()


def _event(kind: str):
    return lambda c: c.execute(db.event.insert().values(run="r", kind=kind, body={})).inserted_primary_key[0]


def _kinds(c: sa.Connection) -> list[str]:
    return list(c.execute(sa.select(db.event.c.kind).order_by(db.event.c.seq)).scalars())


def test_many_writes_at_once_each_get_their_own_result(base: Database) -> None:
    async def go() -> list[int]:
        return await asyncio.gather(*(base.write(_event(str(n))) for n in range(50)))

    assert asyncio.run(go()) == list(range(1, 51))
    assert asyncio.run(base.read(_kinds)) == [str(n) for n in range(50)]


def test_a_job_that_fails_takes_nothing_of_the_others_with_it(base: Database) -> None:
    def broken(c: sa.Connection) -> None:
        _event("half")(c)
        raise LookupError("mine")

    async def go() -> list[object]:
        jobs = [base.write(_event("a")), base.write(broken), base.write(_event("b"))]
        return await asyncio.gather(*jobs, return_exceptions=True)

    results = asyncio.run(go())
    assert isinstance(results[1], LookupError)
    assert asyncio.run(base.read(_kinds)) == ["a", "b"]


def test_wal_and_full_sync_are_on(base: Database) -> None:
    def pragmas(c: sa.Connection) -> tuple[object, object]:
        return tuple(c.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous"))

    assert asyncio.run(base.write(pragmas)) == ("wal", 2)


def test_errors_do_not_hold_the_rows(base: Database) -> None:
    """They go to the log, and rows hold what nobody shall read there."""

    def twice(c: sa.Connection) -> None:
        for _ in range(2):
            c.execute(db.peer.insert().values(id="one", address="a secret address", created_at=0.0))

    with pytest.raises(sa.exc.IntegrityError) as caught:
        asyncio.run(base.write(twice))
    assert "peer" in str(caught.value) and "secret" not in f"{caught.value} {caught.value!r}"


def test_a_second_writer_waits_for_the_lock(base: Database, tmp_path: Path) -> None:
    import sqlite3

    other = sqlite3.connect(tmp_path / "grid.db", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")

    async def go() -> int:
        write = asyncio.ensure_future(base.write(_event("late")))
        await asyncio.sleep(0.2)
        assert not write.done()
        other.execute("COMMIT")
        return await write

    assert asyncio.run(go()) == 1
    other.close()


def test_a_blob_is_named_by_its_bytes_and_read_back(tmp_path: Path) -> None:
    blobs = Blobs(str(tmp_path))
    digest, size = blobs.put([b"ab", b"c"])
    assert size == 3 and blobs.read(digest) == b"abc"
    assert digest == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert blobs.put([b"abc"]) == (digest, 3)
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == [digest]


def test_an_unfinished_draft_is_no_blob_and_is_swept(tmp_path: Path) -> None:
    blobs = Blobs(str(tmp_path))
    kept, _ = blobs.put([b"kept"])
    stray, _ = blobs.put([b"stray"])
    draft = blobs.draft()
    draft.write(b"half")
    with pytest.raises(FileNotFoundError):
        blobs.open(draft.digest)
    blobs.sweep({kept})
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == [kept]
    assert not any(p.name.startswith(DRAFT) for p in tmp_path.iterdir())
    with pytest.raises(FileNotFoundError):
        blobs.open(stray)


def test_collect_leaves_pinned_blobs(tmp_path: Path) -> None:
    blobs = Blobs(str(tmp_path))
    digest, _ = blobs.put([b"x"])
    with blobs.pinned(digest):
        blobs.collect([digest])
        assert blobs.read(digest) == b"x"
    blobs.collect([digest])
    with pytest.raises(FileNotFoundError):
        blobs.open(digest)
