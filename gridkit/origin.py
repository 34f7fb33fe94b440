"""Where a module's weights come from: noted when a run or a node gives them, true as long as nobody changes them."""

from __future__ import annotations

import weakref
import zlib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True)
class Origin:
    """A training, and the round after which the model was taken; 0 is its start."""

    name: str
    version: str
    round: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


# A module's origin, and the checksum of the weights that it had then
_noted: weakref.WeakKeyDictionary[nn.Module, tuple[Origin, int]] = weakref.WeakKeyDictionary()


def note(module: nn.Module, origin: Origin) -> None:
    """Remember that `module` has just been given the weights of `origin`."""
    _noted[module] = (origin, _checksum(module))


def origin_of(module: nn.Module) -> Origin | None:
    """Where the module's weights come from; None if that isn't known, or they have changed since."""
    origin, checksum = _noted.get(module, (None, 0))
    return origin if origin is not None and _checksum(module) == checksum else None


def _checksum(module: nn.Module) -> int:
    """Of all values, against mistakes, not against forgers: whoever serves a model may state what they like."""
    checksum = 0
    for tensor in module.state_dict().values():
        flat = tensor.detach().cpu().contiguous().view(-1).numpy()
        checksum = zlib.crc32(flat.view(np.uint8), checksum)
    return checksum
