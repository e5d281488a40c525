"""ROAD: the most relevant positions are removed so that the result does not show where they were."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from xaikit.core import FEATURE_MASKS, METRICS, Call, Choice, Float
from xaikit.core.errors import InvalidInputError
from xaikit.core.structure import Tensors
from xaikit.metrics.base import EvaluationContext
from xaikit.metrics.faithfulness import ranks
from xaikit.metrics.imputation import impute
from xaikit.metrics.perturbation import PerturbationMetric
from xaikit.metrics.pooled_features import PooledFeatureMetric, groups_of
from xaikit.metrics.random_subsets import normal_draws
from xaikit.transforms.axes import channel_axis

ROUNDING = 1e-9  # 0.1 of 30 positions are 3, also where the product is a little less


def _percentages(value: object, where: str) -> tuple[float, ...]:
    items = value if isinstance(value, (tuple, list)) and value else (value,)
    return tuple(Float(gt=0, lt=100).check(item, where) for item in items)


@METRICS.register("road")
class ROAD(PerturbationMetric, PooledFeatureMetric):
    """Mean output after the most relevant positions were replaced by imputed values; lower is more faithful.

    For each percentage p, the first int(P p / 100) of the P positions by attribution are replaced by noisy linear
    imputation, so that the model cannot see the shape of the hole (Rong et al. 2022, arXiv:2202.00449). The value is
    the mean over the percentages. With ``output="accuracy"``, its mean over samples is the paper's accuracy.

    The paper is about images. In a series, or a text at its embedding, a missing step is the mean of its neighbours, so
    that a line bridges the hole. With a `feature_mask` whole segments are removed (windows of time, superpixels).

    >>> import torch
    >>> from xaikit.explainers import GradientXInput
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
    >>> ROAD().evaluate(GradientXInput(model), torch.rand(2, 1, 8, 8), 0).shape
    torch.Size([2])
    """

    DIRECTION = "minimize"

    IN_ORDER: ClassVar[bool] = True

    percentages: Annotated[tuple[float, ...], _percentages, "shares of the places that are removed, in percent"] = (
        10.0, 30.0, 50.0, 70.0, 90.0,
    )  # fmt: skip
    noise: Annotated[float, Float(ge=0), "standard deviation of the noise on what was filled in"] = 0.01

    feature_mask: Annotated[
        Any, Choice(FEATURE_MASKS, optional=True), "segments that are removed as a whole; None: single positions"
    ] = None

    def _evaluate(self, context: EvaluationContext) -> Tensor:
        inputs = context.call.inputs
        if any(x.ndim not in (3, 4) for x in inputs):
            shapes = ", ".join(str(tuple(x.shape)) for x in inputs)
            raise InvalidInputError(
                f"ROAD fills in images, series (N, C, T) and embedded texts from their neighbours, got {shapes}"
            )
        axes = [
            channel_axis(x, -1 if tokens and self.channel_axis is None else self.channel_axis) or 1
            for x, tokens in zip(inputs, context.call.tokens or [False] * len(inputs), strict=True)
        ]
        mask = self.feature_mask
        ranked = self._pooled_features(context) if mask is None else groups_of(context, mask)
        present = ranked.present.expand_as(ranked.values)
        rank = ranks(ranked.values.masked_fill(~present, -torch.inf))
        shares = torch.tensor([[p / 100] for p in self.percentages], dtype=torch.float64, device=rank.device)
        counts = (present.sum(1) * shares + ROUNDING).long()
        channels_first = tuple(x.movedim(axis, 1) for x, axis in zip(inputs, axes, strict=True))
        draws = normal_draws(channels_first, len(counts), context.seed)
        noise = [self.noise * z.movedim(1, axis) for z, axis in zip(draws, axes, strict=True)]

        def removed(call: Call, samples: slice, some: range) -> Tensors:
            part = counts[some.start : some.stop, samples, None]
            flags = ranked.at(samples).spread((rank[samples] < part) & present[samples])
            return tuple(
                _filled(x, missing, z[some.start : some.stop, None], axis)
                for x, missing, z, axis in zip(call.inputs, flags, noise, axes, strict=True)
            )

        return self._watch(context.call, len(counts), removed).mean(0)


def _filled(x: Tensor, missing: Tensor, noise: Tensor, axis: int) -> Tensor:
    """Versions (k, N, ...) of inputs (N, ...) without the `missing` (k, N, ...), whose channels may have size 1."""
    copies, holes = (t.movedim(axis + 1, 2) for t in (x.expand(len(missing), *x.shape), missing))
    if x.ndim == 3:  # a series is an image of height 1
        copies, holes = copies.unsqueeze(3), holes.unsqueeze(3)
    if holes.shape[2] == copies.shape[2] > 1:  # every channel has holes of its own
        filled = impute(copies.flatten(0, 2)[:, None], holes.flatten(0, 2)[:, None]).view(copies.shape)
    else:
        filled = impute(copies.flatten(0, 1), holes.flatten(0, 1)).view(copies.shape)
    filled = filled.squeeze(3) if x.ndim == 3 else filled
    return filled.movedim(2, axis + 1) + noise * missing
