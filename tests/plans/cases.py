"""For every row of the op table: arguments that torch takes, drawn by hypothesis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st

Draw = Callable[..., Any]
Args = tuple[list[Any], dict[str, Any]]


def f(*shape: int) -> torch.Tensor:
    return torch.rand(shape) * 0.8 + 0.1


def like(n: int) -> list[Any]:
    """Shapes that broadcast with each other, and dtypes that mix."""
    return [
        f(n, 3),
        f(1, 3),
        f(3),
        f(),
        f(n, 1),
        torch.ones(n, 3, dtype=torch.int64),
        torch.ones(n, 3).double(),
    ]


def pick(draw: Draw, values: list[Any]) -> Any:
    return values[draw(st.integers(0, len(values) - 1))]


def conv(draw: Draw) -> list[Any]:
    groups, turned = pick(draw, [1, 2]), draw(st.booleans())
    inside, outside, k = 2 * groups, 4, draw(st.integers(1, 3))
    rank = pick(draw, [1, 2])
    x = f(draw(st.integers(1, 3)), inside, *[draw(st.integers(6, 9)) for _ in range(rank)])
    w = f(inside, outside // groups, *[k] * rank) if turned else f(outside, inside // groups, *[k] * rank)
    stride, padding, dilation = (draw(st.integers(low, 2)) for low in (1, 0, 1))
    extra = stride - 1 if turned else 0
    return [x, w, f(outside), [stride] * rank, [padding] * rank, [dilation] * rank, turned, [extra] * rank, groups]


def conv_backward(draw: Draw) -> list[Any]:
    x, w, bias, *rest = conv(draw)
    out = torch.ops.aten.convolution.default(x, w, bias, *rest)
    return [torch.ones_like(out), x, w, [len(bias)], *rest, [True, True, True]]


def pool(draw: Draw) -> list[Any]:
    kernel = draw(st.integers(1, 3))
    shape = [draw(st.integers(1, 3)), 2, draw(st.integers(5, 9)), draw(st.integers(5, 9))]
    stride = pick(draw, [[], [1, 1], [2, 2], [3, 2]])
    return [f(*shape[draw(st.integers(0, 1)) :]), [kernel, kernel], stride, [draw(st.integers(0, kernel // 2))] * 2]


def max_pool(draw: Draw) -> list[Any]:
    return [*pool(draw), [1, 1], draw(st.booleans())]


def max_pool_backward(draw: Draw) -> list[Any]:
    args = max_pool(draw)
    out, indices = torch.ops.aten.max_pool2d_with_indices.default(*args)
    return [torch.ones_like(out), *args, indices]


def avg_pool(draw: Draw) -> list[Any]:
    return [*pool(draw), draw(st.booleans()), draw(st.booleans()), pick(draw, [None, 3])]


def avg_pool_backward(draw: Draw) -> list[Any]:
    args = avg_pool(draw)
    return [torch.ones_like(torch.ops.aten.avg_pool2d.default(*args)), *args]


def nll(draw: Draw, rest: tuple[int, ...] = ()) -> list[Any]:
    n, classes = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    weight = pick(draw, [None, f(classes)])
    labels = torch.zeros(n, *rest, dtype=torch.int64)
    return [f(n, classes, *rest), labels, weight, draw(st.integers(0, 2)), pick(draw, [-100, 0])]


def nll_backward(draw: Draw, rest: tuple[int, ...] = ()) -> list[Any]:
    args = nll(draw, rest)
    forward = torch.ops.aten.nll_loss2d_forward if rest else torch.ops.aten.nll_loss_forward
    out, total = forward(*args)
    return [torch.ones_like(out), *args, total]


def loss(draw: Draw, *more: Any) -> list[Any]:
    n = draw(st.integers(1, 4))
    return [f(n, 3), f(n, 3), *more, draw(st.integers(0, 2))]


def loss_backward(draw: Draw, *more: Any) -> list[Any]:
    args = loss(draw, *more)
    shape = args[0].shape if args[-1] == 0 else ()
    return [f(*shape), *args]


def norm(draw: Draw, backward: bool) -> list[Any]:
    n, c = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    weight, bias = pick(draw, [(None, None), (f(c), f(c))])
    args = [f(n, 3, c), [c], weight, bias]
    if not backward:
        return [*args, 1e-5]
    _, mean, rstd = torch.ops.aten.native_layer_norm.default(*args, 1e-5)
    return [f(n, 3, c), *args[:2], mean, rstd, weight, bias, [True, weight is not None, bias is not None]]


def group(draw: Draw, backward: bool) -> list[Any]:
    n, g = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    x, sizes = f(n, 2 * g, 3, 2), [n, 2 * g, 6, g]
    if not backward:
        return [x, f(2 * g), f(2 * g), *sizes, 1e-5]
    _, mean, rstd = torch.ops.aten.native_group_norm.default(x, None, None, *sizes, 1e-5)
    return [x, x, mean, rstd, f(2 * g), *sizes, [True, True, True]]


def view(draw: Draw) -> list[Any]:
    n = draw(st.integers(1, 5))
    return [f(n, 6), pick(draw, [[n * 6], [-1], [n, 2, 3], [n, -1, 2], [6, n]])]


def cut(draw: Draw) -> list[Any]:
    n = draw(st.integers(2, 5))
    start, end, step = pick(draw, [(0, 1, 1), (1, -1, 1), (None, None, 1), (0, (1 << 63) - 1, 2), (-1, None, 1)])
    return [f(3, n), pick(draw, [1, -1]), start, end, step]


def cut_backward(draw: Draw) -> list[Any]:
    n = draw(st.integers(2, 5))
    return [f(3, n - 1), [3, n], 1, 1, (1 << 63) - 1, 1]


def unary(draw: Draw) -> list[Any]:
    n = draw(st.integers(1, 4))
    return [pick(draw, [f(n, 3), f(n).double(), f()])]


def any_unary(draw: Draw) -> list[Any]:
    return [pick(draw, [*unary(draw), torch.arange(1, 4), torch.ones(2, dtype=torch.bool)])]


def two(draw: Draw) -> list[Any]:
    values = like(draw(st.integers(1, 4)))
    return [pick(draw, values), pick(draw, values)]


def same_dtype(draw: Draw, count: int) -> list[Any]:
    shapes = [f(4, 3), f(1, 3), f(3), f(), f(4, 1)]
    values = [pick(draw, shapes) for _ in range(count)]
    return [v.double() for v in values] if draw(st.booleans()) else values


def number(draw: Draw) -> list[Any]:
    return [pick(draw, like(3)), pick(draw, [2, 0.5, 1])]


def gradient(draw: Draw, *more: Any) -> list[Any]:
    n = draw(st.integers(1, 4))
    return [f(n, 3), f(n, 3), *more]


def full(draw: Draw, *more: Any) -> Args:
    sizes = [draw(st.integers(0, 3)) for _ in range(draw(st.integers(0, 3)))]
    return [sizes, *more], pick(draw, [{}, {"dtype": torch.int64}, {"dtype": torch.float64}])


def full_like(draw: Draw, *more: Any) -> Args:
    return [*any_unary(draw), *more], pick(draw, [{}, {"dtype": torch.int32}])


def new(draw: Draw, *more: Any) -> Args:
    return [*any_unary(draw), [2, draw(st.integers(0, 3))], *more], {}


def summed(draw: Draw) -> Args:
    x = pick(draw, [f(2, 3, 4), torch.ones(2, 3, 4, dtype=torch.int64), torch.ones(2, 3, 4, dtype=torch.bool)])
    return [x, pick(draw, [[0], [-1], [0, 2], [], None]), draw(st.booleans())], {}


def heads(draw: Draw) -> tuple[list[Any], dict[str, Any]]:
    """Queries, keys and values of attention, with or without a mask."""
    b, h, length, keys, width = (draw(st.integers(1, 3)) for _ in range(5))
    q, k, v = (f(b, h, n, width) for n in (length, keys, keys))
    mask = pick(draw, [None, f(length, keys), f(b, 1, 1, keys), f(b, h, length, keys)])
    causal = mask is None and draw(st.booleans())
    return [q, k, v, 0.0, causal], {"attn_mask": mask, "scale": pick(draw, [None, 0.5])}


def heads_backward(draw: Draw) -> Args:
    (q, k, v, *rest), options = heads(draw)
    out, sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default(q, k, v, *rest, **options)
    return [f(*out.shape), q, k, v, out, sums, *rest], options


def norm_of_batch(draw: Draw, stats: bool = True) -> list[Any]:
    c = draw(st.integers(1, 4))
    x = pick(draw, [f(draw(st.integers(1, 4)), c), f(2, c, 3), f(1, c, 2, 2)])
    weight, bias = pick(draw, [(None, None), (f(c), f(c))])
    return [x, weight, bias, *([f(c), f(c)] if stats else [])]


def norm_of_batch_backward(draw: Draw) -> list[Any]:
    x, weight, _, mean, variance = norm_of_batch(draw)
    mask = [True, weight is not None, weight is not None]
    if draw(st.booleans()):
        return [torch.ones_like(x), x, weight, mean, variance, f(0), f(0), False, 1e-5, mask]
    return [torch.ones_like(x), x, weight, *pick(draw, [(None, None), (mean, variance)]), mean, mean, True, 1e-5, mask]


def places(draw: Draw, below: int, *shape: int) -> torch.Tensor:
    return torch.randint(0, below, shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 99))))


def gathered(draw: Draw) -> list[Any]:
    dim, n = draw(st.integers(-2, 1)), draw(st.integers(1, 3))
    return [f(3, 4), dim, places(draw, 3, *((n, 4) if dim in (0, -2) else (3, n)))]


def scattered(draw: Draw) -> list[Any]:
    x, dim, index = gathered(draw)
    return [x, dim, index, f(3, 4)]


def adaptive(draw: Draw) -> list[Any]:
    return [f(2, 3, 6, 7), [draw(st.integers(1, 4)), draw(st.integers(1, 4))]]


def adaptive_backward(draw: Draw) -> list[Any]:
    x, size = adaptive(draw)
    out, index = torch.ops.aten.adaptive_max_pool2d.default(x, size)
    return [torch.ones_like(out), x, index]


def scaled(draw: Draw) -> tuple[int, list[Any]]:
    k = draw(st.integers(1, 3))
    return k, pick(draw, [[None, None], [float(k), float(k)]])


def upsampled(draw: Draw) -> list[Any]:
    k, scales = scaled(draw)
    return [f(1, 2, 3, 4), [3 * k, 4 * k], *scales]


def upsampled_backward(draw: Draw) -> list[Any]:
    k, scales = scaled(draw)
    return [f(1, 2, 3 * k, 4 * k), [3 * k, 4 * k], [1, 2, 3, 4], *scales]


def spread(draw: Draw) -> Args:
    return [f(2, 3, 4), pick(draw, [None, [0], [1, 2]])], {
        "correction": pick(draw, [None, 0, 1]),
        "keepdim": draw(st.booleans()),
    }


def bits(draw: Draw) -> list[Any]:
    values = [torch.ones(3, dtype=torch.bool), torch.arange(3), torch.ones(2, 1, dtype=torch.uint8)]
    return [pick(draw, values), pick(draw, values)]


UNARY = "floor ceil round relu neg abs sign sgn clone gelu silu elu leaky_relu celu mish"
UNARY += " hardtanh hardsigmoid hardswish softplus"
ANY = "tanh sigmoid exp expm1 log log1p sqrt rsqrt reciprocal sin cos erf logical_not"
SCALAR = "add sub rsub mul eq ne lt le gt ge div"
TENSOR = "add sub mul div eq ne lt le gt ge xlogy"
BACKWARD = "tanh sigmoid gelu silu mish hardsigmoid hardswish"

CASES: dict[str, Callable[[Draw], Any]] = {
    **{f"aten.{n}.default": unary for n in UNARY.split()},
    **{f"aten.{n}.default": any_unary for n in ANY.split()},
    **{f"aten.{n}.Scalar": number for n in SCALAR.split()},
    **{f"aten.{n}.Tensor": two for n in TENSOR.split()},
    **{f"aten.{n}_backward.default": gradient for n in BACKWARD.split()},
    "aten.maximum.default": two,
    "aten.minimum.default": two,
    "aten.logical_and.default": two,
    "aten.logical_or.default": two,
    "aten.pow.Tensor_Scalar": number,
    "aten.pow.Tensor_Tensor": two,
    "aten.lerp.Scalar": lambda d: [*same_dtype(d, 2), pick(d, [0.1, 0.5, 0.9])],
    "aten.addcmul.default": lambda d: (same_dtype(d, 3), pick(d, [{}, {"value": 0.5}])),
    "aten.clamp.default": lambda d: [*unary(d), *pick(d, [(0, 1), (None, 0.5), (0.1, None)])],
    "aten.clamp_min.default": number,
    "aten.clamp_max.default": number,
    "aten.threshold_backward.default": lambda d: gradient(d, 0),
    "aten.elu_backward.default": lambda d: [f(2, 3), 1.0, 1, 1, d(st.booleans()), f(2, 3)],
    "aten.leaky_relu_backward.default": lambda d: gradient(d, 0.1, d(st.booleans())),
    "aten.hardtanh_backward.default": lambda d: gradient(d, -1, 1),
    "aten.softplus_backward.default": lambda d: gradient(d, 1, 20),
    "aten.log_sigmoid_forward.default": unary,
    "aten.log_sigmoid_backward.default": lambda d: [f(2, 3), f(2, 3), f(2, 3)],
    "aten._prelu_kernel.default": lambda d: [f(2, 3), f(1, 3)],
    "aten._prelu_kernel_backward.default": lambda d: [f(2, 3), f(2, 3), f(1, 3)],
    "aten.t.default": lambda d: [pick(d, [f(2, 3), f(4), f()])],
    "aten.view.default": view,
    "aten._unsafe_view.default": view,
    "aten.expand.default": lambda d: pick(d, [[f(1, 3), [4, 3]], [f(3), [2, -1]], [f(), [5]], [f(2, 1), [2, 0]]]),
    "aten.permute.default": lambda d: [f(2, 3, 4), pick(d, [[2, 0, 1], [0, -1, 1], [0, 1, 2]])],
    "aten.transpose.int": lambda d: [f(2, 3, 4), d(st.integers(-3, 2)), d(st.integers(-3, 2))],
    "aten.squeeze.dim": lambda d: [f(1, 3, 1), d(st.integers(-3, 2))],
    "aten.squeeze.dims": lambda d: [f(1, 3, 1), pick(d, [[0], [0, 2], [1], [-1]])],
    "aten.unsqueeze.default": lambda d: [f(2, 3), d(st.integers(-3, 2))],
    "aten.select.int": lambda d: [f(2, 3), pick(d, [1, -1]), d(st.integers(-3, 2))],
    "aten.slice.Tensor": cut,
    "aten.select_backward.default": lambda d: [f(3), [2, 3], 0, d(st.integers(-2, 1))],
    "aten.slice_backward.default": cut_backward,
    "aten.cat.default": lambda d: [[f(2, 3), f(2, d(st.integers(1, 3)))], pick(d, [1, -1])],
    "aten.constant_pad_nd.default": lambda d: [f(2, 3), pick(d, [[1, 2], [0, 1, 2, 0], [-1, 1]]), 0.5],
    "aten.mm.default": lambda d: [f(d(st.integers(1, 4)), 3), f(3, d(st.integers(1, 4)))],
    "aten.bmm.default": lambda d: [f(2, d(st.integers(1, 4)), 3), f(2, 3, 4)],
    "aten.addmm.default": lambda d: [pick(d, [f(4), f(1, 4), f(2, 4), f()]), f(2, 3), f(3, 4)],
    "aten.convolution.default": conv,
    "aten.convolution_backward.default": conv_backward,
    "aten.max_pool2d_with_indices.default": max_pool,
    "aten.max_pool2d_with_indices_backward.default": max_pool_backward,
    "aten.avg_pool2d.default": avg_pool,
    "aten.avg_pool2d_backward.default": avg_pool_backward,
    "aten._adaptive_avg_pool2d.default": lambda d: [f(2, 3, 6, 7), [d(st.integers(1, 4)), d(st.integers(1, 4))]],
    "aten._adaptive_avg_pool2d_backward.default": lambda d: [f(2, 3, d(st.integers(1, 4)), 2), f(2, 3, 6, 7)],
    "aten.native_layer_norm.default": lambda d: norm(d, backward=False),
    "aten.native_layer_norm_backward.default": lambda d: norm(d, backward=True),
    "aten.native_group_norm.default": lambda d: group(d, backward=False),
    "aten.native_group_norm_backward.default": lambda d: group(d, backward=True),
    "aten._softmax.default": lambda d: [f(2, 3), pick(d, [0, 1, -1]), False],
    "aten._log_softmax.default": lambda d: [f(2, 3), pick(d, [0, 1, -1]), False],
    "aten._softmax_backward_data.default": lambda d: gradient(d, 1, torch.float32),
    "aten._log_softmax_backward_data.default": lambda d: gradient(d, 1, torch.float32),
    "aten.nll_loss_forward.default": nll,
    "aten.nll_loss_backward.default": nll_backward,
    "aten.nll_loss2d_forward.default": lambda d: nll(d, (2, 3)),
    "aten.nll_loss2d_backward.default": lambda d: nll_backward(d, (2, 3)),
    "aten.mse_loss.default": loss,
    "aten.mse_loss_backward.default": loss_backward,
    "aten.smooth_l1_loss.default": loss,
    "aten.smooth_l1_loss_backward.default": lambda d: [*loss_backward(d), 1.0],
    "aten.huber_loss.default": loss,
    "aten.huber_loss_backward.default": lambda d: [*loss_backward(d), 1.0],
    "aten.binary_cross_entropy.default": lambda d: loss(d, pick(d, [None, f(3)])),
    "aten.binary_cross_entropy_backward.default": lambda d: loss_backward(d, None),
    "aten.binary_cross_entropy_with_logits.default": lambda d: loss(d, *pick(d, [(None, None), (f(3), f(3))])),
    "aten.where.self": lambda d: [torch.ones(3, dtype=torch.bool), *two(d)],
    "aten.masked_fill.Scalar": lambda d: [f(2, 3), torch.ones(3, dtype=torch.bool), 1.5],
    "aten.sum.default": any_unary,
    "aten.sum.dim_IntList": summed,
    "aten.mean.default": unary,
    "aten.mean.dim": lambda d: [f(2, 3, 4), pick(d, [[0], [-1, -2], None]), d(st.booleans())],
    "aten.full.default": lambda d: full(d, pick(d, [1, 0.5, True])),
    "aten.zeros.default": full,
    "aten.ones.default": full,
    "aten.full_like.default": lambda d: full_like(d, 2),
    "aten.zeros_like.default": full_like,
    "aten.ones_like.default": full_like,
    "aten.new_full.default": lambda d: new(d, 1),
    "aten.new_zeros.default": new,
    "aten.new_ones.default": new,
    "aten.scalar_tensor.default": lambda d: pick(d, [([1], {}), ([0.5], {"dtype": torch.float64})]),
    "aten.arange.default": lambda d: [pick(d, [0, 3, 2.5])],
    "aten._to_copy.default": lambda d: (any_unary(d), pick(d, [{"dtype": torch.float32}, {"dtype": torch.int64}, {}])),
    "aten.stack.default": lambda d: [[f(2, 3), pick(d, [f(2, 3), f(2, 3).double()])], d(st.integers(-3, 2))],
    "aten.repeat.default": lambda d: [f(2, 3), pick(d, [[1, 2], [3, 1, 1], [0, 1]])],
    "aten.flip.default": lambda d: [f(2, 3), pick(d, [[0], [-1], [0, 1], []])],
    "aten.roll.default": lambda d: [f(2, 3), *pick(d, [([1], [0]), ([2], []), ([1, -5], [0, 1])])],
    "aten.triu.default": lambda d: [f(2, 3, 4), d(st.integers(-2, 2))],
    "aten.tril.default": lambda d: [f(3, 4), d(st.integers(-2, 2))],
    "aten.bitwise_not.default": lambda d: bits(d)[:1],
    "aten.bitwise_and.Tensor": bits,
    "aten.bitwise_or.Tensor": bits,
    "aten.masked_fill.Tensor": lambda d: [f(2, 3), torch.ones(3, dtype=torch.bool), torch.tensor(1.5)],
    "aten.arange.start": lambda d: pick(d, [[0, 3], [1.5, 4], [2, 2]]),
    "aten.arange.start_step": lambda d: pick(d, [[0, 5, 2], [5, 0, -2], [0, 1, 0.25]]),
    "aten.baddbmm.default": lambda d: [pick(d, [f(2, 3, 5), f(5), f(2, 1, 5)]), f(2, 3, 4), f(2, 4, 5)],
    "aten._native_batch_norm_legit_functional.default": lambda d: [*norm_of_batch(d), True, 0.1, 1e-5],
    "aten._native_batch_norm_legit.no_stats": lambda d: [*norm_of_batch(d, stats=False), True, 0.1, 1e-5],
    "aten._native_batch_norm_legit_no_training.default": lambda d: [*norm_of_batch(d), 0.1, 1e-5],
    "aten.native_batch_norm_backward.default": norm_of_batch_backward,
    "aten._scaled_dot_product_flash_attention_for_cpu.default": heads,
    "aten._scaled_dot_product_flash_attention_for_cpu_backward.default": heads_backward,
    "aten._safe_softmax.default": lambda d: [f(2, 3), pick(d, [0, 1, -1])],
    "aten.glu.default": lambda d: [f(2, 4, 6), pick(d, [0, 1, -1])],
    "aten.glu_backward.default": lambda d: [f(2, 2, 6), f(2, 4, 6), pick(d, [1, -2])],
    "aten.upsample_nearest2d.default": upsampled,
    "aten.upsample_nearest2d_backward.default": upsampled_backward,
    "aten.pixel_shuffle.default": lambda d: [f(2, 8, 3, 1), d(st.integers(1, 2))],
    "aten.pixel_unshuffle.default": lambda d: [f(2, 4, 6, 4), d(st.integers(1, 2))],
    "aten.adaptive_max_pool2d.default": adaptive,
    "aten.adaptive_max_pool2d_backward.default": adaptive_backward,
    "aten.amax.default": lambda d: [f(2, 3, 4), pick(d, [[0], [1, -1], []]), d(st.booleans())],
    "aten.amin.default": lambda d: [f(2, 3, 4), pick(d, [[0], [1, -1], []]), d(st.booleans())],
    "aten.max.dim": lambda d: [f(2, 3), d(st.integers(-2, 1)), d(st.booleans())],
    "aten.min.dim": lambda d: [torch.arange(6).view(2, 3), d(st.integers(-2, 1)), d(st.booleans())],
    "aten.argmax.default": lambda d: [f(2, 3), pick(d, [None, 0, -1]), d(st.booleans())],
    "aten.argmin.default": lambda d: [f(2, 3), pick(d, [None, 0, -1]), d(st.booleans())],
    "aten.median.default": lambda d: [pick(d, [f(2, 3), f(5), f(), torch.arange(6)])],
    "aten.median.dim": lambda d: [pick(d, [f(2, 3), f(4, 5)]), d(st.integers(-2, 1)), d(st.booleans())],
    "aten.sort.default": lambda d: [pick(d, [f(2, 3), f(4, 0)]), d(st.integers(-2, 1)), d(st.booleans())],
    "aten.topk.default": lambda d: [f(4, 5), d(st.integers(0, 4)), pick(d, [0, -1]), d(st.booleans())],
    "aten.var.correction": spread,
    "aten.std.correction": spread,
    "aten.logsumexp.default": lambda d: [f(2, 3, 4), pick(d, [[0], [1, -1]]), d(st.booleans())],
    "aten.linalg_vector_norm.default": lambda d: [f(2, 3, 4), pick(d, [1, 2, 3.5]), pick(d, [None, [0], [1, 2]])],
    "aten.cumsum.default": lambda d: [pick(d, [f(2, 3), torch.ones(2, 3, dtype=torch.int32)]), pick(d, [0, -1])],
    "aten.embedding.default": lambda d: [f(5, 3), places(d, 5, *pick(d, [(4,), (2, 3), ()])), pick(d, [-1, 2])],
    "aten.embedding_dense_backward.default": lambda d: [f(2, 4, 3), places(d, 5, 2, 4), 5, pick(d, [-1, 2]), False],
    "aten.gather.default": gathered,
    "aten.scatter.src": scattered,
    "aten.scatter_add.default": scattered,
    "aten.index_select.default": lambda d: [f(3, 4), pick(d, [0, -1]), places(d, 3, d(st.integers(0, 5)))],
    "aten.index_add.default": lambda d: [f(3, 4), pick(d, [0, -2]), places(d, 3, 2), f(2, 4)],
    "aten.sym_size.int": lambda d: [f(2, 3), d(st.integers(-2, 1))],
}
