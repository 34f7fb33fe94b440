"""Private tensors: they are computed with like others, and their values don't leave the session.

Privacy goes with memory. What is computed from a private tensor is private: results, what is changed in place, what
shares its memory, gradients of passes through it, what an optimizer keeps for it. Told are dtype, shape and the graph.

A value also leaves where something else hangs on it, so for private tensors

* functions whose results' sizes depend on values (``x[x > 0]``, ``nonzero``, ``unique``) are refused beforehand,
* random numbers come from a generator of their own: some functions draw as many as their arguments' values want,
* torch's words aren't told when a function fails because of values (a singular matrix, an index out of range), and the
  first such failure is the last: nothing private can be used until the node brings another private tensor. Otherwise
  every failure would answer a question. So one answer, yes or no, leaves at most for each that the node brings.

How long a computation takes isn't hidden.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch

from gridkit.errors import PrivacyError
from gridkit.runner.tensors.failures import told_by_torch
from gridkit.runner.tensors.ledger import Ledger, is_private

UNMARKED_CHANGES = frozenset(
    {"torch.batch_norm", "torch.instance_norm", "torch.nn.functional.batch_norm", "torch.nn.functional.instance_norm"}
)
"""functions that change some of their arguments without torch's counting it as a new version: running statistics"""
_ABOUT_GRAPHS = (
    "backward through the graph a second time",
    "requires grad is being used in an in-place operation",
    "has been modified by an inplace operation",
    "not implemented for '",
)
"""of messages of torch that come late, and have nothing to do with values"""


class Privacy:
    """What a session does differently where something private is in play."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._state = torch.default_generator.get_state()
        self._spoiled: str | None = None

    def seed(self) -> None:
        """The session's generator was seeded: private draws begin there too."""
        self._state = torch.default_generator.get_state()

    def renew(self) -> None:
        """The node brings another private tensor: what failed with those before doesn't count any more."""
        self._spoiled = None

    def hide(self, tensors: Iterable[torch.Tensor | None]) -> None:
        """Make these private, with all that shares their memory."""
        for tensor in tensors:
            if tensor is not None:
                self._ledger.hide(tensor)

    @contextmanager
    def guard(self, what: str, private: bool, begun: Iterable[object] | None = None) -> Iterator[None]:
        """torch's errors as gridkit's, around what computes; see `failures.told_by_torch` for what isn't private.

        Args:
            begun: filled as soon as values are computed with: what fails before is about shapes, and is told.

        Raises:
            PrivacyError: it failed because of private values, or something did before.
        """
        if not private:
            with told_by_torch(what):
                yield
            return
        if self._spoiled is not None:
            raise _spoiled(self._spoiled)
        public = torch.default_generator.get_state()
        torch.default_generator.set_state(self._state)
        try:
            with told_by_torch(what):
                yield
        except Exception as error:
            if (begun is not None and not tuple(begun)) or any(text in str(error) for text in _ABOUT_GRAPHS):
                raise
            raise self.spoil(what) from None
        finally:
            self._state = torch.default_generator.get_state()
            torch.default_generator.set_state(public)

    def spoil(self, what: str) -> PrivacyError:
        """Something failed because of private values."""
        self._spoiled = what
        return _spoiled(what)


def any_private(tensors: Iterable[torch.Tensor | None]) -> bool:
    """Whether one of these is private."""
    return any(tensor is not None and is_private(tensor) for tensor in tensors)


def refuse_to_read(what: str) -> PrivacyError:
    """The error of who wants values of something private."""
    return PrivacyError(
        f"{what} is private: its values stay on the node, and so do those of all that is computed from it",
        "compute with it there, and give the result to whoever asked for it, such as the training",
    )


def _spoiled(what: str) -> PrivacyError:
    return PrivacyError(
        f"{what} failed because of the values of private tensors, so these can't be used any more",
        "run it on tensors of your own to see why: torch's reason would tell of the values",
    )
