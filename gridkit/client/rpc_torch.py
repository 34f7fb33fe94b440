"""Tensors of torch in what is said to a node, without torch: whoever has one has loaded it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, Final, Protocol, TypeGuard

from gridkit.wire.rpc import values


class RemoteTensor(Protocol):
    """What a remote tensor says of itself; see `gridkit.tensors.remote.Remote`."""

    @property
    def reference(self) -> values.Variable:
        """How it is spoken of on the wire."""

    async def sent_over(self, rpc: object) -> None:
        """Until the node knows of it, if it asks over this client; else UsageError."""


def is_plain(params: object) -> bool:
    """Whether these are numbers and texts by name, in which nothing has to be looked for: most calls have no others."""
    return params is None or (isinstance(params, dict) and all(type(value) in _PLAIN for value in params.values()))


_PLAIN: Final = frozenset({int, float, str, bool, type(None)})


def of_torch(value: Any) -> Any:
    """A value with arrays in place of tensors, and references in place of remote ones. bfloat16 becomes float32."""
    if isinstance(value, dict):
        return {name: of_torch(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        inner = [of_torch(each) for each in value]
        return inner if isinstance(value, list) else tuple(inner)
    if is_remote(value):
        return value.reference
    if _is_tensor(value):
        local = value.detach().cpu()
        return (local.float() if str(local.dtype) == "torch.bfloat16" else local).numpy()
    return value


def remote_in(value: Any) -> Iterator[RemoteTensor]:
    """The remote tensors in a value."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for inner in value:
            yield from remote_in(inner)
    elif is_remote(value):
        yield value


def is_remote(value: Any) -> TypeGuard[RemoteTensor]:
    """Whether it is a remote tensor."""
    return _is_tensor(value) and hasattr(type(value), "sent_over")


def _is_tensor(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)
