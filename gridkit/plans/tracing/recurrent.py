"""Functions of torch whose own code takes the batch size for a plain number, written with operations that don't.

Recurrent layers and interpolation ask for all sizes at once, below Python; a trace would hold for one batch size. While
this mode is active they run here instead. What is computed, and in which order, is what torch computes on a CPU
(aten/src/ATen/native/RNN.cpp), so the bits are the same; but for LSTM in float32, for which torch by itself takes a
kernel of oneDNN: there the bits are those of torch under ``torch.backends.mkldnn.flags(enabled=False)``. The number of
steps of a sequence is fixed when the plan is traced.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

State = tuple[torch.Tensor, ...]
Cell = Callable[[torch.Tensor, State, torch.Tensor, "torch.Tensor | None"], State]


class Rewritten(TorchFunctionMode):
    """While active, recurrent layers and nearest-neighbour interpolation run in Python."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in _CELLS and len(args) == 9:  # padded sequences; packed ones come with their lengths
            return _recurrent(name, *args)
        if func is F.interpolate:
            return _interpolate(func, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _interpolate(
    func: Any,
    x: torch.Tensor,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    *rest: Any,
    **more: Any,
) -> torch.Tensor:
    if mode != "nearest" or x.ndim != 4 or rest or any(more.values()):
        result: torch.Tensor = func(x, size, scale_factor, mode, *rest, **more)
        return result
    scales = scale_factor if isinstance(scale_factor, tuple | list) else [scale_factor] * 2
    if size is None:
        size = [int(have * scale) for have, scale in zip(x.shape[2:], scales, strict=True)]
    sizes = list(size) if isinstance(size, tuple | list) else [size] * 2
    scales = [None if s is None else float(s) for s in scales]
    out: torch.Tensor = torch.ops.aten.upsample_nearest2d.default(x, sizes, *scales)
    return out


# ---- one step


def _simple(activation: Callable[[torch.Tensor], torch.Tensor]) -> Cell:
    def cell(x: torch.Tensor, state: State, weight: torch.Tensor, bias: torch.Tensor | None) -> State:
        return (activation(F.linear(state[0], weight, bias).add(x)),)

    return cell


def _lstm(x: torch.Tensor, state: State, weight: torch.Tensor, bias: torch.Tensor | None) -> State:
    hidden, cell = state
    enter, forget, new, leave = F.linear(hidden, weight, bias).add(x).chunk(4, 1)
    cell = (forget.sigmoid() * cell).add(enter.sigmoid() * new.tanh())
    return leave.sigmoid() * cell.tanh(), cell


def _gru(x: torch.Tensor, state: State, weight: torch.Tensor, bias: torch.Tensor | None) -> State:
    (hidden,) = state
    size = hidden.shape[1]
    kept = F.linear(hidden, weight, bias)
    # parts of one tensor, as in torch: sigmoid has other bits for rows in one piece than for rows with gaps
    reset, enter = (part.sigmoid() for part in kept[:, : 2 * size].add(x[:, : 2 * size]).chunk(2, 1))
    new = x[:, 2 * size :].add(kept[:, 2 * size :].mul(reset)).tanh()
    return ((hidden - new).mul(enter).add(new),)


_CELLS: dict[str, Cell] = {"lstm": _lstm, "gru": _gru, "rnn_tanh": _simple(torch.tanh), "rnn_relu": _simple(torch.relu)}


# ---- layers


def _recurrent(
    name: str,
    x: torch.Tensor,
    initial: torch.Tensor | Sequence[torch.Tensor],
    weights: Sequence[torch.Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[torch.Tensor, ...]:
    starts = (initial,) if isinstance(initial, torch.Tensor) else tuple(initial)
    directions = 2 if bidirectional else 1
    each = 4 if has_biases else 2
    if len(weights) != num_layers * directions * each:
        raise RuntimeError("recurrent layers with projections can't be part of a plan")
    ends: list[State] = []
    x = x.transpose(0, 1) if batch_first else x
    for layer in range(num_layers):
        outputs = []
        for direction in range(directions):
            place = layer * directions + direction
            own = weights[place * each : (place + 1) * each]
            out, end = _sequence(_CELLS[name], x, tuple(s[place] for s in starts), own, backwards=direction == 1)
            outputs.append(out)
            ends.append(end)
        x = outputs[0] if directions == 1 else torch.cat(outputs, -1)
        if dropout and train and layer < num_layers - 1:
            x = torch.dropout(x, dropout, True)
    last = (torch.stack([end[i] for end in ends]) for i in range(len(starts)))
    return (x.transpose(0, 1) if batch_first else x, *last)


def _sequence(
    cell: Cell, x: torch.Tensor, state: State, weights: Sequence[torch.Tensor], backwards: bool
) -> tuple[torch.Tensor, State]:
    """One layer in one direction over [T, B, ...]."""
    weight_x, weight_h, *biases = weights
    bias_x, bias_h = biases or (None, None)
    steps = F.linear(x, weight_x, bias_x).unbind(0)
    outputs = []
    for step in reversed(steps) if backwards else steps:
        state = cell(step, state, weight_h, bias_h)
        outputs.append(state[0])
    return torch.stack(outputs[::-1] if backwards else outputs), state
