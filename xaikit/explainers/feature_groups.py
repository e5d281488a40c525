"""Groups of features that a perturbation method switches together, and windows that it slides, where none are given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from xaikit.core import FEATURE_MASKS
from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.core.structure import Tensors


def groups_setting(value: Any, where: str) -> Any:
    """Check the setting: None, a tensor, several tensors, a function of an input, or a feature mask's name."""
    if isinstance(value, str):
        return FEATURE_MASKS.create(value)
    several = isinstance(value, (tuple, list)) and value and all(isinstance(v, Tensor) for v in value)
    if value is None or several or isinstance(value, Tensor) or callable(value):
        return tuple(value) if several else value
    raise InvalidTypeError(
        f"{where} must be a tensor of group numbers (one per input), a function that makes one of an input, "
        f"or None, got {value!r}"
    )


def default_groups(x: Tensor, limit: int) -> Tensor:
    """Every feature by itself where a sample has at most `limit` features, else about `limit` blocks, (1, ...).

    The blocks divide the places evenly along each axis and share the channels, axis 1 of three or more.
    """
    shape = x.shape[1:]
    if shape.numel() <= limit:
        return torch.arange(shape.numel(), device=x.device).reshape(1, *shape)
    places = shape[1:] if len(shape) > 1 else shape
    per_axis = max(1, round(limit ** (1 / len(places))))
    groups = torch.zeros((), dtype=torch.long, device=x.device)
    for size in places:
        blocks = min(size, per_axis)
        along = torch.arange(size, device=x.device) * blocks // size
        groups = groups[..., None] * blocks + along
    return groups.expand(shape)[None]


def make_groups(given: Any, inputs: Tensors, limit: int) -> Tensors:
    """A tensor of group numbers for each input, (1, ...) or (N, ...), no number in two inputs.

    Raises:
        InvalidInputError: for groups of another shape or of fractions.
    """
    if given is None:
        found = [default_groups(x, limit) for x in inputs]
    elif isinstance(given, (Tensor, tuple)):
        found = list(given) if isinstance(given, tuple) else [given]
    else:
        found = [given(x) for x in inputs]
    if len(found) != len(inputs):
        raise InvalidInputError(f"feature_mask must hold one tensor per input, {len(inputs)}, got {len(found)}")
    masks, start = [], 0
    for mask, x in zip(found, inputs, strict=True):
        full = mask.to(x.device) if mask.ndim == x.ndim else mask.to(x.device)[None]
        fits = full.ndim == x.ndim and all(a in (1, b) for a, b in zip(full.shape, x.shape, strict=True))
        if not fits or full.is_floating_point():
            raise InvalidInputError(
                f"feature_mask must hold whole group numbers in the shape of a sample {tuple(x.shape[1:])}, "
                f"got {mask.dtype} {tuple(mask.shape)}"
            )
        # Captum wants 0, 1, 2, ... without a gap.
        numbers, consecutive = torch.unique(full, return_inverse=True)
        masks.append((start + consecutive).expand(len(full), *x.shape[1:]))
        start += len(numbers)
    return tuple(masks)


def windows(inputs: Tensors, side: float, step: float) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Shapes and strides of windows over each input.

    Args:
        inputs: tensors (N, ...); axis 1 of three or more holds channels, which a window always spans.
        side: length of the window along an axis, as a fraction of the axis.
        step: stride, as a fraction of the window.
    """
    shapes, strides = [], []
    for x in inputs:
        channels: Sequence[int] = x.shape[1:2] if x.ndim > 2 else ()
        places = x.shape[1 + len(channels) :]
        sides = [min(size, max(2, round(side * size))) for size in places]
        shapes.append((*channels, *sides))
        strides.append((*channels, *(max(1, round(step * length)) for length in sides)))
    return shapes, strides
