"""What stands on a node's shelves, models and datasets, as rows of text: for a list, a table, a card."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from gridkit.widgets import words
from gridkit.widgets.html import Html, card, lines, table

Kind = Literal["models", "datasets"]
Row = Mapping[str, Any]

PAGE = 20
"""rows"""
_TEXT = 2_000  # characters of a description
_NAMES = 50  # tags, columns, inputs that are named


@dataclass(frozen=True, slots=True)
class Page:
    """Some of the rows that fit a filter, in order, and how many fit it in all."""

    total: int
    rows: Sequence[Row]


class Shelf(Protocol):
    """What a browser needs of a session. Nothing here waits: what comes, comes through futures."""

    def page(self, kind: Kind, *, offset: int, limit: int, filter: str, sort: str, descending: bool) -> Future[Page]:
        """`limit` rows from `offset` on, of those that `filter` finds, by the field `sort`."""
        ...

    def download(self, kind: Kind, row: Row) -> Future[Any]:
        """The model of this row as a module; or the dataset's data, or its mock sample if more isn't allowed."""
        ...

    def delete(self, kind: Kind, id: str) -> Future[Any]: ...

    def infer(self, row: Row, values: Sequence[Any]) -> Future[Any]:
        """What this row's model makes of `values`, on the node: nested lists or arrays, one an input."""
        ...


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the list: its width is in characters."""

    title: str
    width: int
    of: Callable[[Row], str]


@dataclass(frozen=True, slots=True)
class Order:
    """A way to sort, by a field of the rows."""

    label: str
    sort: str
    descending: bool


def _text(key: str) -> Callable[[Row], str]:
    return lambda row: words.plain(row.get(key, ""))


def _size(row: Row) -> str:
    size = row.get("size")
    return words.size(size) if isinstance(size, int) else ""


def _day(row: Row) -> str:
    return words.moment(row.get("created_at"))[:10]


def _allows(row: Row) -> str:
    allowed = {"download": row.get("allow_download"), "run": row.get("allow_remote_inference")}
    return ", ".join(what for what, may in allowed.items() if may) or "nothing"


def _tags(row: Row) -> str:
    return words.plain(" ".join(map(str, list(row.get("tags") or ())[:_NAMES])))


COLUMNS: dict[Kind, tuple[Column, ...]] = {
    "models": (
        Column("model", 30, _text("id")),
        Column("version", 7, _text("version")),
        Column("size", 9, _size),
        Column("owner", 12, _text("owner")),
        Column("allows", 13, _allows),
        Column("served", 10, _day),
        Column("uses", 6, _text("uses")),
    ),
    "datasets": (
        Column("dataset", 30, _text("id")),
        Column("rows", 8, _text("rows")),
        Column("size", 9, _size),
        Column("owner", 12, _text("owner")),
        Column("tags", 20, _tags),
        Column("published", 10, _day),
    ),
}

ORDERS: dict[Kind, tuple[Order, ...]] = {
    "models": (
        Order("newest first", "created_at", True),
        Order("oldest first", "created_at", False),
        Order("by name", "id", False),
        Order("by owner", "owner", False),
        Order("largest first", "size", True),
        Order("most used first", "uses", True),
        Order("used last first", "last_used", True),
    ),
    "datasets": (
        Order("newest first", "created_at", True),
        Order("oldest first", "created_at", False),
        Order("by name", "id", False),
        Order("by owner", "owner", False),
        Order("largest first", "size", True),
    ),
}


def cells(kind: Kind, row: Row) -> tuple[str, ...]:
    """One text a column."""
    return tuple(column.of(row) for column in COLUMNS[kind])


def line(kind: Kind, row: Row | None = None) -> str:
    """A row, or without one the titles, as a line of a fixed-width font. No cell can leave its column: each is cut to
    it, and its direction of writing ends with it."""
    titles = tuple(column.title for column in COLUMNS[kind])
    texts = titles if row is None else cells(kind, row)
    fitted = (words.fitted(text, column.width) for text, column in zip(texts, COLUMNS[kind], strict=True))
    isolated = (f"\u2068{text.rstrip()}\u2069{text[len(text.rstrip()) :]}" for text in fitted)
    # Spaces that are no white space, or an option of a list would show one for many.
    return "  ".join(isolated).replace(" ", "\u00a0")


def page_table(kind: Kind, page: Page) -> Html:
    """The rows as a table."""
    titles = [column.title for column in COLUMNS[kind]]
    return table(titles, [cells(kind, row) for row in page.rows], limit=len(page.rows))


def page_text(kind: Kind, page: Page) -> str:
    """The rows as aligned text."""
    rows = [tuple(column.title for column in COLUMNS[kind]), *(cells(kind, row) for row in page.rows)]
    fitted = (
        "  ".join(words.fitted(text, column.width) for text, column in zip(row, COLUMNS[kind], strict=True))
        for row in rows
    )
    return "\n".join(each.rstrip() for each in fitted)


def row_card(kind: Kind, row: Row) -> Html:
    """All that is known of one."""
    return card(words.plain(row["id"]), _model(row) if kind == "models" else _dataset(row))


def name_and_size(row: Row) -> str:
    """Such as "digits, 20.3 kB"."""
    return f"{words.plain(row['id'])}, {_size(row)}"


def _model(row: Row) -> dict[str, object]:
    facts: dict[str, object] = {
        "version": _version(row),
        "is": "a plan with its tensors" if row.get("kind") == "plan" else "bytes that the node doesn't look into",
        "size": _size(row),
        "owner": words.plain(row.get("owner") or "nobody"),
        "allows": _allows(row),
        "takes": _inputs(row),
        "served": words.moment(row.get("created_at")),
        "comes from": _origin(row.get("origin")),
        "inferences": words.plain(row.get("uses", 0)),
        "downloads": words.plain(row.get("downloads", 0)),
        "used last": words.moment(row.get("last_used")),
    }
    return {key: value for key, value in facts.items() if value}


def _version(row: Row) -> str:
    version, of = words.plain(row.get("version")), row.get("versions")
    return version if of == row.get("version") == 1 else f"{version} of {words.plain(of)}"


def _inputs(row: Row) -> str:
    given = list(row.get("inputs") or ())[:_NAMES]
    return words.plain(", ".join(f"{i.get('name')} {i.get('dtype')}{words.shape(i.get('shape') or ())}" for i in given))


def _origin(origin: Row | None) -> str:
    """Where whoever served it says that it comes from."""
    if not origin:
        return ""
    return words.plain(f"training {origin.get('name')} {origin.get('version')}, round {origin.get('round')}")


def _dataset(row: Row) -> dict[str, object]:
    facts: dict[str, object] = {
        "description": lines(
            words.plain(each, _TEXT) for each in str(row.get("description") or "")[:_TEXT].splitlines()
        ),
        "tags": _tags(row),
        "holds": words.plain(", ".join(_tensor(row, t) for t in list(row.get("tensors") or ())[:_NAMES]), _TEXT),
        "rows": words.plain(row.get("rows", "")),
        "size": _size(row),
        "owner": words.plain(row.get("owner") or "nobody"),
        "published": words.moment(row.get("created_at")),
        "you may": _may(row),
        "policy": _policy(row.get("policy")),
    }
    return {key: value for key, value in facts.items() if value}


def _tensor(row: Row, tensor: Row) -> str:
    if row.get("kind") == "frame":
        return f"{tensor.get('name')} {tensor.get('dtype')}"
    return f"{tensor.get('dtype')}{words.shape(tensor.get('shape') or ())}"


def _may(row: Row) -> str:
    plans = list(row.get("plans") or ())
    run = "run any plan" if "any" in plans else f"run {words.many(len(plans), 'plan')}" if plans else ""
    fetch, mock = "fetch it" if row.get("may_fetch") else "", "fetch its mock sample" if row.get("mock") else ""
    return ", ".join(filter(None, (fetch, mock, run))) or "read this"


def _policy(policy: Row | None) -> str:
    """The node tells it to the owners only."""
    if not policy:
        return ""
    runs = policy.get("run")
    run = {} if not isinstance(runs, Mapping) else {f"run {_plan(plan)}": whom for plan, whom in runs.items()}
    said = {"see it": policy.get("see"), "fetch it": policy.get("fetch"), **run}
    parts = [f"{_whom(whom)} may {what}" for what, whom in said.items() if whom]
    bounds = {"max_values": "a run gives {} values at most", "results": "of its results only {}"}
    parts += [text.format(policy[key]) for key, text in bounds.items() if policy.get(key) is not None]
    return words.plain("; ".join(parts), _TEXT)


def _plan(digest: object) -> str:
    return "any plan" if digest == "any" else f"the plan {words.plain(digest, 17)}"


def _whom(whom: object) -> str:
    return ", ".join(map(str, whom)) if isinstance(whom, list | tuple) else str(whom)
