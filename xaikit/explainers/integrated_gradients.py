"""Integrated gradients along the straight line from a baseline."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from xaikit.core import BASELINES, EXPLAINERS, Call, Categorical, Choice, Explainer, Int
from xaikit.core.structure import Tensors, joined_parts


@EXPLAINERS.register("integrated_gradients")
class IntegratedGradients(Explainer):
    """(x - b) * mean over t in [0, 1] of dS/dx at b + t (x - b) (Sundararajan et al. 2017, arXiv:1703.01365).

    The attributions sum to S(x) - S(b); `explain` reports how far the sum is from that.

    >>> import torch
    >>> model = torch.nn.Linear(3, 2, bias=False)
    >>> x = torch.rand(1, 3)
    >>> IntegratedGradients(model).attribute(x, 0).allclose(model.weight[:1] * x)
    True
    """

    GAP_TOLERANCE = 0.05
    GAP_REMEDY = "take more steps with n_steps="
    PASSES = ("n_steps",)
    USES_GLOBAL_RANDOM = False

    n_steps: Annotated[int, Int(low=10, high=100, step=10, ge=1), "points on the line"] = 20
    baseline: Annotated[Any, Choice(BASELINES), "where the line starts: a name, a number, a tensor or a Baseline"] = (
        "zeros"
    )
    method: Annotated[str, Categorical("gausslegendre", "trapezoid"), "quadrature rule"] = "gausslegendre"
    max_rows: Annotated[int | None, Int(ge=1, optional=True), "most rows in one forward pass; None chooses"] = None

    def _attribute(self, call: Call) -> Tensors:
        return self._attribute_each(call)[0]

    def _attribute_each(self, call: Call) -> tuple[Tensors, ...]:
        points, weights = quadrature(self.method, self.n_steps)
        ends = self.baseline.of(call)  # of the whole batch: a baseline may be given per sample
        parts, n_done = [], 0
        for part, passes in call.passes(self.n_steps, self.max_rows):
            starts = tuple(b[n_done : n_done + part.n] for b in ends)
            n_done += part.n
            steps = tuple(x - b for x, b in zip(part.inputs, starts, strict=True))
            sums = [[torch.zeros_like(x) for x in part.inputs] for _ in part.targets]
            for copies in passes:
                chosen = slice(copies.start, copies.stop)
                line = tuple(
                    (b + _column(points[chosen], d) * d).flatten(0, 1) for b, d in zip(starts, steps, strict=True)
                )
                for totals, grads in zip(sums, part.grads_of(line, len(copies)), strict=True):
                    for i, g in enumerate(grads):
                        by_copy = g.unflatten(0, (len(copies), part.n))
                        totals[i] = totals[i] + (_column(weights[chosen], by_copy[0]) * by_copy).sum(0)
            parts.append([tuple(d * t for d, t in zip(steps, totals, strict=True)) for totals in sums])
        return joined_parts(parts)

    def _promised_total(self, call: Call) -> Tensor:
        return call.scores(call.inputs) - call.scores(self.baseline.of(call))


def quadrature(method: str, n: int) -> tuple[Tensor, Tensor]:
    """Points in [0, 1] and weights summing to 1, each (n,), float64."""
    if method == "gausslegendre":
        points, weights = np.polynomial.legendre.leggauss(n)
        return torch.from_numpy((points + 1) / 2), torch.from_numpy(weights / 2)
    if n == 1:
        return torch.full((1,), 0.5, dtype=torch.float64, device="cpu"), torch.ones(
            1, dtype=torch.float64, device="cpu"
        )
    weights_ = torch.full((n,), 1 / (n - 1), dtype=torch.float64, device="cpu")
    weights_[0] = weights_[-1] = 0.5 / (n - 1)
    return torch.linspace(0, 1, n, dtype=torch.float64, device="cpu"), weights_


def _column(values: Tensor, like: Tensor) -> Tensor:
    """Values (k,) shaped to multiply with (k, *like.shape)."""
    return values.to(like).reshape(-1, *([1] * like.ndim))
