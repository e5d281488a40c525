"""Localisation: does the relevance lie where a mask says that it should?"""

from __future__ import annotations

import abc
import warnings
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from xaikit.core import METRICS, Categorical, Int
from xaikit.core.errors import InvalidInputError
from xaikit.core.mask_shapes import fit_masks
from xaikit.core.masks import leaves_of, marked, read_masks
from xaikit.core.structure import by_row
from xaikit.metrics.base import EvaluationContext
from xaikit.metrics.pooled_features import PooledFeatureMetric
from xaikit.metrics.similarity import mean_ranks, tie_bounds

REGION = "relevant_region"


class Localisation(PooledFeatureMetric, abc.ABC):
    """Compares the attributions a of positions with the region M where the relevance should lie.

    The relevant region is a mask that holds True or 1 inside, in one of the forms of `xaikit.core.masks`, such as
    (H, W) for all images, (N, H, W) or (N, C, H, W). At a layer with a smaller map, a position is inside if the region
    covers at least half of it. NaN for a sample whose region is empty.
    """

    NEEDS_MASK: ClassVar[bool] = True

    def _evaluate(self, context: EvaluationContext) -> Tensor:
        places = self._pooled_features(context)
        inside = torch.cat([by_row(m) for m in self._regions(context, places.shapes)], 1)
        values = self._compare(places.values, inside)
        return values.masked_fill(~inside.any(1), torch.nan)

    @abc.abstractmethod
    def _compare(self, values: Tensor, inside: Tensor) -> Tensor:
        """The metric of attributions and flags (N, P), shape (N,)."""

    def _regions(self, context: EvaluationContext, shapes: tuple[torch.Size, ...]) -> list[Tensor]:
        """The relevant region as flags (N, *places), one tensor for each explained input."""
        call = context.call
        explained, inputs = call.inputs, (call.uncut or call).inputs
        structure = dict(zip(call.input_names, inputs, strict=True)) if call.input_names else inputs
        masks = leaves_of(read_masks(context.relevant_region, structure, what=REGION))
        if len(masks) == len(inputs) == 1:
            masks *= len(explained)  # one region of the input for all explained layers
        if len(masks) != len(shapes):
            raise InvalidInputError(f"{REGION} must be one mask per explained input, {len(shapes)}, got {len(masks)}")
        for mask in masks:
            _check_binary(mask)
        forms = zip(masks, explained, shapes, call.tokens, strict=True)
        masks = tuple(self._with_channels(mask, x, places, tokens) for mask, x, places, tokens in forms)
        fitted = fit_masks(masks, explained, inputs if explained is not inputs else (), what=REGION)
        return [_pooled(m >= 0.5, shape) for m, shape in zip(fitted, shapes, strict=True)]

    def _with_channels(self, mask: Tensor, x: Tensor, places: torch.Size, tokens: bool) -> Tensor:
        """A mask with an axis for the channels added, if the metric or a pooled attribution says which axis it is."""
        pooled = [d for d, (p, s) in enumerate(zip(places, x.shape[1:], strict=True), 1) if p == 1 != s]
        if mask.ndim != x.ndim - 1 or x.ndim < 3:
            return mask
        if self.channel_axis is not None:
            return mask.unsqueeze(self.channel_axis % x.ndim)
        if tokens:
            return mask[..., None]
        return mask.unsqueeze(pooled[0]) if len(pooled) == 1 else mask


def _check_binary(mask: Tensor) -> None:
    values = marked(mask)
    if not bool(((values == 0) | (values == 1)).all()):
        raise InvalidInputError(
            f"{REGION} must hold booleans or 0 and 1, got values from {float(values.min()):g} to "
            f"{float(values.max()):g}; compare it with a threshold first"
        )


def _pooled(flags: Tensor, places: torch.Size) -> Tensor:
    """Flags of the explained tensor, joined by "any" along the axes that the positions do not have."""
    for axis, size in enumerate(places, 1):
        flags = flags.any(axis, keepdim=True) if size == 1 else flags
    return flags


