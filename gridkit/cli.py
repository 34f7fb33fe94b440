"""The command `gridkit`: node, worker, participant, demo, lab."""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import importlib
import json
import os
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from gridkit import __version__
from gridkit.errors import GridkitError, UsageError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status: 0, or 1 after an error, which is printed as two lines."""
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except GridkitError as error:
        print(f"gridkit: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("gridkit", description="Federated learning from a notebook.")
    parser.add_argument("--version", action="version", version=f"gridkit {__version__}")
    commands = parser.add_subparsers(title="commands", required=True)

    node = commands.add_parser("node", help="run a grid node", description="Run a grid node until SIGTERM.")
    node.add_argument("--host", default="127.0.0.1", help="interface to listen on (default: this machine only)")
    node.add_argument("--port", type=int, default=5000, help="0 takes a free one")
    node.add_argument("--data", type=Path, default=Path("gridkit-data"), help="folder of database, blobs and secrets")
    node.add_argument("--database", help="SQLAlchemy URL (default: SQLite in --data)")
    node.add_argument("--blobs", help="fsspec URL (default: a folder in --data)")
    node.add_argument("--id", help="what the node is called among nodes (default: a random id, kept in --data)")
    node.add_argument("--token", help="the owner's token (better: GRIDKIT_TOKEN, or the file 'token' in --data)")
    node.add_argument("--open", action="store_true", help="welcome anonymous clients of the old protocols (loopback)")
    node.add_argument("--allow-origin", action="append", default=[], metavar="URL", help="pages that may use the node")
    node.add_argument("--allow-host", action="append", default=[], metavar="NAME", help="further names of the node")
    targets = "what the node may call by itself: HOST, HOST:PORT or a network (10.0.0.0/8); nothing by default"
    prefix = "path of the node behind a proxy that keeps it, such as /grid"
    node.add_argument("--prefix", default="", metavar="PATH", help=prefix)
    node.add_argument("--allow-target", action="append", default=[], metavar="TARGET", help=targets)
    limits = "change one of the node's limits, such as upload=8589934592 (names: gridkit.node.settings.Limits)"
    node.add_argument("--limit", action="append", default=[], metavar="NAME=NUMBER", help=limits)
    node.add_argument("--certfile", help="TLS certificate (PEM)")
    node.add_argument("--keyfile", help="TLS key (PEM)")
    node.add_argument("--with-parent", action="store_true", help=argparse.SUPPRESS)
    node.add_argument("--temporary", action="store_true", help=argparse.SUPPRESS)
    node.set_defaults(command=_node)

    worker = commands.add_parser(
        "worker",
        help="train on a shard of data, for a node",
        description="Join a training with this machine's data. The token comes from GRIDKIT_TOKEN or --token-file.",
    )
    worker.add_argument("url", help="the node, such as http://host:5000")
    worker.add_argument("--name", required=True, help="name of the training")
    worker.add_argument("--version", required=True, help="version of the training")
    worker.add_argument("--data", type=Path, required=True, help="an .npz file with arrays x and y")
    worker.add_argument("--label", help="how this worker is called in reports")
    worker.add_argument("--token-file", type=Path, help="file with the worker's token (mode 0600)")
    worker.set_defaults(command=_worker)

    participant = commands.add_parser(
        "participant",
        help="listen for a node that calls, and train then",
        description="Train with the functions train and test of a script when a node says so, until SIGTERM.",
    )
    participant.add_argument("--node", required=True, metavar="URL", help="such as http://host:5000/push")
    participant.add_argument("--script", type=Path, required=True, help="Python file with functions train and test")
    participant.add_argument("--host", default="127.0.0.1", help="interface to listen on (default: this machine only)")
    participant.add_argument("--port", type=int, default=8101, help="0 takes a free one")
    participant.add_argument("--user", help="name of the account at the node; its password is the token")
    participant.add_argument("--token-file", type=Path, help="file with the token (mode 0600); or GRIDKIT_TOKEN")
    secret = "file with the secret shared with the node (mode 0600); or GRIDKIT_SECRET"
    participant.add_argument("--secret-file", type=Path, help=secret)
    participant.set_defaults(command=_participant)

    for name, text in (("demo", "run the main job on real data"), ("lab", "open JupyterLab on the notebooks")):
        module = importlib.import_module(f"gridkit.{name}")
        command = commands.add_parser(name, help=text, description=module.__doc__)
        module.add_arguments(command)
        command.set_defaults(command=module.run)
    return parser


def _node(options: argparse.Namespace) -> int:
    from gridkit.node.app import serve
    from gridkit.node.settings import Limits, NodeSettings

    settings = NodeSettings(
        host=options.host,
        port=options.port,
        data=options.data,
        database=options.database,
        blobs=options.blobs,
        id=options.id,
        token=options.token or os.environ.get("GRIDKIT_TOKEN") or None,
        open=options.open,
        allow_origins=tuple(options.allow_origin),
        allow_hosts=tuple(options.allow_host),
        prefix=options.prefix.rstrip("/"),
        allow_targets=tuple(options.allow_target),
        certfile=options.certfile,
        keyfile=options.keyfile,
        limits=Limits.read(options.limit),
    )
    serve(settings, with_parent=options.with_parent, temporary=options.temporary)
    return 0


def _worker(options: argparse.Namespace) -> int:
    import numpy as np

    from gridkit.client.link import Link
    from gridkit.workers.worker import Client, Worker

    try:
        with np.load(options.data, allow_pickle=False) as arrays:
            x, y = arrays["x"], arrays["y"]
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(
            f"{options.data} isn't a readable .npz file with arrays x and y: {error}",
            "write it with numpy.savez(path, x=x, y=y)",
        ) from None
    identity = _identity_file(options)
    known = json.loads(identity.read_text())["worker_id"] if identity.exists() else None

    def remember(client: Client) -> None:
        identity.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(identity, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump({"worker_id": client.worker_id}, file)

    client = Client(x, y, _token(options.token_file), options.label, known)

    async def work() -> None:
        link = Link(options.url, patience=None, say=lambda line: print(line, file=sys.stderr, flush=True))
        try:
            await Worker(link, options.name, options.version, [client], on_identity=remember).run()
        finally:
            await link.close()

    asyncio.run(work())
    print(f"the training '{options.name}' {options.version} is over")
    return 0


def _identity_file(options: argparse.Namespace) -> Path:
    """Where this shard's worker id is kept, so that a worker that is started again is the same worker."""
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    names = json.dumps([options.url, options.name, options.version, str(options.data.resolve()), options.label])
    return state / "gridkit" / "workers" / f"{hashlib.sha256(names.encode()).hexdigest()[:32]}.json"


