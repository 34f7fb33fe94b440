"""Old databases become new ones; the steps end where `tables.py` is."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import produce_migrations, render_python_code
from alembic.config import Config
from alembic.migration import MigrationContext

from gridkit.errors import UsageError
from gridkit.node.store import schema
from gridkit.node.store.tables import metadata
from tests.support import NodeUnderTest, RawWorker, host_files, tiny_plan


def stepped(path: Path, version: str) -> sa.Engine:
    """A database that the steps made, up to this version."""
    engine = sa.create_engine(f"sqlite:///{path}")
    config = Config()
    config.set_main_option("script_location", str(Path(schema.__file__).parent / "migrations"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, version)
    return engine


def shape(path: Path) -> dict[str, Any]:
    """What SQLite has of each table: columns, indexes, references, and whether numbers are given out again."""
    with sqlite3.connect(path) as c:
        made = dict(c.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'"))
        return {
            name: (
                {row[1:] for row in c.execute(f"PRAGMA table_info('{name}')")},
                {
                    (unique, tuple(column[2] for column in c.execute(f"PRAGMA index_info('{index}')")))
                    for _, index, unique, *_ in c.execute(f"PRAGMA index_list('{name}')")
                },
                {row[2:5] for row in c.execute(f"PRAGMA foreign_key_list('{name}')")},
                "AUTOINCREMENT" in sql,
            )
            for name, sql in made.items()
        }


def test_the_steps_end_where_the_tables_are(tmp_path: Path) -> None:
    engine = stepped(tmp_path / "old.db", schema.NEWEST)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"render_as_batch": True, "compare_type": True})
        missing = produce_migrations(context, metadata).upgrade_ops
        assert missing is not None and missing.is_empty(), render_python_code(missing, render_as_batch=True)
    engine.dispose()
    new = sa.create_engine(f"sqlite:///{tmp_path / 'new.db'}")
    schema.bring_up(new)
    new.dispose()
    assert shape(tmp_path / "new.db") == shape(tmp_path / "old.db")


def make_old(database: Path) -> None:
    """The database of a node that has run, as it was before there were accounts."""
    newest = sa.create_engine("sqlite://")
    metadata.create_all(newest)
    later = set(sa.inspect(newest).get_table_names()) - OLD
    with sqlite3.connect(database) as c:
        assigned = "SELECT json_group_object(worker, json(body)) FROM assignment WHERE process = process.id"
        c.execute(f"UPDATE process SET state = json_set(state, '$.assignments', json(({assigned})))")
        for table in later:
            c.execute(f"DROP TABLE {table}")
        c.execute("DROP TABLE alembic_version")
        for column in ("owner", "request"):
            c.execute(f"ALTER TABLE process DROP COLUMN {column}")


OLD = {"process", "plan", "checkpoint", "worker", "report", "event"}


def test_an_older_data_folder_goes_on_where_it_stood(tmp_path: Path) -> None:
    node = NodeUnderTest(tmp_path / "data")
    database = tmp_path / "data" / "grid.db"
    try:
        with node.http() as http:
            hosted = http.post("/model-centric/host-training", files=host_files(tiny_plan(), {"num_cycles": 2}, "old"))
        worker = RawWorker(node, hosted.json()["worker_token"], "old")
        key = worker.ask()["request_key"]
        node.terminate()
        make_old(database)
        engine = stepped(tmp_path / "first.db", schema.BEFORE_ALEMBIC)
        engine.dispose()
        first = shape(tmp_path / "first.db")
        del first["alembic_version"]
        assert shape(database) == first
        node.start()
        assert worker.ask()["request_key"] == key
        with node.http() as http:
            (process,) = http.get("/model-centric/processes").json()["processes"]
            assert (process["id"], process["cycle"]) == (hosted.json()["process"], 1)
        ana = node.add_user("ana")
        with node.http(ana) as http:
            assert http.get("/model-centric/processes").json()["processes"] == []  # it is the owner's
    finally:
        node.terminate()
    with sqlite3.connect(database) as c:
        assert c.execute("SELECT version_num FROM alembic_version").fetchall() == [(schema.NEWEST,)]
        assert c.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_c4_a_newer_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    node = NodeUnderTest(tmp_path / "data")
    node.terminate()
    database = tmp_path / "data" / "grid.db"
    with sqlite3.connect(database) as c:
        c.execute("UPDATE alembic_version SET version_num = '9999'")
    before = shape(database)
    with pytest.raises(RuntimeError, match="a newer gridkit wrote the node's database") as caught:
        node.start()
    assert "Traceback" not in str(caught.value) and "Try: " in str(caught.value)
    assert shape(database) == before
    with pytest.raises(UsageError):
        schema.bring_up(sa.create_engine(f"sqlite:///{database}"))


def test_an_upgrade_that_is_cut_off_leaves_the_old_schema(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = stepped(tmp_path / "grid.db", schema.BEFORE_ALEMBIC)
    engine.dispose()
    before = shape(tmp_path / "grid.db")

    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    from gridkit.node.store.database import Database

    with monkeypatch.context() as patched:
        patched.setattr("alembic.operations.base.BatchOperations.add_column", cut)
        with pytest.raises(KeyboardInterrupt):
            Database(f"sqlite:///{tmp_path / 'grid.db'}").start()
    assert shape(tmp_path / "grid.db") == before
    database = Database(f"sqlite:///{tmp_path / 'grid.db'}")
    database.start()
    database.close()
    assert set(shape(tmp_path / "grid.db")) > OLD
