"""ROAD: the most relevant positions are removed so that the result does not show where they were."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from xaikit.core import METRICS, Call, Float
from xaikit.core.errors import InvalidInputError
from xaikit.core.structure import Tensors
from xaikit.metrics.base import EvaluationContext
from xaikit.metrics.faithfulness import ranks
from xaikit.metrics.imputation import impute
from xaikit.metrics.perturbation import PerturbationMetric
from xaikit.metrics.pooled_features import PooledFeatureMetric
from xaikit.metrics.random_subsets import normal_draws
from xaikit.transforms.axes import channel_axis


def _percentages(value: object, where: str) -> tuple[float, ...]:
    items = value if isinstance(value, (tuple, list)) and value else (value,)
    return tuple(Float(gt=0, lt=100).check(item, where) for item in items)


@METRICS.register("road")
class ROAD(PerturbationMetric, PooledFeatureMetric):
    """Mean output after the most relevant positions were replaced by imputed values; lower is more faithful.

    For each percentage p, the first int(P p / 100) of the P positions by attribution are replaced by noisy linear
    imputation, so that the model cannot see the shape of the hole (Rong et al. 2022, arXiv:2202.00449). The value is
    the mean over the percentages. With ``output="accuracy"``, its mean over samples is the paper's accuracy. For
    images (N, C, H, W).

    >>> import torch
    >>> from xaikit.explainers import GradientXInput
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
    >>> ROAD().evaluate(GradientXInput(model), torch.rand(2, 1, 8, 8), 0).shape
    torch.Size([2])
    """

    DIRECTION = "minimize"

    percentages: Annotated[tuple[float, ...], _percentages, "shares of the places that are removed, in percent"] = (
        10.0, 30.0, 50.0, 70.0, 90.0,
    )  # fmt: skip
    noise: Annotated[float, Float(ge=0), "standard deviation of the noise on what was filled in"] = 0.01

    def _evaluate(self, context: EvaluationContext) -> Tensor:
        if any(x.ndim != 4 for x in context.call.inputs):
            shapes = ", ".join(str(tuple(x.shape)) for x in context.call.inputs)
            raise InvalidInputError(f"ROAD fills in images (N, C, H, W) from their neighbours, got {shapes}")
        if any(channel_axis(x, self.channel_axis) != 1 for x in context.call.inputs):
            shapes = ", ".join(str(tuple(x.shape)) for x in context.call.inputs)
            raise InvalidInputError(
                f"ROAD fills in images (N, C, H, W), got {shapes} with channel_axis={self.channel_axis}, "
                "whose channels are elsewhere; wrap the model, so that it gets channels first"
            )
        ranked = self._pooled_features(context)
        rank = ranks(ranked.values)
        counts = torch.tensor([int(rank.shape[1] * p / 100) for p in self.percentages], device=rank.device)
        noise = [self.noise * z for z in normal_draws(context.call.inputs, len(counts), context.seed)]

        def removed(call: Call, samples: slice, some: range) -> Tensors:
            flags = ranked.spread(rank[samples] < counts[some.start : some.stop, None, None])
            return tuple(
                _filled(x, missing, z[some.start : some.stop, None])
                for x, missing, z in zip(call.inputs, flags, noise, strict=True)
            )

        return self._watch(context.call, len(counts), removed).mean(0)


def _filled(x: Tensor, missing: Tensor, noise: Tensor) -> Tensor:
    """Versions (k, N, C, H, W) of images (N, C, H, W) without the `missing` (k, N, 1 or C, H, W)."""
    copies = x.expand(len(missing), *x.shape)
    if missing.shape[2] == x.shape[1] > 1:  # every channel has holes of its own
        filled = impute(copies.flatten(0, 2)[:, None], missing.flatten(0, 2)[:, None]).view(copies.shape)
    else:
        filled = impute(copies.flatten(0, 1), missing.flatten(0, 1)).view(copies.shape)
    return filled + noise * missing
