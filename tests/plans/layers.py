"""Layers under test: each in a small classifier of five classes, with the inputs that it takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

Inputs = Callable[[int], torch.Tensor]


@dataclass(frozen=True)
class Layer:
    """A model, made anew each time, and inputs for so many samples.

    `smallest` is the smallest batch that it takes, `exact` the smallest for which the bits are those of eager training.
    """

    make: Callable[[], nn.Module]
    inputs: Inputs
    smallest: int = 1
    exact: int = 1


class Net(nn.Module):
    """`function(model, x)` over some modules, then a linear layer of five classes."""

    def __init__(self, function: Callable[..., torch.Tensor], width: int, *modules: nn.Module, **named: Any) -> None:
        super().__init__()
        self.function, self.parts, self.head = function, nn.ModuleList(modules), nn.Linear(width, 5)
        for name, value in named.items():
            self.register_buffer(name, value)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.function(self, x))
        return out


def real(*shape: int) -> Inputs:
    return lambda n: torch.randn(n, *shape)


def tokens(n: int) -> torch.Tensor:
    """[n, 6], of ten; zero is padding, and never the first."""
    x = torch.randint(0, 10, (n, 6))
    x[:, 0] = 1 + x[:, 0] % 9
    return x


def flat(width: int, *modules: nn.Module) -> nn.Sequential:
    return nn.Sequential(*modules, nn.Flatten(), nn.Linear(width, 5))


CAUSAL = torch.triu(torch.ones(6, 6, dtype=torch.bool), 1)
SLOPE = torch.full((6, 6), float("-inf")).triu(1)


def encoder(**options: Any) -> Callable[[], nn.Module]:
    """An encoder layer over [B, 6, 8], with the mean over positions behind it."""
    options = {"dim_feedforward": 12, "dropout": 0.0, "batch_first": True} | options

    def function(net: Net, x: torch.Tensor) -> torch.Tensor:
        return net.parts[0](x).mean(1)

    def turned(net: Net, x: torch.Tensor) -> torch.Tensor:
        return net.parts[0](x.transpose(0, 1)).mean(0)

    return lambda: Net(function if options["batch_first"] else turned, 8, nn.TransformerEncoderLayer(8, 2, **options))


def attention(call: Callable[..., Any], **options: Any) -> Callable[[], nn.Module]:
    options = {"batch_first": True} | options
    return lambda: Net(lambda net, x: call(net.parts[0], x)[0].mean(1), 8, nn.MultiheadAttention(8, 2, **options))


def padded(net: Net, x: torch.Tensor) -> torch.Tensor:
    hidden = net.parts[1](net.parts[0](x), src_mask=net.mask, src_key_padding_mask=x == 0)
    out: torch.Tensor = hidden.mean(1)
    return out


def positions(net: Net, x: torch.Tensor) -> torch.Tensor:
    out: torch.Tensor = (net.parts[0](x) + net.parts[1](torch.arange(x.shape[1]))).mean(1)
    return out


def waves(net: Net, x: torch.Tensor) -> torch.Tensor:
    """Positions as sines, computed on the fly."""
    places = torch.arange(6.0).unsqueeze(1) * torch.exp(torch.arange(0, 8, 2) * -0.5)
    out: torch.Tensor = (x + torch.cat([places.sin(), places.cos()], 1)).mean(1)
    return out


def decoded(net: Net, x: torch.Tensor) -> torch.Tensor:
    out: torch.Tensor = net.parts[0](x, x * 2, tgt_mask=net.mask).mean(1)
    return out


class Smoothed(nn.Module):
    """Assigns a new value to its buffer, in place of changing it in place."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 5)
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
        out: torch.Tensor = self.linear(x - self.mean)
        return out


def classified(net: Net, x: torch.Tensor) -> torch.Tensor:
    """A learnt first token, and what attention makes of it."""
    first = net.head.weight[:1].expand(x.shape[0], 1, 8)
    out: torch.Tensor = net.parts[0](torch.cat([first, x], 1))[:, 0]
    return out


