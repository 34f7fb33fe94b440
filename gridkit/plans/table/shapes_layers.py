"""Shape and dtype rules of what layers are made of: products, convolutions, pooling, norms, softmax, losses.

The other rules, and what a rule is, stand in `gridkit.plans.table.shapes`.
"""

from __future__ import annotations

from collections.abc import Sequence

from gridkit.plans.table.shapes import (
    Args,
    Meta,
    axes_of,
    axis_of,
    broadcast,
    equal,
    kind_of,
    need,
    result_type,
    same,
    sized,
    text_of,
)

# ---- sums and products


def reduce(a: Args) -> Meta:
    """sum: over all, or over `dim`; integers become int64."""
    shape = a["self"].shape
    axes = axes_of(a.get("dim"), len(shape))
    if a.get("keepdim"):
        out = tuple(1 if i in axes else s for i, s in enumerate(shape))
    else:
        out = tuple(s for i, s in enumerate(shape) if i not in axes)
    dtype = a.get("dtype") or (a["self"].dtype if kind_of(a["self"].dtype) == 2 else "int64")
    return Meta(out, dtype)


def mean(a: Args) -> Meta:
    """Mean, variance, norm: of floating values."""
    need(kind_of(a.get("dtype") or a["self"].dtype) == 2, f"mean of {a['self'].dtype}")
    return reduce(a)


def cumulated(a: Args) -> Meta:
    axis_of(a["dim"], len(a["self"].shape))
    return Meta(a["self"].shape, a["dtype"] or (a["self"].dtype if kind_of(a["self"].dtype) == 2 else "int64"))


def matmul(a: Args) -> Meta:
    """mm (2-d) and bmm (3-d), with the extra term of addmm and baddbmm."""
    one = a.get("mat1") or a.get("batch1")
    two, rank = a.get("mat2") or a["batch2"], 3 if "bmm" in a["op"] else 2
    term = a["self"] if one else None
    one = one or a["self"]
    need(len(one.shape) == len(two.shape) == rank, f"product of {text_of(one.shape)} and {text_of(two.shape)}")
    need(
        one.shape[-1] == two.shape[-2] and one.shape[:-2] == two.shape[:-2],
        f"product of {text_of(one.shape)} and {text_of(two.shape)}",
    )
    need(one.dtype == two.dtype, f"product of {one.dtype} and {two.dtype}")
    out = (*one.shape[:-1], two.shape[-1])
    if term is not None:
        need(broadcast(term.shape, out) == out, f"can't add {text_of(term.shape)} to {text_of(out)}")
        need(term.dtype == one.dtype, f"sum of {term.dtype} and {one.dtype}")
    return Meta(out, one.dtype)


# ---- convolution and pooling


def pair_of(value: Sequence[int]) -> tuple[int, int]:
    need(len(value) in (1, 2), f"expected one or two numbers, got {text_of(value)}")
    return value[0], value[-1]


def convolution(a: Args) -> Meta:
    x, w = a["input"], a["weight"]
    n = len(x.shape) - 2
    need(n >= 1 and len(w.shape) == n + 2, f"convolution of {text_of(x.shape)} with {text_of(w.shape)}")
    need(x.dtype == w.dtype, f"convolution of {x.dtype} with {w.dtype}")
    groups, turned = a["groups"], a["transposed"]
    need(groups >= 1, "groups below one")
    stride, padding, dilation, extra = (_spread(a[k], n) for k in ("stride", "padding", "dilation", "output_padding"))
    need(min(*stride, *dilation) >= 1 and min(*padding, *extra) >= 0, "stride, padding or dilation out of range")
    inside = w.shape[0] if turned else w.shape[1] * groups
    outside = w.shape[1] * groups if turned else w.shape[0]
    need(x.shape[1] == inside and outside % groups == 0, f"{x.shape[1]} channels where the weight takes {inside}")
    if a["bias"] is not None:
        need(a["bias"].shape == (outside,), f"bias {text_of(a['bias'].shape)} for {outside} channels")
    sizes = []
    for i in range(n):
        reach = dilation[i] * (w.shape[2 + i] - 1) + 1
        if turned:
            size = (x.shape[2 + i] - 1) * stride[i] - 2 * padding[i] + reach + extra[i]
        else:
            size = (x.shape[2 + i] + 2 * padding[i] - reach) // stride[i] + 1
        need(size >= 1, f"kernel {text_of(w.shape[2:])} is larger than the padded input {text_of(x.shape[2:])}")
        sizes.append(size)
    return Meta((x.shape[0], outside, *sizes), x.dtype)


