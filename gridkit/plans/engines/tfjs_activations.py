"""Activation functions and their gradients in TensorFlow.js; `tfjs_calls` says what a form is."""

from __future__ import annotations

import math

from gridkit.plans.engines.tfjs_calls import Args, Calls, Known, Tensor, form, only_floats
from gridkit.wire.syft_plan import Value

Out = tuple[Known, ...]


@form("aten.gelu.default")
def _gelu(c: Calls, a: Args, out: Out) -> Value:
    x = a["self"]
    return c.each("mul", x, c.each("mul", c.each("add", _gelu_curve(c, a), 1.0), 0.5))


def _gelu_curve(c: Calls, a: Args) -> Value:
    if a["approximate"] == "none":
        return c.each("erf", c.each("mul", a["self"], math.sqrt(0.5)))
    return c.each("tanh", _gelu_inside(c, a["self"]))


def _gelu_inside(c: Calls, x: Tensor) -> Value:
    cube = c.each("mul", c.each("square", x), x)
    return c.each("mul", c.each("add", x, c.each("mul", cube, 0.044715)), math.sqrt(2 / math.pi))


@form("aten.gelu_backward.default")
def _gelu_backward(c: Calls, a: Args, out: Out) -> Value:
    x, g = a["self"], a["grad_output"]
    curve = _gelu_curve(c, a)
    below = c.each("mul", c.each("add", curve, 1.0), 0.5)
    square = c.each("square", x)
    if a["approximate"] == "none":
        density = c.each("mul", c.each("exp", c.each("mul", square, -0.5)), 1 / math.sqrt(2 * math.pi))
    else:
        slope = c.each("mul", c.each("add", c.each("mul", square, 3 * 0.044715), 1.0), math.sqrt(2 / math.pi))
        density = c.each("mul", c.each("mul", c.each("sub", 1.0, c.each("square", curve)), slope), 0.5)
    return c.each("mul", g, c.each("add", below, c.each("mul", x, density)))


@form("aten.silu.default")
def _silu(c: Calls, a: Args, out: Out) -> Value:
    return c.each("mul", a["self"], c.each("sigmoid", a["self"]))


@form("aten.silu_backward.default")
def _silu_backward(c: Calls, a: Args, out: Out) -> Value:
    x, s = a["self"], c.each("sigmoid", a["self"])
    inner = c.each("add", c.each("mul", x, c.each("sub", 1.0, s)), 1.0)
    return c.each("mul", a["grad_output"], c.each("mul", s, inner))


@form("aten.elu.default")
def _elu(c: Calls, a: Args, out: Out) -> Value:
    x = a["self"]
    low = c.each("mul", c.each("expm1", c.each("minimum", c.each("mul", x, a["input_scale"]), 0.0)), a["alpha"])
    return c.each("mul", c.each("add", c.each("relu", x), low), a["scale"])


@form("aten.elu_backward.default")
def _elu_backward(c: Calls, a: Args, out: Out) -> Value:
    g, x = a["grad_output"], a["self_or_result"]
    rate = a["input_scale"] * a["alpha"] * a["scale"]
    if a["is_result"]:
        low = c.each("mul", c.each("add", x, a["alpha"] * a["scale"]), a["input_scale"])
    else:
        low = c.each("mul", c.each("exp", c.each("minimum", c.each("mul", x, a["input_scale"]), 0.0)), rate)
    above = c.each("step", x)
    slope = c.each("add", c.each("mul", above, a["scale"]), c.each("mul", c.each("sub", 1.0, above), low))
    return c.each("mul", g, slope)


@form("aten.leaky_relu.default")
def _leaky_relu(c: Calls, a: Args, out: Out) -> Value:
    return c.each("leakyRelu", a["self"], a["negative_slope"])


@form("aten.leaky_relu_backward.default")
def _leaky_relu_backward(c: Calls, a: Args, out: Out) -> Value:
    return c.each("mul", a["grad_output"], c.each("step", a["self"], a["negative_slope"]))


@form("aten.hardtanh.default")
def _hardtanh(c: Calls, a: Args, out: Out) -> Value:
    only_floats(out)
    return c.each("clipByValue", a["self"], a["min_val"], a["max_val"])


@form("aten.hardtanh_backward.default")
def _hardtanh_backward(c: Calls, a: Args, out: Out) -> Value:
    x = a["self"]
    inside = c.each("logicalAnd", c.each("greater", x, a["min_val"]), c.each("less", x, a["max_val"]))
    return c.each("mul", a["grad_output"], c.each("cast", inside, "float32"))


@form("aten.softplus.default")
def _softplus(c: Calls, a: Args, out: Out) -> Value:
    return c.each("div", c.each("softplus", c.each("mul", a["self"], a["beta"])), a["beta"])


@form("aten.softplus_backward.default")
def _softplus_backward(c: Calls, a: Args, out: Out) -> Value:
    return c.each("mul", a["grad_output"], c.each("sigmoid", c.each("mul", a["self"], a["beta"])))


@form("aten.threshold_backward.default")
def _threshold_backward(c: Calls, a: Args, out: Out) -> Value:
    above = c.each("cast", c.each("greater", a["self"], a["threshold"]), "float32")
    return c.each("mul", a["grad_output"], above)


@form("aten.tanh_backward.default")
def _tanh_backward(c: Calls, a: Args, out: Out) -> Value:
    return c.each("mul", a["grad_output"], c.each("sub", 1.0, c.each("square", a["output"])))


@form("aten.sigmoid_backward.default")
def _sigmoid_backward(c: Calls, a: Args, out: Out) -> Value:
    y = a["output"]
    return c.each("mul", a["grad_output"], c.each("mul", y, c.each("sub", 1.0, y)))
