"""Suggested marks, which the person corrects: a threshold of a map, what some samples have in common, a factor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xaikit.core import FACTORS
from xaikit.core.errors import InvalidInputError
from xaikit.files.marks import Positions

MOST_SAMPLES = 200  # whose maps are averaged


def above(weights: NDArray[Any], threshold: float) -> Positions:
    """The positions with at least a share of the largest relevance.

    Args:
        weights: the size of the relevance at each position.
        threshold: the share, above 0 and at most 1.

    Raises:
        InvalidInputError: for another threshold.
    """
    if not 0 < threshold <= 1:
        raise InvalidInputError(f"the threshold lies in (0, 1], got {threshold!r}")
    flat = np.asarray(weights, float).reshape(-1)
    largest = float(flat.max(initial=0.0))
    return np.flatnonzero((flat >= threshold * largest) & (flat > 0)).astype(np.int64)


def in_common(maps: Iterable[NDArray[Any]]) -> NDArray[Any]:
    """The mean of the maps, each divided by its sum, so that no sample counts more than another.

    Args:
        maps: sizes of relevance, of one shape.

    Raises:
        InvalidInputError: for no map.
    """
    total, count = None, 0
    for weights in maps:
        share = weights / (weights.sum() or 1.0)
        total = share if total is None else total + share
        count += 1
    if total is None:
        raise InvalidInputError("there is no sample to take a suggestion from; change the filters")
    mean: NDArray[Any] = total / count
    return mean


def place_of(spec: Mapping[str, Any], shape: tuple[int, ...]) -> Positions | None:
    """The region of a factor of `scan`; None for one that is no place of a picture.

    Args:
        spec: of the factor.
        shape: of the marks.
    """
    factor = FACTORS.create(dict(spec))
    if len(shape) != 2 or not hasattr(factor, "mask_of"):
        return None
    return np.flatnonzero(factor.mask_of(*shape).numpy()).astype(np.int64)
