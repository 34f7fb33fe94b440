"""What layers are made of in TensorFlow.js: products, convolutions, pooling, softmax, the loss of classes.

TensorFlow.js 1.7.4 has the backward operations of layers only inside of its own gradients, so they are said with
others. `tfjs_calls` tells what a form is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gridkit.plans.engines.tfjs_calls import Args, Calls, Known, NoForm, Rows, Tensor, axis, form, static
from gridkit.wire.syft_plan import Value

Out = tuple[Known, ...]


# ---- products


@form("aten.mm.default", "aten.bmm.default")
def _product(c: Calls, a: Args, out: Out) -> Value:
    return c.matmul(a["self"], a["mat2"])


@form("aten.addmm.default", "aten.baddbmm.default")
def _product_and_sum(c: Calls, a: Args, out: Out) -> Value:
    one, two = ("mat1", "mat2") if "addmm" in a["op"] else ("batch1", "batch2")
    product, term = c.matmul(a[one], a[two]), a["self"]
    if a["alpha"] != 1:
        product = c.call("mul", product, a["alpha"])
    if a["beta"] == 0:  # then torch doesn't look at the term
        return product
    return c.call("add", product, term if a["beta"] == 1 else c.call("mul", term, a["beta"]))


# ---- convolutions


def _is_plain(a: Args) -> None:
    if a["transposed"]:
        raise NoForm("a transposed convolution fixes the batch size there")
    if a["groups"] != 1:
        raise NoForm(f"it has {a['groups']} groups")
    if len(a["stride"]) > 2 or len(a["input"].shape) != 2 + len(a["stride"]):
        raise NoForm("it isn't a convolution of images or of sequences")


def _pair(numbers: Sequence[int], fill: int) -> tuple[int, int]:
    """Both numbers of an image; of a sequence, `fill` for the height that it doesn't have."""
    return (numbers[0], numbers[1]) if len(numbers) == 2 else (fill, numbers[0])


def _image(c: Calls, tensor: Tensor) -> Tensor:
    """The tensor [N, C, L] of a sequence as an image of height one; an image as it is."""
    if len(tensor.shape) == 4:
        return tensor
    shape = (*tensor.shape[:2], 1, *tensor.shape[2:])
    return Tensor(c.reshape(tensor, shape), shape, tensor.dtype)


def _conv2d(
    c: Calls,
    x: Value,
    filters: Value,
    padding: tuple[int, int],
    stride: tuple[int, int] = (1, 1),
    dilation: tuple[int, int] = (1, 1),
) -> Value:
    """A convolution of images [N, H, W, C] with filters [h, w, C, K].

    Padding is an operation of its own, since TensorFlow.js 1.7.4 gets the size of the result wrong when it is given a
    number and the filters aren't square.
    """
    padded = x if padding == (0, 0) else _padded(c, x, padding)
    return c.call("conv2d", padded, filters, stride, "valid", "NHWC", dilation)


def _padded(c: Calls, x: Value, by: tuple[int, int], number: float = 0.0) -> Value:
    """An image [N, H, W, C] with a border."""
    return c.call("pad", x, ((0, 0), (by[0], by[0]), (by[1], by[1]), (0, 0)), number)


@form("aten.convolution.default")
def _convolution(c: Calls, a: Args, out: Out) -> Value:
    _is_plain(a)
    stride, dilation = _pair(a["stride"], 1), _pair(a["dilation"], 1)
    if stride != (1, 1) and dilation != (1, 1):
        raise NoForm("it has a stride and a dilation")
    filters = c.call("transpose", _image(c, a["weight"]), (2, 3, 1, 0))
    y = _conv2d(c, c.nhwc(_image(c, a["input"])), filters, _pair(a["padding"], 0), stride, dilation)
    result = c.nchw(y if a["bias"] is None else c.call("add", y, a["bias"]))
    return result if len(out[0].shape) == 4 else c.reshape(result, out[0].shape)