@METRICS.register("pointing_game")
class PointingGame(Localisation):
    """1 where the place of the highest attribution lies inside the mask, else 0 (Zhang et al. 2018, arXiv:1608.00507).

    Several places may share the highest attribution, such as those of one superpixel: then the share of them inside.

    >>> from xaikit.explainers import Gradient
    >>> a, mask = torch.tensor([[0.0, 3.0, 1.0]]), torch.tensor([[0, 1, 0]])
    >>> explainer, x = Gradient(torch.nn.Linear(3, 1)), torch.rand(1, 3)
    >>> PointingGame().evaluate(explainer, x, None, a, relevant_region=mask).tolist()
    [1.0]
    """

    DIRECTION = "maximize"

    def _compare(self, values: Tensor, inside: Tensor) -> Tensor:
        return share_of_top(values, inside, torch.ones_like(inside[:, 0], dtype=torch.long))


@METRICS.register("relevance_mass")
class RelevanceMass(Localisation):
    """Share of the positive relevance that lies inside the mask (Arras et al. 2022, arXiv:2003.07258).

    sum_{i in M} max(a_i, 0) / sum_i max(a_i, 0); NaN where no attribution is positive.

    >>> from xaikit.explainers import Gradient
    >>> a, mask = torch.tensor([[0.0, 3.0, 1.0]]), torch.tensor([[0, 1, 0]])
    >>> explainer, x = Gradient(torch.nn.Linear(3, 1)), torch.rand(1, 3)
    >>> RelevanceMass().evaluate(explainer, x, None, a, relevant_region=mask).tolist()
    [0.75]
    """

    DIRECTION = "maximize"

    def _compare(self, values: Tensor, inside: Tensor) -> Tensor:
        positive = values.clamp_min(0)
        total = positive.sum(1)
        return (positive * inside).sum(1) / torch.where(total > 0, total, torch.nan)


@METRICS.register("attribution_localisation")
class AttributionLocalisation(Localisation):
    """Inside-total relevance ratio mu: share of the relevance that lies inside the mask (Kohlbrenner et al. 2020).

    sum_{i in M} a_i / sum_i a_i (arXiv:1910.09840), of positive relevance only or, with ``positive=False``, of all.
    With `weighted` it is multiplied by P / |M|, which makes masks of different sizes comparable: 1 is what a uniform
    map gets. NaN where the total is not positive.

    >>> from xaikit.explainers import Gradient
    >>> a, mask = torch.tensor([[-1.0, 3.0, 1.0]]), torch.tensor([[0, 1, 0]])
    >>> explainer, x = Gradient(torch.nn.Linear(3, 1)), torch.rand(1, 3)
    >>> AttributionLocalisation(weighted=True).evaluate(explainer, x, None, a, relevant_region=mask).tolist()
    [2.25]
    """

    DIRECTION = "maximize"

    positive: Annotated[bool, Categorical(True, False, search=False), "count positive relevance only"] = True
    weighted: Annotated[bool, Categorical(False, True, search=False), "relative to the size of the mask"] = False

    def _compare(self, values: Tensor, inside: Tensor) -> Tensor:
        values = values.clamp_min(0) if self.positive else values
        total = values.sum(1)
        share = (values * inside).sum(1) / torch.where(total > 0, total, torch.nan)
        return share * values.shape[1] / inside.sum(1).clamp_min(1) if self.weighted else share


@METRICS.register("focus")
class Focus(RelevanceMass):
    """Share of the positive relevance that lies in the tiles of the explained class (Arias-Duart et al. 2022).

    For mosaics of several images (arXiv:2109.15035): the relevant region marks the tiles whose class is the target.
    `xaikit.metrics.mosaics.mosaics` makes them, with their regions. The formula is that of `relevance_mass`.

    >>> from xaikit.explainers import Gradient
    >>> a, mask = torch.tensor([[0.0, 3.0, 1.0]]), torch.tensor([[0, 1, 0]])
    >>> explainer, x = Gradient(torch.nn.Linear(3, 1)), torch.rand(1, 3)
    >>> Focus().evaluate(explainer, x, None, a, relevant_region=mask).tolist()
    [0.75]
    """


