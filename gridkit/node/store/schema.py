"""The database's schema: made, or brought up from that of an older gridkit, when a node starts.

A new database is made at once from `tables.py` and says that it is the newest; Alembic is imported only where there is
an older one. Either happens in one transaction, so that a crash leaves the old schema or the new one.
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from gridkit.errors import UsageError
from gridkit.node.store.tables import metadata

NEWEST = "0005"
BEFORE_ALEMBIC = "0001"
"""databases that say no version"""

_version = sa.Table("alembic_version", sa.MetaData(), sa.Column("version_num", sa.String(32), primary_key=True))


def bring_up(engine: sa.Engine) -> None:
    """Make or upgrade the tables.

    Raises:
        UsageError: a newer gridkit wrote this database; nothing was changed.
    """
    with engine.begin() as connection:
        tables = set(sa.inspect(connection).get_table_names())
        if _version.name in tables:
            version = connection.execute(sa.select(_version.c.version_num)).scalar_one()
        elif "process" in tables:
            version = BEFORE_ALEMBIC
        else:
            metadata.create_all(connection)
            _version.create(connection)
            connection.execute(_version.insert().values(version_num=NEWEST))
            return
        if version > NEWEST:
            raise UsageError(
                f"a newer gridkit wrote the node's database (its schema is {version}, this one knows {NEWEST})",
                "start that gridkit, or choose another --data",
            )
        if version < NEWEST:
            _upgrade(connection, said=_version.name in tables)


def _upgrade(connection: sa.Connection, *, said: bool) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    if not said:
        command.stamp(config, BEFORE_ALEMBIC)
    command.upgrade(config, NEWEST)
