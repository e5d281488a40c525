"""Complexity: on how few features does an explanation put its weight?"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from xaikit.core import METRICS, Float
from xaikit.core.structure import by_row
from xaikit.metrics.base import EvaluationContext, Metric


@METRICS.register("sparseness")
class Sparseness(Metric):
    """Gini index of |a|: 0 where all features count alike, near 1 where one does; higher is simpler.

    sum_i (2 i - P - 1) |a|_(i) / (P sum |a|), |a| in ascending order (Chalasani et al. 2020, arXiv:1810.06583; Hurley
    and Rickard 2009). NaN for an attribution of zero.

    >>> from xaikit.explainers import Gradient
    >>> a = torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 5.0]])
    >>> Sparseness().evaluate(Gradient(torch.nn.Linear(4, 1)), torch.rand(2, 4), None, a).tolist()
    [0.0, 0.75]
    """

    DIRECTION = "maximize"

    def _evaluate(self, context: EvaluationContext) -> Tensor:
        ordered = _sizes(context).sort(1).values
        count = ordered.shape[1]
        weight = 2 * torch.arange(1, count + 1, device=ordered.device) - count - 1
        return (weight * ordered).sum(1) / (count * _total(ordered))


@METRICS.register("entropy")
class Entropy(Metric):
    """Entropy of the shares |a_i| / sum |a|, in nats; lower is simpler (Bhatt et al. 2020, arXiv:2005.00631, eq. 5).

    NaN for an attribution of zero.

    >>> from xaikit.explainers import Gradient
    >>> a = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    >>> Entropy().evaluate(Gradient(torch.nn.Linear(4, 1)), torch.rand(1, 4), None, a).exp().tolist()
    [2.0]
    """

    DIRECTION = "minimize"

    def _evaluate(self, context: EvaluationContext) -> Tensor:
        sizes = _sizes(context)
        return torch.special.entr(sizes / _total(sizes)[:, None]).sum(1)


@METRICS.register("effective_complexity")
class EffectiveComplexity(Metric):
    """Number of features with |a_i| above a share of the largest; lower is simpler.

    Nguyen and Martinez 2020 (arXiv:2007.07584) count the features above a threshold in the same way.

    >>> from xaikit.explainers import Gradient
    >>> a = torch.tensor([[1.0, -2.0, 1e-9, 0.0]])
    >>> EffectiveComplexity().evaluate(Gradient(torch.nn.Linear(4, 1)), torch.rand(1, 4), None, a).tolist()
    [2.0]
    """

    DIRECTION = "minimize"

    threshold: Annotated[float, Float(ge=0, lt=1), "share of the largest |a| above which a feature counts"] = 1e-5

    def _evaluate(self, context: EvaluationContext) -> Tensor:
        sizes = _sizes(context)
        return (sizes > self.threshold * sizes.amax(1, keepdim=True)).sum(1).to(sizes)


def _sizes(context: EvaluationContext) -> Tensor:
    """|a| of all inputs side by side, (N, P)."""
    return torch.cat([by_row(a) for a in context.attributions], 1).abs()


def _total(sizes: Tensor) -> Tensor:
    total = sizes.sum(1)
    return torch.where(total > 0, total, torch.nan)
