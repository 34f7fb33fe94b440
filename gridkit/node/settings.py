"""What a node is told at its start."""

from __future__ import annotations

import ipaddress
import math
import os
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from gridkit.errors import UsageError

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """Upper bounds, checked before anything is buffered. All sizes in bytes."""

    header: int = 32 * 1024
    """request line and headers together"""
    headers: int = 100
    """number of headers"""
    message_before_auth: int = 64 * 1024
    """one WebSocket message of a socket that hasn't authenticated"""
    message: int = 64 * MIB
    """one WebSocket message, or one JSON body, after that"""
    upload: int = 2048 * MIB
    """one multipart or binary body, one upload in pieces"""
    uploads: int = 16
    """number of uploads in pieces that one principal has under way"""
    uploads_bytes: int = 4096 * MIB
    """their sizes together"""
    upload_idle: float = 3600.0
    """seconds after which an upload ends to which nothing was added"""
    kept: int = 20_000
    """number of models and datasets of one account; each version of a model, and each mock sample, is one"""
    kept_bytes: int = 1024 * 1024 * MIB
    """their sizes together"""
    project_rows: int = 200_000
    """number of projects, runs and metrics of one account"""
    project_bytes: int = 1024 * MIB
    """the texts and values in them"""
    decoding: int = 256 * MIB
    """all JSON bodies with base64 payloads that are in memory at one time"""
    text: int = 200
    """an id, a name, a version, a label (characters)"""
    plan: int = 72 * MIB
    """one plan"""
    member_rate: float = 20_000.0
    """requests and messages a second of one who has a credential, in the long run"""
    anonymous_rate: float = 500.0
    """requests and messages a second of all anonymous clients of one address (without --open)"""
    wrong_rate: float = 1.0
    """wrong credentials a second of one address; a hundred times as many at once"""
    strangers: int = 256
    """number of WebSockets that haven't authenticated (without --open)"""
    stranger_seconds: float = 30.0
    """for how long a WebSocket may stay without authenticating (without --open)"""
    ping_seconds: float = 30.0
    """from one ping of a WebSocket to the next; and for its answer, else the other side counts as gone"""
    push_seconds: float = 10.0
    """one attempt to tell a push participant something"""
    push_attempts: int = 4
    """so many attempts, a pause of half a second after the first, twice as long after each other one"""
    push_again: float = 60.0
    """after so many seconds a participant that knows a notification when it comes again (ours do) is told again of a
    round that it took and hasn't answered; then after twice as many, and so on"""
    speed_test: int = 16 * MIB
    """what a worker downloads to measure its connection"""
    run_seconds: float = 30.0
    """one computation in the runner (seconds)"""
    run_memory: int = 4096 * MIB
    """what a runner may take beyond torch itself; one computation gets half of it, its parameters included"""
    run_results: int = 256 * MIB
    """the results of one computation"""
    run_inputs: int = 256 * MIB
    """the inputs of all computations that wait"""
    run_waiting: int = 512
    """number of computations that wait"""
    rpc_idle: float = 600.0
    """for which a JSON-RPC session stays without a link (seconds), or a plain client may take for one answer"""
    rpc_silence: float = 30.0
    """seconds without a heartbeat, after which a client of `gridkit.v1` isn't waited for"""
    rpc_sessions: int = 100
    """number of JSON-RPC sessions of one principal"""
    rpc_requests: int = 1000
    """number of requests of one session that are being worked on"""
    rpc_runners: int = 16
    """number of JSON-RPC sessions with tensors, each of which has a process with up to `run_memory`"""
    rpc_runners_each: int = 8
    """number of them of one account"""
    rpc_tensors: int = 100_000
    """tensors, optimizers and nodes of graphs in one session"""
    rpc_text: int = 8 * MIB
    """one message of the plain profile"""
    rpc_bytes: int = 512 * MIB
    """all messages that wait in the sessions of one principal, either way"""

    @classmethod
    def read(cls, texts: Sequence[str]) -> Limits:
        """Limits of which some are given as ``NAME=NUMBER``.

        Raises:
            UsageError: no such limit, or no number that it can be.
        """
        limits = cls()
        for text in texts:
            name, _, value = text.partition("=")
            try:
                number = type(getattr(limits, name))(value)
                if not 0 < number < math.inf:
                    raise ValueError
            except (AttributeError, TypeError, ValueError):
                names = ", ".join(field.name for field in fields(cls))
                raise UsageError(f"{text!r} is no limit of a node", f"NAME=NUMBER, with one of {names}") from None
            limits = replace(limits, **{name: number})
        return limits


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """How a node is started.

    Args:
        host, port: where it listens; port 0 takes a free one.
        data: folder of the database, the blobs and the secret; made with mode 0700.
        database: SQLAlchemy URL; None is SQLite in `data`.
        blobs: fsspec URL; None is a folder in `data`.
        id: what the node is called among nodes; None keeps the one in `data`, or makes one.
        token: the owner's token, at least 16 characters; None keeps the one in `data`, or makes one.
        open: anonymous clients of the old protocols are welcome (loopback only).
        allow_origins, allow_hosts: further values of the Origin and Host headers.
        allow_targets: what the node may call by itself: host names, with or without a port, and networks.
        prefix: the path under which the node lies behind a proxy that passes paths on as they came, such as "/grid".
            Without it the node is there too.
    """

    host: str = "127.0.0.1"
    port: int = 5000
    data: Path = field(default_factory=lambda: Path("gridkit-data"))
    database: str | None = None
    blobs: str | None = None
    id: str | None = None
    token: str | None = field(default=None, repr=False)
    open: bool = False
    allow_origins: tuple[str, ...] = ()
    allow_hosts: tuple[str, ...] = ()
    allow_targets: tuple[str, ...] = ()
    prefix: str = ""
    certfile: str | None = None
    keyfile: str | None = None
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if self.id is not None and not (0 < len(self.id) <= self.limits.text and self.id.isprintable()):
            raise UsageError("the node's id is empty, too long, or has control characters", "leave it out: one is made")
        if self.token is not None and len(self.token) < 16:
            raise UsageError("the owner's token is shorter than 16 characters", "leave it out: the node makes one")
        if self.open and not self.loopback:
            raise UsageError(
                f"--open on {self.host} would let everybody on that network in",
                "bind 127.0.0.1, or leave --open out and give each worker a token",
            )
        if bool(self.certfile) != bool(self.keyfile):
            raise UsageError("TLS needs both a certificate and a key", "give --certfile and --keyfile")
        if not re.fullmatch("(/[A-Za-z0-9._~-]+)*", self.prefix):
            raise UsageError(f"--prefix can't be {self.prefix!r}", "give a path such as /grid")
        if self.allow_targets:  # a wrong one is told at the start; httpx takes its time to be imported
            from gridkit.node.targets import Rule

            for text in self.allow_targets:
                Rule.read(text)

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the node."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def kept_identity(settings: NodeSettings) -> str:
    """The node's id: the given one, or the one of its data folder, made at the first start. No secret."""
    path = settings.data / "identity"
    return kept_secret(path, settings.id or (None if path.exists() else secrets.token_hex(8)))


def kept_secret(path: Path, given: str | None = None) -> str:
    """The secret in the file `path` (mode 0600): `given` replaces it, a missing one is made.

    The file is written beside and renamed, so that a crash leaves the old one or the new one.
    """
    if given is None and path.exists():
        return path.read_text().strip()
    secret = given or secrets.token_urlsafe(32)
    draft = path.with_name(path.name + ".new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secret + "\n")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    return secret
