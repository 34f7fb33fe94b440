"""The functions of torch that a session may call, by name.

A name is the text that `torch.overrides.resolve_name` gives for what `__torch_function__` is handed, or the way users
write it; some functions have both (``torch.mm`` is resolved to ``torch.spmm``). A name that came over the wire is a key
of `FUNCTIONS` or is refused: nothing is looked up by it in torch.

What isn't here, and why: what shows values outside of a tensor (``item``, ``tolist``, ``equal``: values leave by
`TensorSession.read` only), reads files or shares memory (``from_file``, ``numpy``), calls code (``apply_``, ``map_``,
hooks), moves a tensor onto other memory (``set_``, ``resize_``, ``as_strided``, ``out=``), shows memory that nobody
wrote to (``empty``), and sparse, quantized, nested and complex tensors.
"""

from __future__ import annotations

import difflib
import operator
from collections.abc import Callable
from typing import Any

import torch

from gridkit.errors import ErrorCode, PlanError

Function = Callable[..., Any]

_POINTWISE = """
    abs absolute acos acosh add addcdiv addcmul arccos arccosh arcsin arcsinh arctan arctan2 arctanh asin asinh atan
    atan2 atanh bitwise_and bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift bitwise_xor ceil clamp
    clamp_max clamp_min clip copysign cos cosh deg2rad digamma div divide eq erf erfc erfinv exp exp2 expm1 fix
    float_power floor floor_divide fmod frac ge greater greater_equal gt heaviside hypot i0 ldexp le lerp less
    less_equal lgamma log log10 log1p log2 logical_and logical_not logical_or logical_xor logit lt masked_fill mul
    multiply nan_to_num ne neg negative not_equal pow rad2deg reciprocal relu remainder round rsqrt sigmoid sign sin
    sinc sinh sqrt square sub subtract tan tanh true_divide trunc xlogy
"""
"""Functions of torch, methods, and, with an underscore, methods in place."""

_IN_PLACE = """
    addbmm addmm addmv addr baddbmm cumprod cumsum fill_diagonal index_add index_copy index_fill index_put
    masked_scatter renorm scatter scatter_add scatter_reduce squeeze swapaxes swapdims t transpose tril triu unsqueeze
"""

_BOTH = """
    addbmm addmm addmv addr all amax amin aminmax any argmax argmin argsort argwhere baddbmm bernoulli bmm broadcast_to
    chunk clone corrcoef count_nonzero cov cross cummax cummin cumprod cumsum detach diag diag_embed diagflat
    diagonal diagonal_scatter diff dist dot dsplit flatten flip fliplr flipud fmax fmin gather ger
    index_add index_copy index_fill index_put index_select inner isclose isfinite isinf isnan isneginf isposinf kron
    kthvalue log_softmax logaddexp logaddexp2 logcumsumexp logsumexp masked_scatter masked_select matmul matrix_exp
    matrix_power max maximum mean median min minimum mm moveaxis movedim msort multinomial mv nanmean nanmedian nansum
    narrow nextafter nonzero norm outer permute positive prelu prod quantile nanquantile ravel renorm repeat_interleave
    reshape roll rot90 scatter scatter_add scatter_reduce select select_scatter signbit slice_scatter softmax sort split
    split_with_sizes squeeze std sum swapaxes swapdims t take take_along_dim tensor_split tile topk trace transpose tril
    triu unbind unflatten unsqueeze hsplit vsplit var vdot where bincount
"""

_METHODS = """
    bfloat16 bool byte char contiguous copy_ double exponential_ expand expand_as fill_ float half hardshrink int
    long log_normal_ new_full new_ones new_zeros normal_ random_ repeat requires_grad_ reshape_as short sum_to_size to
    type_as uniform_ unfold unique unique_consecutive view view_as zero_ geometric_ cauchy_ bernoulli_ detach_
    __add__ __and__ __div__ __eq__ __floordiv__ __ge__ __getitem__ __gt__ __iadd__ __iand__ __ifloordiv__ __ilshift__
    __imod__ __imul__ __invert__ __ior__ __ipow__ __irshift__ __isub__ __itruediv__ __ixor__ __le__ __lshift__ __lt__
    __matmul__ __mod__ __mul__ __ne__ __neg__ __abs__ __or__ __pow__ __pos__ __radd__ __rand__ __rdiv__ __reversed__
    __rfloordiv__ __rlshift__ __rmatmul__ __rmod__ __rmul__ __ror__ __rpow__ __rrshift__ __rshift__ __rsub__
    __rtruediv__ __rxor__ __setitem__ __sub__ __truediv__ __xor__
"""

_TORCH = """
    adaptive_avg_pool1d adaptive_max_pool1d alpha_dropout arange avg_pool1d batch_norm bilinear
    binary_cross_entropy_with_logits bucketize cat cartesian_prod cdist celu chain_matmul channel_shuffle
    column_stack combinations concat concatenate constant_pad_nd conv1d conv2d conv3d conv_transpose1d conv_transpose2d
    conv_transpose3d cosine_embedding_loss cosine_similarity cumulative_trapezoid dropout dstack einsum embedding eye
    feature_alpha_dropout feature_dropout full full_like group_norm gru gru_cell hinge_embedding_loss hstack
    instance_norm isin kl_div layer_norm linspace logspace lstm lstm_cell margin_ranking_loss max_pool1d
    max_pool1d_with_indices max_pool2d max_pool3d meshgrid native_layer_norm ones ones_like pairwise_distance
    pdist pixel_shuffle pixel_unshuffle poisson poisson_nll_loss rand rand_like randint randint_like randn randn_like
    randperm rms_norm rnn_relu rnn_relu_cell rnn_tanh rnn_tanh_cell row_stack rrelu rsub searchsorted selu
    spmm stack std_mean tensordot threshold trapezoid trapz tril_indices triplet_margin_loss triu_indices
    var_mean vstack zeros zeros_like atleast_1d atleast_2d atleast_3d block_diag broadcast_tensors unique
    unique_consecutive hardshrink
"""

