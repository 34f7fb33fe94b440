"""The node's tables. Times are seconds since 1970 (UTC)."""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData()

process = sa.Table(
    "process",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("version", sa.String(200), nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("client_config", sa.JSON, nullable=False),
    sa.Column("server_config", sa.JSON, nullable=False),
    sa.Column("model", sa.JSON, nullable=False),  # its tensors: [[name, dtype, shape], …] in order
    sa.Column("state", sa.JSON, nullable=False),  # CycleState
    sa.Column("revision", sa.Integer, nullable=False),  # compare-and-set
    sa.Column("deadline", sa.Float),
    sa.UniqueConstraint("name", "version"),
)
plan = sa.Table(
    "plan",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("process", sa.ForeignKey("process.id"), nullable=False),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.UniqueConstraint("process", "name"),
)
checkpoint = sa.Table(
    "checkpoint",
    metadata,
    sa.Column("process", sa.ForeignKey("process.id"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("digest", sa.String(64), nullable=False),
)
worker = sa.Table(
    "worker",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("process", sa.ForeignKey("process.id"), nullable=False),
    sa.Column("slot", sa.Integer, nullable=False),
    sa.Column("label", sa.String(200), nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.UniqueConstraint("process", "slot"),
    sa.UniqueConstraint("process", "label"),
)
report = sa.Table(  # reports whose bytes are kept: until their cycle is closed
    "report",
    metadata,
    sa.Column("request_key", sa.String(64), primary_key=True),
    sa.Column("process", sa.ForeignKey("process.id"), nullable=False),
    sa.Column("sequence", sa.Integer, nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
)
event = sa.Table(
    "event",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("run", sa.String(32), nullable=False, index=True),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("body", sa.JSON, nullable=False),
    sqlite_autoincrement=True,
)
peer = sa.Table(
    "peer",
    metadata,
    sa.Column("id", sa.String(200), primary_key=True),
    sa.Column("address", sa.Text, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
)
