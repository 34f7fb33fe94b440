"""What a node looks at before it takes a dataset in, or gives results of one away. Blocking; called in threads."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from gridkit.errors import ErrorCode, NodeError, UsageError, WireError
from gridkit.node.store.blobs import Draft
from gridkit.policy import Policy
from gridkit.wire.foreign import HEAD, refuse_unsafe
from gridkit.wire.safetensors import TensorFile, pack_tensors
from gridkit.wire.tensors import TensorSpec


def read_policy(data: dict[str, Any]) -> Policy:
    """The policy of a message.

    Raises:
        NodeError: `BAD_CONFIG`, naming what is wrong.
    """
    try:
        return Policy.from_json(data)
    except UsageError as error:
        raise NodeError(f"policy: {error.message}", error.hint, code=ErrorCode.BAD_CONFIG, status=400) from None


def check_dataset(data: Draft, mock: Draft | None, kind: str, columns: Sequence[str] | None) -> list[TensorSpec]:
    """The data's tensors, after a look at the structure of both.

    Args:
        data, mock: safetensors with the keys "0", "1", ….
        kind: "tensor", "tensors", or "frame", whose tensors are columns of one length.
        columns: what these are called.

    Raises:
        WireError: the first rule that is broken.
    """
    specs = _specs(data)
    if kind == "frame":
        names = list(columns or ())
        if len(names) != len(specs) or len(set(names)) != len(names):
            raise WireError(f"{len(specs)} columns have {len(set(names))} names")
        if len({spec.shape for spec in specs}) != 1 or len(specs[0].shape) != 1:
            raise WireError("the columns of a table must have one dimension each, and one length")
        specs = [TensorSpec(name, spec.dtype, spec.shape) for name, spec in zip(names, specs, strict=True)]
    elif columns is not None or (kind == "tensor" and len(specs) != 1):
        raise WireError(f"{len(specs)} tensors{' with columns' if columns else ''} aren't of the kind '{kind}'")
    if mock is not None:
        likeness = [(spec.dtype, spec.shape[1:], len(spec.shape)) for spec in _specs(mock)]
        if likeness != [(spec.dtype, spec.shape[1:], len(spec.shape)) for spec in specs]:
            raise WireError(
                "the mock sample isn't like the data: only the numbers of rows may differ",
                "give it the data's dtypes and widths, such as torch.zeros_like(data[:5])",
            )
    return specs


def _specs(draft: Draft) -> list[TensorSpec]:
    with draft.open() as file:
        refuse_unsafe(file.read(HEAD), "send tensors as safetensors, as grid.publish does")
        tensors = TensorFile(file)
    tensors.check_numbered()
    if not tensors.specs:
        raise WireError("a dataset has at least one tensor")
    return list(tensors.specs)


def chosen(answer: bytes, expected: Sequence[TensorSpec], places: Sequence[int]) -> bytes:
    """Of what the runner gave, the results at these places; all of them must have the shapes that were worked out.

    Raises:
        NodeError: they haven't: what may get out was decided on other shapes.
    """
    results = TensorFile(io.BytesIO(answer))
    if list(results.specs) != list(expected):
        raise NodeError("the runner gave other results than the plan has", code=ErrorCode.INTERNAL)
    if len(places) == len(expected):
        return answer
    arrays = list(results.views(answer).values())
    return pack_tensors([arrays[place] for place in places]).tobytes()
