"""Suggested marks, which the person corrects: a threshold of a map, what some samples have in common, a factor."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from xaikit.core import FACTORS
from xaikit.core.errors import InvalidInputError
from xaikit.factors import Column, DataFacts, EndTokens, Window, Words
from xaikit.factors.words import plain_word
from xaikit.files.marks import Positions

MOST_SAMPLES = 200  # whose maps are averaged
# Factors with a place; of texts, the place is another one in each.
PLACED: Mapping[str, tuple[type, ...]] = {"tabular": (Column,), "series": (Window,), "text": (Words, EndTokens)}
RESERVED = re.compile(r"\[.+\]|<.+>")  # such as [CLS], </s>, <|end|>: no words of the text


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


def place_of(
    spec: Mapping[str, Any], kind: str, shape: tuple[int, ...], columns: Sequence[str] = ()
) -> Positions | None:
    """The place of a factor of `scan`: a region, a window of time, columns; None for a factor without a place.

    Args:
        spec: of the factor.
        kind: of the samples.
        shape: of the marks.
        columns: names of the columns of a table.
    """
    factor = FACTORS.create(dict(spec))
    if kind == "image" and hasattr(factor, "mask_of"):
        return np.flatnonzero(factor.mask_of(*shape).numpy()).astype(np.int64)
    if not isinstance(factor, PLACED.get(kind, ())):
        return None
    # What a donor of ones changes in a sample of zeros is the place.
    rows = torch.zeros(1, *([1] if kind == "series" else []), *shape, device="cpu")
    facts = DataFacts(kind=factor.KINDS[0], columns=tuple(columns))
    changed = factor.exchange(rows, rows + 1, facts=facts).reshape(-1)
    return np.flatnonzero(changed.numpy()).astype(np.int64)


def places_in_text(spec: Mapping[str, Any], tokens: Sequence[tuple[int, str]]) -> Positions | None:
    """The words of one text that a factor of `scan` stands for; None for a factor of another kind.

    Args:
        spec: of the factor.
        tokens: id and word of each token of the text.
    """
    factor = FACTORS.create(dict(spec))
    if isinstance(factor, Words):
        sought = set(factor.names)
        flags = [token in factor.ids or not sought.isdisjoint((word, plain_word(word))) for token, word in tokens]
    elif isinstance(factor, EndTokens):
        numbers = torch.arange(len(tokens), device="cpu")[None]
        reserved = tuple(i for i, (_, word) in enumerate(tokens) if RESERVED.fullmatch(word))
        flags = factor.marked(numbers, DataFacts("text", special=reserved))[0].tolist()
    else:
        return None
    return np.flatnonzero(flags).astype(np.int64)
