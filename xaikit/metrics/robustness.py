"""Robustness: how much an explanation changes when the input changes a little."""

from __future__ import annotations

import abc
from typing import Annotated

import torch
from torch import Tensor

from xaikit.core import METRICS, Call, Float, Int
from xaikit.core.structure import Tensors
from xaikit.metrics.base import Attribute, EvaluationContext, Metric
from xaikit.metrics.random_subsets import uniform_draws


class Sensitivity(Metric, abc.ABC):
    """The explanation Phi at n_iter points x' = x + radius * u, u uniform in [-1, 1] and the same for every sample.

    The inputs are changed, or the activations of the explained layer. The explainer keeps its random numbers. Norms are
    Euclidean over all inputs of a sample together. NaN for a sample whose explanation is zero, since a relative change
    has no meaning there.
    """

    n_iter: Annotated[int, Int(ge=1), "points around the input"] = 10
    radius: Annotated[float, Float(gt=0), "largest change of a feature"] = 0.02
    max_rows: Annotated[int | None, Int(ge=1, optional=True), "most points explained in one call; None chooses"] = None

    def _changes(self, context: EvaluationContext) -> tuple[Tensor, Tensor]:
        """Return |Phi(x') - Phi(x)| and |x' - x|, each (n_iter, N)."""
        moves = self._moves(context)

        def measured(call: Call, attribute: Attribute) -> tuple[Tensor, Tensor]:
            parts, start = [], 0
            for part, passes in call.passes(self.n_iter, self.max_rows):
                before = tuple(a[start : start + part.n] for a in context.attributions)
                start += part.n
                parts.append([self._pass(part, attribute, before, moves, some) for some in passes])
            both = zip(*(map(torch.cat, zip(*rows, strict=True)) for rows in parts), strict=True)
            changed, moved = (torch.cat(columns, 1) for columns in both)
            return changed, moved

        return context.explain_again(measured)

    def _moves(self, context: EvaluationContext) -> list[Tensor]:
        """The differences x' - x, tensors (n_iter, ...) for each input."""
        return [self.radius * (2 * u - 1) for u in uniform_draws(context.call.inputs, self.n_iter, context.seed)]

    def _pass(
        self, call: Call, attribute: Attribute, before: Tensors, moves: list[Tensor], some: range
    ) -> tuple[Tensor, Tensor]:
        k = len(some)
        points = tuple(x + m[some.start : some.stop, None] for x, m in zip(call.inputs, moves, strict=True))
        after = attribute(call.stacked(tuple(p.flatten(0, 1) for p in points), k))
        moved = norm(tuple((p - x).flatten(0, 1) for p, x in zip(points, call.inputs, strict=True)))
        changed = norm(tuple(a.unflatten(0, (k, -1)) - b for a, b in zip(after, before, strict=True)), dims=2)
        return changed, moved.view(k, -1)

    def _relative(self, context: EvaluationContext) -> Tensor:
        size = norm(context.attributions)
        return self._changes(context)[0] / torch.where(size > 0, size, torch.nan)


@METRICS.register("max_sensitivity")
class MaxSensitivity(Sensitivity):
    """Largest relative change of the explanation, max |Phi(x') - Phi(x)| / |Phi(x)|; lower is more robust.

    Yeh et al. 2019, arXiv:1901.09392, section 3, relative to the size of the explanation.

    >>> from xaikit.explainers import Gradient
    >>> MaxSensitivity().evaluate(Gradient(torch.nn.Linear(3, 1)), torch.rand(2, 3)).tolist()
    [0.0, 0.0]
    """

    DIRECTION = "minimize"

    def _evaluate(self, context: EvaluationContext) -> Tensor:
        return self._relative(context).amax(0)


@METRICS.register("avg_sensitivity")
class AvgSensitivity(Sensitivity):
    """Mean relative change of the explanation, mean |Phi(x') - Phi(x)| / |Phi(x)|; lower is more robust.

    Yeh et al. 2019, arXiv:1901.09392; Bhatt et al. 2020, arXiv:2005.00631.

    >>> from xaikit.explainers import Gradient
    >>> AvgSensitivity().evaluate(Gradient(torch.nn.Linear(3, 1)), torch.rand(2, 3)).tolist()
    [0.0, 0.0]
    """

    DIRECTION = "minimize"

    def _evaluate(self, context: EvaluationContext) -> Tensor:
        return self._relative(context).mean(0)


@METRICS.register("local_lipschitz")
class LocalLipschitz(Sensitivity):
    """Estimate of the local Lipschitz constant, max |Phi(x') - Phi(x)| / |x' - x|; lower is more robust.

    Alvarez-Melis and Jaakkola 2018, arXiv:1806.08049, eq. 2.

    >>> from xaikit.explainers import Gradient
    >>> LocalLipschitz().evaluate(Gradient(torch.nn.Linear(3, 1)), torch.rand(2, 3)).tolist()
    [0.0, 0.0]
    """

    DIRECTION = "minimize"

    def _evaluate(self, context: EvaluationContext) -> Tensor:
        changed, moved = self._changes(context)
        return (changed / moved).amax(0)


def norm(values: Tensors, dims: int = 1) -> Tensor:
    """Euclidean norm over all values of a sample together; the first `dims` axes stay."""
    rows = [v.flatten(dims) if v.ndim > dims else v.unsqueeze(dims) for v in values]
    return torch.linalg.vector_norm(torch.cat(rows, dims), dim=dims)
