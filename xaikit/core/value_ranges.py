"""The smallest and the largest value of tensors, read from their device once.

Checks of values need numbers in Python, and every such number makes the program wait for a GPU. So the checks of
inputs, labels and masks all ask `range_of`. Code that makes several checks calls `ranges_known` around them: the
ranges are then read together, in one wait for each device, and the checks find them.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor

from xaikit.core import torch_private


class ValueRange(NamedTuple):
    """The ends of a tensor's values: both NaN where any value is NaN, and both 0 where there is no value."""

    low: float
    high: float

    @property
    def finite(self) -> bool:
        """Whether all values are finite."""
        return math.isfinite(self.low) and math.isfinite(self.high)


# The tensors are held, so that no other tensor gets their memory while the range is known.
_KNOWN: ContextVar[dict[Any, tuple[Tensor, ValueRange]] | None] = ContextVar("known value ranges", default=None)


def range_of(tensor: Tensor) -> ValueRange:
    """The range of a tensor's values; a wait for its device where the range is not known.

    Args:
        tensor: of real numbers or booleans.
    """
    return ranges_of([tensor])[0]


def ranges_of(tensors: Sequence[Tensor]) -> list[ValueRange]:
    """The range of each tensor's values; those that are not known are read in one wait for each device.

    Args:
        tensors: of real numbers or booleans.
    """
    known = _KNOWN.get() or {}
    entries = [known.get(_key(t)) if known else None for t in tensors]
    unknown = iter(read_ranges([t for t, entry in zip(tensors, entries, strict=True) if entry is None]))
    return [next(unknown) if entry is None else entry[1] for entry in entries]


def read_ranges(tensors: Sequence[Tensor]) -> list[ValueRange]:
    """The range of each tensor's values, in one wait for each device.

    Args:
        tensors: of real numbers or booleans.
    """
    ranges = [ValueRange(0.0, 0.0)] * len(tensors)
    by_device: dict[torch.device, list[int]] = {}
    for i, tensor in enumerate(tensors):
        if tensor.numel():
            by_device.setdefault(tensor.device, []).append(i)
    for device, members in by_device.items():
        exact = torch.float32 if device.type == "mps" else torch.float64  # which Apple's GPUs do not have
        ends = [torch.stack(torch.aminmax(_distinct(tensors[i].detach()))).to(exact) for i in members]
        for i, (low, high) in zip(members, torch.stack(ends).tolist(), strict=True):
            ranges[i] = ValueRange(low, high)
    return ranges


@contextlib.contextmanager
def ranges_known(tensors: Sequence[Tensor], ranges: Sequence[ValueRange] | None = None) -> Iterator[None]:
    """Inside, `range_of` gives the ranges of these tensors without a wait.

    Args:
        tensors: of real numbers or booleans; views of the same values count as the same tensor.
        ranges: of the tensors, or wider ones, such as those of the data that they are a part of; None reads those
            that are not known yet.
    """
    if not tensors:
        yield
        return
    values = ranges_of(tensors) if ranges is None else ranges
    entries = {_key(t): (t, r) for t, r in zip(tensors, values, strict=True)}
    entries.pop(None, None)
    token = _KNOWN.set({**(_KNOWN.get() or {}), **entries})
    try:
        yield
    finally:
        _KNOWN.reset(token)


def off_cpu(value: Any) -> list[Tensor]:
    """The tensors of real numbers in nested tuples, lists and mappings that are not on the CPU.

    Args:
        value: such as a batch as a user gave it.
    """
    if isinstance(value, Tensor):
        return [value] if value.device.type not in ("cpu", "meta") and not value.is_complex() else []
    parts: Iterable[Any] = value.values() if isinstance(value, Mapping) else value
    return [t for part in parts for t in off_cpu(part)] if isinstance(value, (tuple, list, Mapping)) else []


def _distinct(tensor: Tensor) -> Tensor:
    """The values without those that are repeated by `expand`."""
    for axis in range(tensor.ndim):
        if tensor.stride(axis) == 0:
            tensor = tensor.narrow(axis, 0, 1)
    return tensor


def _key(tensor: Tensor) -> Any:
    """A key that is equal for tensors over the same values; None if that cannot be found out."""
    if tensor.is_inference() or tensor.layout != torch.strided:
        return None
    try:
        place = tensor.data_ptr()
    except RuntimeError:  # inside torch.func, tensors have no memory of their own
        return None
    axes = tuple((n, s) for n, s in zip(tensor.shape, tensor.stride(), strict=True) if n != 1 and s != 0)
    return place, axes, tensor.dtype, tensor.device, torch_private.version_of(tensor)