@METRICS.register("relevance_rank")
class RelevanceRank(Localisation):
    """Share of the |M| places of the highest attributions that lie inside the mask M (Arras et al. 2022).

    Of equal attributions at the border of the |M| highest, each counts in part.

    >>> from xaikit.explainers import Gradient
    >>> a, mask = torch.tensor([[0.0, 3.0, 1.0]]), torch.tensor([[1, 1, 0]])
    >>> explainer, x = Gradient(torch.nn.Linear(3, 1)), torch.rand(1, 3)
    >>> RelevanceRank().evaluate(explainer, x, None, a, relevant_region=mask).tolist()
    [0.5]
    """

    DIRECTION = "maximize"

    def _compare(self, values: Tensor, inside: Tensor) -> Tensor:
        return share_of_top(values, inside, inside.sum(1))


@METRICS.register("auc")
class AUC(Localisation):
    """Probability that a place inside the mask has a higher attribution than one outside, equal ones counted half.

    The area under the ROC curve of the attribution as a detector of the mask (Fawcett 2006). NaN where the mask covers
    everything.

    >>> from xaikit.explainers import Gradient
    >>> a, mask = torch.tensor([[0.0, 3.0, 1.0]]), torch.tensor([[0, 1, 0]])
    >>> explainer, x = Gradient(torch.nn.Linear(3, 1)), torch.rand(1, 3)
    >>> AUC().evaluate(explainer, x, None, a, relevant_region=mask).tolist()
    [1.0]
    """

    DIRECTION = "maximize"

    def _compare(self, values: Tensor, inside: Tensor) -> Tensor:
        n_inside, n_outside = inside.sum(1), (~inside).sum(1)
        above = (mean_ranks(values) * inside).sum(1) - n_inside * (n_inside - 1) / 2
        pairs = (n_inside * n_outside).double()
        return (above / torch.where(pairs > 0, pairs, torch.nan)).to(values)


@METRICS.register("top_k_intersection")
class TopKIntersection(Localisation):
    """Share of the k highest attributions that lie inside the mask (Theiner et al. 2021, arXiv:2104.14995).

    Of equal attributions at the border of the k highest, each counts in part.

    >>> from xaikit.explainers import Gradient
    >>> a, mask = torch.tensor([[0.0, 3.0, 1.0]]), torch.tensor([[0, 1, 0]])
    >>> metric = TopKIntersection(k=2)
    >>> metric.evaluate(Gradient(torch.nn.Linear(3, 1)), torch.rand(1, 3), None, a, relevant_region=mask).tolist()
    [0.5]
    """

    DIRECTION = "maximize"

    k: Annotated[int, Int(ge=1), "places that are looked at; all, where there are fewer"] = 100

    def _compare(self, values: Tensor, inside: Tensor) -> Tensor:
        k = min(self.k, values.shape[1])
        if k == values.shape[1]:
            warnings.warn(
                f"{type(self).__name__}.k={self.k} looks at all {k} positions, so every attribution gets the region's "
                "share of them; choose a smaller k",
                stacklevel=2,
            )
        return share_of_top(values, inside, torch.full_like(inside[:, 0], k, dtype=torch.long))


def share_of_top(values: Tensor, inside: Tensor, k: Tensor) -> Tensor:
    """Share of the k highest values that lie inside, (N,); equal values at the border count alike, each in part.

    This is the expected share for a random order of equal values, so it does not depend on their order in memory.

    Args:
        values: (N, P).
        inside: flags (N, P).
        k: how many values count in each row, (N,).
    """
    below, upto = tie_bounds(values)
    above, tied = values.shape[1] - upto, upto - below
    weight = ((k[:, None] - above) / tied).clamp(0, 1)
    return ((weight * inside).sum(1) / k).to(values)
