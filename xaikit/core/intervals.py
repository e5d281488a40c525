"""Confidence intervals of shares, and of differences of shares of the same samples."""

from __future__ import annotations

import math
from statistics import NormalDist

from torch import Tensor

from xaikit.core.results import Interval


def share_interval(hits: Tensor, level: float) -> Interval:
    """A share with Wilson's score interval (J. Am. Statist. Assoc. 22, 1927).

    Args:
        hits: bool (N,).
        level: confidence, such as 0.95.
    """
    n, share = len(hits), float(hits.double().mean())
    z = NormalDist().inv_cdf((1 + level) / 2)
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    margin = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Interval(max(0.0, centre - margin), share, min(1.0, centre + margin), level, n)


def paired_interval(first: Tensor, second: Tensor, level: float) -> Interval:
    """The difference of two shares of the same samples, with the interval of Agresti and Min.

    Half a sample is added to each of the four outcomes (Statistics in Medicine 24, 2005).

    Args:
        first: (N,), whether something came about; or its share over several draws.
        second: (N,), likewise, of the same samples.
        level: confidence, such as 0.95.
    """
    differences = first.double() - second.double()
    n, total = len(differences), len(differences) + 2
    centre = float(differences.sum()) / total
    squares = float(differences.square().sum()) + 1
    margin = NormalDist().inv_cdf((1 + level) / 2) * math.sqrt(squares - centre * centre * total) / total
    mean = float(differences.mean())
    return Interval(max(-1.0, centre - margin), mean, min(1.0, centre + margin), level, n)


def difference_interval(first: Tensor, second: Tensor, level: float) -> Interval:
    """The difference of two shares of different samples, with the interval of Agresti and Caffo.

    One sample of each outcome is added to both (The American Statistician 54, 2000).

    Args:
        first: (N,), whether something came about; or its share over several draws. At least one.
        second: (M,), likewise, of other samples.
        level: confidence, such as 0.95.
    """
    sizes = [len(first) + 2, len(second) + 2]
    shares = [(float(part.double().sum()) + 1) / size for part, size in zip((first, second), sizes, strict=True)]
    variance = sum(share * (1 - share) / size for share, size in zip(shares, sizes, strict=True))
    margin = NormalDist().inv_cdf((1 + level) / 2) * math.sqrt(variance)
    centre = shares[0] - shares[1]
    mean = float(first.double().mean() - second.double().mean())
    return Interval(max(-1.0, centre - margin), mean, min(1.0, centre + margin), level, len(first) + len(second))
