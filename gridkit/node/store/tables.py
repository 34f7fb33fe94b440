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
    sa.Column("owner", sa.String(200), nullable=False, server_default="owner"),  # the name of an account
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("client_config", sa.JSON, nullable=False),
    sa.Column("server_config", sa.JSON, nullable=False),
    sa.Column("model", sa.JSON, nullable=False),  # its tensors: [[name, dtype, shape], …] in order
    sa.Column("state", sa.JSON, nullable=False),  # CycleState, but for its assignments
    sa.Column("revision", sa.Integer, nullable=False),  # compare-and-set
    sa.Column("deadline", sa.Float),
    sa.Column("request", sa.String(100)),  # the key of the request that made it, so that the same one again is known
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
assignment = sa.Table(  # of the newest cycle and the one before
    "assignment",
    metadata,
    sa.Column("process", sa.ForeignKey("process.id"), primary_key=True),
    sa.Column("sequence", sa.Integer, primary_key=True),
    sa.Column("worker", sa.String(64), primary_key=True),
    sa.Column("body", sa.JSON, nullable=False),
)
report = sa.Table(  # reports whose bytes are kept: until their cycle is closed
    "report",
    metadata,
    sa.Column("request_key", sa.String(64), primary_key=True),
    sa.Column("process", sa.ForeignKey("process.id"), nullable=False),
    sa.Column("sequence", sa.Integer, nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
)
model = sa.Table(
    "model",
    metadata,
    sa.Column("id", sa.String(200), primary_key=True),
    sa.Column("owner", sa.String(200), nullable=False, index=True),
    sa.Column("versions", sa.Integer, nullable=False),  # how many there are: numbered from 1, the last is the newest
)
model_version = sa.Table(
    "model_version",
    metadata,
    sa.Column("key", sa.Integer, primary_key=True, autoincrement=True),  # never given out twice
    sa.Column("model", sa.ForeignKey("model.id"), nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("digest", sa.String(64), nullable=False, index=True),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("kind", sa.String(10), nullable=False),  # "plan" or "opaque"
    sa.Column("inputs", sa.JSON, nullable=False),  # [{"name", "dtype", "shape"}, …]
    sa.Column("origin", sa.JSON),  # {"name", "version", "round"}
    sa.Column("allow_download", sa.Boolean, nullable=False),
    sa.Column("allow_remote_inference", sa.Boolean, nullable=False),
    sa.Column("mpc", sa.Boolean, nullable=False),
    sa.Column("parties", sa.JSON),  # of an encrypted model: {"workers": [[id, address], …], "crypto_provider": […]}
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("uses", sa.Integer, nullable=False),
    sa.Column("downloads", sa.Integer, nullable=False),
    sa.Column("last_used", sa.Float),
    sa.Column("upload", sa.String(32)),  # that it came as, so that the same request again is known
    sa.UniqueConstraint("model", "version"),
    sqlite_autoincrement=True,
)
dataset = sa.Table(
    "dataset",
    metadata,
    sa.Column("id", sa.String(200), primary_key=True),
    sa.Column("owner", sa.String(200), nullable=False, index=True),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("policy", sa.JSON, nullable=False),
    sa.Column("audience", sa.String(8), nullable=False),  # who sees it: "anyone", "everyone", "names"
    sa.Column("kind", sa.String(8), nullable=False),  # "tensor", "tensors" or "frame"
    sa.Column("tensors", sa.JSON, nullable=False),  # [{"name", "dtype", "shape"}, …]
    sa.Column("rows", sa.BigInteger, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),  # bytes of the data
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("upload", sa.String(32), nullable=False),  # that it came as, so that the same request again is known
)
dataset_part = sa.Table(
    "dataset_part",
    metadata,
    sa.Column("dataset", sa.ForeignKey("dataset.id"), primary_key=True),
    sa.Column("part", sa.String(8), primary_key=True),  # "data" or "mock"
    sa.Column("digest", sa.String(64), nullable=False, index=True),
    sa.Column("size", sa.BigInteger, nullable=False),
)
dataset_tag = sa.Table(
    "dataset_tag",
    metadata,
    sa.Column("dataset", sa.ForeignKey("dataset.id"), primary_key=True),
    sa.Column("tag", sa.String(200), primary_key=True, index=True),
)
dataset_reader = sa.Table(  # names of the audience, where it is "names"
    "dataset_reader",
    metadata,
    sa.Column("dataset", sa.ForeignKey("dataset.id"), primary_key=True),
    sa.Column("name", sa.String(200), primary_key=True, index=True),
)
participant = sa.Table(  # an account that the node calls: a push participant, or who is told of an end
    "participant",
    metadata,
    sa.Column("account", sa.String(200), primary_key=True),
    sa.Column("id", sa.String(36), nullable=False, unique=True),  # a UUID, which its protocol knows it by
    sa.Column("endpoint", sa.Text, nullable=False),
    sa.Column("secret", sa.String(100)),  # what the secret of its notifications is made of; none: they aren't signed
    sa.Column("profile", sa.JSON, nullable=False),  # what else a registration said of it
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("request", sa.String(100)),  # as in `process`
)
push_model = sa.Table(  # an archive as it came: the layout of what participants fetch and send
    "push_model",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),  # a UUID
    sa.Column("owner", sa.String(200), nullable=False, index=True),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("digest", sa.String(64), nullable=False, index=True),
    sa.Column("size", sa.BigInteger, nullable=False),  # bytes
    sa.Column("input_shape", sa.JSON, nullable=False),  # null: not said
    sa.Column("created_at", sa.Float, nullable=False),
)
push_training = sa.Table(  # what participants take part in; its rounds are those of the process of the same id
    "push_training",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),  # a UUID; `process.id` without hyphens, once it is started
    sa.Column("owner", sa.String(200), nullable=False, index=True),
    sa.Column("model", sa.ForeignKey("push_model.id"), nullable=False, unique=True),
    sa.Column("config", sa.JSON, nullable=False),  # as it was asked for
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("told", sa.Boolean, nullable=False),  # whether its owner was told of its end
)
push_member = sa.Table(
    "push_member",
    metadata,
    sa.Column("training", sa.ForeignKey("push_training.id"), primary_key=True),
    sa.Column("account", sa.String(200), primary_key=True),
    sa.Column("slot", sa.Integer, nullable=False),
    sa.Column("worker", sa.String(64)),  # `worker.id`, once it is started; never leaves the node
    sa.Column("told", sa.Integer, nullable=False),  # the last notification that it took: see `due.Notification`
    sa.UniqueConstraint("training", "slot"),
)
project = sa.Table(  # what runs of clients of JSON-RPC are in; each account has its own ones
    "project",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),  # a UUID
    sa.Column("owner", sa.String(200), nullable=False),
    sa.Column("namespace", sa.String(200), nullable=False),
    sa.Column("slug", sa.String(400), nullable=False),  # made of its title: see `slugs`
    sa.Column("title", sa.String(200), nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("last_run", sa.Float),
    sa.Column("rows", sa.Integer, nullable=False),  # its own, its runs, their metrics
    sa.Column("size", sa.BigInteger, nullable=False),  # bytes of the texts and values in them
    sa.UniqueConstraint("owner", "namespace", "slug"),
)
project_run = sa.Table(
    "project_run",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),  # a UUID
    sa.Column("project", sa.ForeignKey("project.id"), nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("name", sa.String(220), nullable=False),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("status", sa.String(12), nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("updated_at", sa.Float, nullable=False),
    sa.UniqueConstraint("project", "number"),
    sa.UniqueConstraint("project", "name"),
)
project_metric = sa.Table(
    "project_metric",
    metadata,
    sa.Column("run", sa.ForeignKey("project_run.id"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("step", sa.BigInteger, nullable=False),
    sa.Column("value", sa.JSON, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Index("ix_project_metric_steps", "run", "name", "step"),
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
account = sa.Table(
    "account",
    metadata,
    sa.Column("name", sa.String(200), primary_key=True),
    sa.Column("role", sa.String(32), nullable=False),
    sa.Column("password", sa.String(200)),  # argon2's own text; none: this account has tokens only
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("request", sa.String(100)),  # as in `process`
)
token = sa.Table(
    "token",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("account", sa.String(200), nullable=False, index=True),  # "owner" has no row in `account`
    sa.Column("kind", sa.String(8), nullable=False),  # "login" ends with the next password, "key" doesn't
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("label", sa.String(200), nullable=False),
    sa.Column("scopes", sa.JSON, nullable=False),  # null: all that the account may
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("expires_at", sa.Float, nullable=False),
    sa.Column("request", sa.String(100)),  # as in `process`
)
revoked = sa.Table(  # worker tokens that are refused before they expire
    "revoked",
    metadata,
    sa.Column("id", sa.String(200), primary_key=True),
    sa.Column("expires_at", sa.Float, nullable=False),
)
peer = sa.Table(
    "peer",
    metadata,
    sa.Column("id", sa.String(200), primary_key=True),
    sa.Column("address", sa.Text, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
)

HOLDERS = (plan, checkpoint, report, model_version, dataset_part, push_model)
"""tables whose `digest` keeps a blob"""
