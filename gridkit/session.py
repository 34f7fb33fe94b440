"""The sync face of `gridkit.aio`: the same session for plain cells. Every method is made of its async one."""

from __future__ import annotations

import concurrent.futures
import getpass
import inspect
import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from gridkit import aio, cells, rpc
from gridkit.bridge import BRIDGE, sync
from gridkit.client import credentials
from gridkit.client import rpc as aio_rpc
from gridkit.errors import UsageError
from gridkit.federated import strategies
from gridkit.listings import Datasets, Models, Participants, Tokens, Users
from gridkit.plans.plan import Plan
from gridkit.run import Run
from gridkit.widgets import words
from gridkit.widgets.shelf import PAGE, Kind, Page, Row, page_text
from gridkit.widgets.snapshot import TextWatch

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from torch import nn

    from gridkit.exposed import Exposed
    from gridkit.tensors.handle import World
    from gridkit.tensors.optimizers import RemoteOptimizer
    from gridkit.tensors.remote import RemoteTensor
    from gridkit.widgets.browser import Browser
    from gridkit.widgets.launcher import Launcher, NewTraining
    from gridkit.widgets.login import LoginForm
    from gridkit.widgets.panel import Panel
    from gridkit.widgets.twin import TwinBox

    M = TypeVar("M", bound=nn.Module)

__all__ = ["Runs", "Session", "connect", "launch"]


