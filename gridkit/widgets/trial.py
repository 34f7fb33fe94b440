"""What a person types to try a model, and what came of it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from gridkit.errors import UsageError

Input = Mapping[str, Any]

_SUGGESTED = 16  # values that are written out as a suggestion; more are easier to have in a variable
_SHOWN = 4_000  # characters of a result


def fitting(namespace: Mapping[str, Any], inputs: Sequence[Input]) -> list[str]:
    """The variables that a model of one input takes, newest first: arrays of its shape, whatever the batch."""
    if len(inputs) != 1:
        return []
    wanted = list(inputs[0].get("shape") or ())
    names = [name for name, value in namespace.items() if not name.startswith("_") and _fits(value, wanted)]
    return names[::-1]


def suggestion(inputs: Sequence[Input]) -> str:
    """Zeros in the shape of a batch of one, if they are few."""
    shapes = [[extent if isinstance(extent, int) else 1 for extent in given.get("shape") or ()] for given in inputs]
    if not shapes or any(math.prod(shape) > _SUGGESTED or min(shape, default=1) < 1 for shape in shapes):
        return ""
    zeros = [_zeros(shape) for shape in shapes]
    return json.dumps(zeros[0] if len(zeros) == 1 else zeros)


def values(text: str, inputs: Sequence[Input], namespace: Mapping[str, Any]) -> list[Any]:
    """One value an input: of JSON (of several inputs: a list of them), or of the names of variables.

    Raises:
        UsageError: it is neither, or there are too many or too few.
    """
    try:
        read = json.loads(text)
    except (ValueError, RecursionError):
        names = [name.strip() for name in text.split(",")]
        missing = [name for name in names if name not in namespace]
        if missing:
            raise UsageError(
                f"'{missing[0][:80]}' is neither JSON nor a variable of this notebook",
                "write nested lists such as [[0.5, 1.0]], or the name of an array",
            ) from None
        found = [namespace[name] for name in names]
    else:
        found = [read] if len(inputs) == 1 else read if isinstance(read, list) else [read]
    if len(found) != len(inputs):
        raise UsageError(
            f"the model takes {len(inputs)} inputs, and these are {len(found)}",
            "write a list with one nested list an input, or the names of variables with commas between them",
        )
    return found


def shown(result: object) -> str:
    """A result as text, cut where it would fill the notebook."""
    parts = result if isinstance(result, tuple) else (result,)
    lines = [f"{type(part).__name__} {list(getattr(part, 'shape', ()))}\n{part}" for part in parts]
    text = "\n".join(lines)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _fits(value: Any, wanted: list[Any]) -> bool:
    shape = getattr(value, "shape", None)
    if not hasattr(value, "dtype") or not isinstance(shape, tuple) or len(shape) != len(wanted) or not wanted:
        return False
    return all(w == s or not isinstance(w, int) for w, s in zip(wanted, shape, strict=True)) and 0 not in shape


def _zeros(shape: list[int]) -> Any:
    return 0.0 if not shape else [_zeros(shape[1:]) for _ in range(shape[0])]
