"""Functions of a notebook that have a part in a training: its node knows their names, and nothing of their code.

``strategy`` of a `server_config` is then "notebook function median": the node averages by calling the function that
the training's owner offers; and ``evaluate`` is the name of one that scores each new model before the round is over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gridkit.errors import ErrorCode, UsageError

PREFIX = "notebook function "
MAX_NAME = 60
"""characters"""
MAX_REASON = 2000


def name_of(fn: Callable[..., Any]) -> str:
    """What a function is called.

    >>> name_of(max), name_of(lambda diffs, weights: diffs)
    ('max', '<lambda>')
    """
    return cleaned(str(getattr(fn, "__name__", None) or type(fn).__name__))


def cleaned(name: str) -> str:
    """A name as a `server_config` may have it."""
    return "".join(c if c.isprintable() else "?" for c in name)[:MAX_NAME] or "?"


def strategy_of(fn: Callable[..., Any]) -> str:
    """How a `server_config` names a function that averages."""
    return PREFIX + name_of(fn)


def function_of(strategy: str) -> str | None:
    """The function's name, if a strategy is one.

    >>> function_of("notebook function median"), function_of("fedavg")
    ('median', None)
    """
    return strategy.removeprefix(PREFIX) if strategy.startswith(PREFIX) else None


def check_name(name: str) -> None:
    """Raise UsageError unless a function can be called so."""
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise UsageError(
            "that is no function's name",
            f"name a function, in up to {MAX_NAME} printable characters",
            code=ErrorCode.BAD_CONFIG,
        )


def failed(role: str, name: str, what: str) -> str:
    """Why a round fails in which a function had a part.

    >>> failed("strategy", "median", "gave float64[3]\nof 4")
    'the strategy median gave float64[3] of 4'
    >>> failed("evaluate", "accuracy", "raised KeyError: 'w'")
    "evaluate=accuracy raised KeyError: 'w'"
    """
    who = f"evaluate={name}" if role == "evaluate" else f"the strategy {name}"
    return f"{who} {' '.join(what.split())}"[:MAX_REASON]


def mismatch(got: str, size: int) -> str:
    """It gave something else than one value for each of the model's."""
    return f"gave {got}, expected float32[{size}]: a value for each of the model's"


NOT_FINITE = "gave values that are not finite"