_FUNCTIONAL = """
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d
    adaptive_max_pool3d adaptive_max_pool1d_with_indices adaptive_max_pool2d_with_indices
    adaptive_max_pool3d_with_indices affine_grid alpha_dropout avg_pool1d avg_pool2d avg_pool3d batch_norm bilinear
    binary_cross_entropy binary_cross_entropy_with_logits celu channel_shuffle conv1d conv2d conv3d conv_transpose1d
    conv_transpose2d conv_transpose3d cosine_embedding_loss cosine_similarity cross_entropy dropout dropout1d dropout2d
    dropout3d elu elu_ embedding feature_alpha_dropout fold gaussian_nll_loss gelu glu grid_sample group_norm
    gumbel_softmax hardshrink hardsigmoid hardswish hardtanh hardtanh_ hinge_embedding_loss huber_loss instance_norm
    interpolate kl_div l1_loss layer_norm leaky_relu leaky_relu_ linear linear_cross_entropy local_response_norm
    log_softmax logsigmoid lp_pool1d lp_pool2d lp_pool3d margin_ranking_loss max_pool1d max_pool1d_with_indices
    max_pool2d max_pool2d_with_indices max_pool3d max_pool3d_with_indices mish mse_loss multi_head_attention_forward
    multi_margin_loss multilabel_margin_loss multilabel_soft_margin_loss nll_loss normalize one_hot pad
    pairwise_distance pdist pixel_shuffle pixel_unshuffle poisson_nll_loss prelu relu relu_ relu6 rms_norm rrelu rrelu_
    scaled_dot_product_attention selu selu_ celu_ sigmoid silu smooth_l1_loss soft_margin_loss softmax softmin softplus
    softshrink softsign tanh tanhshrink threshold threshold_ triplet_margin_loss unfold upsample
"""

_RESOLVED = """
    atleast_1d atleast_2d atleast_3d block_diag broadcast_tensors cartesian_prod cdist chain_matmul einsum meshgrid norm
    split tensordot unique unique_consecutive
"""
"""Functions of torch that `resolve_name` finds in torch.functional."""

_LINALG = """
    cholesky cross det diagonal eigh eigvalsh inv matmul matrix_norm matrix_power multi_dot norm pinv qr slogdet solve
    solve_triangular svd svdvals vecdot vector_norm
"""

_SPECIAL = """
    digamma entr erf erfc erfcx erfinv exp2 expit expm1 gammaln i0 i0e i1 i1e log1p log_ndtr log_softmax logit logsumexp
    ndtr ndtri psi round sinc softmax xlog1py xlogy
"""

_INIT = "constant_ kaiming_uniform_ normal_ uniform_"
"""Those that hand a tensor with `__torch_function__` on as a whole."""


def _table() -> dict[str, Function]:
    in_place = [f"{name.removesuffix('_')}_" for name in (*_POINTWISE.split(), *_IN_PLACE.split())]
    listed: list[tuple[str, object, list[str]]] = [
        ("torch", torch, [*_POINTWISE.split(), *_BOTH.split(), *_TORCH.split()]),
        ("torch.Tensor", torch.Tensor, [*_POINTWISE.split(), *in_place, *_BOTH.split(), *_METHODS.split()]),
        ("torch.nn.functional", torch.nn.functional, _FUNCTIONAL.split()),
        ("torch.functional", torch.functional, _RESOLVED.split()),
        ("torch.linalg", torch.linalg, _LINALG.split()),
        ("torch.special", torch.special, _SPECIAL.split()),
        ("torch.nn.init", torch.nn.init, _INIT.split()),
    ]
    table = {f"{space}.{name}": getattr(home, name) for space, home, names in listed for name in names}
    for name in ("T", "mT", "data"):
        table[f"torch.Tensor.{name}.__get__"] = operator.attrgetter(name)
    return table


FUNCTIONS: dict[str, Function] = _table()


def function_named(name: str) -> Function:
    """The function of that name.

    Raises:
        PlanError: `NOT_ALLOWED`; the hint names those whose names are nearest.

    >>> function_named("torch.Tensor.add") is torch.Tensor.add
    True
    """
    function = FUNCTIONS.get(name)
    if function is not None:
        return function
    short = name.rpartition(".")[2]
    known = {each.rpartition(".")[2] for each in FUNCTIONS}
    shorts = difflib.get_close_matches(short, known, 3, cutoff=0.8)  # by itself, if there is one
    near = [each for wanted in shorts[:1] for each in FUNCTIONS if each.rpartition(".")[2] == wanted][:3]
    raise PlanError(
        f"a session of remote tensors doesn't run {name[:100]!r}",
        f"use {' or '.join(near)}" if near else "fetch the tensor with .get() and compute it here",
        code=ErrorCode.NOT_ALLOWED,
    )
