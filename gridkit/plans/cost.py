"""What a plan costs: floating-point operations and bytes of each node, worked out from shapes, without torch.

How it is counted:

* A multiplication followed by an addition counts two, so a product of [m, k] and [k, n] takes 2·m·k·n: each of its m·n
  values is k products and k sums, the first onto the bias or onto zero. `torch.utils.flop_counter` counts the same.
* A convolution likewise: two for each weight that a value of its result is made with; each gradient that its backward
  gives costs as much as the forward did. What padding adds is counted with, as in torch's counter.
* An operation on each element counts one for each value, whatever the function; those of several steps as many
  (`add` with a factor two, `addcmul` three).
* Reductions count one for each value that they read; norms, softmax, losses and attention as many for each value, or
  score, as their formulas have (`_ROWS`).
* Views, copies, fills, look-ups and arithmetic on sizes count zero: no arithmetic on floating-point values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from gridkit.plans.check import DEFAULT_BUDGET, Value, shapes_of
from gridkit.plans.plan import Plan
from gridkit.plans.table.ops import Op
from gridkit.plans.table.shapes import Meta

Kind = Literal[
    "matrix products",
    "convolutions",
    "attention",
    "pooling",
    "normalisation",
    "softmax and losses",
    "reductions",
    "element by element",
    "look-ups",
    "copies and fills",
    "views",
    "numbers",
]
Args = Mapping[str, Any]
Results = tuple[Value, ...]
Count = Callable[[Args, Results], int]


@dataclass(frozen=True, slots=True)
class Cost:
    """What one node costs for one batch size.

    Attributes:
        op: the operation's name.
        kind: which kind of operation it is.
        flops: floating-point operations; a multiply-add counts two.
        moved: bytes of the tensors that it reads and writes, each counted once; 0 of a view.
        alive: bytes of all values that are alive while it runs, inputs and constants included.
    """

    op: str
    kind: Kind
    flops: int
    moved: int
    alive: int


def costs(plan: Plan, batch: int, budget: int = DEFAULT_BUDGET) -> tuple[Cost, ...]:
    """The cost of each node, in order of execution.

    Args:
        plan: the plan.
        batch: number of samples.
        budget: bytes that all values alive at one time may take.

    Raises:
        PlanError: an operation can't take its arguments, or the budget is exceeded; the message names the node.

    Example:
        >>> sum(c.flops for c in costs(plan, 8))                 # doctest: +SKIP
        232024
    """
    found: list[Cost] = []

    def visit(op: Op, args: Args, results: Results, alive: int) -> None:
        kind, count = _row(op)
        moved = 0 if op.is_view else sum(t.nbytes for t in (*_tensors(args.values()), *_tensors(results)))
        found.append(Cost(op.name, kind, count(args, results), moved, alive))

    shapes_of(plan, batch, budget, visit)
    return tuple(found)


def kind_of(op: Op) -> Kind:
    """Which kind of operation a row of the op table is."""
    return _row(op)[0]


def _row(op: Op) -> tuple[Kind, Count]:
    packet = op.name.split(".")[1]
    if op.name.startswith("py.") or packet == "sym_size":
        return "numbers", _nothing
    if packet in _ROWS:
        return _ROWS[packet]
    if op.is_view:
        return "views", _nothing
    return "element by element", _largest(1)


def _tensors(values: Iterable[Any]) -> list[Meta]:
    """The tensors among arguments or results, those in lists too."""
    found: list[Meta] = []
    for value in values:
        if isinstance(value, Meta):
            found.append(value)
        elif isinstance(value, list):
            found += _tensors(value)
    return found


# ---- how much


def _nothing(a: Args, out: Results) -> int:
    return 0


def _largest(each: int) -> Count:
    """So many for each value of the largest tensor, argument or result."""
    return lambda a, out: each * max((t.size for t in (*_tensors(a.values()), *_tensors(out))), default=0)


def _argument(name: str, each: int = 1) -> Count:
    """So many for each value of that argument."""
    return lambda a, out: each * int(a[name].size)


def _sum(a: Args, out: Results) -> int:
    """Elementwise with an optional factor: ``self + alpha * other``."""
    factor = a.get("alpha", 1) != 1
    return (2 if factor else 1) * _tensors(out)[0].size


def _product(a: Args, out: Results) -> int:
    return 2 * _tensors(out)[0].size * int(a["mat2" if "mat2" in a else "batch2"].shape[-2])


def _convolution(a: Args, out: Results) -> int:
    return _convolved(a, _tensors(out)[0])


def _convolved(a: Args, result: Meta) -> int:
    """Each value of the result, or of the input if transposed, meets a group's channels times the kernel."""
    values: int = a["input"].size if a["transposed"] else result.size
    return int(2 * values * math.prod(a["weight"].shape[1:]))


