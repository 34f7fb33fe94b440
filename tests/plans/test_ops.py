"""Every row of the op table against torch: its schema, and the shape and dtype that its rule predicts."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gridkit.errors import PlanError
from gridkit.plans.check import shapes_of
from gridkit.plans.engine_torch import program
from gridkit.plans.ops import parse, table
from gridkit.plans.plan import Arg, Dtype, Input, Node, Output, Plan, Ref
from gridkit.plans.shapes import Meta, same

ROWS = table()
ATEN = [name for name in ROWS if name.startswith("aten.")]


def aten(name: str) -> Any:
    _, op, overload = name.split(".")
    return getattr(getattr(torch.ops.aten, op), overload)


# ---- schemas

LEFT_OUT = {"layout", "device", "pin_memory", "non_blocking", "implicit", "memory_format"}


@pytest.mark.parametrize("name", ATEN)
def test_schema_is_that_of_torch(name: str) -> None:
    text = str(aten(name)._schema).replace("SymInt", "int").replace("ScalarType", "dtype")
    theirs = parse(name + text[text.index("(") :], same)
    row = ROWS[name]
    assert row.params == tuple(p for p in theirs.params if p in row.params or p.name not in LEFT_OUT)
    assert (row.results, row.is_view) == (theirs.results, theirs.is_view)


def test_a_row_that_cannot_be_read_is_an_error() -> None:
    with pytest.raises(ValueError, match=re.escape("aten.f.default")):
        parse("aten.f.default(Tensor) -> Tensor", same)


# ---- rules

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


UNARY = "relu neg abs sign sgn clone gelu silu elu leaky_relu celu mish hardtanh hardsigmoid hardswish softplus"
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
    "aten.sym_size.int": lambda d: [f(2, 3), d(st.integers(-2, 1))],
}


def test_every_row_has_a_case() -> None:
    assert set(CASES) == set(ATEN)


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def one_node(name: str, args: list[Any], kwargs: dict[str, Any], truth: tuple[Any, ...]) -> tuple[Plan, list[Any]]:
    """A plan of that one operation, with its tensors as inputs."""
    inputs: list[torch.Tensor] = []

    def arg(value: Any) -> Arg:
        if isinstance(value, torch.Tensor):
            inputs.append(value)
            return Ref(len(inputs) - 1)
        if isinstance(value, torch.dtype):
            return Dtype(name_of(value))
        return tuple(map(arg, value)) if isinstance(value, list) else value

    given, options = tuple(map(arg, args)), tuple((k, arg(v)) for k, v in kwargs.items())
    specs = tuple(Input(i, f"a{i}", "buffer", name_of(t.dtype), tuple(t.shape)) for i, t in enumerate(inputs))
    out = tuple(100 + i for i in range(len(truth)))
    plan = Plan("one", specs, (), (Node(name, given, options, out),))
    return replace(plan, outputs=tuple(Output(o, f"r{o}", "buffer") for o in out)), inputs


@pytest.mark.parametrize("name", ATEN)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_rule_and_engine_agree_with_torch(name: str, data: st.DataObject) -> None:
    case = CASES[name](data.draw)
    args, kwargs = case if isinstance(case, tuple) else (case, {})
    truth = aten(name)(*args, **kwargs)
    truth = truth if isinstance(truth, tuple) else (truth,)
    plan, inputs = one_node(name, args, kwargs, truth)
    known = shapes_of(plan, 1)
    for place, value in zip(plan.nodes[0].out, truth, strict=True):
        assert place is not None
        if isinstance(value, torch.Tensor):
            assert known[place] == Meta(tuple(value.shape), name_of(value.dtype))
        elif value is not None:  # None is a gradient that the mask didn't ask for
            assert known[place] == value
    for mine, theirs in zip(program(plan)(inputs), truth, strict=True):
        if isinstance(theirs, torch.Tensor):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=0, equal_nan=True)
        else:
            assert mine == theirs


REFUSED: list[tuple[str, list[Any], str]] = [
    ("aten.mm.default", [f(2, 3), f(4, 2)], r"product of \[2, 3\] and \[4, 2\]"),
    ("aten.mm.default", [f(2, 3), f(3, 2).double()], "product of float32 and float64"),
    ("aten.addmm.default", [f(5), f(2, 3), f(3, 4)], "don't broadcast"),
    ("aten.add.Tensor", [f(2, 3), f(4)], "don't broadcast"),
    ("aten.view.default", [f(2, 3), [4, 2]], "can't view"),
    ("aten.view.default", [f(2, 3), [-1, -1]], "can't view|size"),
    ("aten.expand.default", [f(2, 3), [4, 3]], "can't expand"),
    ("aten.permute.default", [f(2, 3), [0, 0]], "permute"),
    ("aten.unsqueeze.default", [f(2), 5], "dimension 5"),
    ("aten.select.int", [f(2), 0, 7], "index 7"),
    ("aten.cat.default", [[f(2, 3), f(3, 4)], 0], "sizes differ"),
    ("aten.sum.dim_IntList", [f(2, 3), [0, 0]], "repeated"),
    ("aten.convolution.default", [f(1, 2, 5, 5), f(3, 4, 3, 3), None, [1], [0], [1], False, [0], 1], "channels"),
    ("aten.convolution.default", [f(1, 2, 2, 2), f(3, 2, 3, 3), None, [1], [0], [1], False, [0], 1], "larger"),
    ("aten.convolution.default", [f(1, 2, 5, 5), f(3, 2, 3, 3), None, [0], [0], [1], False, [0], 1], "stride"),
    ("aten.max_pool2d_with_indices.default", [f(1, 1, 4, 4), [2, 2], [2, 2], [2, 2]], "half of the kernel"),
    ("aten._adaptive_avg_pool2d_backward.default", [f(2, 3, 2, 2), f(2, 1, 4, 4)], "from"),
    ("aten.nll_loss_forward.default", [f(2, 3), torch.zeros(3, dtype=torch.int64), None, 0, -100], "labels"),
    ("aten.nll_loss_forward.default", [f(2, 3), torch.zeros(2), None, 0, -100], "expected int64"),
    ("aten._log_softmax_backward_data.default", [f(2, 4), f(2, 3), 1, torch.float32], "another shape"),
    ("aten.log_sigmoid_backward.default", [f(4), f(4), f(1)], "buffer"),
    ("aten.where.self", [f(2), f(2), f(2)], "isn't bool"),
    ("aten.lerp.Scalar", [f(2), f(2).double(), 0.5], "float32 and float64"),
    ("aten.addcmul.default", [torch.ones(2, dtype=torch.int64)] * 3, "dtypes int64"),
    ("aten.mean.default", [torch.ones(2, dtype=torch.int64)], "mean of int64"),
    ("aten.full.default", [[2, -1], 0], "size"),
    ("aten.arange.default", [-1], "arange"),
    ("aten.native_layer_norm.default", [f(2, 3), [4], None, None, 1e-5], "layer norm over"),
    ("aten.native_group_norm.default", [f(2, 4, 3), None, None, 2, 4, 9, 2, 1e-5], "values a channel"),
]


@pytest.mark.parametrize(("name", "args", "why"), REFUSED)
def test_rule_refuses_what_does_not_fit(name: str, args: list[Any], why: str) -> None:
    plan, _ = one_node(name, args, {}, (None,) * len(ROWS[name].results))
    with pytest.raises(PlanError, match=why) as caught:
        shapes_of(plan, 1)
    assert f"node 0 ({name})" in caught.value.message
