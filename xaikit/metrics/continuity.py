"""Continuity: how much an explanation changes while the input is moved sideways."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from torch import Tensor

from xaikit.core import BASELINES, METRICS, Call, Choice, Int
from xaikit.core.errors import InvalidInputError
from xaikit.metrics.base import Attribute, EvaluationContext, Metric
from xaikit.metrics.robustness import norm
from xaikit.transforms.axes import place_axes


@METRICS.register("continuity")
class Continuity(Metric):
    """Largest change of the explanation relative to that of the input while it is moved; lower is more robust.

    max over shifts of |Phi(x') - Phi(x)|_1 / |x' - x|_2 (Montavon et al. 2018, 10.1016/j.dsp.2017.10.011). x' is x
    moved along its last axis of places (the width of an image, the time of a series; the words of a text), from all the
    way left to all the way right, with the baseline where nothing is left.

    >>> import torch
    >>> from xaikit.explainers import Gradient
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 1))
    >>> Continuity().evaluate(Gradient(model), torch.rand(2, 1, 4, 4)).tolist()
    [0.0, 0.0]
    """

    DIRECTION = "minimize"

    n_steps: Annotated[int, Int(ge=1), "shifts, evenly spaced; every one, where there are fewer"] = 28
    baseline: Annotated[Any, Choice(BASELINES), "what follows the input: a name, a number, a tensor or a Baseline"] = (
        "zeros"
    )
    max_rows: Annotated[int | None, Int(ge=1, optional=True), "most copies explained in one call; None chooses"] = None

    def _evaluate(self, context: EvaluationContext) -> Tensor:
        for x in context.call.inputs:
            if x.ndim < 3:
                raise InvalidInputError(
                    f"Continuity moves images, series or texts along their last axis, got inputs of shape "
                    f"{tuple(x.shape)}; use LocalLipschitz"
                )

        def measured(call: Call, attribute: Attribute) -> Tensor:
            forms = zip(call.inputs, call.tokens, strict=True)
            axes = [place_axes(x, -1 if tokens else None)[-1] for x, tokens in forms]
            shifts = self._shifts(min(x.shape[axis] for x, axis in zip(call.inputs, axes, strict=True)))
            baselines = self.baseline.of(call)
            parts, start = [], 0
            for part, passes in call.passes(len(shifts), self.max_rows):
                samples = slice(start, start + part.n)
                start += part.n
                before = tuple(a[samples] for a in context.attributions)
                ratios = []
                for some in passes:
                    moved = tuple(
                        torch.stack([shifted(x, b[samples], s, axis) for s in shifts[some.start : some.stop]])
                        for x, b, axis in zip(part.inputs, baselines, axes, strict=True)
                    )
                    after = attribute(part.stacked(tuple(m.flatten(0, 1) for m in moved), len(some)))
                    change = sum(
                        (a.unflatten(0, (len(some), -1)) - b).flatten(2).abs().sum(2)
                        for a, b in zip(after, before, strict=True)
                    )
                    distance = norm(tuple(m - x for m, x in zip(moved, part.inputs, strict=True)), dims=2)
                    ratios.append(change / torch.where(distance > 0, distance, torch.inf))
                parts.append(torch.cat(ratios).amax(0))
            return torch.cat(parts)

        return context.explain_again(measured)

    def _shifts(self, width: int) -> list[int]:
        step = max(1, (2 * width + 1) // self.n_steps)
        count = min(self.n_steps, 2 * width)
        return [-width + step * (i + 1) for i in range(count)]


def shifted(x: Tensor, baseline: Tensor, steps: int, axis: int) -> Tensor:
    """A tensor moved by some steps along an axis, with a baseline of its shape where it was."""
    width = x.shape[axis]
    steps = max(-width, min(width, steps))
    index = torch.arange(width, device=x.device) - steps
    inside = ((index >= 0) & (index < width)).view(-1, *[1] * (x.ndim - 1 - axis))
    return torch.where(inside, x.index_select(axis, index.clamp(0, width - 1)), baseline)
