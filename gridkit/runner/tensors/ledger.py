"""How much memory tensors take together: those with an id, their gradients, and what graphs and optimizers keep; and
which of it is private."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable

import torch

from gridkit.errors import ErrorCode, PlanError

_MARK = "_gridkit_private"

Storage = tuple[int, int]
"""where torch keeps it, and bytes"""


def storage_of(tensor: torch.Tensor) -> Storage:
    """A tensor's memory, which views of it share."""
    storage = tensor.untyped_storage()
    return storage._cdata, storage.nbytes()


def is_private(tensor: torch.Tensor) -> bool:
    """Whether its memory is private. The mark is on torch's storage, and lives as long as that."""
    return _MARK in vars(tensor.untyped_storage())


class Ledger:
    """Who holds which memory. What several hold counts once, for as long as one of them holds it.

    A holder is anything with a name: a variable, a node of the graph, an optimizer. The ledger refers to nothing, so it
    keeps nothing alive.

    Args:
        limit: bytes that may be held together.

    Attributes:
        held: bytes that are held.
        dead: holders that ended by themselves, put there by whoever saw it, on any thread; `sweep` releases them.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        self.dead: deque[Hashable] = deque()
        self._holders: dict[Hashable, tuple[Storage, ...]] = {}
        self._shared: dict[int, set[Hashable]] = {}
        self._private: set[int] = set()  # of what is held

    def __len__(self) -> int:
        return len(self._holders)

    def knows(self, holder: Hashable) -> bool:
        """Whether there is such a holder, even if it holds nothing."""
        return holder in self._holders

    def holds(self, holder: Hashable) -> bool:
        """Whether the holder holds any memory."""
        return bool(self._holders.get(holder))

    def keep(self, holder: Hashable, tensors: Iterable[torch.Tensor]) -> None:
        """From now on the holder holds these, and nothing else."""
        tensors = tuple(tensors)
        new = tuple({storage_of(tensor) for tensor in tensors})
        old = self._holders.get(holder, ())
        self._holders[holder] = new
        for place, size in new:
            if place not in self._shared:
                self._shared[place] = set()
                self.held += size
            self._shared[place].add(holder)
        self._release(holder, set(old) - set(new))
        self._private.update(storage_of(tensor)[0] for tensor in tensors if is_private(tensor))

    def hide(self, tensor: torch.Tensor) -> None:
        """Its memory is private from now on."""
        setattr(tensor.untyped_storage(), _MARK, True)
        place, _ = storage_of(tensor)
        if place in self._shared:
            self._private.add(place)

    def holds_private(self, holder: Hashable) -> bool:
        """Whether something that it holds is private by now."""
        return any(place in self._private for place, _ in self._holders.get(holder, ()))

    def drop(self, holder: Hashable) -> None:
        """The holder holds nothing any more."""
        self._release(holder, self._holders.pop(holder, ()))

    def _release(self, holder: Hashable, storages: Iterable[Storage]) -> None:
        for place, size in storages:
            self._shared[place].discard(holder)
            if not self._shared[place]:
                del self._shared[place]
                self._private.discard(place)
                self.held -= size

    def holders(self, tensor: torch.Tensor) -> Iterable[Hashable]:
        """Who holds the tensor's memory."""
        return self._shared.get(storage_of(tensor)[0], ())

    def unheld(self, tensors: Iterable[torch.Tensor]) -> int:
        """Bytes of those that nobody holds."""
        return sum(size for place, size in {storage_of(tensor) for tensor in tensors} if place not in self._shared)

    def sweep(self) -> None:
        """Release what the dead held."""
        while self.dead:
            self.drop(self.dead.popleft())

    def check_room(self, size: int, what: str) -> None:
        """Raise PlanError (`OUT_OF_MEMORY`) when so many bytes more are more than the limit."""
        self.sweep()
        if self.held + size > self.limit:
            raise PlanError(
                f"{what} needs {size:,} bytes; {self.held:,} of {self.limit:,} are taken",
                "delete tensors that you don't need, or work under torch.no_grad(), which keeps no graph",
                code=ErrorCode.OUT_OF_MEMORY,
            )
