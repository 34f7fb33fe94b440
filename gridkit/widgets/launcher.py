"""A form that starts a training, or takes part in a hosted one, and shows it live beneath.

It knows no session: what it needs of one stands in `Grid`. No click waits for anything: requests are started, and what
comes of them is applied by a thread of its own when it comes.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

import ipywidgets as W

from gridkit import cells, threads
from gridkit.errors import UsageError
from gridkit.widgets import found
from gridkit.widgets.form import WIDE, Form, namespace, wide
from gridkit.widgets.html import Html, card, tag

Row = Mapping[str, Any]

_NONE = "(none)"


@dataclass(frozen=True, slots=True, eq=False)
class NewTraining:
    """What the form asks for; the members are `grid.train`'s arguments."""

    model: Any
    plan: Any
    name: str
    clients: Sequence[tuple[Any, Any] | str]
    rounds: int
    batch_size: int
    lr: float
    strategy: str
    evaluate: Callable[[Any], Mapping[str, float]] | None


class Launched(Protocol):
    """A training that has been started, such as a Run."""

    @property
    def done(self) -> bool: ...

    @property
    def title(self) -> str: ...

    def watch(self) -> Any:
        """A live panel, such as `RunWatch`: with a `stop` that returns at once, and a `stop_button`."""
        ...

    def subscribe(self, listener: Callable[[], None]) -> Callable[[], None]: ...


class Grid(Protocol):
    """What a launcher needs of a session. Nothing here waits: what comes, comes through futures."""

    @property
    def strategies(self) -> Sequence[str]:
        """The names that `strategy` may have."""
        ...

    def trainings(self) -> Future[Any]:
        """The trainings on the node, a `Row` each, oldest first, as `SessionCore.processes` gives them."""
        ...

    def train(self, new: NewTraining) -> Future[Any]:
        """A `Launched`."""
        ...

    def join(self, name: str, version: str, clients: Sequence[Any]) -> Future[Any]:
        """A `Launched`."""
        ...


