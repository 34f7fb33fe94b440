"""More layers under test: recurrent ones, and what takes tensors apart and puts them together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from tests.plans.layers import Layer, Net, flat, real, tokens


def recurrent(kind: type[nn.Module], width: int = 7, **options: Any) -> Callable[[], nn.Module]:
    """The last step of [B, 6, 8]."""
    options = {"batch_first": True} | options
    last = (lambda out: out[:, -1]) if options["batch_first"] else (lambda out: out[-1])
    return lambda: Net(
        lambda net, x: last(net.parts[0](x if options["batch_first"] else x.transpose(0, 1))[0]),
        width,
        kind(8, 7, **options),
    )


def ends(net: Net, x: torch.Tensor) -> torch.Tensor:
    """Both last states of an LSTM that begins with states of its own."""
    start = net.head.weight[:1, :7].expand(1, x.shape[0], 7)
    _, (hidden, cell) = net.parts[0](x, (start, start * 2))
    out: torch.Tensor = torch.cat([hidden[0], cell[0]], 1)
    return out


RECURRENT = {
    "rnn": Layer(recurrent(nn.RNN), real(6, 8)),
    "rnn, relu, two layers": Layer(recurrent(nn.RNN, nonlinearity="relu", num_layers=2), real(6, 8)),
    "gru": Layer(recurrent(nn.GRU), real(6, 8)),
    "gru, both ways": Layer(recurrent(nn.GRU, 14, bidirectional=True, num_layers=2, dropout=0.3), real(6, 8)),
    "gru, batch second": Layer(recurrent(nn.GRU, batch_first=False, bias=False), real(6, 8)),
    "lstm": Layer(recurrent(nn.LSTM), real(6, 8)),
    "lstm, both ways": Layer(recurrent(nn.LSTM, 14, bidirectional=True, num_layers=2), real(6, 8)),
    "lstm, batch second": Layer(recurrent(nn.LSTM, batch_first=False, bias=False), real(6, 8)),
    "lstm with states": Layer(lambda: Net(ends, 14, nn.LSTM(8, 7, batch_first=True)), real(6, 8)),
    "gru of tokens": Layer(
        lambda: Net(
            lambda net, x: net.parts[1](net.parts[0](x))[1][0],
            7,
            nn.Embedding(10, 8),
            nn.GRU(8, 7, batch_first=True),
        ),
        tokens,
    ),
}


def on(function: Callable[[torch.Tensor], torch.Tensor], width: int) -> Callable[[], nn.Module]:
    """A function of x, followed by a linear layer; a linear layer before it, so that it has a gradient."""
    return lambda: Net(lambda net, x: function(net.parts[0](x)), width, nn.Linear(8, 8))


ARRANGING = {
    "stack": Layer(on(lambda x: torch.stack([x, x * 2], 1).flatten(1), 16), real(8)),
    "chunk": Layer(on(lambda x: torch.cat(x.chunk(3, 1)[::-1], 1), 8), real(8)),
    "split": Layer(on(lambda x: torch.cat(x.split([3, 5], 1)[::-1], 1), 8), real(8)),
    "unbind": Layer(on(lambda x: x.unbind(1)[0] + x.unbind(1)[5], 8), real(6, 8)),
    "unflatten": Layer(on(lambda x: x.unflatten(1, (2, 4)).mean(1), 4), real(8)),
    "repeat": Layer(on(lambda x: x.repeat(1, 2) + x.repeat_interleave(2, 1), 16), real(8)),
    "roll and flip": Layer(on(lambda x: x.roll(1, 1) * x.flip(1), 8), real(8)),
    "cumsum": Layer(on(lambda x: x.cumsum(1), 8), real(8)),
    "largest": Layer(on(lambda x: x.max(1).values + x.amin(1), 8), real(6, 8)),
    "spread": Layer(on(lambda x: x.var(1) + x.std(1), 8), real(6, 8)),
    "normalize": Layer(on(lambda x: F.normalize(x, dim=1) + F.softmax(x, 1), 8), real(8)),
    "logsumexp": Layer(on(lambda x: x.logsumexp(1), 8), real(6, 8)),
    "gather": Layer(on(lambda x: x.gather(1, torch.arange(3).expand(x.shape[0], 3)), 3), real(8)),
    "index_select": Layer(on(lambda x: x.index_select(1, torch.tensor([0, 3, 3])), 3), real(8)),
    "masked": Layer(on(lambda x: x.masked_fill(~(x > 0) & (x < 2), 0.5).tril().mean(1), 8), real(6, 8)),
    "glu": Layer(on(F.glu, 4), real(8)),
    "conv1d": Layer(lambda: flat(9, nn.Conv1d(2, 3, 3), nn.ReLU(), nn.MaxPool1d(2)), real(2, 8)),
    "conv1d, average": Layer(lambda: flat(3, nn.Conv1d(2, 3, 3), nn.AdaptiveAvgPool1d(1)), real(2, 8)),
    "conv3d": Layer(lambda: flat(16, nn.Conv3d(1, 2, 3), nn.ReLU()), real(1, 4, 4, 4)),
    "transposed": Layer(lambda: flat(243, nn.ConvTranspose2d(2, 3, 3, stride=2)), real(2, 4, 4)),
    "transposed 1d": Layer(lambda: flat(27, nn.ConvTranspose1d(2, 3, 3, stride=2)), real(2, 4)),
    "adaptive max": Layer(lambda: flat(12, nn.Conv2d(2, 3, 3), nn.AdaptiveMaxPool2d(2)), real(2, 6, 6)),
    "upsample": Layer(lambda: flat(64, nn.Conv2d(2, 4, 3), nn.Upsample(scale_factor=2)), real(2, 4, 4)),
    "pixel shuffle": Layer(lambda: flat(16, nn.Conv2d(2, 4, 3), nn.PixelShuffle(2)), real(2, 4, 4)),
}
