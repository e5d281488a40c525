"""Features taken out, or put in, group by group in the order of their attribution."""

from __future__ import annotations

import abc
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from xaikit.core import METRICS, Call, Categorical, Int
from xaikit.core.structure import Tensors, row_ends
from xaikit.metrics.base import EvaluationContext
from xaikit.metrics.faithfulness import ranks
from xaikit.metrics.perturbation import Removal
from xaikit.metrics.pooled_features import PooledFeatureMetric, PooledFeatures
from xaikit.metrics.random_subsets import uniform_draws
from xaikit.metrics.similarity import ROWWISE, without_rounding


class OrderedSteps(Removal, PooledFeatureMetric, abc.ABC):
    """Base of the metrics that cut the positions, ordered by attribution, into groups of nearly equal size.

    Positions and their order are those of pixel flipping: a pixel, token or step with all its channels.
    """

    IN_ORDER: ClassVar[bool] = True

    n_steps: Annotated[int, Int(ge=2), "groups; every position by itself, where there are fewer"] = 28
    output = "score"

    def _bounds(self, total: int) -> Tensor:
        """The first rank of each group, and the number of positions, (K + 1,)."""
        steps = min(self.n_steps, total)
        return torch.tensor([round(k * total / steps) for k in range(steps + 1)], device="cpu")

    def _sums(self, values: Tensor, rank: Tensor) -> Tensor:
        """The sum of the values (N, P) in each group of ranks, (N, K), in float64."""
        bounds = self._bounds(rank.shape[1]).to(rank.device)
        group = torch.bucketize(rank, bounds[1:], right=True)
        sums = torch.zeros(len(values), len(bounds) - 1, dtype=torch.float64, device=values.device)
        return without_rounding(sums.scatter_add_(1, group, values.double()), rank.shape[1])

    def _groups(self, rank: Tensor, samples: slice, some: range) -> Tensor:
        """Flags (k, n, P) of the positions in each of some groups."""
        bounds = self._bounds(rank.shape[1]).to(rank.device)
        low, high = (bounds[some.start + i : some.stop + i, None, None] for i in (0, 1))
        return (rank[samples] >= low) & (rank[samples] < high)


@METRICS.register("faithfulness_estimate")
class FaithfulnessEstimate(OrderedSteps):
    """Pearson's correlation of attribution and drop in output over groups of features; higher is more faithful.

    A group holds positions of similar attribution, and is replaced by the baseline alone: sum_{i in S} a_i against f(x)
    - f(x without S) (Alvarez-Melis and Jaakkola 2018, arXiv:1806.07538, with single features).

    >>> import torch
    >>> from xaikit.explainers import GradientXInput
    >>> explainer = GradientXInput(torch.nn.Linear(8, 1).double())
    >>> FaithfulnessEstimate().evaluate(explainer, torch.rand(2, 8).double()).round(decimals=6).tolist()
    [1.0, 1.0]
    """

    DIRECTION = "maximize"

    def _evaluate(self, context: EvaluationContext) -> Tensor:
        places = self._pooled_features(context)
        rank = ranks(places.values)
        count = len(self._bounds(rank.shape[1])) - 1
        removals = self._removed(context, places, count, lambda samples, some: self._groups(rank, samples, some))
        drop = self._unchanged(context) - removals
        sums = self._sums(places.values, rank)
        return ROWWISE["pearson"](sums, drop.T.to(sums)).to(drop)


@METRICS.register("monotonicity_arya")
class MonotonicityArya(OrderedSteps):
    """1 where the output never falls while features are put into the baseline, the least relevant first, else 0.

    Higher is better (Arya et al. 2019, arXiv:1909.03012; Luss et al. 2019, arXiv:1905.12698). It asks much: features
    that speak against the class have negative attributions, and come first. NaN for a single position.

    >>> import torch
    >>> from xaikit.explainers import GradientXInput
    >>> model = torch.nn.Linear(4, 1)
    >>> model.weight.data.abs_().shape
    torch.Size([1, 4])
    >>> MonotonicityArya().evaluate(GradientXInput(model), torch.rand(2, 4)).tolist()
    [1.0, 1.0]
    """

    DIRECTION = "maximize"

    def _evaluate(self, context: EvaluationContext) -> Tensor:
        places = self._pooled_features(context)
        rank = ranks(places.values)
        # The baseline itself is not looked at: the first output has the least relevant group in it.
        bounds = self._bounds(rank.shape[1]).flip(0)[1:].to(rank.device)

        def absent(samples: slice, some: range) -> Tensor:
            return rank[samples] < bounds[some.start : some.stop, None, None]

        outputs = self._removed(context, places, len(bounds), absent)
        rises = (outputs.diff(dim=0) >= 0).all(0).to(outputs)
        return rises if len(outputs) > 1 else torch.full_like(rises, torch.nan)


@METRICS.register("monotonicity_nguyen")
class MonotonicityNguyen(OrderedSteps):
    """Spearman's correlation of |a| and the uncertainty of the output without a feature; higher is better.

    The uncertainty is the mean squared change of the output when the positions of a group get random values, uniform
    between the smallest and the largest value of the sample (Nguyen and Martinez 2020, arXiv:2007.07584). With
    ``replacement="baseline"`` they get the baseline instead, once.

    >>> import torch
    >>> from xaikit.explainers import GradientXInput
    >>> explainer = GradientXInput(torch.nn.Linear(8, 1).double())
    >>> metric = MonotonicityNguyen(replacement="baseline")
    >>> metric.evaluate(explainer, torch.rand(2, 8).double()).round(decimals=6).tolist()
    [1.0, 1.0]
    """

    DIRECTION = "maximize"

    n_iter: Annotated[int, Int(ge=1), "random values of each group"] = 10
    replacement: Annotated[str, Categorical("uniform", "baseline", search=False), "what a group is replaced by"] = (
        "uniform"
    )

    def _evaluate(self, context: EvaluationContext) -> Tensor:
        places = self._pooled_features(context)
        places = PooledFeatures(places.values.abs(), places.shapes)
        rank = ranks(places.values)
        count = len(self._bounds(rank.shape[1])) - 1
        if self.replacement == "baseline":
            changed = self._removed(context, places, count, lambda samples, some: self._groups(rank, samples, some))
            spread = (changed - self._unchanged(context)).square()
        else:
            spread = self._uncertainty(context, places, rank, count)
        sums = self._sums(places.values, rank)
        return ROWWISE["spearman"](sums, spread.T.to(sums)).to(spread)

    def _uncertainty(self, context: EvaluationContext, places: PooledFeatures, rank: Tensor, count: int) -> Tensor:
        """The mean squared change of the output for each group, (K, N)."""
        draws = uniform_draws(context.call.inputs, self.n_iter, context.seed)
        total = torch.zeros((), device=rank.device)
        for i in range(self.n_iter):

            def change(call: Call, samples: slice, some: range, i: int = i) -> Tensors:
                flags = (places if call.n == context.call.n else places.at(samples)).spread(
                    self._groups(rank, samples, some)
                )
                return tuple(
                    torch.where(f, _between(x, z[i]), x) for f, x, z in zip(flags, call.inputs, draws, strict=True)
                )

            total = total + (self._watch(context.call, count, change) - self._unchanged(context)).square()
        return total / self.n_iter


def _between(x: Tensor, share: Tensor) -> Tensor:
    """Values between the smallest and the largest of each sample of x, at shares in [0, 1)."""
    low, high = row_ends(x)
    return low + share * (high - low)
