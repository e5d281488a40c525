"""Features that a perturbation changes together: a position with all its channels, or a group of a feature mask."""

from __future__ import annotations

import abc
import dataclasses
from typing import Annotated, Any

import torch
from torch import Tensor

from xaikit.core import POOLINGS, Choice
from xaikit.core.structure import Tensors, by_row
from xaikit.metrics.base import EvaluationContext, Metric
from xaikit.transforms.axes import CHANNEL_AXIS, axis_setting, channel_axis
from xaikit.transforms.feature_masks import FeatureMask
from xaikit.transforms.pooling import Pooling


@dataclasses.dataclass(frozen=True)
class PooledFeatures:
    """The attributions of all positions, pooled over their channels: a pixel, a token or a column is one feature.

    Attributes:
        values: the pooled attributions of all inputs side by side, (N, P).
        shapes: for each input, the shape of a sample's pooled attribution.
    """

    values: Tensor
    shapes: tuple[torch.Size, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of positions of each input."""
        return tuple(shape.numel() for shape in self.shapes)

    @property
    def present(self) -> Tensor:
        """Flags (1, P): every sample has every position."""
        return self.values.new_ones(1, self.values.shape[1], dtype=torch.bool)

    def at(self, samples: slice) -> PooledFeatures:
        """The features of some of the samples."""
        return PooledFeatures(self.values[samples], self.shapes)

    def spread(self, flags: Tensor) -> Tensors:
        """Flags (K, N or 1, P) of positions, repeated for the channels: one tensor for each input."""
        parts = flags.split(self.sizes, -1)
        return tuple(p.reshape(*p.shape[:-1], *s) for p, s in zip(parts, self.shapes, strict=True))


@dataclasses.dataclass(frozen=True)
class FeatureGroups:
    """The groups of a feature mask; a group's attribution is the sum over its features.

    Attributes:
        values: (N, P).
        present: (N, P) or (1, P).
        sizes: groups of each input.
        ids: for each input, the part that each feature belongs to, (N or 1, ...).
    """

    values: Tensor
    present: Tensor
    sizes: tuple[int, ...]
    ids: Tensors

    def at(self, samples: slice) -> FeatureGroups:
        """The features of some of the samples."""
        ids = tuple(i if len(i) == 1 else i[samples] for i in self.ids)
        return FeatureGroups(
            self.values[samples], self.present if len(self.present) == 1 else self.present[samples], self.sizes, ids
        )

    def spread(self, flags: Tensor) -> Tensors:
        """Each group's flag over its features."""
        return tuple(_look_up(flags, ids) for ids in self.ids)


def groups_of(context: EvaluationContext, mask: FeatureMask, *, absolute: bool = False) -> FeatureGroups:
    """The groups of what an evaluation explains."""
    return groups(context.attributions, context.call.inputs, mask, absolute=absolute, tokens=context.call.tokens)


def groups(
    attributions: Tensors,
    inputs: Tensors,
    mask: FeatureMask,
    *,
    absolute: bool = False,
    tokens: tuple[bool, ...] = (),
) -> FeatureGroups:
    """The groups of all inputs side by side: those of the second input follow those of the first.

    A pooled attribution is shared out evenly among what it was pooled over, so that the groups' sum is its own.
    """
    ids, values, present = [], [], []
    sizes: list[int] = []
    for a, x, group_ids in zip(attributions, inputs, mask.of(inputs, tokens), strict=True):
        count = int(group_ids.max()) + 1
        flat = by_row(group_ids)
        has = torch.zeros(len(flat), count, dtype=torch.bool, device=x.device).scatter_(1, flat, True)
        # Each sample's groups are numbered without a gap, so that their numbers do not depend on the other samples.
        numbers = has.cumsum(1) - 1
        renumbered = numbers.gather(1, flat)
        pooled_over = x[0].numel() // a[0].numel()
        of_features = by_row(((a.abs() if absolute else a) / pooled_over).expand_as(x))
        values.append(of_features.new_zeros(len(x), count).scatter_add_(1, renumbered.expand(len(x), -1), of_features))
        present.append(torch.arange(count, device=x.device) <= numbers[:, -1:])
        ids.append((renumbered + sum(sizes)).view(group_ids.shape))
        sizes.append(count)
    most = max(map(len, present))
    together = torch.cat([p.expand(most, -1) for p in present], 1)
    return FeatureGroups(torch.cat(values, 1), together, tuple(sizes), tuple(ids))


FeatureSet = PooledFeatures | FeatureGroups


class PooledFeatureMetric(Metric, abc.ABC):
    """A metric that first pools the attributions of each position over its channels, if they are not pooled already."""

    pooling: Annotated[
        Any,
        Choice(POOLINGS),
        "how the attributions of a position are pooled over its channels; none, abs and positive keep every element",
    ] = "sum"
    channel_axis: Annotated[int | None, axis_setting, f"{CHANNEL_AXIS}, vectors of tokens have them last"] = None

    def _pooled_features(self, context: EvaluationContext) -> PooledFeatures:
        pooling: Pooling = self.pooling
        pooled = []
        for a, x, tokens in zip(context.attributions, context.call.inputs, context.call.tokens, strict=True):
            setting = -1 if tokens and self.channel_axis is None else self.channel_axis
            axis = channel_axis(x, setting) if pooling.JOINS else None
            # An attribution that is pooled already is taken as it is, whatever the pooling was.
            pooled.append(pooling(a.clone(), axis) if a.shape == x.shape else a)
        return PooledFeatures(torch.cat([by_row(p) for p in pooled], 1), tuple(p.shape[1:] for p in pooled))


def _look_up(flags: Tensor, ids: Tensor) -> Tensor:
    if len(ids) == 1:
        return flags[:, :, ids.flatten()].view(*flags.shape[:2], *ids.shape[1:])
    k, n = len(flags), len(ids)
    index = by_row(ids).expand(k, n, -1)
    return flags.expand(k, n, -1).gather(2, index).view(k, n, *ids.shape[1:])
