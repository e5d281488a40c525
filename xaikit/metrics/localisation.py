"""Localisation: does the relevance lie where a mask says that it should?"""

from __future__ import annotations

import abc
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from xaikit.core import METRICS, Int, structure
from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.metrics.base import EvaluationContext
from xaikit.metrics.pooled_features import PooledFeatureMetric
from xaikit.metrics.similarity import mean_ranks, tie_bounds


class Localisation(PooledFeatureMetric, abc.ABC):
    """Compares the attributions a of the places with a mask M of where they should lie.

    A mask holds True or 1 inside; shapes: (N, C, ...), (N, 1, ...) or (N, ...) without channels, or (...) for all
    samples. NaN for a sample whose mask is empty, which says nothing.
    """

    NEEDS_MASK: ClassVar[bool] = True

    def _evaluate(self, context: EvaluationContext) -> Tensor:
        places = self._places(context)
        inside = torch.cat([m.flatten(1) for m in self._masks(context, places.shapes)], 1)
        values = self._compare(places.values, inside)
        return values.masked_fill(~inside.any(1), torch.nan)

    @abc.abstractmethod
    def _compare(self, values: Tensor, inside: Tensor) -> Tensor:
        """The metric of attributions and flags (N, P), shape (N,)."""

    def _masks(self, context: EvaluationContext, shapes: tuple[torch.Size, ...]) -> list[Tensor]:
        try:
            masks = structure.flatten(context.relevant_region, "masks")[0]
        except InvalidTypeError:
            masks = (torch.as_tensor(context.relevant_region),)
        if len(masks) != len(shapes):
            raise InvalidInputError(f"masks must be one tensor per explained input, {len(shapes)}, got {len(masks)}")
        inputs = context.call.inputs
        return [self._fit(m.to(x.device), x, s) for m, x, s in zip(masks, inputs, shapes, strict=True)]

    def _fit(self, mask: Tensor, x: Tensor, places: torch.Size) -> Tensor:
        """The mask as flags (N, *places)."""
        if mask.dtype != torch.bool and not bool(((mask == 0) | (mask == 1)).all()):
            raise InvalidInputError(
                f"masks must hold booleans or 0 and 1, got values from {float(mask.min()):g} to {float(mask.max()):g}; "
                f"compare with a threshold first"
            )
        for candidate in self._candidates(mask.bool(), x, places):
            if all(m in (1, s) for m, s in zip(candidate.shape[1:], x.shape[1:], strict=True)):
                full = candidate.expand(len(x), *x.shape[1:]) if len(candidate) in (1, len(x)) else candidate
                for axis, size in enumerate(places, 1):
                    full = full.any(axis, keepdim=True) if size == 1 else full
                if len(full) == len(x):
                    return full
        n, rest = len(x), tuple(x.shape[1:])
        raise InvalidInputError(
            f"masks for {n} samples of shape {rest} must have shape {(n, *rest)}, with or without the channels, or be "
            f"one map for all samples; got {tuple(mask.shape)}"
        )

    def _candidates(self, mask: Tensor, x: Tensor, places: torch.Size) -> list[Tensor]:
        """The mask with the axes that it leaves out: the channels', the samples', or both."""
        if mask.ndim == x.ndim:
            return [mask] if len(mask) == len(x) else []
        pooled = [d for d, (p, s) in enumerate(zip(places, x.shape[1:], strict=True), 1) if p != s]
        axes = [*([] if self.channel_axis is None else [self.channel_axis % x.ndim]), *pooled, 1]
        found = []
        if mask.ndim == x.ndim - 1 and len(mask) == len(x) and x.ndim > 2:
            found = [mask.unsqueeze(axis) for axis in axes]
        if x.ndim == 2 and mask.ndim == 1:
            found = [mask[None]]
        if x.ndim > 2 and mask.ndim == x.ndim - 2:
            found = [mask[None].unsqueeze(axis) for axis in axes]
        return found


@METRICS.register("pointing_game")
class PointingGame(Localisation):
    """1 where the place of the highest attribution lies inside the mask, else 0 (Zhang et al. 2018, arXiv:1608.00507).

    Several places may share the highest attribution, such as those of one superpixel: then the share of them inside.

    >>> from xaikit.explainers import Gradient
    >>> a, mask = torch.tensor([[0.0, 3.0, 1.0]]), torch.tensor([[0, 1, 0]])
    >>> explainer, x = Gradient(torch.nn.Linear(3, 1)), torch.rand(1, 3)
    >>> PointingGame().evaluate(explainer, x, None, a, relevant_region=mask).tolist()
    [1.0]
    """

    DIRECTION = "maximize"

    def _compare(self, values: Tensor, inside: Tensor) -> Tensor:
        return share_of_top(values, inside, torch.ones_like(inside[:, 0], dtype=torch.long))


