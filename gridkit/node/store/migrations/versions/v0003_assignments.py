"""Assignments leave the state of their process for rows of their own."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    assignment = op.create_table(
        "assignment",
        sa.Column("process", sa.String(length=32), nullable=False),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("worker", sa.String(length=64), nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["process"],
            ["process.id"],
        ),
        sa.PrimaryKeyConstraint("process", "sequence", "worker"),
    )
    process = sa.table("process", sa.column("id"), sa.column("state", sa.JSON))
    connection = op.get_bind()
    for process_id, state in connection.execute(sa.select(process)).all():
        rows: list[dict[str, Any]] = []
        for member, sequence in (("assignments", state["sequence"]), ("previous", state["sequence"] - 1)):
            for worker, body in state[member].items():
                rows.append({"process": process_id, "sequence": sequence, "worker": worker, "body": body})
        if rows:
            op.bulk_insert(assignment, rows)
            rest = {**state, "assignments": {}, "previous": {}}
            connection.execute(process.update().where(process.c.id == process_id).values(state=rest))
