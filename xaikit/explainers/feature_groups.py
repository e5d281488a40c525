"""Default groups of features that a perturbation method switches together, and default sliding windows."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from xaikit.core.structure import Tensors
from xaikit.transforms.axes import channel_axis
from xaikit.transforms.feature_masks import FeatureMask, FeatureMaskPerInput, GivenGroups, Tokens, in_form_of


def default_groups(x: Tensor, limit: int) -> Tensor:
    """A group for every feature if a sample has at most `limit` of them, else about `limit` blocks, (1, ...).

    The blocks divide the places evenly along each axis and share the channels.
    """
    shape = x.shape[1:]
    if shape.numel() <= limit:
        return torch.arange(shape.numel(), device=x.device).reshape(1, *shape)
    channels = channel_axis(x, None)
    places = [size for axis, size in enumerate(shape, 1) if axis != channels]
    per_axis = max(1, round(limit ** (1 / len(places))))
    groups = torch.zeros((), dtype=torch.long, device=x.device)
    for size in places:
        blocks = min(size, per_axis)
        along = torch.arange(size, device=x.device) * blocks // size
        groups = groups[..., None] * blocks + along
    return (groups if channels is None else groups.unsqueeze(channels - 1)).expand(shape)[None]


def _default_groups_told(x: Tensor, limit: int) -> Tensor:
    groups = default_groups(x, limit)
    if x.ndim == 2 and x.shape[1] > limit:  # neighbours in a table have nothing in common, unlike in pictures
        warnings.warn(
            f"{x.shape[1]} columns are switched in {limit} groups of neighbours, which share their values; "
            f"n_segments={x.shape[1]} gives each a group of its own, feature_mask= names others",
            stacklevel=2,
        )
    return groups


def make_groups(feature_mask: FeatureMask | None, inputs: Tensors, limit: int, tokens: Sequence[bool] = ()) -> Tensors:
    """Group numbers for each input, (1, ...) or (N, ...).

    If the user's numbers share a group between inputs, it is switched in all of them together; other groups belong to
    one input. Without `feature_mask`, vectors of tokens have a group for each token, other inputs `default_groups`.

    Args:
        feature_mask: the user's groups, or None.
        inputs: tensors (N, ...).
        limit: most groups of an input where none are given.
        tokens: which inputs are vectors of tokens.

    Warns:
        UserWarning: where neighbouring columns of a table share a group that nobody asked for.

    Raises:
        InvalidInputError: for groups of another shape or of fractions.
    """
    if feature_mask is not None:
        groups = feature_mask.of(inputs, tokens)
        shared = _numbered_by_hand(feature_mask, groups, inputs, tokens)
        if shared is not None:
            return shared
    else:
        pairs = zip(inputs, tokens or [False] * len(inputs), strict=True)
        groups = tuple(Tokens()(x) if token else _default_groups_told(x, limit) for x, token in pairs)
    starts = itertools.accumulate((int(ids.max()) + 1 for ids in groups[:-1]), initial=0)
    return tuple(ids + start for ids, start in zip(groups, starts, strict=True))


def _numbered_by_hand(
    feature_mask: FeatureMask, groups: Tensors, inputs: Tensors, tokens: Sequence[bool]
) -> Tensors | None:
    """The user's own numbers for several inputs, 0, 1, 2, ... over all inputs together; None for other groups."""
    items = feature_mask.items if isinstance(feature_mask, FeatureMaskPerInput) else ()
    if len(inputs) < 2 or not items or not all(isinstance(item, GivenGroups) for item in items):
        return None
    flags = tokens or [False] * len(inputs)
    raw = [in_form_of(item.ids, x, token) for item, x, token in zip(items, inputs, flags, strict=True)]
    return without_gaps(tuple(r.expand_as(ids) for r, ids in zip(raw, groups, strict=True)))


def share_groups(groups: Tensors | None) -> bool:
    """Whether some group stands in several inputs."""
    members = [set(ids.unique().tolist()) for ids in groups or ()]
    return len(set().union(*members)) < sum(map(len, members))


class JoinedInputs:
    """Several inputs laid side by side in one tensor (N, elements).

    Args:
        inputs: tensors (N, ...).
    """

    def __init__(self, inputs: Tensors) -> None:
        self._inputs = inputs
        self._sizes = [x[0].numel() for x in inputs]
        exact = torch.float64 if any(not x.is_floating_point() for x in inputs) else inputs[0].dtype
        self._dtype = exact

    def join(self, tensors: Tensors) -> Tensor:
        """Tensors (N, ...) or (1, ...) in the form of the inputs, side by side; whole numbers stay whole."""
        rows = max(len(t) for t in tensors)
        token_embeddings = all(not t.is_floating_point() for t in tensors) and tensors is not self._inputs
        dtype = torch.long if token_embeddings else self._dtype
        return torch.cat([t.expand(rows, *t.shape[1:]).reshape(rows, -1).to(dtype) for t in tensors], 1)

    def split(self, joined: Tensor, *, keep_type: bool = False) -> Tensors:
        """The inputs of which a tensor (N, elements) is made, in their types unless `keep_type`."""
        parts = joined.split(self._sizes, 1)
        shaped = [p.reshape(len(p), *x.shape[1:]) for p, x in zip(parts, self._inputs, strict=True)]
        if keep_type:
            return tuple(
                p.to(x.dtype) if x.is_floating_point() else p for p, x in zip(shaped, self._inputs, strict=True)
            )
        return tuple(p.to(x.dtype) for p, x in zip(shaped, self._inputs, strict=True))


def without_gaps(groups: Tensors) -> Tensors:
    """The group numbers of some samples, over all inputs, renumbered 0, 1, 2, ... without a gap, as captum needs."""
    _, numbers = torch.unique(torch.cat([ids.flatten() for ids in groups]), return_inverse=True)
    parts = numbers.split([ids.numel() for ids in groups])
    return tuple(part.view(ids.shape) for part, ids in zip(parts, groups, strict=True))


def windows(
    inputs: Tensors, side: float, step: float, tokens: Sequence[bool] = ()
) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Shapes and strides of windows over each input.

    Args:
        inputs: tensors (N, ...); a window always spans the channels of those of three axes and more.
        side: length of the window along an axis, as a fraction of the axis.
        step: stride, as a fraction of the window.
        tokens: which inputs are vectors of tokens, (N, T, features), which a window always spans.
    """
    shapes: list[tuple[int, ...]] = []
    strides: list[tuple[int, ...]] = []
    for x, token in zip(inputs, tokens or [False] * len(inputs), strict=True):
        channels = channel_axis(x, -1 if token else None)
        sides = {
            axis: size if axis == channels else min(size, max(2, round(side * size)))
            for axis, size in enumerate(x.shape)
            if axis > 0
        }
        shapes.append(tuple(sides.values()))
        strides.append(tuple(s if axis == channels else max(1, round(step * s)) for axis, s in sides.items()))
    return shapes, strides
