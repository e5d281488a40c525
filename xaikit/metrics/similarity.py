"""Similarities of two rows of numbers; NaN if one of them is constant, since it then has no correlation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

WINDOW = 7


def pearson(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's correlation of each row of (N, P), shape (N,)."""
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    scale = torch.linalg.vector_norm(a, dim=1) * torch.linalg.vector_norm(b, dim=1)
    # A row of equal numbers may be off its mean by rounding, which is no variation.
    constant = _constant(a) | _constant(b)
    return ((a * b).sum(1) / scale).clamp(-1, 1).masked_fill(constant, torch.nan)


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's rank correlation of each row of (N, P), equal values sharing their mean rank, shape (N,)."""
    return pearson(mean_ranks(a), mean_ranks(b))


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of the angle between the rows of (N, P), shape (N,); NaN for a row of zeros."""
    scale = torch.linalg.vector_norm(a, dim=1) * torch.linalg.vector_norm(b, dim=1)
    return (a * b).sum(1) / torch.where(scale > 0, scale, torch.nan)


def mean_ranks(a: Tensor) -> Tensor:
    """Ranks within each row of (N, P), from 0, equal values sharing their mean rank; float64."""
    below, upto = tie_bounds(a)
    return (below + upto - 1).double() / 2


def without_rounding(sums: Tensor, terms: int) -> Tensor:
    """Sums (N, P) in which values that differ by rounding alone are equal, so that they are ties and not noise.

    Args:
        sums: of numbers of one sign, or of any; in float64.
        terms: most numbers in a sum.
    """
    if sums.shape[1] < 2:
        return sums
    ordered, order = sums.sort(1)
    tolerance = torch.finfo(sums.dtype).eps * max(terms, 8) * torch.maximum(ordered[:, 1:].abs(), ordered[:, :-1].abs())
    is_new = ~(ordered.diff(dim=1) <= tolerance)  # NaN is no tie
    places = torch.arange(1, sums.shape[1], device=sums.device).expand_as(is_new)
    first = torch.nn.functional.pad(places * is_new, (1, 0)).cummax(1).values
    return torch.empty_like(sums).scatter_(1, order, ordered.gather(1, first))


def tie_bounds(a: Tensor) -> tuple[Tensor, Tensor]:
    """For each value of (N, P): how many values of its row are smaller, and how many are smaller or equal."""
    a = a.contiguous()
    ordered = a.sort(1).values
    return torch.searchsorted(ordered, a, side="left"), torch.searchsorted(ordered, a, side="right")


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Mean structural similarity of maps (N, C, H, W) or (N, H, W), shape (N,) (Wang et al. 2004).

    Uniform windows of 7 x 7 that lie inside the map, sample variances, K1 = 0.01, K2 = 0.03; the data range is that of
    both maps of a sample together.
    """
    both = torch.stack([a, b]).flatten(2)
    extent = (both.amax((0, 2)) - both.amin((0, 2))).view(-1, *[1] * (a.ndim - 1))
    c1, c2 = (0.01 * extent) ** 2, (0.03 * extent) ** 2
    rescale = WINDOW**2 / (WINDOW**2 - 1)  # sample, not population, moments

    def mean(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, WINDOW, stride=1)

    ma, mb = mean(a), mean(b)
    va, vb = rescale * (mean(a * a) - ma * ma), rescale * (mean(b * b) - mb * mb)
    cov = rescale * (mean(a * b) - ma * mb)
    index = (2 * ma * mb + c1) * (2 * cov + c2) / ((ma * ma + mb * mb + c1) * (va + vb + c2))
    return index.flatten(1).mean(1)


ROWWISE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"spearman": spearman, "pearson": pearson, "cosine": cosine}


def _constant(centred: Tensor) -> Tensor:
    return centred.amax(1) == centred.amin(1)