def _spread(value: Sequence[int], n: int) -> tuple[int, ...]:
    need(len(value) in (1, n), f"expected {n} numbers, got {text_of(value)}")
    return tuple(value) * (n if len(value) == 1 else 1)


def convolution_backward(a: Args) -> tuple[Meta, Meta, Meta]:
    forward = convolution(dict(a, bias=None))
    equal(forward, a["grad_output"], "the gradient has another shape than the output")
    outside = Meta((forward.shape[1],), forward.dtype)
    return a["input"], a["weight"], outside


def _pooled(x: Meta, a: Args, dilation: tuple[int, int]) -> Meta:
    need(len(x.shape) in (3, 4), f"2-d pooling of {text_of(x.shape)}")
    kernel, padding = pair_of(a["kernel_size"]), pair_of(a["padding"])
    stride = pair_of(a["stride"]) if a["stride"] else kernel
    need(min(*kernel, *stride, *dilation) >= 1 and min(padding) >= 0, "kernel, stride or padding out of range")
    sizes = []
    for i in range(2):
        need(2 * padding[i] <= kernel[i], "padding above half of the kernel")
        have, room = x.shape[i - 2], x.shape[i - 2] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1
        size = (room + (stride[i] - 1 if a["ceil_mode"] else 0)) // stride[i] + 1
        if a["ceil_mode"] and (size - 1) * stride[i] >= have + padding[i]:
            size -= 1
        need(size >= 1, f"kernel {text_of(kernel)} is larger than the padded input {text_of(x.shape[-2:])}")
        sizes.append(size)
    return Meta((*x.shape[:-2], *sizes), x.dtype)


def max_pool(a: Args) -> tuple[Meta, Meta]:
    out = _pooled(a["self"], a, pair_of(a["dilation"]))
    return out, Meta(out.shape, "int64")


def max_pool_backward(a: Args) -> Meta:
    out = _pooled(a["self"], a, pair_of(a["dilation"]))
    equal(out, a["grad_output"], "the gradient has another shape than the output")
    equal(Meta(out.shape, "int64"), a["indices"], "the indices aren't those of the output")
    return same(a)


def avg_pool(a: Args) -> Meta:
    need(a["divisor_override"] != 0, "divisor zero")
    return _pooled(a["self"], a, (1, 1))


def avg_pool_backward(a: Args) -> Meta:
    equal(avg_pool(a), a["grad_output"], "the gradient has another shape than the output")
    return same(a)


def adaptive_pool(a: Args) -> Meta:
    need(len(a["self"].shape) in (3, 4), f"2-d pooling of {text_of(a['self'].shape)}")
    return Meta((*a["self"].shape[:-2], *sized(pair_of(a["output_size"]))), a["self"].dtype)


def adaptive_pool_backward(a: Args) -> Meta:
    one, two = a["grad_output"].shape, a["self"].shape
    need(len(one) == len(two) and len(one) in (3, 4) and one[:-2] == two[:-2], f"{text_of(one)} from {text_of(two)}")
    return same(a)


def adaptive_max_pool(a: Args) -> tuple[Meta, Meta]:
    need(a["self"].size > 0, f"pooling of {text_of(a['self'].shape)}")
    out = adaptive_pool(a)
    return out, Meta(out.shape, "int64")


def adaptive_max_pool_backward(a: Args) -> Meta:
    adaptive_pool_backward(a)
    equal(Meta(a["grad_output"].shape, "int64"), a["indices"], "the indices aren't those of the output")
    return same(a)


def upsample(a: Args) -> Meta:
    x, out = a["self"], tuple(a["output_size"])
    need(len(x.shape) == 4 and x.size > 0 and min(out) > 0, f"{text_of(x.shape)} to {text_of(out)}")
    for have, want, scale in zip(x.shape[2:], out, (a["scales_h"], a["scales_w"]), strict=True):
        # the kernel divides by the scale and trusts the result as a place
        need(scale is None or (scale > 0 and int(have * scale) == want), f"{have} times {scale} isn't {want}")
    return Meta((*x.shape[:2], *out), x.dtype)


def upsample_backward(a: Args) -> Meta:
    before = Meta(sized(a["input_size"]), a["grad_output"].dtype)
    equal(upsample(dict(a, self=before)), a["grad_output"], "the gradient has another shape than the output")
    return before


