"""Regions taken out one after the other, the most relevant first: patches of a grid, segments of an image."""

from __future__ import annotations

import abc
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from xaikit.core import FEATURE_MASKS, METRICS, Choice, Int
from xaikit.metrics.base import EvaluationContext
from xaikit.metrics.faithfulness import ranks
from xaikit.metrics.perturbation import Removal
from xaikit.metrics.pooled_features import FeatureGroups, groups, groups_of


class RegionRemoval(Removal, abc.ABC):
    """Base: the output after the k regions of the highest attribution were replaced by the baseline, k = 0..K."""

    IN_ORDER: ClassVar[bool] = True

    feature_mask: Annotated[Any, Choice(FEATURE_MASKS), "the regions"] = "auto"
    n_regions: Annotated[int | None, Int(ge=1, optional=True), "most regions that are removed; None: all"] = None
    output = "score"

    def _curve(self, context: EvaluationContext, parts: FeatureGroups, values: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs (N, K + 1), and the regions that each sample has, at most K, (N,)."""
        present = parts.present.expand_as(values)
        rank = ranks(values.masked_fill(~present, -torch.inf))
        counts = present.sum(1).clamp_max(self.n_regions or present.shape[1])
        most = int(counts.max())

        def removed(samples: slice, some: range) -> Tensor:
            upto = torch.arange(some.start, some.stop, device=rank.device)[:, None, None]
            return (rank[samples] < upto) & present[samples]

        return self._removed(context, parts, most + 1, removed).T, counts


@METRICS.register("region_perturbation")
class RegionPerturbation(RegionRemoval):
    """AOPC: mean drop of the output while regions are removed, the most relevant first; higher is more faithful.

    1/(K+1) sum_{k=0..K} f(x) - f(x without the first k regions) (Samek et al. 2017, arXiv:1509.06321, eq. 12). A
    region's attribution is the sum over its features.

    >>> import torch
    >>> from xaikit.explainers import GradientXInput
    >>> RegionPerturbation().evaluate(GradientXInput(torch.nn.Linear(4, 2)), torch.rand(3, 4), 0).shape
    torch.Size([3])
    """

    DIRECTION = "maximize"

    n_regions = 100

    def _evaluate(self, context: EvaluationContext) -> Tensor:
        parts = groups_of(context, self.feature_mask)
        curve, counts = self._curve(context, parts, parts.values)
        steps = torch.arange(curve.shape[1], device=curve.device)
        return ((curve[:, :1] - curve) * (steps <= counts[:, None])).sum(1) / (counts + 1)


@METRICS.register("selectivity")
class Selectivity(RegionRemoval):
    """Area under the output while regions are removed, the most relevant first; lower is more faithful.

    By the trapezoidal rule over the share of the regions that is removed, from 0 to 1 (Montavon et al. 2018,
    10.1016/j.dsp.2017.10.011). A region's attribution is the sum over its features.

    >>> import torch
    >>> from xaikit.explainers import GradientXInput
    >>> Selectivity().evaluate(GradientXInput(torch.nn.Linear(4, 2)), torch.rand(3, 4), 0).shape
    torch.Size([3])
    """

    DIRECTION = "minimize"

    def _evaluate(self, context: EvaluationContext) -> Tensor:
        parts = groups_of(context, self.feature_mask)
        return mean_height(*self._curve(context, parts, parts.values))


@METRICS.register("irof")
class IROF(RegionRemoval):
    """Iterative removal of features: area over the curve f(x without the first k regions) / f(x); higher is better.

    1 less the mean height of the curve over the share of the regions that is removed (Rieger and Hansen 2020,
    arXiv:2003.08747). A region's attribution is the mean over its features. Meant for outputs that are not negative, so
    the probability is watched; NaN where f(x) is not above 0. For segments of images take ``feature_mask="slic"``, as
    the paper does.

    >>> import torch
    >>> from xaikit.explainers import GradientXInput
    >>> IROF().evaluate(GradientXInput(torch.nn.Linear(4, 2)), torch.rand(3, 4), 0).shape
    torch.Size([3])
    """

    DIRECTION = "maximize"
    output = "auto"

    def _evaluate(self, context: EvaluationContext) -> Tensor:
        inputs, tokens = context.call.inputs, context.call.tokens
        parts = groups_of(context, self.feature_mask)
        sizes = groups(tuple(torch.ones_like(x) for x in inputs), inputs, self.feature_mask, tokens=tokens).values
        curve, counts = self._curve(context, parts, parts.values / sizes.clamp_min(1))
        start = curve[:, :1]
        return 1 - mean_height(curve / start.where(start > 0, torch.nan), counts)


def mean_height(curve: Tensor, counts: Tensor) -> Tensor:
    """The mean height of curves (N, K + 1) over their first `counts` steps (N,), by the trapezoidal rule."""
    heights = (curve[:, :-1] + curve[:, 1:]) / 2
    steps = torch.arange(heights.shape[1], device=curve.device)
    return (heights * (steps < counts[:, None])).sum(1) / counts
