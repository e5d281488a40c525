"""Axioms: what an explanation should satisfy whatever the model is."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import torch
from torch import Tensor

from xaikit.core import FEATURE_MASKS, METRICS, Call, Choice, Float, Int
from xaikit.core.structure import Tensors, by_row, row_ends
from xaikit.metrics.base import Attribute, EvaluationContext, Metric
from xaikit.metrics.perturbation import PerturbationMetric, Removal
from xaikit.metrics.pooled_features import groups_of
from xaikit.metrics.random_subsets import uniform_draws
from xaikit.metrics.robustness import norm


@METRICS.register("completeness_gap")
class CompletenessGap(Removal):
    """Distance between the sum of the attributions and S(x) - S(baseline); lower is more complete.

    |sum_i a_i - (S(x) - S(x'))| for the explained score S (Sundararajan et al. 2017, arXiv:1703.01365, prop. 1).

    >>> from xaikit.explainers import GradientXInput
    >>> explainer = GradientXInput(torch.nn.Linear(4, 1).double())
    >>> CompletenessGap().evaluate(explainer, torch.rand(2, 4).double()).round(decimals=9).abs().tolist()
    [0.0, 0.0]
    """

    DIRECTION = "minimize"

    output = "score"

    def _evaluate(self, context: EvaluationContext) -> Tensor:
        baselines = self.baseline.of(context.call)
        start = self._watch(context.call, 1, lambda _call, samples, _some: tuple(b[samples] for b in baselines))[0]
        end = self._watch(context.call, 1, lambda call, _samples, _some: call.inputs)[0]
        total = torch.stack([by_row(a).sum(1) for a in context.attributions]).sum(0)
        return (total - (end - start)).abs()


@METRICS.register("non_sensitivity")
class NonSensitivity(PerturbationMetric):
    """Number of groups without attribution that change the output, plus those with attribution that do not.

    |A0 symmetric difference F0| (Nguyen and Martinez 2020, arXiv:2007.07584). A0 are the groups whose attributions are
    all zero. F0 are the groups that do not change the output when their values are drawn anew, uniformly within the
    sample's range. Values below a share of the largest one count as zero. Lower is better. It needs n_iter passes for
    each group.

    >>> from xaikit.explainers import Gradient
    >>> model = torch.nn.Linear(3, 1)
    >>> model.weight.data = torch.tensor([[1.0, 0.0, 2.0]])
    >>> NonSensitivity().evaluate(Gradient(model), torch.rand(2, 3)).tolist()
    [0.0, 0.0]
    """

    DIRECTION = "minimize"

    n_iter: Annotated[int, Int(ge=1), "times that a group is redrawn"] = 2
    threshold: Annotated[float, Float(ge=0, lt=1), "share of the largest below which a number counts as zero"] = 1e-5
    feature_mask: Annotated[Any, Choice(FEATURE_MASKS), "which features are one group"] = "auto"
    output = "score"

    def _evaluate(self, context: EvaluationContext) -> Tensor:
        parts = groups_of(context, self.feature_mask, absolute=True)
        count = parts.values.shape[1]
        draws = uniform_draws(context.call.inputs, self.n_iter, context.seed)

        def redrawn(call: Call, samples: slice, some: range) -> Tensors:
            groups = parts if call.n == context.call.n else parts.at(samples)
            copies = torch.tensor(some, device=parts.values.device)
            flags = groups.spread(
                (copies[:, None] // self.n_iter == torch.arange(count, device=copies.device))[:, None]
            )
            return tuple(
                torch.where(f, _within(x, u[copies % self.n_iter, None]), x)
                for f, x, u in zip(flags, call.inputs, draws, strict=True)
            )

        before = self._watch(context.call, 1, lambda call, _samples, _some: call.inputs)[0]
        after = self._watch(context.call, count * self.n_iter, redrawn)
        reaction = (after - before).abs().unflatten(0, (count, self.n_iter)).amax(1).T
        differ = self._is_zero(parts.values) ^ self._is_zero(reaction)
        return (differ & parts.present).sum(1).to(reaction)

    def _is_zero(self, sizes: Tensor) -> Tensor:
        return sizes <= self.threshold * sizes.amax(1, keepdim=True)


@METRICS.register("input_invariance")
class InputInvariance(Metric):
    """Relative change of the explanation when the input is shifted and the model undoes the shift; lower is better.

    |Phi_2(x + c) - Phi(x)| / |Phi(x)| with f_2(x) = f(x - c), the same function on shifted inputs (Kindermans et al.
    2017, arXiv:1711.00867). Zero for gradients. Methods that multiply by the input, or that compare with a fixed
    baseline, change by as much as the shift. NaN for an explanation of zero.

    >>> from xaikit.explainers import Gradient
    >>> InputInvariance().evaluate(Gradient(torch.nn.Linear(3, 1)), torch.rand(2, 3)).tolist()
    [0.0, 0.0]
    """

    DIRECTION = "minimize"

    shift: Annotated[float, Float(), "what is added to every feature"] = 1.0

    def _evaluate(self, context: EvaluationContext) -> Tensor:
        def shifted(call: Call, attribute: Attribute) -> Tensors:
            forward = call.forward
            return attribute(
                dataclasses.replace(
                    call,
                    inputs=tuple(x + self.shift for x in call.inputs),
                    forward=lambda inputs, samples: forward(tuple(x - self.shift for x in inputs), samples),
                )
            )

        after = context.explain_again(shifted)
        size = norm(context.attributions)
        change = norm(tuple(b - a for a, b in zip(context.attributions, after, strict=True)))
        return change / torch.where(size > 0, size, torch.nan)


def _within(x: Tensor, unit: Tensor) -> Tensor:
    """Unit numbers brought into the range of each sample of x."""
    low, high = row_ends(x)
    return low + (high - low) * unit
