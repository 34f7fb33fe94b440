"""Functions of a notebook that its node may call, as a person holds them, and the list of what left by them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, overload

from gridkit.cells import ShortDir
from gridkit.client import rpc_callables
from gridkit.client.rpc_audit import CalledBack

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("function", "came", "bytes", "left", "bytes", "ms")


class Calls(ShortDir, Sequence[CalledBack]):
    """Calls of a notebook's functions by the node, oldest first; each is a `CalledBack`.

    Args:
        calls: in order.
        title: of what.
    """

    def __init__(self, calls: Sequence[CalledBack], title: str) -> None:
        self._calls, self._title = tuple(calls), title

    @overload
    def __getitem__(self, place: int) -> CalledBack: ...
    @overload
    def __getitem__(self, place: slice) -> Calls: ...
    def __getitem__(self, place: int | slice) -> CalledBack | Calls:
        return Calls(self._calls[place], self._title) if isinstance(place, slice) else self._calls[place]

    def __len__(self) -> int:
        return len(self._calls)

    def __iter__(self) -> Iterator[CalledBack]:
        return iter(self._calls)

    def __eq__(self, other: object) -> bool:
        return self._calls == tuple(other) if isinstance(other, list | tuple | Calls) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    @property
    def _head(self) -> str:
        from gridkit.widgets.words import many

        left = sum(call.left for call in self._calls)
        return f"{many(len(self), 'call')} of {self._title} by the node; {many(left, 'byte')} left the notebook"

    def __repr__(self) -> str:
        return "\n".join(
            [self._head, *(f"  {call.function}{call.args} -> {_left(call)}" for call in self._calls[-20:])]
        )

    def _repr_html_(self) -> str:
        from gridkit.widgets.html import card, table

        rows = [(c.function, c.args, c.came, _left(c), c.left, f"{1000 * c.seconds:.1f}") for c in self._calls]
        return card(self._head, {}, table(COLUMNS, rows) if rows else None)

    def to_frame(self) -> pd.DataFrame:
        """A row each: at (UTC), function, args and came (bytes), result, error and left (bytes), seconds."""
        import pandas as pd

        columns = ["at", "function", "args", "came", "result", "error", "left", "seconds"]
        frame = pd.DataFrame([asdict(call) for call in self._calls], columns=columns)
        frame["at"] = pd.to_datetime(frame["at"], unit="s", utc=True).dt.round("us")
        return frame


def _left(call: CalledBack) -> str:
    return call.error if call.error is not None else str(call.result)


class Exposed(rpc_callables.Exposed):
    """A function of this notebook that the node may call until this is closed: by `close`, the end of a ``with`` block,
    the session's end, or because nobody holds this any more. Made by `grid.expose`; its code stays here.

    Attributes:
        fn: the function.
        name: it has in lists.
        calls: the node's last calls of it, with what came and what left the notebook.
    """

    def __init__(
        self, held: rpc_callables.Exposed, fn: Callable[..., Any], called: Callable[[], Sequence[CalledBack]]
    ) -> None:
        self.id, self.fn = held.id, fn
        self._held, self._called = held, called

    def __repr__(self) -> str:
        return f"<{self._head}>"

    def _repr_html_(self) -> str:
        from gridkit.widgets.html import details

        return details(self._head, self.calls._repr_html_(), opened=True)

    @property
    def _head(self) -> str:
        from gridkit.widgets.words import many

        return f"Exposed {self.name}, {many(len(self.calls), 'call')} by the node{', closed' if self.closed else ''}"

    @property
    def name(self) -> str:
        """It has in lists."""
        return self._held.name

    @property
    def closed(self) -> bool:
        """The node can't call it any more."""
        return self._held.closed

    @property
    def calls(self) -> Calls:
        """The node's last calls of it, oldest first: what came, and what left the notebook."""
        return Calls([call for call in self._called() if call.id == self.id], self.name)

    def close(self) -> None:
        """The node can't call the function any more; calls under way go on. Idempotent."""
        self._held.close()
