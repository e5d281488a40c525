"""Numbers as users hold them (tensors, numpy arrays, lists, pandas) as one tensor."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from xaikit.core.errors import InvalidInputError, InvalidTypeError

NUMBERS = "biuf"  # numpy's kinds: boolean, integer, unsigned, floating point


def to_tensor(value: Any, what: str, *, remedy: str = "") -> Tensor:
    """The numbers as a tensor; a tensor is returned as it is, if it is dense.

    Integers become int64, since torch computes little with the other widths that numpy has; booleans stay booleans,
    floating-point numbers keep their precision. A DataFrame becomes floating-point, whatever its columns hold. Objects
    that are all numbers, as in a column of `DataFrame.to_numpy()`, are read as such.

    Args:
        value: a tensor, a numpy array of numbers or booleans, a number, a nested list of numbers, arrays or tensors of
            one shape, a pandas DataFrame or Series, or anything else that numpy reads as an array of numbers.
        what: name of the value in messages, such as "labels".
        remedy: what a user can do about strings, the end of the sentence.

    Raises:
        InvalidTypeError: for strings, dates, objects, complex numbers.
        InvalidInputError: for a ragged list, and for entries that a masked array of numpy hides.
    """
    if isinstance(value, Tensor):
        return _plain_tensor(value, what)
    if isinstance(value, (list, tuple)) and any(is_array(item) for item in value):
        parts = [to_tensor(item, what, remedy=remedy) for item in value]
        if len({p.shape for p in parts}) > 1:
            shapes = ", ".join(str(s) for s in sorted({tuple(p.shape) for p in parts})[:3])
            raise InvalidInputError(f"{what} must hold arrays of one shape, got shapes {shapes}")
        return torch.stack(parts)
    array = _pandas_array(value, what) if _is_pandas(value) else _plain_array(value, what)
    return _as_tensor(array, value, what, remedy)


def _plain_tensor(value: Tensor, what: str) -> Tensor:
    """The tensor; a sparse one dense, and a type that torch can hardly compute with as int64 or float32."""
    if value.is_complex():
        raise _complex_error(what, value.dtype)
    if value.is_meta:
        raise InvalidInputError(f"{what} must hold numbers, got a tensor on the device 'meta', which holds none")
    if value.is_sparse or value.layout in (torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc):
        value = value.to_dense()
    if value.dtype in (torch.uint16, torch.uint32, torch.uint64):
        return value.long()
    return value.float() if value.is_floating_point() and value.element_size() == 1 else value


def is_array(value: Any) -> bool:
    """Whether a value holds several numbers by itself: a tensor, an array, a DataFrame or a Series, but no list."""
    if isinstance(value, Tensor):
        return value.ndim > 0
    return not isinstance(value, (np.generic, str)) and (hasattr(value, "__array__") or hasattr(value, "to_numpy"))


def holds_numbers(value: Any) -> bool:
    """Whether a value is a list of numbers, or of lists of them, and so on."""
    if not isinstance(value, (list, tuple)) or not value:
        return False
    return all(
        holds_numbers(item) if isinstance(item, (list, tuple)) else isinstance(item, (int, float, np.number))
        for item in value
    )


def model_float_type(model: Any) -> tuple[torch.dtype, torch.device]:
    """The precision and the device of a model: those of its first floating-point parameter or buffer."""
    tensors = () if model is None else (*model.parameters(), *model.buffers())
    first = next((t for t in tensors if t.is_floating_point()), None)
    device = first.device if first is not None else next((t.device for t in tensors), torch.device("cpu"))
    return (torch.get_default_dtype() if first is None else first.dtype), device


def _complex_error(what: str, dtype: Any) -> InvalidTypeError:
    return InvalidTypeError(f"{what} must hold real numbers, got {dtype}; pass their real part or modulus")


def _is_pandas(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] == "pandas" and hasattr(value, "to_numpy")


def _pandas_array(value: Any, what: str) -> Any:
    """The numbers of a DataFrame or a Series; missing ones become NaN, which the caller refuses by its own rule."""
    if hasattr(value, "columns"):
        odd = next((name for name, dtype in value.dtypes.items() if getattr(dtype, "kind", "O") not in NUMBERS), None)
        if odd is not None:
            raise InvalidTypeError(
                f"{what} must hold numbers, and the column {str(odd)!r} holds {value.dtypes[odd]}; leave it out, or "
                "encode it, as pandas.get_dummies does"
            )
        return value.to_numpy(dtype="float64", na_value=np.nan)
    array = value.to_numpy()
    if array.dtype.kind == "O" and getattr(value.dtype, "kind", "O") in NUMBERS:
        if not value.isna().any():  # pandas before 2.2 makes objects of Int64 without missing values, too
            return value.to_numpy(dtype=value.dtype.numpy_dtype)
        return value.to_numpy(dtype="float64", na_value=np.nan)
    return array


def _plain_array(value: Any, what: str) -> Any:
    try:
        return np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as err:
        if isinstance(value, (list, tuple)):
            raise InvalidInputError(f"{what} must hold rows of one length, got a ragged list") from err
        raise InvalidTypeError(f"{what} must hold numbers, got {type(value).__name__}") from err


def _as_tensor(array: Any, value: Any, what: str, remedy: str) -> Tensor:
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise InvalidInputError(f"{what} must hold no hidden entries, got a masked array with some; fill or drop them")
    array = _unboxed(array) if array.dtype.kind == "O" else array
    kind = array.dtype.kind
    if kind == "c":
        raise _complex_error(what, array.dtype)
    if kind not in NUMBERS:
        raise InvalidTypeError(f"{what} must hold numbers, got {_description(array, value)}{remedy}")
    if kind in "iu":
        if kind == "u" and array.dtype.itemsize == 8 and array.size and int(array.max()) > np.iinfo(np.int64).max:
            raise InvalidInputError(f"{what} must hold integers below 2**63, got {int(array.max())}")
        array = array.astype(np.int64)
    elif kind == "f":
        # torch has neither other byte orders nor wider types than float64.
        array = array.astype(array.dtype.newbyteorder("=") if array.dtype.itemsize <= 8 else np.float64, copy=False)
    array = np.ascontiguousarray(array) if array.ndim else array
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _unboxed(array: Any) -> Any:
    """An array of objects as one of numbers, if all of them are numbers."""
    if not all(isinstance(item, (int, float, np.number, np.bool_)) for item in array.flat):
        return array
    numbers = np.array(array.tolist())
    return numbers if numbers.dtype.kind in NUMBERS else array


def _description(array: Any, value: Any) -> str:
    """A description of a value that is no number, for a message."""
    kind = array.dtype.kind
    first = array.flat[0] if array.size else None
    strings = kind in "US" or (kind == "O" and isinstance(first, str))
    if strings:
        return f"strings such as {str(first)!r}"
    if kind in "Mm":
        return f"{array.dtype} values, which are dates or times"
    if array.ndim == 0:
        return type(value).__name__
    stranger = next((item for item in array.flat if not isinstance(item, (int, float, np.number, np.bool_))), first)
    return f"an array of objects such as {type(stranger).__name__}"
