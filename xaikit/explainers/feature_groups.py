"""Groups of features that a perturbation method switches together, and windows that it slides, where none are given."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from xaikit.core.structure import Tensors
from xaikit.transforms.feature_masks import FeatureMask, Tokens


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


def make_groups(given: FeatureMask | None, inputs: Tensors, limit: int, tokens: Sequence[bool] = ()) -> Tensors:
    """Group numbers for each input, (1, ...) or (N, ...), no number in two inputs, since captum counts them all.

    Where none are given, vectors of tokens have a group for each token, other inputs `default_groups`.

    Raises:
        InvalidInputError: for groups of another shape or of fractions.
    """
    if given is not None:
        found = given.of(inputs, tokens)
    else:
        pairs = zip(inputs, tokens or [False] * len(inputs), strict=True)
        found = tuple(Tokens()(x) if token else default_groups(x, limit) for x, token in pairs)
    starts = itertools.accumulate((int(ids.max()) + 1 for ids in found[:-1]), initial=0)
    return tuple(ids + start for ids, start in zip(found, starts, strict=True))


def without_gaps(groups: Tensors) -> Tensors:
    """The numbers that some samples have in all their inputs together, as 0, 1, 2, ..., which is what captum wants."""
    _, found = torch.unique(torch.cat([ids.flatten() for ids in groups]), return_inverse=True)
    parts = found.split([ids.numel() for ids in groups])
    return tuple(part.view(ids.shape) for part, ids in zip(parts, groups, strict=True))


def windows(
    inputs: Tensors, side: float, step: float, tokens: Sequence[bool] = ()
) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Shapes and strides of windows over each input.

    Args:
        inputs: tensors (N, ...); axis 1 of three or more holds channels, which a window always spans.
        side: length of the window along an axis, as a fraction of the axis.
        step: stride, as a fraction of the window.
        tokens: which inputs are vectors of tokens, (N, T, features), which a window always spans.
    """
    shapes: list[tuple[int, ...]] = []
    strides: list[tuple[int, ...]] = []
    for x, token in zip(inputs, tokens or [False] * len(inputs), strict=True):
        if token:
            length = min(x.shape[1], max(2, round(side * x.shape[1])))
            shapes.append((length, x.shape[2]))
            strides.append((max(1, round(step * length)), x.shape[2]))
            continue
        channels: Sequence[int] = x.shape[1:2] if x.ndim > 2 else ()
        places = x.shape[1 + len(channels) :]
        sides = [min(size, max(2, round(side * size))) for size in places]
        shapes.append((*channels, *sides))
        strides.append((*channels, *(max(1, round(step * length)) for length in sides)))
    return shapes, strides