@METRICS.register("relevance_mass")
class RelevanceMass(Localisation):
    """Share of the positive relevance that lies inside the mask (Arras et al. 2022, arXiv:2003.07258).

    sum_{i in M} max(a_i, 0) / sum_i max(a_i, 0); NaN where no attribution is positive.

    >>> from xaikit.explainers import Gradient
    >>> a, mask = torch.tensor([[0.0, 3.0, 1.0]]), torch.tensor([[0, 1, 0]])
    >>> explainer, x = Gradient(torch.nn.Linear(3, 1)), torch.rand(1, 3)
    >>> RelevanceMass().evaluate(explainer, x, None, a, relevant_region=mask).tolist()
    [0.75]
    """

    DIRECTION = "maximize"

    def _compare(self, values: Tensor, inside: Tensor) -> Tensor:
        positive = values.clamp_min(0)
        total = positive.sum(1)
        return (positive * inside).sum(1) / torch.where(total > 0, total, torch.nan)


@METRICS.register("relevance_rank")
class RelevanceRank(Localisation):
    """Share of the |M| places of the highest attributions that lie inside the mask M (Arras et al. 2022).

    Of equal attributions at the border of the |M| highest, each counts in part.

    >>> from xaikit.explainers import Gradient
    >>> a, mask = torch.tensor([[0.0, 3.0, 1.0]]), torch.tensor([[1, 1, 0]])
    >>> explainer, x = Gradient(torch.nn.Linear(3, 1)), torch.rand(1, 3)
    >>> RelevanceRank().evaluate(explainer, x, None, a, relevant_region=mask).tolist()
    [0.5]
    """

    DIRECTION = "maximize"

    def _compare(self, values: Tensor, inside: Tensor) -> Tensor:
        return share_of_top(values, inside, inside.sum(1))


@METRICS.register("auc")
class AUC(Localisation):
    """Probability that a place inside the mask has a higher attribution than one outside, equal ones counted half.

    The area under the ROC curve of the attribution as a detector of the mask (Fawcett 2006). NaN where the mask covers
    everything.

    >>> from xaikit.explainers import Gradient
    >>> a, mask = torch.tensor([[0.0, 3.0, 1.0]]), torch.tensor([[0, 1, 0]])
    >>> explainer, x = Gradient(torch.nn.Linear(3, 1)), torch.rand(1, 3)
    >>> AUC().evaluate(explainer, x, None, a, relevant_region=mask).tolist()
    [1.0]
    """

    DIRECTION = "maximize"

    def _compare(self, values: Tensor, inside: Tensor) -> Tensor:
        n_inside, n_outside = inside.sum(1), (~inside).sum(1)
        above = (mean_ranks(values) * inside).sum(1) - n_inside * (n_inside - 1) / 2
        pairs = (n_inside * n_outside).double()
        return (above / torch.where(pairs > 0, pairs, torch.nan)).to(values)


@METRICS.register("top_k_intersection")
class TopKIntersection(Localisation):
    """Share of the k highest attributions that lie inside the mask (Theiner et al. 2021, arXiv:2104.14995).

    Of equal attributions at the border of the k highest, each counts in part.

    >>> from xaikit.explainers import Gradient
    >>> a, mask = torch.tensor([[0.0, 3.0, 1.0]]), torch.tensor([[0, 1, 0]])
    >>> metric = TopKIntersection(k=2)
    >>> metric.evaluate(Gradient(torch.nn.Linear(3, 1)), torch.rand(1, 3), None, a, relevant_region=mask).tolist()
    [0.5]
    """

    DIRECTION = "maximize"

    k: Annotated[int, Int(ge=1), "places that are looked at; all, where there are fewer"] = 100

    def _compare(self, values: Tensor, inside: Tensor) -> Tensor:
        k = min(self.k, values.shape[1])
        return share_of_top(values, inside, torch.full_like(inside[:, 0], k, dtype=torch.long))


def share_of_top(values: Tensor, inside: Tensor, k: Tensor) -> Tensor:
    """Share of the k highest values that lie inside, (N,); equal values at the border count alike, each in part.

    This is the expected share when the order of equal values is random, so it does not hang on their place in memory.

    Args:
        values: (N, P).
        inside: flags (N, P).
        k: how many values count in each row, (N,).
    """
    below, upto = tie_bounds(values)
    above, tied = values.shape[1] - upto, upto - below
    weight = ((k[:, None] - above) / tied).clamp(0, 1)
    return ((weight * inside).sum(1) / k).to(values)
