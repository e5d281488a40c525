"""Sensitivity-n: do the attributions of n features add up to what the output loses without them, for many n?"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from xaikit.core import METRICS, Float, Int
from xaikit.metrics.base import EvaluationContext
from xaikit.metrics.fidelity import drops_and_sums, random_subsets
from xaikit.metrics.perturbation import Removal
from xaikit.metrics.pooled_features import PooledFeatureMetric
from xaikit.metrics.similarity import ROWWISE


@METRICS.register("sensitivity_n")
class SensitivityN(Removal, PooledFeatureMetric):
    """Mean over sizes n of the correlation, over random sets of n features, of attribution and drop in output.

    Pearson's correlation of sum_{i in S} a_i with f(x) - f(x without S), |S| = n, for `n_sizes` sizes from 1 to
    `largest` of the features, evenly spaced on a log scale (Ancona et al. 2018, arXiv:1711.06104, section 4). Higher
    is more faithful. A method that is exact for linear models has 1 there.

    >>> import torch
    >>> from xaikit.explainers import GradientXInput
    >>> explainer = GradientXInput(torch.nn.Linear(8, 1).double())
    >>> SensitivityN().evaluate(explainer, torch.rand(2, 8).double()).round(decimals=6).tolist()
    [1.0, 1.0]
    """

    DIRECTION = "maximize"

    n_iter: Annotated[int, Int(ge=2), "random sets of each size"] = 30
    n_sizes: Annotated[int, Int(ge=1), "sizes"] = 5
    largest: Annotated[float, Float(gt=0, lt=1), "largest size, as a share of the features"] = 0.8
    output = "score"

    def _evaluate(self, context: EvaluationContext) -> Tensor:
        places = self._pooled_features(context)
        total = places.values.shape[1]
        top = max(1.0, self.largest * total)
        sizes = sorted(
            {
                round(float(s))
                for s in torch.logspace(0, torch.tensor(top, device="cpu").log10(), self.n_sizes, device="cpu")
            }
        )
        sets = [random_subsets(places, self.n_iter, n / total, context.seed + i) for i, n in enumerate(sizes)]
        drop, promised = drops_and_sums(self, context, places, torch.cat(sets))
        by_size = (t.unflatten(0, (len(sizes), -1)) for t in (promised, drop))
        correlations = [ROWWISE["pearson"](a.T, d.T.to(a)) for a, d in zip(*by_size, strict=True)]
        return torch.stack(correlations).nanmean(0).to(drop)
