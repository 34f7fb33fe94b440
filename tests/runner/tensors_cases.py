"""Arguments for every function that a session of remote tensors may call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

Call = tuple[list[Any], dict[str, Any]]


def x(*shape: int, low: float = -2.0, high: float = 2.0) -> torch.Tensor:
    """A leaf, with the same numbers each time."""
    generator = torch.Generator().manual_seed(sum(shape) + len(shape))
    return torch.empty(shape).uniform_(low, high, generator=generator).requires_grad_()


def unit(*shape: int) -> torch.Tensor:
    return x(*shape, low=0.05, high=0.95)


def whole(*shape: int, high: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randint(0, high, shape, generator=generator)


def mask(*shape: int) -> torch.Tensor:
    return whole(*shape, high=2).bool()


def spd(size: int = 3) -> torch.Tensor:
    root = x(size, size).detach()
    return (root @ root.T + torch.eye(size)).requires_grad_()


def call(*args: Any, **kwargs: Any) -> Call:
    return list(args), kwargs


def _lstm(gates: int, states: int) -> Call:
    weights = [x(gates * 5, 4), x(gates * 5, 5), x(gates * 5), x(gates * 5)]
    hidden: Any = (x(1, 2, 5), x(1, 2, 5)) if states == 2 else x(1, 2, 5)
    return call(x(3, 2, 4), hidden, weights, True, 1, 0.0, False, False, False)


def _cell(gates: int, states: int) -> Call:
    hidden: Any = (x(2, 5), x(2, 5)) if states == 2 else x(2, 5)
    return call(x(2, 4), hidden, x(gates * 5, 4), x(gates * 5, 5), x(gates * 5), x(gates * 5))


_UNARY = """
    abs absolute asinh atan arctan arcsinh ceil cos cosh deg2rad erf erfc exp exp2 expm1 fix floor frac i0 neg negative
    nan_to_num rad2deg relu round sigmoid sign sin sinc sinh square tan tanh trunc positive signbit isfinite isinf isnan
    isneginf isposinf all any amax amin aminmax argmax argmin argsort argwhere nonzero count_nonzero flatten ravel max
    min mean median nanmean nanmedian nansum prod std var std_mean var_mean sum sort msort detach clone norm
    unique unique_consecutive t T mT data bfloat16 bool char double float half int long short
    contiguous __abs__ __neg__ __pos__ cov corrcoef fliplr flipud diff elu selu celu relu6 silu mish gelu hardsigmoid
    hardswish hardtanh softplus softsign tanhshrink logsigmoid leaky_relu hardshrink softshrink hardtanh_ expit entr
    erfcx i0e i1 i1e log_ndtr ndtr psi glu normalize pdist svd qr svdvals pinv rrelu zeros_like ones_like rand_like
    randn_like __reversed__ log_normal_ normal_ uniform_ zero_ random_ exponential_ cauchy_ detach_ trace
    diag diagonal diagflat diag_embed tril triu bernoulli_ dropout alpha_dropout atleast_1d atleast_2d atleast_3d
    gumbel_softmax kaiming_uniform_ requires_grad_
"""
_UNIT = """
    acos arccos asin arcsin atanh arctanh log log10 log1p log2 logit rsqrt sqrt reciprocal erfinv digamma lgamma
    bernoulli poisson gammaln ndtri byte
"""
_BINARY = """
    add sub subtract mul multiply div divide true_divide atan2 arctan2 copysign eq ge greater greater_equal gt heaviside
    hypot le less less_equal logical_and logical_or logical_xor lt ne not_equal nextafter fmax fmin maximum minimum
    logaddexp logaddexp2 isclose dist rsub floor_divide fmod remainder __radd__ __rsub__ __rmul__ __rtruediv__
    __rfloordiv__ __rmod__ ldexp xlogy xlog1py cosine_similarity pairwise_distance mse_loss l1_loss smooth_l1_loss
    huber_loss copy_ expand_as view_as reshape_as type_as kl_div poisson_nll_loss __rdiv__
    broadcast_tensors block_diag
