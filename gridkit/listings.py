"""What a node lists, as a person holds it: a list of ids that shows what is known of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, overload

from gridkit.cells import ShortDir
from gridkit.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd


class Listing(ShortDir, Sequence[str]):
    """The ids of what a node had when it was asked. Nothing here asks it again: not completion, not the repr.

    ``listing[0]`` is an id, ``listing["some id"]`` what is known of that one.

    Args:
        rows: what is known of each, in order.
        where: the node's address.
    """

    _what: ClassVar[str]
    _key: ClassVar[str] = "id"
    _columns: ClassVar[tuple[str, ...]]

    def __init__(self, rows: Sequence[Mapping[str, Any]], where: str) -> None:
        self._rows = {str(row[self._key]): row for row in rows}
        self._ids = list(self._rows)
        self._where = where

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    @overload
    def __getitem__(self, place: str) -> dict[str, Any]: ...
    def __getitem__(self, place: int | slice | str) -> str | list[str] | dict[str, Any]:
        if not isinstance(place, str):
            return self._ids[place]
        if place not in self._rows:
            raise UsageError(f"{self._where} lists no {self._what} '{place}'", f"there are {self!r}")
        return dict(self._rows[place])

    def __len__(self) -> int:
        return len(self._ids)

    def __iter__(self) -> Iterator[str]:
        return iter(self._ids)

    def __contains__(self, name: object) -> bool:
        return name in self._rows

    def __eq__(self, other: object) -> bool:
        return list(other) == self._ids if isinstance(other, list | Listing) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shown, more = self._ids[:20], len(self._ids) - 20
        return repr(shown) if more <= 0 else f"[{', '.join(map(repr, shown))}, and {more:,} more]"

    def _repr_html_(self) -> str:
        from gridkit.widgets.html import card, table
        from gridkit.widgets.words import many

        rows = [[_shown(column, row.get(column)) for column in self._columns] for row in self._rows.values()]
        title = f"{many(len(self), self._what)} on {self._where}"
        return card(title, {}, table(self._columns, rows) if rows else None)

    def _ipython_key_completions_(self) -> list[str]:
        return self._ids

    def to_frame(self) -> pd.DataFrame:
        """A row each. Times are timestamps (UTC)."""
        import pandas as pd

        rows = [{column: row.get(column) for column in self._columns} for row in self._rows.values()]
        return with_times(pd.DataFrame(rows, columns=list(self._columns)))


class Models(Listing):
    """The models on a node, each as of its newest version."""

    _what = "model"
    _columns = (
        *("id", "version", "kind", "size", "owner", "allow_download", "allow_remote_inference"),
        *("created_at", "origin", "uses", "downloads", "last_used"),
    )

    def to_frame(self) -> pd.DataFrame:
        """A row each. Times are timestamps (UTC), `size` is in bytes."""
        frame = super().to_frame()
        frame["origin"] = [_shown("origin", value) for value in frame["origin"]]
        return frame


class Datasets(Listing):
    """The datasets on a node that whoever asked may see."""

    _what = "dataset"
    _columns = ("id", "owner", "tags", "description", "rows", "size", "created_at", "mock", "may_fetch", "may_run")


class Users(Listing):
    """The accounts on a node."""

    _what, _key, _columns = "user", "name", ("name", "role", "password", "created_at")


class Participants(Listing):
    """The push participants that a node knows."""

    _what, _key, _columns = "participant", "name", ("name", "id", "endpoint", "signed", "created_at")


class Tokens(Listing):
    """The tokens of accounts on a node, without their secrets."""

    _what, _columns = "token", ("id", "user", "kind", "label", "scopes", "created_at", "expires_at")


def with_times(frame: pd.DataFrame) -> pd.DataFrame:
    """Unix seconds as timestamps, in the columns that hold moments."""
    import pandas as pd

    for column in filter(_is_moment, frame.columns):
        moments = pd.to_datetime(
            frame[column], unit="s", utc=True, errors="coerce"
        )  # not all that a node may say is one
        frame[column] = moments.dt.round("us")
    return frame


def _is_moment(column: str) -> bool:
    return column.endswith("_at") or column in ("time", "last_used")


def _shown(column: str, value: Any) -> str:
    from gridkit.widgets.words import moment, plain, size

    if _is_moment(column):
        return moment(value)
    if column == "size" and isinstance(value, int):
        return size(value).replace(" ", "\u00a0")  # on one line
    if column == "origin" and isinstance(value, Mapping):
        return plain(f"{value.get('name')} {value.get('version')}, round {value.get('round')}")
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(plain, value))
    return "" if value is None else plain(value)
