"""torch's errors as gridkit's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gridkit.errors import ErrorCode, GridkitError, PlanError

# What torch's functions raise for arguments that don't fit; some of them are written in Python.
_OF_TORCH = (RuntimeError, TypeError, ValueError, LookupError, ArithmeticError, AssertionError, AttributeError)
_SHORTAGE = ("not enough memory", "can't allocate memory", "bad_alloc")


@contextmanager
def told_by_torch(what: str) -> Iterator[None]:
    """Errors of torch as gridkit's: one line, with torch's error as the cause.

    Raises:
        PlanError: `BAD_INPUT`, or `OUT_OF_MEMORY`.
    """
    try:
        yield
    except GridkitError:
        raise
    except MemoryError as error:
        raise _out_of_memory(what) from error
    except _OF_TORCH as error:
        text = " ".join(str(error).split()) or type(error).__name__
        if any(words in text for words in _SHORTAGE):
            raise _out_of_memory(what) from error
        hint = "the message is torch's own: the same call on local tensors says the same"
        raise PlanError(f"{what}: {text[:500]}", hint, code=ErrorCode.BAD_INPUT) from error


def _out_of_memory(what: str) -> PlanError:
    hint = "delete tensors that you don't need, or give it fewer samples at a time"
    return PlanError(f"{what} needs more memory than there is", hint, code=ErrorCode.OUT_OF_MEMORY)
