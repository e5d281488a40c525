"""Normalizations: they scale the attribution of each sample, so that samples and methods can be compared."""

from __future__ import annotations

import abc
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from xaikit.core.configured import Configured
from xaikit.core.params import Float
from xaikit.core.registries import NORMALIZATIONS
from xaikit.core.structure import by_row


class Normalization(Configured, abc.ABC):
    """Scales each sample by itself and keeps the order of its values."""

    REGISTRY: ClassVar[Any] = NORMALIZATIONS

    def __call__(self, attribution: Tensor) -> Tensor:
        """The attribution (N, ...) scaled, of the same shape; NaN throughout a sample that is not finite."""
        rows = by_row(attribution)
        return nan_where_not_finite(self._rows(rows).view(attribution.shape), attribution)

    @abc.abstractmethod
    def _rows(self, a: Tensor) -> Tensor:
        """The samples as rows (N, P), scaled."""


@NORMALIZATIONS.register("none")
class AsIs(Normalization):
    """The values as they are."""

    def _rows(self, a: Tensor) -> Tensor:
        return a


@NORMALIZATIONS.register("minmax")
class MinMax(Normalization):
    """To [0, 1]: (a - min a) / (max a - min a); 0 for a sample that is constant."""

    def _rows(self, a: Tensor) -> Tensor:
        low, high = a.amin(1, keepdim=True), a.amax(1, keepdim=True)
        return (a - low) / _one_where_zero(high - low)


@NORMALIZATIONS.register("maxabs")
class MaxAbs(Normalization):
    """To [-1, 1] with zero and the signs unchanged: a / max |a|; 0 for a sample that is zero."""

    def _rows(self, a: Tensor) -> Tensor:
        return a / _one_where_zero(a.abs().amax(1, keepdim=True))


@NORMALIZATIONS.register("quantile")
class Quantile(Normalization):
    """To [-1, 1] with the outliers cut off: a / Q, where Q is a quantile of |a|.

    Q is interpolated linearly between neighbours. Where it is 0 the largest |a| takes its place.
    """

    quantile: Annotated[float, Float(low=0.9, high=1.0, gt=0, le=1), "share of the |a| that stay below the cut"] = 0.99

    def _rows(self, a: Tensor) -> Tensor:
        size = a.abs()
        ordered = size.sort(1).values
        position = self.quantile * (a.shape[1] - 1)
        below = min(int(position), max(a.shape[1] - 2, 0))
        above = min(below + 1, a.shape[1] - 1)
        cut = torch.lerp(ordered[:, below : below + 1], ordered[:, above : above + 1], position - below)
        scale = torch.where(cut > 0, cut, size.amax(1, keepdim=True))
        return (a / _one_where_zero(scale)).clamp(-1, 1)


@NORMALIZATIONS.register("rank")
class Rank(Normalization):
    """To (0, 1): the share of values that are smaller, equal ones counted half, (#{b < a} + #{b <= a}) / 2P.

    Equal values share their mean rank. Its derivative is zero.
    """

    def _rows(self, a: Tensor) -> Tensor:
        a = a.detach().contiguous()
        ordered = a.sort(1).values
        less = torch.searchsorted(ordered, a, side="left")
        not_more = torch.searchsorted(ordered, a, side="right")
        return ((less + not_more).double() / (2 * a.shape[1])).to(a.dtype)


def nan_where_not_finite(result: Tensor, source: Tensor) -> Tensor:
    """The result (N, ...), with NaN throughout each sample whose `source` (N, ...) is not finite."""
    broken = ~by_row(torch.isfinite(source)).all(1)
    return result.masked_fill(broken.view(-1, *[1] * (result.ndim - 1)), torch.nan)


def _one_where_zero(scale: Tensor) -> Tensor:
    return torch.where(scale == 0, torch.ones_like(scale), scale)