def _participant(options: argparse.Namespace) -> int:
    import runpy

    from gridkit.participant import serve_participant

    token, secret = _token(options.token_file), _token(options.secret_file, "GRIDKIT_SECRET")
    if token is None:
        what = "token" if options.user is None else f"password for {options.user}"
        raise UsageError(f"there is no {what}", "set GRIDKIT_TOKEN, or pass --token-file")
    if not options.script.is_file():
        raise UsageError(f"there is no script {options.script}", "pass a Python file with functions train and test")
    names = runpy.run_path(str(options.script))
    if missing := [name for name in ("train", "test") if name not in names]:
        raise UsageError(f"{options.script} has no function {missing[0]}", f"define {missing[0]}(state, task) there")
    login = {"token": token} if options.user is None else {"user": options.user, "password": token}
    given = {"node": options.node, "host": options.host, "port": options.port, "secret": secret, **login}
    with serve_participant(train=names["train"], test=names["test"], **given) as participant:
        print(f"gridkit participant ready at {participant.url}", flush=True)
        threading.Event().wait()
    return 0


def _token(file: Path | None, variable: str = "GRIDKIT_TOKEN") -> str | None:
    if file is None:
        return os.environ.get(variable) or None
    try:
        open_to_others, text = file.stat().st_mode & 0o077, file.read_text().strip()
    except (OSError, UnicodeError) as error:
        raise UsageError(f"{file} can't be read: {error}", f"write it there, or set {variable}") from None
    if open_to_others:
        raise UsageError(f"{file} can be read by others", f"chmod 600 {file}")
    if not text:
        raise UsageError(f"{file} is empty", f"write it there, or set {variable}")
    return text
