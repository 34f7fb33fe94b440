"""What people hold as data, as arrays that can be sent, and back."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gridkit.errors import UsageError, WireError
from gridkit.wire.safetensors import DTYPES
from gridkit.wire.tensors import Array

if TYPE_CHECKING:
    import pandas as pd
    import torch

_KNOWN = frozenset(DTYPES.values())


@dataclass(frozen=True, slots=True)
class Data:
    """A tensor, several, or the columns of a DataFrame.

    Args:
        arrays: at least one; the columns of a frame have one dimension.
        columns: their names, of a frame.
    """

    kind: Literal["tensor", "tensors", "frame"]
    arrays: list[Array]
    columns: list[str] | None = None

    @classmethod
    def of(cls, value: Any) -> Data:
        """A tensor, an array, nested lists of numbers, a tuple of such, or a DataFrame.

        Raises:
            UsageError: something that can't be sent, with what to do about it.
        """
        if _is_frame(value):
            return cls._of_frame(value)
        if isinstance(value, tuple):
            if not value:
                raise UsageError("an empty tuple is no data", "give at least one tensor")
            return cls("tensors", [_array(part) for part in value])
        return cls("tensor", [_array(value)])

    @classmethod
    def _of_frame(cls, frame: pd.DataFrame) -> Data:
        columns = [str(name) for name in frame.columns]
        if not columns or len(set(columns)) != len(columns):
            raise UsageError("the DataFrame has no columns, or two of one name", "give each column a name of its own")
        refused = [
            (name, frame.dtypes.iloc[n]) for n, name in enumerate(columns) if not _is_known(frame.dtypes.iloc[n])
        ]
        if refused:
            told = ", ".join(f"{name!r} ({dtype})" for name, dtype in refused[:8])
            more = f" and {len(refused) - 8} more" if len(refused) > 8 else ""
            raise UsageError(
                f"columns that aren't numbers or bools can't be published: {told}{more}", _advice(*refused[0])
            )
        return cls("frame", [np.ascontiguousarray(frame.iloc[:, n]) for n in range(len(columns))], columns)

    def value(self) -> torch.Tensor | tuple[torch.Tensor, ...] | pd.DataFrame:
        """What `of` was given: tensors as torch's, a frame with an index of its own.

        Raises:
            WireError: the parts don't make one.
        """
        arrays = [_sane(array) for array in self.arrays]
        if self.kind == "frame":
            import pandas as pd

            if self.columns is None or len(self.columns) != len(arrays):
                raise WireError(f"{len(arrays)} columns came without as many names")
            return pd.DataFrame(dict(zip(self.columns, (array.copy() for array in arrays), strict=True)))
        import torch

        tensors = [torch.from_numpy(array) for array in arrays]
        return tensors[0] if self.kind == "tensor" else tuple(tensors)


def _is_frame(value: Any) -> bool:
    pandas = sys.modules.get("pandas")  # whoever has a frame has imported it
    return pandas is not None and isinstance(value, pandas.DataFrame)


def _is_known(dtype: Any) -> bool:
    return isinstance(dtype, np.dtype) and dtype.name in _KNOWN


def _advice(name: str, dtype: Any) -> str:
    column, text = f"frame[{name!r}]", str(dtype)
    if getattr(dtype, "kind", "O") in "mM":
        return f"turn moments into numbers: {column} = {column}.astype('int64')"
    if getattr(dtype, "kind", "O") in "iufb":  # pandas' own, or one that doesn't travel
        return f"{column} = {column}.astype('float64'), where missing values become nan"
    if text == "category":
        return f"{column} = {column}.cat.codes, or leave it out: frame.drop(columns=[{name!r}])"
    codes = f"{column}.astype('category').cat.codes"
    return f"{column} = {codes}, or leave it out: frame.drop(columns=[{name!r}])"


def _array(value: Any) -> Array:
    import torch

    if hasattr(value, "__array__") and not isinstance(value, torch.Tensor):
        array: Array = np.asarray(value, order="C")
        dtype = array.dtype.name
    else:
        try:
            tensor = torch.as_tensor(value).detach().cpu().contiguous()
        except (TypeError, ValueError, RuntimeError) as error:
            raise UsageError(f"the data is no tensor: {error}", "give a tensor, an array, or a DataFrame") from None
        dtype = str(tensor.dtype).removeprefix("torch.")
        array = tensor.numpy() if dtype in _KNOWN else np.empty(0)
    if dtype not in _KNOWN:
        raise UsageError(f"data of dtype {dtype} can't be sent", f"turn it into one of {', '.join(sorted(_KNOWN))}")
    return array


def _sane(array: Array) -> Array:
    """Kernels trust that a bool is 0 or 1; a byte from elsewhere may be any."""
    return array.view(np.uint8) != 0 if array.dtype == bool else array
