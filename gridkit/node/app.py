"""The wiring: settings in, a running node out. Read it top to bottom."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import resource
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from starlette.applications import Starlette

from gridkit.errors import UsageError
from gridkit.node.accounts import Accounts
from gridkit.node.audit import Audit
from gridkit.node.datasets import Datasets
from gridkit.node.guard import Guard
from gridkit.node.identities import Identities
from gridkit.node.models import Models
from gridkit.node.notebooks import methods as notebook_methods
from gridkit.node.notifier import Notifier
from gridkit.node.outbound import Outbound
from gridkit.node.participants import Participants
from gridkit.node.passwords import Passwords
from gridkit.node.peers import Peers
from gridkit.node.projects import Projects
from gridkit.node.protocol import GridkitHttp, GridkitWebSocket, brief
from gridkit.node.push_models import PushModels
from gridkit.node.push_trainings import PushTrainings
from gridkit.node.push_updates import PushUpdates
from gridkit.node.quota import Quota
from gridkit.node.rates import Rates
from gridkit.node.rights import Access
from gridkit.node.rounds import Rounds
from gridkit.node.routes import accounts as account_routes
from gridkit.node.routes import datasets as dataset_routes
from gridkit.node.routes import events, http, join, model_centric, nodes, push, push_trainings, push_users, speed_test
from gridkit.node.routes import models as model_routes
from gridkit.node.routes import projects as project_routes
from gridkit.node.routes import rpc as rpc_routes
from gridkit.node.routes import socket as socket_routes
from gridkit.node.routes import uploads as upload_routes
from gridkit.node.routes.connection import Seats, Strangers
from gridkit.node.rpc.sessions import Sessions
from gridkit.node.runner import Runner
from gridkit.node.service import Service
from gridkit.node.settings import NodeSettings, kept_identity, kept_secret
from gridkit.node.store.blobs import Blobs
from gridkit.node.store.database import Database
from gridkit.node.trainings import Trainings
from gridkit.node.uploads import Uploads
from gridkit.node.watch import Watch
from gridkit.node.worker_auth import Door

HEADERS = [
    ("x-content-type-options", "nosniff"),
    ("cross-origin-resource-policy", "same-origin"),
    ("referrer-policy", "no-referrer"),
]
"""of every answer; `gridkit.node.guard` adds a Content-Security-Policy"""

OPEN = """WARNING: this node was started with --open. Every program and every user of this machine can, without a token:
WARNING: list, download, run, host and delete models and datasets that are nobody's, host and join trainings, and
WARNING: register push participants, with accounts of their own, which the node then calls on this machine."""


def build(settings: NodeSettings, outbound: Outbound) -> tuple[Starlette, Service]:
    """The ASGI app over its service. Nothing is started yet."""
    owner = kept_secret(settings.data / "token", settings.token)
    database = Database(settings.database or f"sqlite:///{settings.data / 'grid.db'}")
    passwords = Passwords()
    rates = Rates(settings.limits, open=settings.open)
    identities = Identities(database, passwords, rates)
    secret = kept_secret(settings.data / "secret")
    access = Access(owner, secret, identities, open=settings.open)
    watch = Watch(access, rates, Audit(settings.data / "audit.jsonl"))
    accounts = Accounts(database, access, identities, passwords, rates)
    participants = Participants(database, access, accounts, outbound, secret)
    blobs = Blobs(settings.blobs or str(settings.data / "blobs"))
    runner = Runner(settings.limits)
    rounds = Rounds(database, blobs, runner)
    notifier = Notifier(rounds, participants, outbound, settings.limits)
    accounts.on_removal.append(notifier.removed)
    peers = Peers(database, access, outbound, kept_identity(settings), rounds.clock)
    quota = Quota(settings.limits)
    models = Models(database, blobs, access, runner, quota, rounds.clock)
    datasets = Datasets(database, blobs, access, runner, quota, rounds.clock)
    uploads = Uploads(blobs, settings.limits)
    trainings = Trainings(rounds, access, Door(access, rounds, outbound), participants, notifier.follow)
    push_models = PushModels(rounds, access, participants, quota)
    rpc = Sessions(watch, settings.limits, notebook_methods(rounds, access))
    accounts.on_removal.append(rpc.removed)
    service = Service(
        access,
        watch,
        accounts,
        trainings,
        models,
        datasets,
        peers,
        uploads,
        participants,
        notifier,
        push_models,
        PushTrainings(trainings, push_models, access, quota),
        PushUpdates(trainings, access, participants),
        Projects(database, access, settings.limits, rounds.clock),
        rpc,
    )
    app = Starlette(
        routes=[
            *model_routes.ROUTES,
            *model_centric.ROUTES,
            *speed_test.ROUTES,
            *join.ROUTES,
            *account_routes.ROUTES,
            *push_users.ROUTES,
            *push.ROUTES,
            *push_trainings.ROUTES,
            *dataset_routes.ROUTES,
            *nodes.ROUTES,
            *upload_routes.ROUTES,
            *events.ROUTES,
            *project_routes.ROUTES,
            *socket_routes.ROUTES,
            *rpc_routes.ROUTES,
        ],
        exception_handlers=http.HANDLERS,
    )
    app.state.service = service
    app.state.limits = settings.limits
    app.state.budget = http.Budget(settings.limits.decoding)
    app.state.measures = speed_test.Measures()
    app.state.open = settings.open
    app.state.strangers = Strangers(settings.limits)
    app.state.seats = Seats()
    return app, service


class Server(uvicorn.Server):
    """uvicorn's server; when it ends it first lets go who waits for news, then closes WebSockets with 1012."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn's own raises the signal again at the end, before the store is closed; this one just ends."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._service.trainings.rounds.wind_down()
        await super().shutdown(sockets)


