"""Shape and dtype rules of operations that take places as data: embedding, gather, scatter, index_select.

torch checks in each of these kernels, at run time, that an index lies inside; what it doesn't check is refused here.
"""

from __future__ import annotations

from gridkit.plans.table.shapes import Args, Meta, axis_of, need, sized, text_of


def _whole(index: Meta) -> None:
    need(index.dtype == "int64", f"indices are {index.dtype}, expected int64")


def embedding(a: Args) -> Meta:
    weight, indices = a["weight"], a["indices"]
    need(len(weight.shape) == 2, f"a table of {text_of(weight.shape)}, expected [entries, values]")
    need(not a["sparse"], "sparse gradients")
    need(indices.dtype in ("int64", "int32"), f"indices are {indices.dtype}, expected int64")
    return Meta((*indices.shape, weight.shape[1]), weight.dtype)


def embedding_backward(a: Args) -> Meta:
    grad, indices = a["grad_output"], a["indices"]
    need(not a["scale_grad_by_freq"], "gradients scaled by frequency")  # its counts trust the indices
    need(indices.dtype in ("int64", "int32"), f"indices are {indices.dtype}, expected int64")
    fits = bool(grad.shape) and grad.shape[:-1] == indices.shape
    need(fits, f"a gradient {text_of(grad.shape)} for indices {text_of(indices.shape)}")
    return Meta(sized((a["num_weights"], grad.shape[-1])), grad.dtype)


def gather(a: Args) -> Meta:
    x, index = a["self"], a["index"]
    _whole(index)
    at = axis_of(a["dim"], len(x.shape))
    fits = len(x.shape) == len(index.shape) > 0
    fits = fits and all(i <= s for d, (i, s) in enumerate(zip(index.shape, x.shape, strict=True)) if d != at)
    need(fits, f"indices {text_of(index.shape)} into {text_of(x.shape)}")
    return Meta(index.shape, x.dtype)


def scatter(a: Args) -> Meta:
    x, index, source = a["self"], a["index"], a["src"]
    gather(a)
    fits = len(source.shape) == len(index.shape)
    fits = fits and all(i <= s for i, s in zip(index.shape, source.shape, strict=True))
    need(fits, f"indices {text_of(index.shape)} for values {text_of(source.shape)}")
    need(x.dtype == source.dtype, f"{source.dtype} into {x.dtype}")
    return Meta(x.shape, x.dtype)


def _row(a: Args) -> Meta:
    x, index = a["self"], a["index"]
    need(bool(x.shape) and len(index.shape) == 1, f"indices {text_of(index.shape)} into {text_of(x.shape)}")
    _whole(index)
    at = axis_of(a["dim"], len(x.shape))
    return Meta((*x.shape[:at], index.shape[0], *x.shape[at + 1 :]), x.dtype)


def index_select(a: Args) -> Meta:
    return _row(a)


def index_add(a: Args) -> Meta:
    rows = _row(a)
    need(a["source"] == rows, f"values {text_of(a['source'].shape)} where {text_of(rows.shape)} fit")
    return Meta(a["self"].shape, a["self"].dtype)