class Launcher(Form):
    """Choose a model of the notebook, or a hosted training; clients; Launch. Stop stops it.

    Args:
        grid: of a session.
        rows: the node's trainings.
        model, plan, clients, evaluate, name: taken as they are; what is missing is looked for in the notebook.
        on_rows: told the node's trainings each time they come.
        on_over: called when a training shown beneath is over; by default this updates the form's own twin. (Not more
            often: an output that is updated is drawn anew, and the keyboard's focus is lost.)

    Raises:
        UsageError: `plan` doesn't fit `model`, or `clients` isn't a list of ``(x, y)`` and names of participants.

    Example:
        >>> grid.launcher(model=model, plan=plan, clients=shards)                   # doctest: +SKIP
    """

    _unsubscribe: Callable[[], None] = staticmethod(lambda: None)  # `close` is called even if `__init__` has raised

    def __init__(
        self,
        grid: Grid,
        rows: Sequence[Row] = (),
        *,
        model: Any = None,
        plan: Any = None,
        clients: Sequence[tuple[Any, Any] | str] | None = None,
        evaluate: Callable[[Any], Mapping[str, float]] | None = None,
        name: str | None = None,
        on_rows: Callable[[Sequence[Row]], None] = lambda rows: None,
        on_over: Callable[[], None] | None = None,
    ) -> None:
        self._check(model, plan, clients)
        self._grid = grid
        self._on_rows = on_rows
        self._on_over = on_over or self.update_twin
        self._given = (model, plan, clients, evaluate)
        self._lock = threading.Lock()
        self._form = threading.RLock()  # one thread at a time fills it in: a click's, or that of an answer
        self._busy = False
        self._run: Launched | None = None
        self._watch: Any = None
        self._filling = False
        self._shown: tuple[str, str | None] | None = None
        self._suggested = ""
        self.what = W.ToggleButtons(
            options=[("A model in this notebook", "model"), ("A hosted training", "hosted")],
            description="Train",
            style={**WIDE, "button_width": "auto"},
            tooltips=["Host it on the node and train it", "Take part in it; its rounds and strategy are its own"],
        )
        self.model = W.Dropdown(description="Model", style=WIDE, layout=wide())
        self.hosted = W.Dropdown(description="Training", style=WIDE, layout=wide())
        self.name = W.Text(name or "", description="Name", style=WIDE, layout=wide(), continuous_update=False)
        self.clients = W.Dropdown(description="Clients", style=WIDE, layout=wide())
        self.evaluate = W.Dropdown(description="Evaluate", style=WIDE, layout=wide())
        self.rounds = W.BoundedIntText(10, 0, 1_000_000, description="Rounds", style=WIDE, layout=_narrow())
        self.batch_size = W.BoundedIntText(8, 1, 1_000_000, description="Batch size", style=WIDE, layout=_narrow())
        self.lr = W.BoundedFloatText(0.1, min=0.0, max=1e6, description="Rate (lr)", style=WIDE, layout=_narrow())
        self.strategy = W.Dropdown(options=list(grid.strategies), description="Strategy", style=WIDE, layout=_narrow())
        self.launch_button = W.Button(description="Launch", button_style="primary", icon="play")
        self.stop_button = W.Button(description="Stop", icon="stop", disabled=True)
        self.refresh_button = W.Button(description="Refresh", icon="refresh")
        self.launch_button.tooltip = "Start the training; the notebook stays free"
        self.stop_button.tooltip = "Stop after this round; again: at once"
        self.refresh_button.tooltip = "Look again for variables and hosted trainings"
        self.below = W.VBox()
        super().__init__(
            [
                self.what,
                self.model,
                self.hosted,
                self.name,
                self.clients,
                self.evaluate,
                W.HBox([self.rounds, self.strategy], layout=W.Layout(flex_flow="row wrap")),
                W.HBox([self.batch_size, self.lr], layout=W.Layout(flex_flow="row wrap")),
                W.HBox([self.launch_button, self.stop_button, self.refresh_button]),
            ],
            [self.below],
        )
        self.launch_button.on_click(lambda _: self.launch())
        self.stop_button.on_click(lambda _: self.stop())
        self.refresh_button.on_click(lambda _: self.refresh())
        for chooser in (self.what, self.model, self.hosted):
            chooser.observe(lambda _: self._show_choice(), "value")
        self._look()
        self._show_trainings(rows)
        cells.remember(self)

    # -- the form

    def refresh(self) -> None:
        """Look again for what can be trained. Returns at once; the hosted trainings come when the node answers."""
        self._look()
        self.ask(self._grid.trainings, self._show_trainings)

    def _look(self) -> None:
        variables = namespace()
        model, plan, clients, evaluate = self._given
        if clients is None:
            lists = found.client_lists(variables)
        else:
            lists = [found.Clients(next((n for n, v in variables.items() if v is clients), "the clients"), clients)]
        if evaluate is None:
            functions = {_NONE: None, **found.evaluators(variables)}
        else:
            functions = {getattr(evaluate, "__name__", "the function"): evaluate}
        with self._form:
            self._filling = True
            self._choose(self.model, {each.label: each for each in found.trainables(variables, model, plan)})
            self._choose(self.clients, {each.label: each for each in lists})
            self._choose(self.evaluate, functions, "evaluate" if "evaluate" in functions else _NONE)
            self._filling = False
            self._show_choice()

    def _show_trainings(self, rows: Sequence[Row]) -> None:
        """Only trainings that one can join: not over, without a fixed roster."""
        open_ones = [r for r in rows if r["outcome"] is None and r["server_config"].get("clients") is None]
        with self._form:
            self._choose(self.hosted, {f"{row['name']} {row['version']}": row for row in open_ones})
        self._on_rows(rows)

    @staticmethod
    def _choose(chooser: W.Dropdown, options: Mapping[str, Any], first: str | None = None) -> None:
        """Offer these, and keep what was chosen if it is still there; else `first`, or the newest."""
        before = chooser.label
        chooser.options = list(options.items())
        if options:
            wanted = before if before in options else first
            chooser.label = wanted if wanted in options else list(options)[-1]

    def _show_choice(self) -> None:
        """Make the form fit what is chosen. What a person has typed stays as long as the choice does."""
        with self._form:
            self._fit()

    def _fit(self) -> None:
        hosted = self.what.value == "hosted"
        shown = (self.what.value, (self.hosted if hosted else self.model).label)
        if self._filling or shown == self._shown:
            return
        self._shown = shown
        for part, visible in (
            (self.model, not hosted),
            (self.hosted, hosted),
            (self.name, not hosted),
            (self.evaluate, not hosted),
        ):
            part.layout.display = "" if visible else "none"
        for part in (self.rounds, self.batch_size, self.lr, self.strategy):
            part.disabled = hosted
        chosen = self.hosted.value if hosted else self.model.value
        if chosen is None:
            return
        if hosted:
            server, client = chosen["server_config"], chosen["client_config"]
            strategy = str(server.get("strategy") or "fedavg")
            self.strategy.options = list(dict.fromkeys([*self._grid.strategies, strategy]))
            self.strategy.value = strategy
            self.rounds.value = server.get("num_cycles") or 0
            for part, value in ((self.batch_size, client.get("batch_size")), (self.lr, client.get("lr"))):
                if isinstance(value, (int, float)):  # a client_config is whatever its owner wrote
                    part.value = value
        else:
            self.strategy.options = list(self._grid.strategies)
            self.lr.value = chosen.plan.lr
            if not self.name.value or self.name.value == self._suggested:
                self.name.value = self._suggested = chosen.name

    # -- the buttons

    def launch(self) -> None:
        """What the Launch button does. Returns at once; a second call while the first is under way does nothing."""
        with self._lock:
            if self._busy:
                return
            self._busy = True
        self.launch_button.disabled = True
        self.say("starting …")
        self.ask(self._start, self._launched, self._launched_nothing)

    def _start(self) -> Future[Launched]:
        chosen_clients = self.clients.value
        if chosen_clients is None:
            raise UsageError("there are no clients", "make a list of (x, y) in the notebook, then Refresh")
        if self.what.value == "hosted":
            row = self.hosted.value
            if row is None:
                raise UsageError("no training on this node can be joined", "grid.host_training(…) hosts one")
            return self._grid.join(row["name"], row["version"], chosen_clients.clients)
        chosen = self.model.value
        if chosen is None:
            raise UsageError(
                "there is no model with a plan that fits it", "plan = gk.training_plan(model, …), then Refresh"
            )
        return self._grid.train(
            NewTraining(
                chosen.model,
                chosen.plan,
                self.name.value.strip() or chosen.name,
                chosen_clients.clients,
                self.rounds.value,
                self.batch_size.value,
                self.lr.value,
                self.strategy.value,
                self.evaluate.value,
            )
        )

    def _launched(self, run: Launched) -> None:
        self.say(f"launched {run.title}")
        self._show_run(run)
        self.refresh()

    def follow(self, run: Launched) -> None:
        """Show this training beneath, as if it had been launched here."""
        self._busy = self.launch_button.disabled = not run.done
        self._show_run(run)

    def _show_run(self, run: Launched) -> None:
        self._unsubscribe()
        before, self._watch, self._run = self._watch, run.watch(), run
        self._watch.stop_button.layout.display = "none"  # the form's does the same
        self.below.children = (self._watch,)
        if before is not None:
            before.close()
        self.stop_button.disabled = run.done
        self._unsubscribe = run.subscribe(self._changed)
        self._changed()  # it may have ended before

    def _launched_nothing(self, error: BaseException) -> None:
        self.say_error(error)
        self._busy = False
        self.launch_button.disabled = False

    def _changed(self) -> None:
        """Called by the run, from any thread: when it is over, the form is free again."""
        with self._lock:
            if self._run is None or not self._run.done or not self._busy:
                return
            self._busy = False
        context = contextvars.copy_context()  # this may be the network's thread, which paints nothing
        threads.start(lambda: context.run(self._is_over), name="gridkit-launcher", end=lambda: None)

    def _is_over(self) -> None:
        self.stop_button.disabled = True
        self.launch_button.disabled = False
        self.ask(self._grid.trainings, self._show_end)

    def _show_end(self, rows: Sequence[Row]) -> None:
        self._show_trainings(rows)
        self._on_over()

    def stop(self) -> None:
        """What the Stop button does: stop after this round; a second time: now."""
        if self._watch is not None:
            self._watch.stop()

    def close(self) -> None:
        """Close the form and what is beneath; the training goes on."""
        self._unsubscribe()
        super().close()

    def twin(self) -> tuple[str, Html]:
        hosted = self.what.value == "hosted"
        facts = {"trains": (self.hosted if hosted else self.model).label or "nothing yet"}
        facts |= {"clients": self.clients.label or "none yet", "rounds": self.rounds.value or "without end"}
        facts |= {"strategy": self.strategy.value, "status": self.said or "ready"}
        text, html = f"Launcher: {', '.join(f'{key} {value}' for key, value in facts.items())}", card("Launcher", facts)
        if self._watch is None:
            return text, html
        below = self._watch.twin()
        return f"{text}\n{below[0]}", tag("div", html, below[1])

    @staticmethod
    def _check(model: Any, plan: Any, clients: Any) -> None:
        if model is not None and not found.is_model(model):
            raise UsageError(f"model is of type {type(model).__name__}", "pass an nn.Module")
        if plan is not None and not found.is_plan(plan):
            raise UsageError(f"plan is of type {type(plan).__name__}", "pass what gk.training_plan returns")
        if model is not None and plan is not None and not found.fits(model, plan):
            raise UsageError(
                f"the plan '{plan.name}' doesn't fit the model", "trace it from this model with gk.training_plan"
            )
        if clients is not None and not found.is_clients(clients):
            raise UsageError(
                "clients isn't a list of (x, y)", "pass one pair of arrays a client, of equal length, or a participant"
            )


def _narrow() -> W.Layout:
    return W.Layout(width="min(100%, 17em)")
