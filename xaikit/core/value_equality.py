"""Equality and hash of values that hold tensors, arrays and NaN; neither ever raises."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


def same_value(a: Any, b: Any) -> bool:  # noqa: PLR0911 - one return for each kind of value
    """Whether two values are equal: tensors by shape, type and content on whatever device, NaN equal to NaN.

    Lists and tuples with equal items are equal, since a file does not tell them apart. Whatever cannot be compared
    is equal to itself only.

    >>> same_value({"a": torch.tensor([1.0, math.nan])}, {"a": torch.tensor([1.0, math.nan])})
    True
    """
    if a is b:
        return True
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return isinstance(a, Tensor) and isinstance(b, Tensor) and _same_tensors(a, b)
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        both = isinstance(a, np.ndarray) and isinstance(b, np.ndarray)
        return both and a.dtype == b.dtype and a.shape == b.shape and _same_arrays(a, b)
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(same_value(value, b[key]) for key, value in a.items())
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(same_value, a, b))
    if isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b):
        return True
    try:
        return bool(a == b)
    except Exception:  # noqa: BLE001 - whatever a user's own object raises, the two are not known to be equal
        return False


def value_hash(value: Any) -> int:
    """A hash that is the same for values that `same_value` calls equal; of tensors only the shape counts."""
    if isinstance(value, (Tensor, np.ndarray)):
        return hash(tuple(value.shape))
    if isinstance(value, Mapping):
        return hash(frozenset((key, value_hash(item)) for key, item in value.items()))
    if isinstance(value, (list, tuple)):
        return hash(tuple(map(value_hash, value)))
    if isinstance(value, float) and math.isnan(value):
        return hash("nan")
    try:
        return hash(value)
    except Exception:  # noqa: BLE001 - an object of the user's that has no hash
        return hash(type(value).__name__)


def _same_tensors(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    try:
        a, b = a.detach(), b.detach().to(a.device)
        return bool(torch.equal(a, b) or ((a == b) | ((a != a) & (b != b))).all())  # noqa: PLR0124 - NaN
    except Exception:  # noqa: BLE001 - such as meta tensors, which hold no values
        return False


def _same_arrays(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> bool:
    try:
        return bool(np.array_equal(a, b, equal_nan=a.dtype.kind in "fc"))
    except Exception:  # noqa: BLE001 - arrays of objects
        return False
