"""Models and datasets of a node, a page at a time: look for one, read about it, fetch it, try it, delete it.

It knows no session: what it needs of one stands in `Shelf`. A page is what the node makes of filter, order and offset,
so ten thousand models cost no more than twenty. While a page is under way only the newest wish is kept.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

import ipywidgets as W

from gridkit import cells
from gridkit.errors import UsageError
from gridkit.widgets import shelf as shelves
from gridkit.widgets import trial, words
from gridkit.widgets.form import WIDE, Form, namespace, wide
from gridkit.widgets.html import Html, joined, tag
from gridkit.widgets.shelf import ORDERS, PAGE, Kind, Order, Page, Row, Shelf

_ROW = "font-family:var(--jp-code-font-family, monospace);font-size:var(--jp-code-font-size, 13px)"
_EMPTY = {
    "models": "No model is served on this node yet: grid.serve_model(…) serves one.",
    "datasets": "No dataset that you may see is on this node yet: grid.publish(…) publishes one.",
}
_PARTS = {"models": "a part of name or owner", "datasets": "a part of name, owner, tag or description"}


@dataclass(frozen=True, slots=True)
class _Wish:
    """A page that is wanted; `number` tells it from the same one, wanted again."""

    kind: Kind = "models"
    filter: str = ""
    order: Order = ORDERS["models"][0]
    offset: int = 0
    number: int = 0


class Browser(Form):
    """The node's models and datasets: filter, sort, details, download, try an input, delete.

    Args:
        shelf: of a session.
        page: the newest models.

    Attributes:
        result: what the last download or inference gave.

    A saved notebook holds the page that was there when this was displayed, or, once the session is closed, the last.

    Example:
        >>> browser = grid.browse()                                                 # doctest: +SKIP
        >>> browser.result                                                          # doctest: +SKIP
    """

    def __init__(self, shelf: Shelf, page: Page) -> None:
        self.result: Any = None
        self._shelf = shelf
        self._page, self._shown = page, _Wish()
        self._row: Row | None = None
        self._key: tuple[Kind, str] | None = None
        self._lock = threading.Lock()
        self._form = threading.RLock()  # one thread at a time fills it in: a click's, or that of an answer
        self._filling = False
        self._numbers = itertools.count(1)
        self._wanted = _Wish()
        self._looking = False
        self._action: Future[Any] | None = None
        self._doing = ""  # in words
        self._result: Html | None = None
        self._doomed: tuple[Kind, str] | None = None

        self.kind = W.ToggleButtons(
            options=[("Models", "models"), ("Datasets", "datasets")], style={"button_width": "auto"}
        )
        self.kind.tooltips = ["What can be run or downloaded", "What plans can be run on"]
        self.filter = W.Text(description="Filter", style=WIDE, layout=wide())
        self.order = W.Dropdown(description="Sort", style=WIDE, layout=wide())
        self.refresh_button = _button("Refresh", "refresh", "Ask the node again")
        self.head = W.HTML()
        self.list = W.Select(options=[], rows=4, layout=W.Layout(width="calc(100% - 4px)"), tooltip="Rows of this page")
        self.list.add_class("gridkit-rows")
        self.previous_button = _button("Previous", "chevron-left", "The page before")
        self.next_button = _button("Next", "chevron-right", "The page after")
        self.number = _number("Page", 1)
        self.row = _number("Row", 0)  # JupyterLab keeps the arrow keys of a list for itself, not those of a number
        self.position = W.HTML()
        self.details = W.HTML()
        self.download_button = _button("Download", "download", "Fetch it into this notebook")
        self.delete_button = _button("Delete …", "trash", "Delete it from the node; you are asked first")
        self.cancel_button = _button("Cancel", "times", "Wait no longer for what is under way")
        self.cancel_button.disabled = True
        self.input = W.Combobox(description="Input", style=WIDE, layout=wide())
        self.input.tooltip = "Nested lists, or the names of arrays of this notebook"
        self.run_button = _button("Run", "play", "Run the model on the node with this input")
        self.trial = W.HBox([self.input, self.run_button], layout=_wrapped())
        self.question = W.HTML()
        self.confirm_button = _button("Delete it", "trash", "There is no way back", style="danger")
        self.keep_button = _button("Keep it", "", "Delete nothing")
        self.confirm = W.HBox([self.question, self.confirm_button, self.keep_button], layout=_wrapped())
        self.output = W.HTML()
        super().__init__(
            [
                W.HBox([self.kind, self.refresh_button], layout=_wrapped()),
                W.HBox([self.filter, self.order], layout=_wrapped()),
                W.VBox([self.head, self.list]),
                W.HBox(
                    [self.previous_button, self.next_button, self.number, self.row, self.position], layout=_wrapped()
                ),
                self.details,
                W.HBox([self.download_button, self.delete_button, self.cancel_button], layout=_wrapped()),
                self.confirm,
                self.trial,
            ],
            [self.output],
        )
        self.kind.observe(self._on(self._kind_changed), "value")
        self.filter.observe(self._on(lambda: self.look(filter=self.filter.value, offset=0)), "value")
        self.order.observe(self._on(lambda: self.look(order=self.order.value, offset=0)), "value")
        self.number.observe(self._on(lambda: self.look(offset=(self.number.value - 1) * PAGE)), "value")
        self.list.observe(self._on(self._row_chosen), "value")
        self.row.observe(self._on(self._row_typed), "value")
        for button, act in (
            (self.refresh_button, self.look),
            (self.previous_button, lambda: self._turn(-1)),
            (self.next_button, lambda: self._turn(1)),
            (self.download_button, self.download),
            (self.delete_button, self.ask_to_delete),
            (self.confirm_button, self.delete),
            (self.keep_button, self.keep),
            (self.run_button, self.run),
            (self.cancel_button, self.cancel),
        ):
            button.on_click(lambda _, act=act: act())
        with self._form:
            self._fit_kind()
            self._ask_nothing()
            self._fill()
        cells.remember(self)

    @property
    def selected(self) -> str | None:
        """The id of the chosen row."""
        return None if self._row is None else str(self._row["id"])

    # -- pages

    def look(self, **changes: Any) -> None:
        """Ask the node for a page: the one shown, but for `changes`. Returns at once."""
        with self._lock:
            self._wanted = replace(self._wanted, **changes, number=next(self._numbers))
            if self._looking:
                return  # it is asked for when the one under way has come
            self._looking = True
            wish = self._wanted
        self._ask_page(wish)

    def _turn(self, pages: int) -> None:
        self.look(offset=max(0, self._wanted.offset + pages * PAGE))

    def _kind_changed(self) -> None:
        self._fit_kind()
        if not self._doing:
            self.say("")  # what was done with a model says nothing about the datasets
        self.look(kind=self.kind.value, order=self.order.value, offset=0)

    def _ask_page(self, wish: _Wish) -> None:
        order = wish.order

        def start() -> Future[Page]:
            return self._shelf.page(
                wish.kind,
                offset=wish.offset,
                limit=PAGE,
                filter=wish.filter,
                sort=order.sort,
                descending=order.descending,
            )

        self.ask(start, lambda page: self._page_came(wish, page), lambda error: self._no_page(wish, error))

    def _page_came(self, wish: _Wish, page: Page) -> None:
        if not self._is_last(wish):
            return
        last = (page.total - 1) // PAGE * PAGE
        if not page.rows and 0 <= last < wish.offset:  # there is less than there was
            self.look(offset=last)
            return
        with self._form:
            if wish.number == self._wanted.number:
                self._page, self._shown = Page(page.total, page.rows[:PAGE]), wish
                self._fill()

    def _no_page(self, wish: _Wish, error: BaseException) -> None:
        if self._is_last(wish):
            self.say_error(error)

    def _is_last(self, wish: _Wish) -> bool:
        """Whether nothing else is wanted by now; else that is asked for."""
        with self._lock:
            wanted = self._wanted
            self._looking = wanted.number != wish.number
        if wanted.number != wish.number:
            self._ask_page(wanted)
        return wanted.number == wish.number

    # -- filling in; the caller holds `_form`

    def _fit_kind(self) -> None:
        self._filling = True
        self.order.options = [(order.label, order) for order in ORDERS[self.kind.value]]
        self.filter.placeholder = _PARTS[self.kind.value]
        self.order.index = 0  # there was none, or it was of the other kind
        self._filling = False

    def _fill(self) -> None:
        """Show the newest page; what was chosen stays so if it is still there."""
        page, wish = self._page, self._shown
        chosen = next((row for row in page.rows if (wish.kind, row["id"]) == self._key), None)
        self._filling = True
        style = tag("style", f".gridkit-rows select {{{_ROW};overflow-x:auto}}")
        head = tag("div", shelves.line(wish.kind), style=f"{_ROW};white-space:pre;padding-left:3px", aria_hidden="true")
        self.head.value = joined([style, head])
        with self.list.hold_sync():
            self.list.options = [(shelves.line(wish.kind, row), row["id"]) for row in page.rows]
            self.list.value = None if chosen is None else chosen["id"]
            self.list.rows = max(self.list.rows, len(page.rows))
        pages = max(1, -(-page.total // PAGE))
        with self.number.hold_sync():
            self.number.max = pages
            self.number.value = min(pages, wish.offset // PAGE + 1)
        self.position.value = tag("span", self._where(), role="status", aria_live="polite")
        self.row.max = len(page.rows)
        self.previous_button.disabled = wish.offset == 0
        self.next_button.disabled = wish.offset + PAGE >= page.total
        self._filling = False
        self._show_row(chosen)

    def _where(self) -> str:
        page, wish = self._page, self._shown
        if not page.total:
            return f"Nothing has '{words.plain(wish.filter, 60)}' in it." if wish.filter else _EMPTY[wish.kind]
        first, last = wish.offset + 1, wish.offset + len(page.rows)
        return f"{first:,} to {last:,} of {words.many(page.total, wish.kind[:-1])}"

    def _row_chosen(self) -> None:
        self._show_row(next((row for row in self._page.rows if row["id"] == self.list.value), None))

    def _row_typed(self) -> None:
        self.list.index = self.row.value - 1 if self.row.value else None

    def _show_row(self, row: Row | None) -> None:
        key = None if row is None else (self._shown.kind, row["id"])
        other = key != self._key
        self._row, self._key = row, key
        self._filling = True
        self.row.value = 0 if row is None else self._page.rows.index(row) + 1
        self._filling = False
        model = self._shown.kind == "models"
        if row is None:
            self.details.value = (
                tag("p", f"Choose a {self._shown.kind[:-1]} to read about it.") if self._page.rows else ""
            )
        else:
            self.details.value = shelves.row_card(self._shown.kind, row)
        self.input.options = names = trial.fitting(namespace(), self._inputs())
        if other:
            self._show_result(None)
            self._ask_nothing()
            self._suggest(names)
        _show(self.trial, model and row is not None and bool(row.get("allow_remote_inference")))
        whole = row is not None and bool(row.get("allow_download" if model else "may_fetch"))
        sample = row is not None and not model and not whole and bool(row.get("mock"))
        self.download_button.description = "Download sample" if sample else "Download"
        self.download_button.disabled = not (whole or sample)
        self.delete_button.disabled = row is None

    def _suggest(self, names: list[str]) -> None:
        inputs = self._inputs()
        self.input.placeholder = f"[[…]], or the name of an array {_shapes(inputs)}"
        self.input.value = names[0] if names else trial.suggestion(inputs)

    def _show_result(self, result: Html | None) -> None:
        self._result = result
        self.output.value = result or ""

    def _inputs(self) -> list[Row]:
        return [] if self._row is None else list(self._row.get("inputs") or ())

    # -- what one does with the chosen row

    def download(self) -> None:
        """What the Download button does."""
        kind, row = self._shown.kind, self._row
        if row is None:
            return
        name, doing = words.plain(row["id"]), f"downloading {shelves.name_and_size(row)}"
        self._act(doing, lambda: self._shelf.download(kind, row), lambda result: self._got(name, result))

    def _got(self, name: str, result: Any) -> None:
        self.result = result
        self.say(f"{name} is here: {self._name()}.result")

    def run(self) -> None:
        """What the Run button does: the model of the chosen row, on the node, with the input that is written there."""
        row, text, inputs = self._row, self.input.value, self._inputs()
        if row is None:
            return

        def start() -> Future[Any]:
            if not text.strip():
                raise UsageError(
                    "there is no input", "write nested lists such as [[0.5, 1.0]], or the name of an array"
                )
            return self._shelf.infer(row, trial.values(text, inputs, namespace()))

        self._act(f"running {words.plain(row['id'])}", start, lambda result: self._ran(row, result))

    def _ran(self, row: Row, result: Any) -> None:
        self.result = result
        with self._form:
            if self._row is not None and self._row["id"] == row["id"]:  # else the person has gone on
                self._show_result(tag("pre", trial.shown(result), style="max-height:20em;margin:0;overflow:auto"))
        self.say(f"{words.plain(row['id'])} has answered: {self._name()}.result")

    def _name(self) -> str:
        """What the notebook calls this."""
        names = (name for name, value in namespace().items() if value is self and not name.startswith("_"))
        return next(names, "browser")

    def ask_to_delete(self) -> None:
        """What the Delete button does: ask whether it is meant."""
        with self._form:
            if self._row is None:
                return
            kind, versions = self._shown.kind, self._row.get("versions", 1)
            self._doomed = (kind, str(self._row["id"]))
            every = "" if versions == 1 else f" and all its {words.plain(versions)} versions"
            whose = f" It belongs to {words.plain(self._row['owner'])}." if self._row.get("owner") else ""
            question = f"Delete the {kind[:-1]} '{words.plain(self._row['id'])}'{every} from the node?{whose}"
            self.question.value = tag("div", question, role="alert")
            _show(self.confirm, True)
        self.keep_button.focus()  # Enter, pressed twice, must delete nothing

    def keep(self) -> None:
        """What the Keep button does: delete nothing."""
        with self._form:
            self._ask_nothing()
        self.delete_button.focus()

    def delete(self) -> None:
        """What the button under the question does: delete what was asked about."""
        doomed = self._doomed
        if doomed is None:
            return
        kind, id = doomed
        self._act(f"deleting {words.plain(id)}", lambda: self._shelf.delete(kind, id), lambda _: self._deleted(id))

    def _deleted(self, id: str) -> None:
        with self._form:
            self._ask_nothing()
        self.say(f"{words.plain(id)} is deleted")
        self.look()
        self.list.focus()

    def _ask_nothing(self) -> None:
        self._doomed = None
        _show(self.confirm, False)

    def cancel(self) -> None:
        """What the Cancel button does: wait no longer for a download or an inference."""
        if self._action is not None:
            self._action.cancel()

    def _act(self, doing: str, start: Callable[[], Future[Any]], done: Callable[[Any], None]) -> None:
        """One thing at a time. (The buttons stay within reach: one that is disabled loses the keyboard's focus.)"""
        with self._form:
            if self._doing:
                self.say(f"still {self._doing}: wait for it, or cancel it")
                return
            self._doing = doing
        self.say(f"{doing} …")

        def started() -> Future[Any]:
            self._action = start()
            self.cancel_button.disabled = False
            return self._action

        def ended() -> None:
            self.cancel_button.disabled = True
            self._doing, self._action = "", None

        def succeeded(result: Any) -> None:
            ended()
            done(result)

        def failed(error: BaseException) -> None:
            ended()
            self.say_error(error)

        self.ask(started, succeeded, failed)

    # -- as it is saved

    def twin(self) -> tuple[str, Html]:
        page, wish = self._page, self._shown
        where = self._where()
        title = f"{wish.kind.capitalize()} {wish.order.label}" + (f", with '{wish.filter}'" if wish.filter else "")
        lines, parts = [f"{title}: {where}"], [tag("strong", title), tag("p", where)]
        if page.rows:
            lines.append(shelves.page_text(wish.kind, page))
            parts.append(shelves.page_table(wish.kind, page))
        if self._row is not None:
            parts.append(shelves.row_card(wish.kind, self._row))
        if self._result is not None:
            parts.append(self._result)
        return "\n".join(lines), tag("div", *parts, class_="gridkit")

    def _on(self, act: Callable[[], None]) -> Callable[[Any], None]:
        """For what a person changes, and not for what is filled in."""

        def changed(_: Any) -> None:
            with self._form:
                if not self._filling:
                    act()

        return changed


def _button(text: str, icon: str, tooltip: str, style: str = "") -> W.Button:
    return W.Button(description=text, icon=icon, tooltip=tooltip, button_style=style, layout=W.Layout(width="auto"))


def _number(text: str, value: int) -> W.BoundedIntText:
    return W.BoundedIntText(
        value, value, value, description=text, style={"description_width": "3em"}, layout=W.Layout(width="8.5em")
    )


def _wrapped() -> W.Layout:
    return W.Layout(flex_flow="row wrap")


def _show(part: W.Widget, visible: bool) -> None:
    part.layout.display = "" if visible else "none"


def _shapes(inputs: list[Row]) -> str:
    return words.plain(", ".join(words.shape(i.get("shape") or ()) for i in inputs), 60)
