"""What the person's own code calls its remote tensors."""

from __future__ import annotations

import sys
from types import FrameType

from torch import nn

from gridkit.tensors import remote as remotes
from gridkit.tensors.handle import World, is_ours


def names_here(world: World) -> dict[str, str]:
    """By id, the variables of the person's code that is running: ``x``, and ``net.0.weight`` of a module's parameters.

    >>> names_here(world)                                                           # doctest: +SKIP
    {'v1': 'x', 'v2': 'net.weight'}
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and is_ours(frame):
        frame = frame.f_back
    if frame is None:
        return {}
    found: dict[str, str] = {}
    for name, value in [*frame.f_locals.items(), *frame.f_globals.items()]:
        if name.startswith("_"):  # IPython keeps what it has shown under such names
            continue
        if isinstance(value, remotes.Remote) and value._core.world is world:
            found.setdefault(value._core.id, name)
        elif isinstance(value, nn.Module):
            for path, parameter in value.named_parameters(name):
                if isinstance(parameter, remotes.Remote) and parameter._core.world is world:
                    found.setdefault(parameter._core.id, path)
    return found
