"""Fidelity: do the attributions of removed features add up to what the model's output loses?"""

from __future__ import annotations

import abc
from typing import Annotated, Any

import torch
from torch import Tensor

from xaikit.core import FEATURE_MASKS, METRICS, Categorical, Choice, Float, Int
from xaikit.core.errors import InvalidInputError
from xaikit.core.structure import by_row
from xaikit.metrics.base import EvaluationContext
from xaikit.metrics.perturbation import Removal
from xaikit.metrics.pooled_features import FeatureGroups, FeatureSet, PooledFeatureMetric, groups_of
from xaikit.metrics.random_subsets import normal_draws, random_keys
from xaikit.metrics.similarity import ROWWISE, without_rounding


class SubsetFidelity(Removal, abc.ABC):
    """Correlation, over random subsets S of the parts, of sum_{i in S} a_i with f(x) - f(x without S).

    Every sample gets the same subsets, each of max(1, round(share * P)) of its P parts. NaN if one of the two numbers
    is the same for all subsets.
    """

    n_iter: Annotated[int, Int(ge=2), "random subsets"] = 100
    share: Annotated[float, Float(gt=0, lt=1), "share of the parts that are removed together"] = 0.2
    correlation: Annotated[str, Categorical("spearman", "pearson", "cosine", search=False), "of the two"] = "spearman"
    output = "score"

    @abc.abstractmethod
    def _parts(self, context: EvaluationContext) -> FeatureSet:
        """The parts that subsets are drawn from."""

    def _evaluate(self, context: EvaluationContext) -> Tensor:
        parts = self._parts(context)
        subsets = random_subsets(parts, self.n_iter, self.share, context.seed)
        drop, promised = drops_and_sums(self, context, parts, subsets)
        return ROWWISE[self.correlation](promised.T, drop.T).to(drop)


@METRICS.register("mu_fidelity")
class MuFidelity(SubsetFidelity):
    """Rank correlation of attribution and drop in output over random groups of features; higher is more faithful.

    Fidelity of Bhatt et al. 2020 (arXiv:2005.00631) over the groups of a feature mask and by Spearman's correlation,
    as in Fel et al. 2021 (arXiv:2111.04138).

    >>> import torch
    >>> from xaikit.explainers import GradientXInput
    >>> explainer = GradientXInput(torch.nn.Linear(8, 1).double())
    >>> MuFidelity(share=0.5).evaluate(explainer, torch.rand(2, 8).double()).round(decimals=6).tolist()
    [1.0, 1.0]
    """

    DIRECTION = "maximize"

    feature_mask: Annotated[Any, Choice(FEATURE_MASKS), "which features are removed together"] = "auto"

    def _parts(self, context: EvaluationContext) -> FeatureGroups:
        return groups_of(context, self.feature_mask)


@METRICS.register("faithfulness_correlation")
class FaithfulnessCorrelation(SubsetFidelity, PooledFeatureMetric):
    """Correlation of attribution and drop in output over random sets of single features; higher is more faithful.

    Bhatt et al. 2020, arXiv:2005.00631, eq. 1: Pearson's correlation over subsets of one size.

    >>> import torch
    >>> from xaikit.explainers import GradientXInput
    >>> explainer = GradientXInput(torch.nn.Linear(8, 1).double())
    >>> FaithfulnessCorrelation().evaluate(explainer, torch.rand(2, 8).double()).round(decimals=6).tolist()
    [1.0, 1.0]
    """

    DIRECTION = "maximize"

    correlation = "pearson"

    def _parts(self, context: EvaluationContext) -> FeatureSet:
        return self._pooled_features(context)


