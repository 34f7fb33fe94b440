"""The grid: accounts and their tokens, models, datasets, other nodes; trainings get an owner."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "account",
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("role", sa.String(length=32), nullable=False),
        sa.Column("password", sa.String(length=200), nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("request", sa.String(length=100), nullable=True),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "dataset",
        sa.Column("id", sa.String(length=200), nullable=False),
        sa.Column("owner", sa.String(length=200), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("policy", sa.JSON(), nullable=False),
        sa.Column("audience", sa.String(length=8), nullable=False),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("tensors", sa.JSON(), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("upload", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    with op.batch_alter_table("dataset", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_dataset_owner"), ["owner"], unique=False)

    op.create_table(
        "model",
        sa.Column("id", sa.String(length=200), nullable=False),
        sa.Column("owner", sa.String(length=200), nullable=False),
        sa.Column("versions", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    with op.batch_alter_table("model", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_model_owner"), ["owner"], unique=False)

    op.create_table(
        "peer",
        sa.Column("id", sa.String(length=200), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "revoked",
        sa.Column("id", sa.String(length=200), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "token",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("account", sa.String(length=200), nullable=False),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("label", sa.String(length=200), nullable=False),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.Column("request", sa.String(length=100), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    with op.batch_alter_table("token", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_token_account"), ["account"], unique=False)

    op.create_table(
        "dataset_part",
        sa.Column("dataset", sa.String(length=200), nullable=False),
        sa.Column("part", sa.String(length=8), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["dataset"],
            ["dataset.id"],
        ),
        sa.PrimaryKeyConstraint("dataset", "part"),
    )
    with op.batch_alter_table("dataset_part", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_dataset_part_digest"), ["digest"], unique=False)

    op.create_table(
        "dataset_reader",
        sa.Column("dataset", sa.String(length=200), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.ForeignKeyConstraint(
            ["dataset"],
            ["dataset.id"],
        ),
        sa.PrimaryKeyConstraint("dataset", "name"),
    )
    with op.batch_alter_table("dataset_reader", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_dataset_reader_name"), ["name"], unique=False)

    op.create_table(
        "dataset_tag",
        sa.Column("dataset", sa.String(length=200), nullable=False),
        sa.Column("tag", sa.String(length=200), nullable=False),
        sa.ForeignKeyConstraint(
            ["dataset"],
            ["dataset.id"],
        ),
        sa.PrimaryKeyConstraint("dataset", "tag"),
    )
    with op.batch_alter_table("dataset_tag", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_dataset_tag_tag"), ["tag"], unique=False)

    op.create_table(
        "model_version",
        sa.Column("key", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("model", sa.String(length=200), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(length=10), nullable=False),
        sa.Column("inputs", sa.JSON(), nullable=False),
        sa.Column("origin", sa.JSON(), nullable=True),
        sa.Column("allow_download", sa.Boolean(), nullable=False),
        sa.Column("allow_remote_inference", sa.Boolean(), nullable=False),
        sa.Column("mpc", sa.Boolean(), nullable=False),
        sa.Column("parties", sa.JSON(), nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("uses", sa.Integer(), nullable=False),
        sa.Column("downloads", sa.Integer(), nullable=False),
        sa.Column("last_used", sa.Float(), nullable=True),
        sa.Column("upload", sa.String(length=32), nullable=True),
        sa.ForeignKeyConstraint(
            ["model"],
            ["model.id"],
        ),
        sa.PrimaryKeyConstraint("key"),
        sa.UniqueConstraint("model", "version"),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("model_version", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_model_version_digest"), ["digest"], unique=False)

    with op.batch_alter_table("process", schema=None) as batch_op:
        batch_op.add_column(sa.Column("owner", sa.String(length=200), server_default="owner", nullable=False))
        batch_op.add_column(sa.Column("request", sa.String(length=100), nullable=True))