DROPOUT = {
    "dropout": Layer(lambda: flat(8, nn.Linear(8, 8), nn.Dropout(0.3)), real(8)),
    "dropout in place": Layer(lambda: flat(8, nn.Linear(8, 8), nn.Dropout(0.3, inplace=True)), real(8)),
    "dropout of all": Layer(lambda: flat(8, nn.Linear(8, 8), nn.Dropout(1.0)), real(8)),
    "dropout twice": Layer(lambda: flat(8, nn.Dropout(0.2), nn.Linear(8, 8), nn.ReLU(), nn.Dropout(0.5)), real(8)),
    "dropout1d": Layer(lambda: flat(24, nn.Conv1d(2, 4, 3), nn.Dropout1d(0.4)), real(2, 8)),
    "dropout2d": Layer(lambda: flat(64, nn.Conv2d(2, 4, 3), nn.Dropout2d(0.4)), real(2, 6, 6)),
    "alpha dropout": Layer(lambda: flat(8, nn.Linear(8, 8), nn.SELU(), nn.AlphaDropout(0.2)), real(8)),
    "dropout of weights": Layer(
        lambda: Net(lambda net, x: F.linear(x, F.dropout(net.parts[0].weight, 0.3)), 8, nn.Linear(8, 8)), real(8)
    ),
    "dropout, batch second": Layer(
        lambda: Net(lambda net, x: F.dropout(x.transpose(0, 1), 0.3).mean(0), 8), real(6, 8)
    ),
    "dropout in attention": Layer(attention(lambda m, x: m(x, x, x, need_weights=False), dropout=0.3), real(6, 8)),
    "dropout in an encoder": Layer(encoder(dropout=0.2), real(6, 8)),
    "dropout in scaled_dot_product": Layer(
        lambda: Net(lambda net, x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.3).mean(1), 8), real(6, 8)
    ),
}

BATCH_NORM = {
    "batch norm 1d": Layer(lambda: flat(8, nn.Linear(8, 8), nn.BatchNorm1d(8)), real(8), 2),
    "batch norm of sequences": Layer(lambda: flat(16, nn.BatchNorm1d(2)), real(2, 8)),
    "batch norm 2d": Layer(lambda: flat(64, nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU()), real(2, 6, 6)),
    "batch norm 3d": Layer(lambda: flat(54, nn.BatchNorm3d(2)), real(2, 3, 3, 3)),
    "batch norm, fixed": Layer(lambda: flat(64, nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, affine=False)), real(2, 6, 6)),
    "batch norm, no statistics": Layer(
        lambda: flat(64, nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)), real(2, 6, 6)
    ),
    "batch norm, momentum": Layer(lambda: flat(8, nn.BatchNorm1d(8, momentum=0.7, eps=1e-3)), real(8), 2),
    "a buffer of one's own": Layer(Smoothed, real(8)),
    "instance norm": Layer(lambda: flat(64, nn.Conv2d(2, 4, 3), nn.InstanceNorm2d(4, affine=True)), real(2, 6, 6)),
    "group norm": Layer(lambda: flat(64, nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4)), real(2, 6, 6)),
    "layer norm": Layer(lambda: Net(lambda net, x: net.parts[0](x).mean(1), 8, nn.LayerNorm(8)), real(6, 8)),
    "rms norm": Layer(lambda: Net(lambda net, x: net.parts[0](x).mean(1), 8, nn.RMSNorm(8)), real(6, 8)),
}

EMBEDDING = {
    "embedding": Layer(lambda: flat(24, nn.Embedding(10, 4)), tokens),
    "embedding with padding": Layer(lambda: flat(24, nn.Embedding(10, 4, padding_idx=0)), tokens),
    "positions": Layer(lambda: Net(positions, 4, nn.Embedding(10, 4), nn.Embedding(6, 4)), tokens),
    "waves": Layer(lambda: Net(waves, 8), real(6, 8)),
    "one-hot": Layer(lambda: Net(lambda net, x: F.one_hot(x, 10).float().mean(1), 10), tokens),
}