class _Core(aio.SessionCore[Run]):
    """The async session whose runs have a sync face."""

    _run_class = Run

    def _new_rpc(self) -> aio_rpc.RpcClient:
        self._rpc_face = rpc.of_link(self._link)
        return self._rpc_face._core

    def _new_world(self) -> World:
        from gridkit.client.tensors import TensorClient
        from gridkit.plans.tracing.source import shown
        from gridkit.tensors.handle import World
        from gridkit.tensors.remote import RemotePass, RemoteTensor

        return World(TensorClient(self.rpc, BRIDGE.submit, shown), RemoteTensor, RemotePass, BRIDGE.sync)

    def _to_run(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        return rpc.run_to_its_end(fn) if inspect.iscoroutinefunction(fn) else fn

    def _optimizer_class(self) -> type[Any]:
        from gridkit.tensors.optimizers import RemoteOptimizer

        return RemoteOptimizer

    async def newest(self) -> Run | None:
        """The Run of the training hosted last: the one that this session has already, or one that follows it."""
        entries = await self.processes()
        if not entries:
            return None
        return self._runs.get((entries[-1]["name"], entries[-1]["version"])) or await self._known(entries[-1])


class Runs(cells.ShortDir, Mapping[tuple[str, str], Run]):
    """The trainings on a node: ``grid.runs["digits", "1.0"]`` is a Run, also after a kernel restart."""

    def __init__(self, core: _Core) -> None:
        self._core = core

    def __getitem__(self, key: tuple[str, str] | str) -> Run:
        if isinstance(key, str):
            return BRIDGE.sync(self._core.run(key))
        if not (isinstance(key, tuple) and len(key) == 2):
            raise UsageError(f"{key!r} isn't a training", 'use grid.runs["name", "version"]')
        return BRIDGE.sync(self._core.run(*key))

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter([(entry["name"], entry["version"]) for entry in BRIDGE.sync(self._core.processes())])

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __repr__(self) -> str:
        return f"<Runs on {self._core.url}: {len(self._core._seen)} seen>"

    def _repr_html_(self) -> str:
        from gridkit.widgets.html import card, table

        title = f"Runs on {self._core.url}: {len(self._core._seen)} seen"
        return card(title, {}, table(("name", "version"), list(self._core._seen)))

    def _ipython_key_completions_(self) -> list[tuple[str, str]]:
        return list(self._core._seen)  # completion makes no call

    def to_frame(self) -> pd.DataFrame:
        """A row a training: name, version, phase, cycle, outcome."""
        import pandas as pd

        columns = ["name", "version", "phase", "cycle", "outcome", "reason"]
        entries = BRIDGE.sync(self._core.processes())
        return pd.DataFrame([{key: entry[key] for key in columns} for entry in entries], columns=columns)


class Session(cells.ShortDir):
    """What a person holds in a notebook. Made by `launch` or `connect`; a context manager.

    It is closed by `close`, by running the cell that made it again, and when nobody holds it or a Run of it any more.

    Attributes:
        runs: the trainings on the node, by name and version.
    """

    def __init__(self, core: _Core) -> None:
        self._core = core
        self._forms: weakref.WeakSet[TwinBox] = weakref.WeakSet()
        self.runs = Runs(core)  # no property: IPython calls none when it completes ``grid.runs["``
        # Not of this object: whoever holds a Run, or `grid.runs`, holds the core too.
        weakref.finalize(core, BRIDGE.leave, core._closing()).atexit = False

    def __repr__(self) -> str:
        return repr(self._core)

    def _repr_html_(self) -> str:
        return self._core._repr_html_()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """The node's address."""
        return self._core.url

    @property
    def pids(self) -> dict[str, Any]:
        """Process ids: ``{"node": pid or None, "workers": [pid, …]}``."""
        return self._core.pids

    @property
    def identity(self) -> str:
        """The node's id among nodes."""
        return BRIDGE.sync(self._core.identity())

    @property
    def peers(self) -> dict[str, str]:
        """The nodes that this session's node knows: id to address."""
        return BRIDGE.sync(self._core.peers())

    def close(self) -> None:
        """End this session's workers, its node if it was launched here, and its connections. Idempotent.

        Its launchers, panels and live graphs become pictures of their last state: nothing in them would change again.
        """
        BRIDGE.sync(self._core.close())
        graphs = () if self._core._world is None else tuple(self._core._world.views)
        for form in (*self._forms, *graphs):
            form.update_twin(over=True)

    @property
    def rpc(self) -> rpc.RpcClient:
        """The session's JSON-RPC client: it connects with the first call, and is closed with the session."""
        self._core.rpc  # noqa: B018  makes it
        return self._core._rpc_face

    def tensor(self, data: Any, *, requires_grad: bool = False, dtype: torch.dtype | None = None) -> RemoteTensor:
        """A tensor that lives on the node, with a copy of this data. See `gridkit.aio.tensors.Tensors.tensor`.

        Example:
            >>> x = grid.tensor([1.0, 2.0], requires_grad=True)                     # doctest: +SKIP
            >>> (x * x).sum().backward()                                            # doctest: +SKIP
            >>> x.grad.get()                                                        # doctest: +SKIP
            tensor([2., 4.])
        """
        made: RemoteTensor = self._core.tensor(data, requires_grad=requires_grad, dtype=dtype)
        return made

    def module(self, module: M) -> M:
        """A copy of an nn module whose parameters and buffers live on the node. Its code stays here, and runs here.

        Example:
            >>> net = grid.module(nn.Linear(4, 2))                                  # doctest: +SKIP
            >>> optimizer = grid.optimizer("SGD", net.parameters(), lr=0.1)         # doctest: +SKIP
        """
        return self._core.module(module)

    def optimizer(self, name: str, params: Iterable[Any], **options: Any) -> RemoteOptimizer:
        """An optimizer of torch.optim on the node, for remote parameters. See `gridkit.aio.tensors`."""
        made: RemoteOptimizer = BRIDGE.sync(self._core.optimizer(name, params, **options))
        return made

    def expose(
        self, fn: Callable[..., Any], *, name: str | None = None, arguments: Literal["reference", "value"] = "reference"
    ) -> Exposed:
        """Let the node call a function of this notebook, as long as the handle is held and open.

        See `gridkit.aio.tensors.Tensors.expose`. A coroutine function is run to its end on a thread.

        Example:
            >>> with grid.expose(accuracy, arguments="value") as metric:            # doctest: +SKIP
            ...     grid.evaluate(metric, net(x), labels)
            >>> metric.calls                                                        # doctest: +SKIP
            1 call of accuracy by the node; 6 bytes left the notebook
              accuracy(float32[50, 3], int64[50]) -> 0.9375
        """
        return self._core.expose(fn, name=name, arguments=arguments)

    evaluate = sync(aio.Session.evaluate)

    def manual_seed(self, seed: int) -> None:
        """As `torch.manual_seed`, for what the node draws for this session's tensors."""
        self._core.manual_seed(seed)

    @property
    def models(self) -> Models:
        """The models on the node, oldest first: a list of ids that shows what is known of each."""
        return BRIDGE.sync(self._core.models())

    @property
    def datasets(self) -> Datasets:
        """The datasets on the node that you may see: a list of ids that shows what is known of each."""
        return BRIDGE.sync(self._core.datasets())

    @property
    def dataset_tags(self) -> list[str]:
        """The tags of all datasets that you may see."""
        return BRIDGE.sync(self._core.dataset_tags())

    @property
    def participants(self) -> Participants:
        """The push participants that the node knows, oldest first: all for its owner and for data scientists."""
        return BRIDGE.sync(self._core.participants())

    @property
    def users(self) -> Users:
        """The accounts on the node, those of others only for its owner."""
        return BRIDGE.sync(self._core.users())

    @property
    def tokens(self) -> Tokens:
        """The tokens of this account, for the node's owner those of all. The secrets are in none."""
        return BRIDGE.sync(self._core.tokens())

    add_user = sync(_Core.add_user)
    audit = sync(_Core.audit)
    connect_nodes = sync(_Core.connect_nodes)
    delete_dataset = sync(_Core.delete_dataset)
    delete_model = sync(_Core.delete_model)
    download_model = sync(_Core.download_model)
    fetch_dataset = sync(_Core.fetch_dataset)
    host_training = sync(_Core.host_training)
    invite = sync(_Core.invite)
    issue_token = sync(_Core.issue_token)
    join = sync(_Core.join)
    publish = sync(_Core.publish)
    push_participant = sync(_Core.push_participant)
    remove_participant = sync(_Core.remove_participant)
    remove_user = sync(_Core.remove_user)
    revoke_token = sync(_Core.revoke_token)
    run_plan = sync(_Core.run_plan)
    run_remote_inference = sync(_Core.run_remote_inference)
    search = sync(_Core.search)
    serve_model = sync(_Core.serve_model)
    set_password = sync(_Core.set_password)
    train = sync(_Core.train)
    worker_token = sync(_Core.worker_token)

    def authenticate(self, user: aio.User | None = None) -> LoginForm | None:
        """Log in; from then on the session acts as that user. See `gridkit.aio.Session.authenticate`.

        Without `user` you are asked: with a form in a notebook (it is what is returned, and waits for nothing), else
        on the terminal.

        Example:
            >>> grid.authenticate("ada")                                            # doctest: +SKIP
        """
        if user is None and cells.why_no_widgets() is None:
            from gridkit.widgets.login import LoginForm

            form = LoginForm(self.url, lambda *who: BRIDGE.submit(self._core._log_in(credentials.Login(*who))))
            self._forms.add(form)
            return form
        BRIDGE.sync(self._core.authenticate(credentials.ask(self.url) if user is None else user))
        return None

    def launcher(
        self,
        *,
        model: nn.Module | None = None,
        plan: Plan | None = None,
        clients: Sequence[tuple[Any, Any] | str] | None = None,
        evaluate: Callable[[Any], Mapping[str, float]] | None = None,
        name: str | None = None,
    ) -> Launcher | TextWatch:
        """A form that launches a training, or takes part in a hosted one, and shows it live.

        Args:
            model, plan, clients, evaluate, name: as in `train`. What isn't given is chosen from the notebook's
                variables: models with a plan that fits them, lists of ``(x, y)``, functions of one argument.

        Raises:
            UsageError: `plan` doesn't fit `model`, or `clients` isn't a list of ``(x, y)`` and names of participants.
        """
        from gridkit.widgets.launcher import Launcher

        hint = cells.why_no_widgets()
        if hint is not None:
            return TextWatch(lambda: f"Launcher of {self!r}; grid.train(…) and grid.join(…) do the same", hint)
        rows, desk = BRIDGE.sync(self._core.processes()), _Desk(self._core)
        form = Launcher(desk, rows, model=model, plan=plan, clients=clients, evaluate=evaluate, name=name)
        self._forms.add(form)
        return form

    def panel(self) -> Panel | TextWatch:
        """All in one: session and node, the trainings, the launcher, and the newest training live."""
        hint = cells.why_no_widgets()
        if hint is not None:
            shown = f"{self!r}\n{self.runs.to_frame().to_string()}"
            return TextWatch(lambda: shown, hint)
        from gridkit.widgets.panel import Panel

        rows = BRIDGE.sync(self._core.processes())
        panel = Panel(_Desk(self._core), rows, BRIDGE.sync(self._core.newest()))
        self._forms.add(panel)
        return panel

    def browse(self) -> Browser | TextWatch:
        """Models and datasets on the node: filter, sort, read about one, download it, try an input, delete it.

        What is downloaded, and what a model answers, is the browser's `result`.

        Example:
            >>> browser = grid.browse()                                             # doctest: +SKIP
        """
        shelf = _Shelf(self._core)
        first = BRIDGE.sync(shelf.newest_models())
        hint = cells.why_no_widgets()
        if hint is not None:
            shown = f"{words.many(first.total, 'model')} on {self.url}\n{page_text('models', first)}"
            return TextWatch(lambda: shown, hint)
        from gridkit.widgets.browser import Browser

        browser = Browser(shelf, first)
        self._forms.add(browser)
        return browser


class _Desk:
    """What the widgets need of a session: see `gridkit.widgets.panel.Node`. Nothing here waits."""

    strategies = strategies.NAMES

    def __init__(self, core: _Core) -> None:
        self._core = core

    def facts(self) -> Mapping[str, object]:
        return {"address": self._core.url, **self._core.facts()}

    def trainings(self) -> concurrent.futures.Future[list[dict[str, Any]]]:
        return BRIDGE.submit(self._core.processes())

    def train(self, new: NewTraining) -> concurrent.futures.Future[Run]:
        training = self._core.train(
            new.model,
            new.plan,
            name=new.name,
            clients=new.clients,
            rounds=new.rounds,
            batch_size=new.batch_size,
            lr=new.lr,
            strategy=new.strategy,
            evaluate=new.evaluate,
        )
        return BRIDGE.submit(training)

    def join(self, name: str, version: str, clients: Sequence[Any]) -> concurrent.futures.Future[Run]:
        return BRIDGE.submit(self._core.join(name, version, clients=clients))


class _Shelf:
    """What the browser needs of a session: see `gridkit.widgets.shelf.Shelf`. Nothing here waits."""

    def __init__(self, core: _Core) -> None:
        self._core = core

    async def newest_models(self) -> Page:
        return await self._page("models", offset=0, limit=PAGE, sort="created_at", descending=True)

    def page(self, kind: Kind, **query: Any) -> concurrent.futures.Future[Page]:
        return BRIDGE.submit(self._page(kind, **query))

    async def _page(self, kind: Kind, **query: Any) -> Page:
        rows, total = await (self._core._models if kind == "models" else self._core._datasets).page(**query)
        return Page(total, rows)

    def download(self, kind: Kind, row: Row) -> concurrent.futures.Future[Any]:
        if kind == "models":
            return BRIDGE.submit(self._core.download_model(row["id"], row["version"]))
        return BRIDGE.submit(self._core.fetch_dataset(row["id"], mock=not row["may_fetch"]))

    def delete(self, kind: Kind, id: str) -> concurrent.futures.Future[bool]:
        return BRIDGE.submit(self._core.delete_model(id) if kind == "models" else self._core.delete_dataset(id))

    def infer(self, row: Row, values: Sequence[Any]) -> concurrent.futures.Future[Any]:
        given = tuple(_tensor(value, wanted["dtype"]) for value, wanted in zip(values, row["inputs"], strict=True))
        return BRIDGE.submit(self._core.run_remote_inference(row["id"], given, row["version"]))


def _tensor(value: Any, dtype: str) -> torch.Tensor:
    """Nested lists have no dtype of their own: the model's."""
    import torch

    from gridkit.plans.engines.kernels import torch_dtype

    try:
        return torch.as_tensor(value, dtype=torch_dtype(dtype))
    except (AttributeError, TypeError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"that is no input of {dtype}: {error}", "all rows of a nested list are equally long"
        ) from None


def launch(
    *,
    data: str | os.PathLike[str] | None = None,
    host: str = "127.0.0.1",
    workers: int = 2,
    allow_targets: Sequence[str] = (),
    certfile: str | os.PathLike[str] | None = None,
    keyfile: str | os.PathLike[str] | None = None,
) -> Session:
    """Start a node of this session's own and worker processes ahead of the first training. See `gridkit.aio.launch`.

    In a notebook: running the cell again closes the session that it made before.

    Example:
        >>> grid = gk.launch()                                                      # doctest: +SKIP
    """
    cells.renew()
    session = Session(BRIDGE.sync(aio.open_launched(_Core, data, host, workers, allow_targets, certfile, keyfile)))
    cells.remember(session)
    return session


def connect(url: str, *, token: str | None = None, user: aio.User | None = None) -> Session:
    """Open a session on a node that runs already. See `gridkit.aio.connect`; without a token you are asked for it.

    In a notebook: running the cell again closes the session that it made before.

    Example:
        >>> grid = gk.connect("http://127.0.0.1:5000")                              # doctest: +SKIP
        >>> grid = gk.connect("http://127.0.0.1:5000", user="ada")                  # doctest: +SKIP
    """
    known = token or (None if user else os.environ.get("GRIDKIT_TOKEN") or credentials.stored_token(url))
    if known is None and user is None and credentials.can_ask():
        known = getpass.getpass(f"token for {url}: ") or None
    cells.renew()
    session = Session(BRIDGE.sync(aio.open_connected(_Core, url, known, user)))
    cells.remember(session)
    return session
