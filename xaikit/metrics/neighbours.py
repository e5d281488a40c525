"""Do samples with like explanations have the same predicted class? Measured among the samples of a batch."""

from __future__ import annotations

import abc
from typing import Annotated

import torch
from torch import Tensor

from xaikit.core import METRICS, Float, Int
from xaikit.core.errors import InvalidInputError
from xaikit.metrics.base import EvaluationContext
from xaikit.metrics.pooled_features import PooledFeatureMetric


class Neighbours(PooledFeatureMetric, abc.ABC):
    """Base: the share of a sample's neighbours, by their explanations, whose predicted class is the sample's.

    The neighbours are other samples of the same batch, so the number depends on the batch; NaN for a sample without
    any. Give all samples at once, or batches of one size.
    """

    DIRECTION = "maximize"

    def _evaluate(self, context: EvaluationContext) -> Tensor:
        call = context.call
        output = call.run(call.inputs)
        if not isinstance(output, Tensor) or output.ndim != 2 or output.shape[1] < 2:
            shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise InvalidInputError(
                f"{type(self).__name__} compares predicted classes, so the model's output must be (N, classes) with at "
                f"least two classes, got {shape}"
            )
        values = self._pooled_features(context).values
        near = self._near(values) & context.finite & context.finite[:, None]
        near = near & ~torch.eye(len(near), dtype=torch.bool, device=near.device)
        classes = output.argmax(1)
        count = near.sum(1).to(values)
        alike = (near & (classes == classes[:, None])).sum(1)
        return alike / torch.where(count > 0, count, torch.nan)

    @abc.abstractmethod
    def _near(self, values: Tensor) -> Tensor:
        """Which samples are neighbours, (N, N), from their attributions (N, P)."""


@METRICS.register("sufficiency")
class Sufficiency(Neighbours):
    """Share of the samples with a near explanation that have the same predicted class; higher is better.

    Near: at most `threshold` of the largest distance in the batch, Euclidean with each feature divided by its standard
    deviation in the batch (Dasgupta et al. 2022, arXiv:2202.00734).

    >>> import torch
    >>> from xaikit.explainers import GradientXInput
    >>> Sufficiency().evaluate(GradientXInput(torch.nn.Linear(4, 2)), torch.rand(3, 4), 0).shape
    torch.Size([3])
    """

    threshold: Annotated[float, Float(gt=0, le=1), "largest distance, as a share of the largest in the batch"] = 0.6

    def _near(self, values: Tensor) -> Tensor:
        if len(values) < 2:
            return values.new_zeros(len(values), len(values), dtype=torch.bool)
        spread = values.std(0)
        scaled = values / torch.where(spread > 0, spread, 1)
        distance = torch.cdist(scaled, scaled, compute_mode="donot_use_mm_for_euclid_dist")
        return distance <= self.threshold * distance.max()


@METRICS.register("consistency")
class Consistency(Neighbours):
    """Share of the samples with the same explanation, made discrete, that have the same predicted class.

    The discrete explanation is the set of the k positions of the largest |a|, each with its sign; higher is better
    (Dasgupta et al. 2022, arXiv:2202.00734).

    >>> import torch
    >>> from xaikit.explainers import GradientXInput
    >>> Consistency().evaluate(GradientXInput(torch.nn.Linear(4, 2)), torch.rand(3, 4), 0).shape
    torch.Size([3])
    """

    k: Annotated[int, Int(ge=1), "positions that make the discrete explanation"] = 1

    def _near(self, values: Tensor) -> Tensor:
        largest = values.abs().topk(min(self.k, values.shape[1])).indices
        label = torch.zeros_like(values).scatter_(1, largest, values.gather(1, largest).sign())
        return (label[:, None] == label).all(2)