ATTENTION = {
    "linear of sequences": Layer(lambda: Net(lambda net, x: net.parts[0](x).mean(1), 7, nn.Linear(8, 7)), real(6, 8)),
    "linear, batch second": Layer(
        lambda: Net(lambda net, x: net.parts[0](x.transpose(0, 1)).mean(0), 7, nn.Linear(8, 7)), real(6, 8)
    ),
    "linear without bias": Layer(
        lambda: Net(lambda net, x: net.parts[0](x).mean((1, 2)), 7, nn.Linear(8, 7, bias=False)), real(3, 2, 8)
    ),
    "product of three": Layer(lambda: Net(lambda net, x: (x @ x.transpose(1, 2) @ x).mean(1), 8), real(6, 8)),
    "einsum": Layer(lambda: Net(lambda net, x: torch.einsum("bij,bkj->bik", x, x).mean(1), 6), real(6, 8)),
    "attention": Layer(attention(lambda m, x: m(x, x, x, need_weights=False)), real(6, 8)),
    "attention with weights": Layer(attention(lambda m, x: m(x, x, x)), real(6, 8)),
    "attention, weights a head": Layer(attention(lambda m, x: m(x, x, x, average_attn_weights=False)), real(6, 8)),
    "attention, causal": Layer(
        attention(lambda m, x: m(x, x, x, attn_mask=CAUSAL, is_causal=True, need_weights=False)), real(6, 8)
    ),
    "attention, masked": Layer(attention(lambda m, x: m(x, x, x, attn_mask=SLOPE)), real(6, 8)),
    "attention, batch second": Layer(
        lambda: Net(
            lambda net, x: net.parts[0](*[x.transpose(0, 1)] * 3, need_weights=False)[0].mean(0),
            8,
            nn.MultiheadAttention(8, 2),
        ),
        real(6, 8),
    ),
    "attention, more": Layer(
        attention(lambda m, x: m(x, x, x), bias=False, add_bias_kv=True, add_zero_attn=True), real(6, 8)
    ),
    "attention, other widths": Layer(
        attention(lambda m, x: m(x, x[..., :3], x[..., 3:7], need_weights=False), kdim=3, vdim=4),
        real(6, 8),
        exact=2,  # torch takes a slice of a single sample for contiguous, and multiplies it by another kernel
    ),
    "a first token": Layer(
        lambda: Net(classified, 8, nn.TransformerEncoderLayer(8, 2, 12, 0.0, batch_first=True)), real(6, 8)
    ),
    "scaled_dot_product": Layer(
        lambda: Net(lambda net, x: F.scaled_dot_product_attention(*[x.view(-1, 2, 6, 4)] * 3).flatten(1), 48), real(48)
    ),
    "scaled_dot_product, causal": Layer(
        lambda: Net(
            lambda net, x: F.scaled_dot_product_attention(*[x.view(-1, 2, 6, 4)] * 3, is_causal=True).flatten(1), 48
        ),
        real(48),
    ),
    "scaled_dot_product of three": Layer(
        lambda: Net(lambda net, x: F.scaled_dot_product_attention(x, x, x, scale=0.3).mean(1), 8), real(6, 8)
    ),
    "encoder": Layer(encoder(), real(6, 8)),
    "encoder, norm first": Layer(encoder(norm_first=True, activation="gelu"), real(6, 8)),
    "encoder, batch second": Layer(encoder(batch_first=False), real(6, 8)),
    "encoder, norm first, batch second": Layer(encoder(norm_first=True, batch_first=False), real(6, 8)),
    "encoder, padded": Layer(
        lambda: Net(
            padded,
            8,
            nn.Embedding(10, 8, padding_idx=0),
            nn.TransformerEncoderLayer(8, 2, 12, 0.0, batch_first=True),
            mask=CAUSAL,
        ),
        tokens,
    ),
    "decoder": Layer(
        lambda: Net(decoded, 8, nn.TransformerDecoderLayer(8, 2, 12, 0.0, batch_first=True), mask=SLOPE), real(6, 8)
    ),
    "two encoders": Layer(
        lambda: Net(
            lambda net, x: net.parts[0](x).mean(1),
            8,
            nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 12, 0.0, batch_first=True), 2),
        ),
        real(6, 8),
    ),
}