@form("aten.convolution_backward.default")
def _convolution_backward(c: Calls, a: Args, out: Out) -> tuple[Value | None, ...]:
    """Both gradients are convolutions: of the gradient with the turned filters, and of the input with the gradient."""
    _is_plain(a)
    if any(d != 1 for d in a["dilation"]):
        raise NoForm("it has a dilation")
    x, w, g = (_image(c, a[name]) for name in ("input", "weight", "grad_output"))
    stride, (top, left) = _pair(a["stride"], 1), _pair(a["padding"], 0)
    *_, high, wide = static(x.shape[2:], "the size of the image")
    filters, _, kh, kw = static(w.shape)
    grad = c.nhwc(g)
    if stride != (1, 1):
        wanted = (high + 2 * top - kh + 1, wide + 2 * left - kw + 1)
        grad = _spread(c, grad, static(g.shape[1:]), stride, wanted)
    need_x, need_w, need_b = a["output_mask"]
    results: list[Value | None] = [None, None, None]
    if need_x:
        if top >= kh or left >= kw:
            raise NoForm("its padding is as large as its filters")
        turned = c.call("transpose", c.call("reverse", w, (2, 3)), (2, 3, 0, 1))
        results[0] = c.nchw(_conv2d(c, grad, turned, (kh - 1 - top, kw - 1 - left)))
    if need_w:
        columns = c.call("transpose", x, (1, 2, 3, 0))
        by_pixel = c.call("transpose", grad, (1, 2, 0, 3))
        results[1] = c.call("transpose", _conv2d(c, columns, by_pixel, (top, left)), (3, 0, 1, 2))
    if need_b:
        results[2] = c.call("sum", c.call("reshape", grad, (-1, filters)), 0)
    for place in (0, 1):
        value = results[place]
        if value is not None and len(a["stride"]) == 1:
            results[place] = c.reshape(value, a["input" if place == 0 else "weight"].shape)
    return tuple(results)


def _spread(c: Calls, x: Value, shape: tuple[int, ...], stride: tuple[int, int], wanted: tuple[int, int]) -> Value:
    """Zeros between the pixels of images [N, h, w, K], until they are of the wanted size."""
    filters, high, wide = shape
    rows = c.call("reshape", x, (-1, 1, wide * filters))
    rows = c.call("pad", rows, ((0, 0), (0, stride[0] - 1), (0, 0)), 0.0)
    pixels = c.call("pad", c.call("reshape", rows, (-1, 1, filters)), ((0, 0), (0, stride[1] - 1), (0, 0)), 0.0)
    high, wide = high * stride[0], wide * stride[1]
    image = c.call("reshape", pixels, (-1, high, wide, filters))
    short = (max(wanted[0] - high, 0), max(wanted[1] - wide, 0))
    if any(short):
        image = c.call("pad", image, ((0, 0), (0, short[0]), (0, short[1]), (0, 0)), 0.0)
    return c.call("slice", image, (0, 0, 0, 0), (-1, *wanted, filters))


# ---- pooling

_LOWEST = -3.4028234663852886e38
"""the lowest finite float32: WebGL backends write numbers into their shaders, where infinity has no name"""


