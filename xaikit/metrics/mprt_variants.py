"""Variants of the model randomisation test: with smoothed explanations, and by their complexity alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
from torch import Tensor

from xaikit.core import METRICS, Call, Categorical, Float, Int
from xaikit.core.errors import InvalidInputError
from xaikit.core.model_state import reseed
from xaikit.core.structure import Tensors, by_row
from xaikit.explainers.noise import NoiseStream, value_range
from xaikit.metrics.base import Attribute, EvaluationContext, Metric
from xaikit.metrics.randomisation import Comparing, randomisable, randomise


def fully_randomised(context: EvaluationContext, explain: Callable[[EvaluationContext], Tensors]) -> Tensors:
    """The explanations of the model with all layers drawn anew, from the input to the output."""
    with randomisable(context) as (trial, layers, _):
        for i, unit in enumerate(reversed(layers)):
            reseed(context.call.inputs[0].device, context.seed + i)
            for module in unit:
                randomise(module)
        return explain(trial)


@METRICS.register("smooth_mprt")
class SmoothMPRT(Comparing):
    """Similarity of smoothed explanations of the model and of one with random parameters; lower is better.

    An explanation is smoothed over `n_iter` copies of the input, the last of them without noise, so that noise of the
    gradient does not decide (Hedström et al. 2024, arXiv:2401.06465). All layers are random, as in the source.

    >>> from xaikit.explainers import Gradient
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
    >>> SmoothMPRT().evaluate(Gradient(model), torch.rand(3, 4), 0).shape
    torch.Size([3])
    """

    DIRECTION = "minimize"

    n_iter: Annotated[int, Int(ge=1), "copies that an explanation is averaged over"] = 20
    noise_level: Annotated[float, Float(ge=0), "noise std as a fraction of each sample's range"] = 0.1
    max_rows: Annotated[int | None, Int(ge=1, optional=True), "most copies explained in one call; None chooses"] = None

    def _evaluate(self, context: EvaluationContext) -> Tensor:
        return self._similarity(self._smoothed(context), fully_randomised(context, self._smoothed))

    def _smoothed(self, context: EvaluationContext) -> Tensors:
        def mean(call: Call, attribute: Attribute) -> Tensors:
            stream = NoiseStream("gaussian", [x.shape[1:] for x in call.inputs], context.seed)
            draws = stream.draw(self.n_iter)
            for z in draws:
                z[-1] = 0
            parts = []
            for part, passes in call.passes(self.n_iter, self.max_rows):
                total: list[Tensor] = []
                for some in passes:
                    copies = tuple(
                        (x + self.noise_level * value_range(x) * z[some.start : some.stop, None].to(x)).flatten(0, 1)
                        for x, z in zip(part.inputs, draws, strict=True)
                    )
                    after = attribute(part.stacked(copies, len(some)))
                    sums = [_wide(a).unflatten(0, (len(some), -1)).sum(0) for a in after]
                    total = sums if not total else [t + s for t, s in zip(total, sums, strict=True)]
                parts.append(total)
            return tuple(torch.cat(tensors) / self.n_iter for tensors in zip(*parts, strict=True))

        return context.explain_again(mean)


@METRICS.register("efficient_mprt")
class EfficientMPRT(Metric):
    """Relative rise of the explanation's complexity when all parameters are random; higher is better.

    (H' - H) / H, H the entropy of a histogram of the attributions of the model, H' of the model with all layers drawn
    anew (Hedström et al. 2024, arXiv:2401.06465). An explanation that depends on what the model has learnt gets less
    ordered. It takes one explanation more, where `model_randomisation` takes one for each layer.

    >>> from xaikit.explainers import Gradient
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
    >>> EfficientMPRT().evaluate(Gradient(model), torch.rand(3, 4), 0).shape
    torch.Size([3])
    """

    DIRECTION = "maximize"

    n_bins: Annotated[int, Int(ge=2), "bins of the histogram, from the smallest to the largest attribution"] = 100
    absolute: Annotated[bool, Categorical(False, True, search=False), "take the sizes of the attributions"] = False

    def _evaluate(self, context: EvaluationContext) -> Tensor:
        explained = self._complexity(context.attributions)
        random = self._complexity(fully_randomised(context, lambda trial: trial.attribute(context.targets)))
        return (random - explained) / torch.where(explained > 0, explained, torch.nan)

    def _complexity(self, attributions: Tensors) -> Tensor:
        """The entropy of the histogram of each sample's attributions, (N,)."""
        rows = torch.cat([by_row(a) for a in attributions], 1)
        if rows.shape[1] < 2:
            raise InvalidInputError(f"EfficientMPRT needs at least two attributions of a sample, got {rows.shape[1]}")
        rows = rows.abs() if self.absolute else rows
        return torch.stack([_entropy(row, self.n_bins) for row in rows]).to(rows)


def _entropy(row: Tensor, n_bins: int) -> Tensor:
    counts = torch.histc(row.double(), n_bins)
    share = counts / counts.sum()
    return torch.special.entr(share).sum()


def _wide(a: Tensor) -> Tensor:
    """Low precision is too coarse to sum in."""
    return a.float() if a.dtype in (torch.float16, torch.bfloat16) else a