@METRICS.register("infidelity")
class Infidelity(Removal):
    """Mean squared error of what an attribution promises about random perturbations I; lower is more faithful.

    E_I [(promised - (f(x) - f(x - I)))^2] (Yeh et al. 2019, arXiv:1901.09392, eq. 1), where

    * "removal" puts the baseline in the place of random groups, each with probability 1/2, and promised is the sum of
      their attributions: for attributions that share out the score (gradient x input, IG, LRP, CD);
    * "gaussian" draws I normally and promised is the sum of I_i a_i: for sensitivities (gradient, SmoothGrad), which
      must not be pooled.

    With `normalize` the attribution is scaled by its best factor first, E[promised * drop] / E[promised^2], so that
    only its direction counts (ibid., section 2.2).

    >>> import torch
    >>> from xaikit.explainers import GradientXInput
    >>> explainer = GradientXInput(torch.nn.Linear(4, 1).double())
    >>> Infidelity().evaluate(explainer, torch.rand(2, 4).double()).round(decimals=9).abs().tolist()
    [0.0, 0.0]
    """

    DIRECTION = "minimize"

    n_iter: Annotated[int, Int(ge=1), "random perturbations"] = 50
    perturbation: Annotated[str, Categorical("removal", "gaussian", search=False), "what is drawn"] = "removal"
    noise_level: Annotated[float, Float(gt=0), "gaussian: standard deviation of I"] = 0.1
    feature_mask: Annotated[Any, Choice(FEATURE_MASKS), "removal: which features go together"] = "auto"
    normalize: Annotated[bool, "scale the attribution by its best factor"] = False
    output = "score"

    def _evaluate(self, context: EvaluationContext) -> Tensor:
        drop, promised = self._removals(context) if self.perturbation == "removal" else self._noise(context)
        if self.normalize:
            squares = promised.square().mean(0)
            # An attribution of zero promises nothing at any scale.
            promised = promised * (promised * drop).mean(0) / torch.where(squares > 0, squares, 1)
        return (promised - drop).square().mean(0)

    def _removals(self, context: EvaluationContext) -> tuple[Tensor, Tensor]:
        parts = groups_of(context, self.feature_mask)
        keys = random_keys(parts.sizes, self.n_iter, context.seed).to(parts.values.device)
        return drops_and_sums(self, context, parts, (keys < 0.5)[:, None] & parts.present)

    def _noise(self, context: EvaluationContext) -> tuple[Tensor, Tensor]:
        for a, x in zip(context.attributions, context.call.inputs, strict=True):
            if a.shape != x.shape:
                raise InvalidInputError(
                    f"Infidelity.perturbation='gaussian' needs an attribution of each value, got {tuple(a.shape)} for "
                    f"inputs {tuple(x.shape)}; pass them as the explainer gives them, not pooled"
                )
        noise = [self.noise_level * z for z in normal_draws(context.call.inputs, self.n_iter, context.seed)]
        shifted = self._watch(
            context.call,
            self.n_iter,
            lambda call, _samples, some: tuple(
                x - z[some.start : some.stop, None] for x, z in zip(call.inputs, noise, strict=True)
            ),
        )
        promised = sum(by_row(z).to(a) @ by_row(a).T for z, a in zip(noise, context.attributions, strict=True))
        return self._unchanged(context) - shifted, promised  # type: ignore[return-value]


def random_subsets(parts: FeatureSet, n_iter: int, share: float, seed: int) -> Tensor:
    """Random sets of max(1, round(share * P)) of each sample's P parts, as flags (n_iter, N or 1, P)."""
    keys = random_keys(parts.sizes, n_iter, seed).to(parts.values.device)
    keys = keys[:, None].where(parts.present, 2.0)
    count = (share * parts.present.sum(1)).round().clamp_min(1)
    order = keys.argsort(2)
    place = torch.empty_like(order).scatter_(
        2, order, torch.arange(order.shape[2], device=keys.device).expand_as(order)
    )
    return place < count[:, None]


def drops_and_sums(
    metric: Removal, context: EvaluationContext, parts: FeatureSet, subsets: Tensor
) -> tuple[Tensor, Tensor]:
    """The drop of the output without each subset (n_iter, N or 1, P), and the sum of its attributions, (n_iter, N)."""

    def removed(samples: slice, some: range) -> Tensor:
        flags = subsets[some.start : some.stop]
        return flags if flags.shape[1] == 1 else flags[:, samples]

    removals = metric._removed(context, parts, len(subsets), removed)
    values = parts.values.double()
    if subsets.shape[1] == 1:
        sums = subsets[:, 0].to(values) @ values.T
    else:  # sample by sample, since the flags of all in float64 are large
        sums = torch.stack([subsets[:, i].to(values) @ row for i, row in enumerate(values)], 1)
    return metric._unchanged(context) - removals, without_rounding(sums.T, values.shape[1]).T