def _convolution_backward(a: Args, out: Results) -> int:
    to_input, to_weight, to_bias = a["output_mask"]
    gradient: Meta = a["grad_output"]
    return int(to_input + to_weight) * _convolved(a, gradient) + int(to_bias) * gradient.size


def _attention(products: int, each: int) -> Count:
    """So many products of queries and keys, or of scores and values, and so many for each score."""

    def count(a: Args, out: Results) -> int:
        query, key, value = (a[name].shape for name in ("query", "key", "value"))
        scores: int = math.prod(query[:-1]) * key[-2]
        with_values = products // 2  # the others are with keys or queries; values may have another width
        return int(scores * (2 * with_values * value[-1] + 2 * (products - with_values) * query[-1] + each))

    return count


def _windows(a: Args, out: Results) -> int:
    """Each value of a pooling's result, or of its gradient, is made from one window."""
    kernel = a["kernel_size"]
    across = kernel[0] * kernel[-1]
    pooled: Meta = a["grad_output"] if "grad_output" in a else _tensors(out)[0]
    return int(pooled.size * across)


_FREE: tuple[Kind, Count] = ("copies and fills", _nothing)

_ROWS: dict[str, tuple[Kind, Count]] = {
    "mm": ("matrix products", _product),
    "addmm": ("matrix products", _product),
    "bmm": ("matrix products", _product),
    "baddbmm": ("matrix products", _product),
    "convolution": ("convolutions", _convolution),
    "convolution_backward": ("convolutions", _convolution_backward),
    # scores, softmax, sum of the values
    "_scaled_dot_product_flash_attention_for_cpu": ("attention", _attention(2, 5)),
    # scores again, gradients of values, weights, queries, keys; softmax again (2), and its gradient (4)
    "_scaled_dot_product_flash_attention_for_cpu_backward": ("attention", _attention(5, 6)),
    "max_pool2d_with_indices": ("pooling", _windows),
    "max_pool2d_with_indices_backward": ("pooling", _argument("grad_output")),
    "avg_pool2d": ("pooling", _windows),
    "avg_pool2d_backward": ("pooling", _windows),
    "_adaptive_avg_pool2d": ("pooling", _largest(1)),
    "_adaptive_avg_pool2d_backward": ("pooling", _largest(1)),
    "adaptive_max_pool2d": ("pooling", _largest(1)),
    "adaptive_max_pool2d_backward": ("pooling", _argument("grad_output")),
    "upsample_nearest2d": ("pooling", _nothing),
    "upsample_nearest2d_backward": ("pooling", _argument("grad_output")),
    # mean 1; variance 3 (subtract, square, add); normalise 2; scale and shift 2
    "native_layer_norm": ("normalisation", _argument("input", 8)),
    "native_group_norm": ("normalisation", _argument("input", 8)),
    "_native_batch_norm_legit_functional": ("normalisation", _argument("input", 8)),
    "_native_batch_norm_legit": ("normalisation", _argument("input", 8)),
    "_native_batch_norm_legit_no_training": ("normalisation", _argument("input", 4)),
    # normalise again 2; times the scale 1; its mean, and that of it times the normalised, 3; combine 4; scale, shift 3
    "native_layer_norm_backward": ("normalisation", _argument("input", 13)),
    "native_group_norm_backward": ("normalisation", _argument("input", 13)),
    "native_batch_norm_backward": ("normalisation", _argument("input", 13)),
    # maximum, subtract, exponential, sum, then divide or subtract again
    "_softmax": ("softmax and losses", _argument("self", 5)),
    "_safe_softmax": ("softmax and losses", _argument("self", 5)),
    "_log_softmax": ("softmax and losses", _argument("self", 5)),
    # g·y, its sum, subtract, multiply; for the logarithm: sum of g, exponential, multiply, subtract
    "_softmax_backward_data": ("softmax and losses", _argument("output", 4)),
    "_log_softmax_backward_data": ("softmax and losses", _argument("output", 4)),
    # times the class's weight, add
    "nll_loss_forward": ("softmax and losses", _argument("target", 2)),
    "nll_loss2d_forward": ("softmax and losses", _argument("target", 2)),
    "nll_loss_backward": ("softmax and losses", _argument("target")),
    "nll_loss2d_backward": ("softmax and losses", _argument("target")),
    # a difference, a function of it, add
    "mse_loss": ("softmax and losses", _largest(3)),
    "smooth_l1_loss": ("softmax and losses", _largest(3)),
    "huber_loss": ("softmax and losses", _largest(3)),
    # two logarithms, two products, a difference, add
    "binary_cross_entropy": ("softmax and losses", _largest(6)),
    "binary_cross_entropy_with_logits": ("softmax and losses", _largest(6)),
    # a difference, times the gradient, times the share
    "mse_loss_backward": ("softmax and losses", _largest(3)),
    "smooth_l1_loss_backward": ("softmax and losses", _largest(3)),
    "huber_loss_backward": ("softmax and losses", _largest(3)),
    "binary_cross_entropy_backward": ("softmax and losses", _largest(3)),
    "sum": ("reductions", _argument("self")),
    "mean": ("reductions", _argument("self")),
    **dict.fromkeys(("amax", "amin", "argmax", "argmin", "cumsum", "max", "min"), ("reductions", _argument("self"))),
    # comparisons, of which there are more than one a value
    **dict.fromkeys(("median", "sort", "topk"), ("reductions", _argument("self"))),
    "linalg_vector_norm": ("reductions", _argument("self", 2)),
    # the mean, subtract, square, sum; maximum, subtract, exponential, sum
    "std": ("reductions", _argument("self", 4)),
    "var": ("reductions", _argument("self", 4)),
    "logsumexp": ("reductions", _argument("self", 4)),
    "add": ("element by element", _sum),
    "sub": ("element by element", _sum),
    "rsub": ("element by element", _sum),
    "lerp": ("element by element", _largest(3)),
    # a sigmoid and a product for two values; their gradients take six
    "glu": ("element by element", _largest(1)),
    "glu_backward": ("element by element", _largest(3)),
    "addcmul": ("element by element", _largest(3)),
    **dict.fromkeys(("embedding", "gather", "index_select", "scatter"), ("look-ups", _nothing)),
    "embedding_dense_backward": ("look-ups", _argument("grad_output")),
    "scatter_add": ("look-ups", _argument("src")),
    "index_add": ("look-ups", _argument("source")),
    **dict.fromkeys(
        (
            "_unsafe_view",
            "_to_copy",
            "arange",
            "cat",
            "clone",
            "constant_pad_nd",
            "flip",
            "full",
            "full_like",
            "new_full",
            "new_ones",
            "new_zeros",
            "ones",
            "ones_like",
            "pixel_shuffle",
            "pixel_unshuffle",
            "repeat",
            "roll",
            "scalar_tensor",
            "select_backward",
            "slice_backward",
            "stack",
            "tril",
            "triu",
            "zeros",
            "zeros_like",
        ),
        _FREE,
    ),
}