def serve(settings: NodeSettings, *, with_parent: bool = False, temporary: bool = False) -> None:
    """Run a node until SIGTERM or SIGINT. Prints one line with its address when it is ready.

    Args:
        with_parent: end when standard input closes, which it does when the parent process dies in any way.
        temporary: delete the data folder at the end.
    """
    settings.data.mkdir(parents=True, exist_ok=True, mode=0o700)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a file a socket; shells give 1024 of them
    try:
        with _alone(settings.data):
            asyncio.run(_serve(settings, with_parent))
    finally:
        if temporary:
            shutil.rmtree(settings.data, ignore_errors=True)


async def _serve(settings: NodeSettings, with_parent: bool) -> None:
    listening = _listen(settings)
    outbound = Outbound(settings, {listening.getsockname()[1]})
    app, service = build(settings, outbound)
    config = uvicorn.Config(
        Guard(app, settings, service.watch),  # around Starlette's own answers to failures too
        host=settings.host,
        port=settings.port,
        http=GridkitHttp,
        h11_max_incomplete_event_size=settings.limits.header,
        ws=GridkitWebSocket,
        ws_max_size=settings.limits.message_before_auth,
        ws_per_message_deflate=False,
        ws_ping_interval=settings.limits.ping_seconds,
        ws_ping_timeout=settings.limits.ping_seconds,
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        headers=HEADERS,
        proxy_headers=False,  # anybody on this machine could name another's address
        timeout_graceful_shutdown=5,
        ssl_certfile=settings.certfile,
        ssl_keyfile=settings.keyfile,
    )
    logging.getLogger("uvicorn.error").addFilter(brief)
    service.trainings.rounds.db.start()
    try:
        await service.accounts.start()
        service.models.start()
        await service.trainings.rounds.start()
        await service.notifier.start()
        server = Server(config, service)
        if with_parent:
            threading.Thread(target=_end_with_parent, args=(server,), daemon=True).start()
        announcement = asyncio.get_running_loop().create_task(_announce(server, settings, listening))
        await server.serve(sockets=[listening])
        await announcement
    finally:
        await service.rpc.close()
        await service.notifier.close()
        await service.trainings.rounds.close()
        service.accounts.close()
        service.watch.close()
        await service.models.close()
        await asyncio.to_thread(service.trainings.rounds.db.close)
        outbound.close()
        listening.close()


def _listen(settings: NodeSettings) -> socket.socket:
    """The listening socket. Its protocol is spelled out: asyncio turns Nagle's delay off (40 ms an answer) only for
    sockets that say they are TCP, and uvicorn's own `bind_socket` makes one that doesn't."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((settings.host, settings.port))
    except (OSError, OverflowError) as error:
        listening.close()
        raise UsageError(
            f"the node can't listen on {settings.host} port {settings.port}: {error}", "choose another --port"
        ) from None
    return listening


async def _announce(server: Server, settings: NodeSettings, listening: socket.socket) -> None:
    while not server.started and not server.should_exit:
        await asyncio.sleep(0.005)
    scheme = "https" if settings.certfile else "http"
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    print(f"gridkit node ready at {scheme}://{host}:{listening.getsockname()[1]}", flush=True)
    if settings.open:
        print(OPEN, file=sys.stderr, flush=True)


def _end_with_parent(server: Server) -> None:
    while os.read(0, 4096):
        pass
    server.should_exit = True


@contextmanager
def _alone(data: Path) -> Iterator[None]:
    """One node a data folder."""
    with open(data / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"another node is running on the data folder {data}", "stop it, or choose another --data"
            ) from None
        yield