def _window(a: Args, of: Tensor) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Kernel, stride and padding."""
    if len(of.shape) != 4:
        raise NoForm("it takes a single image, not a batch of them")
    if a["ceil_mode"]:
        raise NoForm("it rounds up (ceil_mode)")
    kernel, padding = _both(a["kernel_size"]), _both(a["padding"])
    return kernel, _both(a["stride"]) if a["stride"] else kernel, padding


def _both(numbers: Any) -> tuple[int, int]:
    numbers = [numbers] if isinstance(numbers, int) else numbers
    return (numbers[0], numbers[-1])


@form("aten.max_pool2d_with_indices.default")
def _max_pool(c: Calls, a: Args, out: Out) -> tuple[Value | None, ...]:
    kernel, stride, padding = _window(a, a["self"])
    if _both(a["dilation"]) != (1, 1):
        raise NoForm("it has a dilation")
    x = c.nhwc(a["self"])
    if padding != (0, 0):
        x = _padded(c, x, padding, _LOWEST)
    return c.nchw(c.call("maxPool", x, kernel, stride, "valid")), None


def _is_tiling(kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]) -> None:
    if kernel != stride:
        raise NoForm("its windows overlap or leave gaps: make the stride the size of the kernel")
    if padding != (0, 0):
        raise NoForm("it pads")


@form("aten.max_pool2d_with_indices_backward.default")
def _max_pool_backward(c: Calls, a: Args, out: Out) -> Value:
    """Each window as a row: its first largest element takes the gradient, as in torch."""
    x, g = a["self"], a["grad_output"]
    kernel, *rest = _window(a, x)
    _is_tiling(kernel, *rest)
    if _both(a["dilation"]) != (1, 1):
        raise NoForm("it has a dilation")
    if kernel == (1, 1):
        only: Value = g.value
        return only
    (kh, kw), (channels, high, wide) = kernel, static(g.shape[1:])
    whole = static(x.shape[1:])
    value = x.value
    if (high * kh, wide * kw) != whole[1:]:
        value = c.call("slice", value, (0, 0, 0, 0), (-1, channels, high * kh, wide * kw))
    strips = c.call("transpose", c.call("reshape", value, (-1, kh, wide, kw)), (0, 2, 1, 3))
    first = c.call("argMax", c.call("reshape", strips, (-1, kh * kw)), 1)
    chosen = c.call("cast", c.call("oneHot", first, kh * kw), "float32")
    rows = c.call("mul", chosen, c.call("reshape", g, (-1, 1)))
    strips = c.call("transpose", c.call("reshape", rows, (-1, wide, kh, kw)), (0, 2, 1, 3))
    image = c.call("reshape", strips, (-1, channels, high * kh, wide * kw))
    return _filled_up(c, image, (high * kh, wide * kw), whole)


def _filled_up(c: Calls, image: Value, size: tuple[int, int], whole: tuple[int, ...]) -> Value:
    """Zeros where no window was: at the lower and the right edge."""
    if size == whole[1:]:
        return image
    edges = ((0, 0), (0, 0), (0, whole[1] - size[0]), (0, whole[2] - size[1]))
    return c.call("pad", image, edges, 0.0)


@form("aten.avg_pool2d.default")
def _avg_pool(c: Calls, a: Args, out: Out) -> Value:
    kernel, stride, padding = _window(a, a["self"])
    if a["divisor_override"] is not None or (padding != (0, 0) and not a["count_include_pad"]):
        raise NoForm("it doesn't divide by the size of its windows")
    x = c.nhwc(a["self"]) if padding == (0, 0) else _padded(c, c.nhwc(a["self"]), padding)
    return c.nchw(c.call("avgPool", x, kernel, stride, "valid"))


@form("aten.avg_pool2d_backward.default")
def _avg_pool_backward(c: Calls, a: Args, out: Out) -> Value:
    kernel, *rest = _window(a, a["self"])
    _is_tiling(kernel, *rest)
    if a["divisor_override"] is not None:
        raise NoForm("it doesn't divide by the size of its windows")
    return _spread_mean(c, a["grad_output"], kernel, static(a["self"].shape[1:]))


def _spread_mean(c: Calls, g: Tensor, kernel: tuple[int, int], whole: tuple[int, ...]) -> Value:
    """Each gradient in equal parts over its window."""
    channels, high, wide = static(g.shape[1:])
    kh, kw = kernel
    share = c.call("div", g, float(kh * kw))
    spread = c.call("tile", c.call("reshape", share, (-1, 1, wide, 1)), (1, kh, 1, kw))
    image = c.call("reshape", spread, (-1, channels, high * kh, wide * kw))
    return _filled_up(c, image, (high * kh, wide * kw), whole)


def _even(shape: Sequence[int | Rows], into: Sequence[int | Rows]) -> tuple[int, int]:
    """The windows of an adaptive pooling, where they are all of one size."""
    if len(shape) != 4:
        raise NoForm("it takes a single image, not a batch of them")
    (high, wide), (rows, columns) = static(shape[2:]), static(into[2:])
    if not rows or not columns or high % rows or wide % columns:
        raise NoForm("its windows aren't all of one size")
    return high // rows, wide // columns


@form("aten._adaptive_avg_pool2d.default")
def _adaptive_avg_pool(c: Calls, a: Args, out: Out) -> Value:
    kernel = _even(a["self"].shape, out[0].shape)
    return c.nchw(c.call("avgPool", c.nhwc(a["self"]), kernel, kernel, "valid"))


@form("aten._adaptive_avg_pool2d_backward.default")
def _adaptive_avg_pool_backward(c: Calls, a: Args, out: Out) -> Value:
    kernel = _even(a["self"].shape, a["grad_output"].shape)
    return _spread_mean(c, a["grad_output"], kernel, static(a["self"].shape[1:]))


# ---- softmax


@form("aten._softmax.default", "aten._log_softmax.default")
def _softmax(c: Calls, a: Args, out: Out) -> Value:
    """TensorFlow.js has these along the last dimension alone."""
    x: Tensor = a["self"]
    command = "logSoftmax" if "log" in a["op"] else "softmax"
    rank, dim = len(x.shape), axis(a["dim"], len(x.shape))
    if dim == rank - 1:
        return c.call(command, x)
    if not rank:
        raise NoForm("it takes a single number")
    swapped = list(range(rank))
    swapped[dim], swapped[-1] = rank - 1, dim
    return c.call("transpose", c.call(command, c.transpose(x, swapped)), tuple(swapped))


@form("aten._softmax_backward_data.default")
def _softmax_backward(c: Calls, a: Args, out: Out) -> Value:
    y: Tensor = a["output"]
    product = c.call("mul", a["grad_output"], y)
    total = c.call("sum", product, (axis(a["dim"], len(y.shape)),), True)
    return c.call("sub", product, c.call("mul", y, total))


@form("aten._log_softmax_backward_data.default")
def _log_softmax_backward(c: Calls, a: Args, out: Out) -> Value:
    y: Tensor = a["output"]
    total = c.call("sum", a["grad_output"], (axis(a["dim"], len(y.shape)),), True)
    return c.call("sub", a["grad_output"], c.call("mul", c.call("exp", y), total))


# ---- the loss of classes

_NONE, _MEAN = 0, 1


def _shares(c: Calls, a: Args) -> Value:
    """For each row of log-probabilities a one, or the class's weight, at its class, and zeros elsewhere."""
    classes = static(a["self"].shape[-1:])[0]
    if classes < 2:
        raise NoForm("there is but one class")
    if 0 <= a["ignore_index"] < classes:
        raise NoForm(f"it ignores class {a['ignore_index']}")
    if len(a["self"].shape) != 2:
        raise NoForm("it takes a single sample, not a batch")
    chosen = c.call("cast", c.call("oneHot", c.cast(a["target"], "int32"), classes), "float32")
    return chosen if a["weight"] is None else c.call("mul", chosen, a["weight"])


@form("aten.nll_loss_forward.default")
def _nll(c: Calls, a: Args, out: Out) -> tuple[Value | None, ...]:
    shares, logp = _shares(c, a), a["self"]
    losses = c.call("neg", c.call("sum", c.call("mul", shares, _finite(c, shares, logp)), 1))
    if a["reduction"] == _NONE:
        return losses, c.filled((), 0.0, "float32")
    total = c.call("sum", shares)
    whole = c.call("sum", losses)
    return c.call("div", whole, total) if a["reduction"] == _MEAN else whole, total


def _finite(c: Calls, shares: Value, logp: Tensor) -> Value:
    """The log-probabilities that count, and zero for the others: zero times an infinite one would be no number."""
    return c.call("where", c.call("notEqual", shares, 0.0), logp, c.call("zerosLike", logp))


@form("aten.nll_loss_backward.default")
def _nll_backward(c: Calls, a: Args, out: Out) -> Value:
    shares, g = _shares(c, a), a["grad_output"].value
    if a["reduction"] == _NONE:
        g = c.call("reshape", g, (-1, 1))
    elif a["reduction"] == _MEAN:
        g = c.call("div", g, a["total_weight"])
    return c.call("neg", c.call("mul", shares, g))