def pixel_shuffle(a: Args) -> Meta:
    shape, r = a["self"].shape, a["upscale_factor"]
    need(len(shape) >= 3 and 0 < r < 1 << 20 and shape[-3] % r**2 == 0, f"pixel shuffle of {text_of(shape)} by {r}")
    return Meta((*shape[:-3], shape[-3] // r**2, shape[-2] * r, shape[-1] * r), a["self"].dtype)


def pixel_unshuffle(a: Args) -> Meta:
    shape, r = a["self"].shape, a["downscale_factor"]
    fits = len(shape) >= 3 and 0 < r < 1 << 20 and shape[-2] % r == 0 and shape[-1] % r == 0
    need(fits, f"pixel unshuffle of {text_of(shape)} by {r}")
    return Meta((*shape[:-3], shape[-3] * r**2, shape[-2] // r, shape[-1] // r), a["self"].dtype)


# ---- normalisation


def batch_norm(a: Args) -> tuple[Meta, ...]:
    """Result, then mean and inverse deviation of each channel (empty out of training), then the running ones."""
    x = a["input"]
    need(x.dtype in ("float32", "float64"), f"batch norm of {x.dtype}")
    need(len(x.shape) >= 2 and x.size > 0, f"batch norm of {text_of(x.shape)}")
    each = Meta((x.shape[1],), x.dtype)
    for key in ("weight", "bias", "running_mean", "running_var"):
        if a.get(key) is not None:
            equal(each, a[key], key)
    need(a.get("training", True), "batch norm with training=False where only training=True is known")
    if "training" not in a:
        return x, Meta((0,), x.dtype), Meta((0,), x.dtype)
    return (x, each, each, each, each) if "running_mean" in a else (x, each, each)


def batch_norm_backward(a: Args) -> tuple[Meta, Meta, Meta]:
    out, each, *_ = batch_norm({**a, "training": True})
    equal(out, a["grad_out"], "the gradient has another shape than the output")
    for key in ("save_mean", "save_invstd") if a["train"] else ("running_mean", "running_var"):
        need(a[key] is not None, f"{key} is missing")
        equal(each, a[key], key)
    return out, each, each


def prelu(a: Args) -> Meta:
    need(broadcast(a["self"].shape, a["weight"].shape) == a["self"].shape, "the weight doesn't fit the input")
    need(a["self"].dtype == a["weight"].dtype, f"{a['self'].dtype} with a weight of {a['weight'].dtype}")
    return same(a)


def prelu_backward(a: Args) -> tuple[Meta, Meta]:
    equal(prelu(a), a["grad_output"], "the gradient has another shape than the output")
    return a["self"], a["self"]


def layer_norm(a: Args) -> tuple[Meta, Meta, Meta]:
    x, inner = a["input"], tuple(a["normalized_shape"])
    need(bool(inner) and x.shape[-len(inner) :] == inner, f"layer norm over {text_of(inner)} of {text_of(x.shape)}")
    for key in ("weight", "bias"):
        need(a[key] is None or a[key].shape == inner, f"{key} isn't {text_of(inner)}")
    outer = Meta(x.shape[: len(x.shape) - len(inner)] + (1,) * len(inner), x.dtype)
    return x, outer, outer


def layer_norm_backward(a: Args) -> tuple[Meta, Meta, Meta]:
    out, mean_, rstd = layer_norm(a)
    equal(out, a["grad_out"], "the gradient has another shape than the output")
    equal(mean_, a["mean"], "mean")
    equal(rstd, a["rstd"], "rstd")
    inner = Meta(tuple(a["normalized_shape"]), out.dtype)
    return a["input"], inner, inner


def group_norm(a: Args) -> tuple[Meta, Meta, Meta]:
    x, groups = a["input"], a["group"]
    need(len(x.shape) >= 2 and x.shape[:2] == (a["N"], a["C"]), f"{text_of(x.shape)} isn't {a['N']} by {a['C']}")
    need(x.size == a["N"] * a["C"] * a["HxW"], f"{text_of(x.shape)} hasn't {a['HxW']} values a channel")
    need(groups >= 1 and a["C"] % groups == 0, f"{a['C']} channels in {groups} groups")
    for key in ("weight", "bias"):
        need(a.get(key) is None or a[key].shape == (a["C"],), f"{key} isn't [{a['C']}]")
    each = Meta((a["N"], groups), x.dtype)
    return x, each, each


def group_norm_backward(a: Args) -> tuple[Meta, Meta, Meta]:
    out, mean_, rstd = group_norm(a)
    equal(out, a["grad_out"], "the gradient has another shape than the output")
    equal(mean_, a["mean"], "mean")
    equal(rstd, a["rstd"], "rstd")
    inner = Meta((a["C"],), out.dtype)
    return a["input"], inner, inner


# ---- attention


def attention(a: Args) -> tuple[Meta, Meta]:
    """Queries [B, H, L, D], keys and values [B, H, S, D]; the kernel trusts every size, so each is checked."""
    q, k, v, mask = a["query"], a["key"], a["value"], a["attn_mask"]
    text = f"attention of {text_of(q.shape)}, {text_of(k.shape)} and {text_of(v.shape)}"
    need(len(q.shape) == 4 and q.size > 0 and k.size > 0, text)
    need(k.shape == v.shape and q.shape[:2] == k.shape[:2] and q.shape[3] == k.shape[3], text)
    need(q.dtype in ("float32", "float64") and q.dtype == k.dtype == v.dtype, f"{q.dtype}, {k.dtype} and {v.dtype}")
    need(a["dropout_p"] == 0, "dropout inside of attention")
    if mask is not None:
        full = (*q.shape[:3], k.shape[2])
        need(not a["is_causal"], "a mask beside is_causal")
        need(len(mask.shape) in (2, 4) and mask.dtype == q.dtype, f"mask {mask.dtype}{text_of(mask.shape)}")
        need(broadcast(mask.shape, full) == full, f"mask {text_of(mask.shape)} for {text_of(full)}")
    return q, Meta(q.shape[:3], q.dtype)


def attention_backward(a: Args) -> tuple[Meta, Meta, Meta]:
    out, sums = attention(a)
    equal(out, a["grad_out"], "the gradient has another shape than the output")
    equal(out, a["out"], "the output")
    equal(sums, a["logsumexp"], "the sums")
    return a["query"], a["key"], a["value"]


def glu(a: Args) -> Meta:
    shape = list(a["self"].shape)
    need(bool(shape), "glu of a single value")
    at = axis_of(a["dim"], len(shape))
    need(shape[at] % 2 == 0, f"half of {shape[at]}")
    shape[at] //= 2
    return Meta(tuple(shape), a["self"].dtype)


def glu_backward(a: Args) -> Meta:
    equal(glu(a), a["grad_output"], "the gradient has another shape than the output")
    return same(a)


# ---- softmax and losses


def safe_softmax(a: Args) -> Meta:
    axis_of(a["dim"], len(a["self"].shape))
    dtype = a["dtype"] or a["self"].dtype
    need(kind_of(dtype) == 2, f"softmax of {dtype}")
    return Meta(a["self"].shape, dtype)


def softmax(a: Args) -> Meta:
    axis_of(a["dim"], len(a["self"].shape))
    need(not a["half_to_float"] and kind_of(a["self"].dtype) == 2, f"softmax of {a['self'].dtype}")
    return same(a)


def softmax_backward(a: Args) -> Meta:
    axis_of(a["dim"], len(a["output"].shape))
    equal(a["grad_output"], a["output"], "the gradient has another shape than the output")
    return Meta(a["output"].shape, a["input_dtype"])


def _reduced(shape: tuple[int, ...], dtype: str, reduction: int) -> Meta:
    need(reduction in (0, 1, 2), f"reduction {reduction}")
    return Meta(shape if reduction == 0 else (), dtype)


def nll(a: Args) -> tuple[Meta, Meta]:
    x, target = a["self"], a["target"]
    rank = 4 if "2d" in a["op"] else 2
    need(len(x.shape) == rank, f"log-probabilities {text_of(x.shape)}, expected {rank} dimensions")
    need(target.shape == (x.shape[0], *x.shape[2:]), f"labels {text_of(target.shape)} for {text_of(x.shape)}")
    need(target.dtype in ("int64", "uint8"), f"labels are {target.dtype}, expected int64")
    if a["weight"] is not None:
        need(a["weight"].shape == (x.shape[1],), f"{text_of(a['weight'].shape)} class weights for {x.shape[1]} classes")
    return _reduced(target.shape, x.dtype, a["reduction"]), Meta((), x.dtype)


def nll_backward(a: Args) -> Meta:
    out, total = nll(a)
    equal(out, a["grad_output"], "the gradient has another shape than the loss")
    equal(total, a["total_weight"], "the total weight isn't one value")
    return same(a)


def elementwise_loss(a: Args) -> Meta:
    others = [a[k] for k in ("weight", "pos_weight") if a.get(k) is not None]
    shape = broadcast(a["self"].shape, a["target"].shape, *(o.shape for o in others))
    return _reduced(shape, result_type(a["self"], a["target"], *others), a["reduction"])


def elementwise_loss_backward(a: Args) -> Meta:
    shape = broadcast(a["self"].shape, a["target"].shape)
    need(a["grad_output"].shape in ((), shape), f"gradient {text_of(a['grad_output'].shape)} for {text_of(shape)}")
    return Meta(shape, a["self"].dtype)