"""
_BITS = "bitwise_and bitwise_or bitwise_xor bitwise_left_shift bitwise_right_shift"

SPECIFIC: dict[str, Callable[[], list[Call]]] = {
    "acosh": lambda: [call(x(5, low=1.1, high=3.0))],
    "addcdiv": lambda: [call(x(3, 4), x(3, 4), unit(3, 4), value=0.5)],
    "addcmul": lambda: [call(x(3, 4), x(3, 4), unit(4), value=0.5)],
    "bitwise_not": lambda: [call(whole(4)), call(mask(4))],
    "clamp": lambda: [call(x(3, 4), -0.5, 0.5), call(x(3, 4), x(3, 4), max=unit(4))],
    "clamp_max": lambda: [call(x(3, 4), 0.5)],
    "clamp_min": lambda: [call(x(3, 4), 0.5), call(x(3, 4), unit(4))],
    "float_power": lambda: [call(unit(3), 2.5)],
    "lerp": lambda: [call(x(3), x(3), 0.3), call(x(3), x(3), unit(3))],
    "logical_not": lambda: [call(mask(4))],
    "masked_fill": lambda: [call(x(3, 4), mask(3, 4), -1.5), call(x(3, 4), mask(4), float("-inf"))],
    "pow": lambda: [call(unit(3, 4), 3), call(unit(3, 4), x(3, 4)), call(x(3), 2)],
    "addbmm": lambda: [call(x(3, 5), x(2, 3, 4), x(2, 4, 5))],
    "addmm": lambda: [call(x(3, 5), x(3, 4), x(4, 5), beta=0.5, alpha=2)],
    "addmv": lambda: [call(x(3), x(3, 4), x(4))],
    "addr": lambda: [call(x(3, 4), x(3), x(4))],
    "baddbmm": lambda: [call(x(2, 3, 5), x(2, 3, 4), x(2, 4, 5))],
    "cumprod": lambda: [call(x(3, 4), 1)],
    "cumsum": lambda: [call(x(3, 4), 0)],
    "fill_diagonal": lambda: [call(x(3, 3), 2.0)],
    "index_add": lambda: [call(x(3, 4), 0, whole(2), x(2, 4), alpha=2)],
    "index_copy": lambda: [call(x(3, 4), 1, torch.tensor([2, 0]), x(3, 2))],
    "index_fill": lambda: [call(x(3, 4), 1, torch.tensor([2, 0]), 3.0)],
    "index_put": lambda: [call(x(3, 4), (torch.tensor([0, 2]), torch.tensor([1, 3])), x(2))],
    "masked_scatter": lambda: [call(x(3, 4), mask(3, 4), x(12))],
    "renorm": lambda: [call(x(3, 4), 2, 0, 1.0)],
    "scatter": lambda: [call(x(3, 4), 1, whole(3, 2), x(3, 2)), call(x(3, 4), 1, whole(3, 1), 2.0)],
    "scatter_add": lambda: [call(x(3, 4), 1, whole(3, 2), x(3, 2))],
    "scatter_reduce": lambda: [call(x(3, 4), 1, whole(3, 2), x(3, 2), reduce="amax")],
    "squeeze": lambda: [call(x(3, 1, 4)), call(x(3, 1, 4), 1)],
    "swapaxes": lambda: [call(x(3, 4), 0, 1)],
    "swapdims": lambda: [call(x(3, 4), 0, 1)],
    "transpose": lambda: [call(x(2, 3, 4), 1, 2)],
    "unsqueeze": lambda: [call(x(3, 4), 1)],
    "bmm": lambda: [call(x(2, 3, 4), x(2, 4, 5))],
    "broadcast_to": lambda: [call(x(3, 1), (3, 4))],
    "bucketize": lambda: [call(x(5), torch.tensor([-1.0, 0.0, 1.0]))],
    "searchsorted": lambda: [call(torch.tensor([-1.0, 0.0, 1.0]), x(5))],
    "chunk": lambda: [call(x(5, 3), 2)],
    "cross": lambda: [call(x(4, 3), x(4, 3), dim=1)],
    "cummax": lambda: [call(x(3, 4), 1)],
    "cummin": lambda: [call(x(3, 4), 1)],
    "cumulative_trapezoid": lambda: [call(x(3, 4))],
    "diagonal_scatter": lambda: [call(x(3, 3), x(3))],
    "dot": lambda: [call(x(4), x(4))],
    "vdot": lambda: [call(x(4), x(4))],
    "vecdot": lambda: [call(x(3, 4), x(3, 4))],
    "inner": lambda: [call(x(3, 4), x(2, 4))],
    "outer": lambda: [call(x(3), x(4))],
    "ger": lambda: [call(x(3), x(4))],
    "dsplit": lambda: [call(x(2, 3, 4), 2)],
    "hsplit": lambda: [call(x(2, 4), 2)],
    "vsplit": lambda: [call(x(4, 2), 2)],
    "flip": lambda: [call(x(3, 4), [0, 1])],
    "gather": lambda: [call(x(3, 4), 1, whole(3, 2))],
    "index_select": lambda: [call(x(3, 4), 1, torch.tensor([3, 0, 3]))],
    "isin": lambda: [call(whole(5), whole(3))],
    "kron": lambda: [call(x(2, 2), x(2, 3))],
    "kthvalue": lambda: [call(x(3, 4), 2)],
    "log_softmax": lambda: [call(x(3, 4), 1)],
    "softmax": lambda: [call(x(3, 4), 1), call(x(3, 4), dim=-1)],
    "softmin": lambda: [call(x(3, 4), 1)],
    "logcumsumexp": lambda: [call(x(3, 4), 1)],
    "logsumexp": lambda: [call(x(3, 4), (0, 1))],
    "masked_select": lambda: [call(x(3, 4), mask(3, 4)), call(x(3, 1), mask(4))],
    "matmul": lambda: [
        call(x(3, 4), x(4, 5)),
        call(x(2, 3, 4), x(4)),
        call(x(4), x(4)),
        call(x(2, 1, 3, 4), x(5, 4, 2)),
    ],
    "mm": lambda: [call(x(3, 4), x(4, 5))],
    "mv": lambda: [call(x(3, 4), x(4))],
    "soft_margin_loss": lambda: [call(x(4), torch.tensor([1.0, -1.0, 1.0, 1.0]))],
    "spmm": lambda: [call(x(3, 4), x(4, 5))],
    "matrix_exp": lambda: [call(x(3, 3))],
    "matrix_power": lambda: [call(x(3, 3), 3)],
    "moveaxis": lambda: [call(x(2, 3, 4), 0, 2)],
    "movedim": lambda: [call(x(2, 3, 4), (0, 1), (2, 0))],
    "multinomial": lambda: [call(unit(3, 4), 2), call(unit(4), 9, True)],
    "narrow": lambda: [call(x(3, 4), 1, 1, 2)],
    "permute": lambda: [call(x(2, 3, 4), (2, 0, 1))],
    "prelu": lambda: [call(x(2, 3, 4), unit(3))],
    "quantile": lambda: [call(x(3, 4), 0.3, 1)],
    "nanquantile": lambda: [call(x(3, 4), 0.3, 1)],
    "repeat_interleave": lambda: [call(x(3, 4), 2, 1), call(x(3), torch.tensor([1, 2, 3]), output_size=6)],
    "reshape": lambda: [call(x(3, 4), (2, 6)), call(x(3, 4), (-1,))],
    "roll": lambda: [call(x(3, 4), 1, 1)],
    "rot90": lambda: [call(x(3, 4), 1, [0, 1])],
    "select": lambda: [call(x(3, 4), 1, 2)],
    "select_scatter": lambda: [call(x(3, 4), x(3), 1, 2)],
    "slice_scatter": lambda: [call(x(3, 4), x(3, 2), 1, 1, 3)],
    "split": lambda: [call(x(5, 3), 2), call(x(5, 3), [1, 4])],
    "split_with_sizes": lambda: [call(x(5, 3), [1, 4])],
    "tensor_split": lambda: [call(x(5, 3), 2)],
    "take": lambda: [call(x(3, 4), torch.tensor([0, 11, 5]))],
    "take_along_dim": lambda: [call(x(3, 4), whole(3, 2), 1)],
    "tile": lambda: [call(x(3, 1), (2, 2))],
    "topk": lambda: [call(x(3, 4), 2)],
    "unbind": lambda: [call(x(3, 4), 1)],
    "unflatten": lambda: [call(x(3, 4), 1, (2, 2))],
    "where": lambda: [call(mask(3, 4), x(3, 4), x(4)), call(mask(3, 4))],
    "bincount": lambda: [call(whole(9), minlength=5), call(whole(9), unit(9))],
    "fill": lambda: [call(x(3, 4), 2.5)],
    "new_full": lambda: [call(x(3), (2, 2), 1.5)],
    "new_ones": lambda: [call(x(3), (2, 2))],
    "new_zeros": lambda: [call(x(3), (2, 2), dtype=torch.int64)],
    "repeat": lambda: [call(x(3, 4), 2, 1)],
    "expand": lambda: [call(x(3, 1), -1, 4)],
    "sum_to_size": lambda: [call(x(3, 4), 1, 4)],
    "to": lambda: [
        call(x(3), torch.float64),
        call(x(3), "cpu"),
        call(x(3), "cpu", torch.float64),
        call(x(3), x(3).double()),
        call(x(2, 3, 4, 5), memory_format=torch.channels_last),
    ],
    "view": lambda: [call(x(3, 4), 2, 6), call(whole(4).int(), torch.float32)],
    "geometric": lambda: [call(x(3, 4), 0.5)],
    "bernoulli_": lambda: [call(x(3, 4), 0.5)],
    "adaptive_avg_pool1d": lambda: [call(x(2, 3, 8), 3)],
    "adaptive_avg_pool2d": lambda: [call(x(2, 3, 8, 7), (3, 2))],
    "adaptive_avg_pool3d": lambda: [call(x(2, 3, 4, 5, 6), 2)],
    "adaptive_max_pool1d": lambda: [call(x(2, 3, 8), 3)],
    "adaptive_max_pool2d": lambda: [call(x(2, 3, 8, 7), (3, 2))],
    "adaptive_max_pool3d": lambda: [call(x(2, 3, 4, 5, 6), 2)],
    "adaptive_max_pool1d_with_indices": lambda: [call(x(2, 3, 8), 3)],
    "adaptive_max_pool2d_with_indices": lambda: [call(x(2, 3, 8, 7), (3, 2))],
    "adaptive_max_pool3d_with_indices": lambda: [call(x(2, 3, 4, 5, 6), 2)],
    "affine_grid": lambda: [call(x(2, 2, 3), [2, 3, 4, 5])],
    "avg_pool1d": lambda: [call(x(2, 3, 8), 2)],
    "avg_pool2d": lambda: [call(x(2, 3, 8, 7), 2, stride=1, padding=1)],
    "avg_pool3d": lambda: [call(x(2, 3, 4, 5, 6), 2)],
    "bilinear": lambda: [call(x(2, 3), x(2, 4), x(5, 3, 4), x(5))],
    "binary_cross_entropy": lambda: [call(unit(3, 4), unit(3, 4).detach(), reduction="sum")],
    "binary_cross_entropy_with_logits": lambda: [call(x(3, 4), unit(3, 4))],
    "cat": lambda: [call([x(2, 3), x(4, 3)]), call((x(2, 3), x(2, 1)), dim=1)],
    "concat": lambda: [call([x(2, 3), x(4, 3)])],
    "concatenate": lambda: [call([x(2, 3), x(4, 3)])],
    "stack": lambda: [call([x(2, 3), x(2, 3)], 1)],
    "column_stack": lambda: [call([x(2), x(2, 3)])],
    "row_stack": lambda: [call([x(2, 3), x(2, 3)])],
    "dstack": lambda: [call([x(2, 3), x(2, 3)])],
    "hstack": lambda: [call([x(2, 3), x(2, 3)])],
    "vstack": lambda: [call([x(2, 3), x(2, 3)])],
    "cartesian_prod": lambda: [call(x(2), x(3))],
    "cdist": lambda: [call(x(3, 4), x(5, 4)), call(x(3, 4), x(5, 4), p=1.0)],
    "chain_matmul": lambda: [call(x(3, 4), x(4, 5), x(5, 2))],
    "multi_dot": lambda: [call([x(3, 4), x(4, 5), x(5, 2)])],
    "channel_shuffle": lambda: [call(x(2, 4, 3, 3), 2)],
    "combinations": lambda: [call(x(4), 2)],
    "constant_pad_nd": lambda: [call(x(3, 4), (1, 2), 0.5)],
    "pad": lambda: [
        call(x(3, 4), (1, 2), value=0.5),
        call(x(2, 3, 4), (1, 2), mode="reflect"),
        call(x(2, 3, 4), (1, 1), "circular"),
    ],
    "conv1d": lambda: [call(x(2, 3, 8), x(4, 3, 3), x(4), padding="same")],
    "conv2d": lambda: [call(x(2, 4, 8, 7), x(6, 2, 3, 3), x(6), 2, 1, 1, 2), call(x(2, 3, 8, 7), x(4, 3, 3, 3))],
    "conv3d": lambda: [call(x(2, 3, 4, 5, 6), x(4, 3, 2, 2, 2), x(4))],
    "conv_transpose1d": lambda: [call(x(2, 3, 8), x(3, 4, 3), x(4), stride=2)],
    "conv_transpose2d": lambda: [call(x(2, 3, 5, 4), x(3, 4, 3, 3), x(4), stride=2, output_padding=1)],
    "conv_transpose3d": lambda: [call(x(2, 3, 4, 3, 2), x(3, 4, 2, 2, 2), x(4))],
    "cosine_embedding_loss": lambda: [call(x(3, 4), x(3, 4), torch.tensor([1.0, -1.0, 1.0]), margin=0.1)],
    "cross_entropy": lambda: [
        call(x(5, 3), whole(5)),
        call(x(5, 3), whole(5), weight=unit(3).detach(), label_smoothing=0.1, reduction="sum"),
        call(x(5, 3), unit(5, 3)),
    ],
    "dropout1d": lambda: [call(x(2, 3, 4), 0.5)],
    "dropout2d": lambda: [call(x(2, 3, 4, 4), 0.5)],
    "dropout3d": lambda: [call(x(2, 3, 4, 4, 4), 0.5)],
    "feature_alpha_dropout": lambda: [call(x(2, 3, 4), 0.5, True)],
    "feature_dropout": lambda: [call(x(2, 3, 4), 0.5, True)],
    "einsum": lambda: [
        call("bij,bjk->bik", x(2, 3, 4), x(2, 4, 5)),
        call("ii->i", x(3, 3)),
        call("i,j,k", x(2), x(3), x(4)),
    ],
    "fold": lambda: [call(x(1, 12, 12), (4, 5), (2, 2))],
    "full_like": lambda: [call(x(3), 2.5)],
    "randint_like": lambda: [call(x(3, 4), 9)],
    "gaussian_nll_loss": lambda: [call(x(3, 4), x(3, 4), unit(3, 4), full=True)],
    "grid_sample": lambda: [call(x(2, 3, 4, 5), x(2, 3, 3, 2), align_corners=False)],
    "group_norm": lambda: [call(x(2, 6, 4), 3, unit(6), x(6))],
    "gru": lambda: [_lstm(3, 1)],
    "gru_cell": lambda: [_cell(3, 1)],
    "lstm": lambda: [_lstm(4, 2)],
    "lstm_cell": lambda: [_cell(4, 2)],
    "rnn_relu": lambda: [_lstm(1, 1)],
    "rnn_tanh": lambda: [_lstm(1, 1)],
    "rnn_relu_cell": lambda: [_cell(1, 1)],
    "rnn_tanh_cell": lambda: [_cell(1, 1)],
    "hinge_embedding_loss": lambda: [call(x(3, 4), torch.ones(3, 4))],
    "interpolate": lambda: [
        call(x(2, 3, 4, 5), scale_factor=2.0, mode="nearest"),
        call(x(2, 3, 4, 5), size=(7, 3), mode="bilinear", align_corners=True),
    ],
    "upsample": lambda: [call(x(2, 3, 4, 5), scale_factor=2)],
    "layer_norm": lambda: [call(x(2, 3, 4), (4,), unit(4), x(4)), call(x(2, 3, 4), (3, 4))],
    "native_layer_norm": lambda: [call(x(2, 3, 4), (4,), unit(4), x(4), 1e-5)],
    "rms_norm": lambda: [call(x(2, 3, 4), (4,), unit(4))],
    "linear": lambda: [call(x(2, 3, 4), x(5, 4), x(5)), call(x(4), x(5, 4))],
    "linear_cross_entropy": lambda: [call(x(5, 4), x(3, 4), whole(5))],
    "local_response_norm": lambda: [call(x(2, 5, 4, 4), 3)],
    "lp_pool1d": lambda: [call(unit(2, 3, 8), 2.0, 2)],
    "lp_pool2d": lambda: [call(unit(2, 3, 8, 7), 2.0, 2)],
    "lp_pool3d": lambda: [call(unit(2, 3, 4, 5, 6), 2.0, 2)],
    "margin_ranking_loss": lambda: [call(x(4), x(4), torch.tensor([1.0, -1.0, 1.0, 1.0]))],
    "max_pool1d": lambda: [call(x(2, 3, 8), 2)],
    "max_pool1d_with_indices": lambda: [call(x(2, 3, 8), 2)],
    "max_pool2d": lambda: [call(x(2, 3, 8, 7), 2), call(x(2, 3, 8, 7), 3, 1, 1)],
    "max_pool2d_with_indices": lambda: [call(x(2, 3, 8, 7), 2)],
    "max_pool3d": lambda: [call(x(2, 3, 4, 5, 6), 2)],
    "max_pool3d_with_indices": lambda: [call(x(2, 3, 4, 5, 6), 2)],
    "meshgrid": lambda: [call(x(2), x(3), indexing="ij")],
    "multi_head_attention_forward": lambda: [
        call(
            *(x(5, 2, 8), x(6, 2, 8), x(6, 2, 8), 8, 2, x(24, 8), x(24), None, None, False, 0.0, x(8, 8), x(8)),
            need_weights=weights,
        )
        for weights in (True, False)
    ],
    "multi_margin_loss": lambda: [call(x(5, 3), whole(5))],
    "multilabel_margin_loss": lambda: [call(x(2, 4), torch.tensor([[3, 0, -1, 1], [1, -1, 0, 0]]))],
    "multilabel_soft_margin_loss": lambda: [call(x(3, 4), unit(3, 4).detach())],
    "nll_loss": lambda: [call(x(5, 3), whole(5)), call(x(2, 3, 4, 4), whole(2, 4, 4), ignore_index=1)],
    "one_hot": lambda: [call(whole(5), 4)],
    "pixel_shuffle": lambda: [call(x(2, 4, 3, 3), 2)],
    "pixel_unshuffle": lambda: [call(x(2, 1, 4, 4), 2)],
    "scaled_dot_product_attention": lambda: [
        call(x(2, 2, 5, 4), x(2, 2, 6, 4), x(2, 2, 6, 4)),
        call(x(2, 2, 5, 4), x(2, 2, 5, 4), x(2, 2, 5, 4), is_causal=True),
        call(x(2, 2, 5, 4), x(2, 2, 6, 4), x(2, 2, 6, 4), attn_mask=mask(5, 6).logical_or(torch.eye(5, 6).bool())),
        call(x(2, 2, 5, 4), x(2, 2, 6, 4), x(2, 2, 6, 4), dropout_p=0.5),
    ],
    "tensordot": lambda: [call(x(2, 3, 4), x(4, 3, 5), ([1, 2], [1, 0])), call(x(2, 3), x(3, 4), 1)],
    "threshold": lambda: [call(x(3, 4), 0.1, 2.0)],
    "trapezoid": lambda: [call(x(3, 4))],
    "trapz": lambda: [call(x(3, 4))],
    "triplet_margin_loss": lambda: [call(x(3, 4), x(3, 4).detach() + 1, x(3, 4).detach() * 2)],
    "arange": lambda: [call(2, 9, 3), call(4, dtype=torch.float32)],
    "eye": lambda: [call(3)],
    "full": lambda: [call((2, 3), 1.5), call([2], 7)],
    "linspace": lambda: [call(0, 1, 5)],
    "logspace": lambda: [call(0, 1, 5)],
    "ones": lambda: [call(2, 3), call((2,), dtype=torch.bool)],
    "zeros": lambda: [call(2, 3, requires_grad=True)],
    "rand": lambda: [call(2, 3)],
    "randn": lambda: [call(2, 3), call((4,), dtype=torch.float64)],
    "randint": lambda: [call(0, 9, (3,)), call(9, (3,))],
    "randperm": lambda: [call(7)],
    "tril_indices": lambda: [call(3, 4)],
    "triu_indices": lambda: [call(3, 4, 1)],
    "cholesky": lambda: [call(spd())],
    "det": lambda: [call(spd())],
    "eigh": lambda: [call(spd())],
    "eigvalsh": lambda: [call(spd())],
    "inv": lambda: [call(spd())],
    "slogdet": lambda: [call(spd())],
    "solve": lambda: [call(spd(), x(3, 2))],
    "solve_triangular": lambda: [call(spd().detach().tril().requires_grad_(), x(3, 2), upper=False)],
    "matrix_norm": lambda: [call(x(3, 4))],
    "vector_norm": lambda: [call(x(3, 4), 3)],
    "constant_": lambda: [call(x(3, 4), 2.0)],
    "__and__": lambda: [call(whole(4), whole(4)), call(mask(4), True)],
    "__or__": lambda: [call(whole(4), whole(4))],
    "__xor__": lambda: [call(whole(4), whole(4))],
    "__invert__": lambda: [call(mask(4))],
    "__lshift__": lambda: [call(whole(4), 2)],
    "__rshift__": lambda: [call(whole(4), 1)],
    "__rand__": lambda: [call(whole(4), 3)],
    "__ror__": lambda: [call(whole(4), 3)],
    "__rxor__": lambda: [call(whole(4), 3)],
    "__rlshift__": lambda: [call(whole(4), 3)],
    "__rrshift__": lambda: [call(whole(4), 30)],
    "__rpow__": lambda: [call(x(4), 2.0)],
    "__rmatmul__": lambda: [call(x(4, 3), x(2, 4))],
    "__getitem__": lambda: [
        call(x(4, 5), 1),
        call(x(4, 5), (slice(1, None, 2), 2)),
        call(x(4, 5), (..., None, slice(None, -1))),
        call(x(4, 5), torch.tensor([0, 3, 3])),
        call(x(4, 5), (slice(None), torch.tensor([[0, 1], [4, 2]]))),
        call(x(4, 5), (torch.tensor([0, 3]), torch.tensor([1, 4]))),
        call(x(4, 5), mask(4, 5)),
        call(x(4, 5), (mask(4), slice(0, 2))),
        call(x(4, 5), [0, 2]),
        call(x(4, 5), torch.tensor(2)),
        call(x(4, 5), (torch.tensor(2), slice(1, 3))),
        call(x(4, 5), True),
    ],
    "__setitem__": lambda: [
        call(x(4, 5), 1, 2.0),
        call(x(4, 5), (slice(None), 1), x(4)),
        call(x(4, 5), mask(4, 5), 0.5),
        call(x(4, 5), mask(4, 5), x(int(mask(4, 5).sum()))),
        call(x(4, 5), torch.tensor([0, 3]), x(2, 5)),
    ],
}
_OF_SPACE: dict[str, Callable[[], list[Call]]] = {
    "torch.Tensor.where": lambda: [call(x(3, 4), mask(4), x(3, 1))],
    "torch.Tensor.float_power_": lambda: [call(x(3, 4).detach().double(), 2.0)],
    "torch.batch_norm": lambda: [
        call(x(4, 3, 5), unit(3), x(3), x(3).detach(), unit(3).detach(), training, 0.1, 1e-5, False)
        for training in (True, False)
    ],
    "torch.nn.functional.batch_norm": lambda: [
        call(x(4, 3, 5), x(3).detach(), unit(3).detach(), unit(3), x(3), training=training)
        for training in (True, False)
    ],
    "torch.instance_norm": lambda: [call(x(2, 3, 5), unit(3), x(3), None, None, True, 0.1, 1e-5, False)],
    "torch.nn.functional.instance_norm": lambda: [call(x(2, 3, 5), weight=unit(3), bias=x(3))],
    "torch.embedding": lambda: [call(x(5, 3), whole(2, 4, high=5), 0)],
    "torch.nn.functional.embedding": lambda: [call(whole(2, 4, high=5), x(5, 3), padding_idx=0)],
    "torch.Tensor.unfold": lambda: [call(x(3, 7), 1, 3, 2)],
    "torch.nn.functional.unfold": lambda: [call(x(1, 3, 4, 5), (2, 2))],
    "torch.dropout": lambda: [call(x(3, 4), 0.4, True), call(x(3, 4), 0.4, False)],
    "torch.alpha_dropout": lambda: [call(x(3, 4), 0.4, True)],
    "torch.nn.functional.dropout": lambda: [call(x(3, 4), 0.4), call(x(3, 4), 0.4, training=False)],
    "torch.nn.functional.rrelu": lambda: [call(x(3, 4), training=True), call(x(3, 4))],
    "torch.nn.functional.glu": lambda: [call(x(3, 4))],
    "torch.kl_div": lambda: [call(x(3, 4), unit(3, 4), 2)],
    "torch.nn.functional.kl_div": lambda: [call(x(3, 4), unit(3, 4), reduction="batchmean", log_target=True)],
    "torch.poisson_nll_loss": lambda: [call(x(3, 4), unit(3, 4), True, True, 1e-8, 1)],
    "torch.Tensor.sum": lambda: [
        call(x(3, 4)),
        call(x(3, 4), 1, keepdim=True),
        call(mask(3, 4)),
        call(x(2, 3, 4), (0, 2)),
    ],
    "torch.Tensor.mean": lambda: [call(x(3, 4)), call(x(3, 4), -1)],
    "torch.Tensor.max": lambda: [call(x(3, 4)), call(x(3, 4), 1), call(x(3, 4), unit(3, 4))],
    "torch.unique": lambda: [call(whole(9)), call(whole(9), return_inverse=True, return_counts=True)],
    "torch.Tensor.std": lambda: [call(x(3, 4), 1), call(x(3, 4), dim=0, correction=0)],
    "torch.linalg.svd": lambda: [call(x(4, 3), full_matrices=False)],
    "torch.linalg.diagonal": lambda: [call(x(3, 4))],
    "torch.linalg.norm": lambda: [call(x(3, 4)), call(x(4), 1)],
    "torch.linalg.cross": lambda: [call(x(4, 3), x(4, 3))],
    "torch.linalg.pinv": lambda: [call(x(4, 3))],
    "torch.special.softmax": lambda: [call(x(3, 4), 1)],
    "torch.nn.init.normal_": lambda: [call(x(3, 4), 0.5, 2.0)],
    "torch.nn.init.kaiming_uniform_": lambda: [call(x(3, 4), a=2.2)],
    "torch.Tensor.diagonal": lambda: [call(x(3, 4)), call(x(2, 3, 4), 1, 0, 2)],
}


def calls_of(name: str) -> list[Call]:
    """Calls of that function, made of fresh leaves; none where nobody thought of any."""
    if name in _OF_SPACE:
        return _OF_SPACE[name]()
    short = name.removesuffix(".__get__").rpartition(".")[2]
    return next((found for found in map(_calls, _spellings(short)) if found), [])


def _spellings(short: str) -> Iterator[str]:
    yield short
    bare = short.strip("_")
    yield from (bare, bare.removeprefix("i"), f"__{bare.removeprefix('i')}__")
    yield from {"arccosh": "acosh", "clip": "clamp"}.get(bare, "").split()
    yield from {"floordiv": "floor_divide", "truediv": "div", "mod": "remainder"}.get(
        bare.removeprefix("i"), ""
    ).split()


def _calls(short: str) -> list[Call]:
    if short in SPECIFIC:
        return SPECIFIC[short]()
    if short in _UNARY.split():
        return [call(x(3, 4))]
    if short in _UNIT.split():
        return [call(unit(3, 4))]
    if short in _BINARY.split():
        return [call(x(3, 4), unit(3, 4)), call(x(3, 4), unit(4))][: 1 if short in _ALIKE.split() else 2]
    if short in _BITS.split():
        return [call(whole(4), whole(4)), call(whole(3, 4), 2)]
    return []


_ALIKE = """
    cosine_similarity pairwise_distance mse_loss l1_loss smooth_l1_loss huber_loss view_as reshape_as kl_div
    poisson_nll_loss expand_as
"""
