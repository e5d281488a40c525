"""The conclusion of a report in words: how right the model is, what it looks at, how far its maps can be trusted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from statistics import fmean, median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xaikit.core.image_forms import channels_first
from xaikit.core.percentages import percent
from xaikit.report.side_by_side import accuracy, models
from xaikit.runs import ExplainedSample, Run

Array = NDArray[Any]

NINTHS = (
    ("the upper left", "the top", "the upper right"),
    ("the left side", "the centre", "the right side"),
    ("the lower left", "the bottom", "the lower right"),
)
MOST_OF = 0.6  # of what a third holds: what lies in one of its ninths is said of the ninth
THIRDS = ("the beginning", "the middle", "the end")
CELLS = 16  # along each axis, on which maps of images are compared
AGREE, DISAGREE = 0.6, 0.3  # rank correlations
SMALL_GAP = 0.01  # of the score
MOST_NAMED = 3
FEWEST_ROWS = 3  # of a table, from which a figure of its columns is drawn


class Digest:
    """Collects over the samples of a page what its conclusion needs."""

    def __init__(self, runs: Sequence[Run], explainers: Sequence[str]) -> None:
        self._runs, self._explainers = runs, explainers
        # What each model looks at, by its first run.
        firsts = [next(i for i, run in enumerate(runs) if run is first) for first in models(runs).values()]
        self._places: dict[int, dict[str, float]] = {number: defaultdict(float) for number in firsts}
        self._kind = ""
        self._samples = 0
        self._tables: list[list[Array]] = []
        self._table_inputs: list[Array | None] = []
        self._gaps: dict[str, list[float]] = defaultdict(list)
        self._correlations: list[float] = []
        one_model = runs[0].job["weights"] if runs else None
        self._same_model = [i for i, run in enumerate(runs) if run.job["weights"] == one_model]

    def add(
        self,
        kind: str,
        values: Sequence[Array],
        samples: Sequence[ExplainedSample],
        parts: Sequence[str],
        inputs: Array | None = None,
    ) -> None:
        """Take a sample into account.

        Args:
            kind: "image", "series", "tabular" or "text".
            values: its maps, one for each run.
            samples: likewise.
            parts: names of the tokens, columns or channels; empty for an image.
            inputs: of the sample, where they are known.
        """
        if kind == "tabular":
            self._tables.append([v.reshape(-1) for v in values])
            self._table_inputs.append(None if inputs is None else inputs.reshape(-1))
        self._kind, self._samples = kind, self._samples + 1
        for number, places in self._places.items():
            for place, share in _shares(kind, values[number], parts):
                places[place] += share
        for explainer, sample in zip(self._explainers, samples, strict=True):
            if sample.gap is not None and sample.score:
                self._gaps[explainer].append(abs(sample.gap / sample.score))
        correlation = self.agreement(kind, values)
        if correlation is not None:
            self._correlations.append(correlation)

    def tables(self) -> dict[str, tuple[Array, Array | None]]:
        """The relevance (N, F) of tables by explainer, and their inputs where all are known; of a few rows nothing."""
        if len(self._tables) < FEWEST_ROWS:
            return {}
        inputs = [row for row in self._table_inputs if row is not None]
        known = np.stack(inputs).astype(float) if len(inputs) == len(self._tables) else None
        columns = zip(self._explainers, zip(*self._tables, strict=True), strict=True)
        return {name: (np.stack(rows).astype(float), known) for name, rows in columns}

    def agreement(self, kind: str, values: Sequence[Array]) -> float | None:
        """The mean rank correlation of the sizes of a sample's maps, over the pairs of explainers of one model.

        Args:
            kind: of the data.
            values: the maps of a sample.
        """
        flat = [_sizes(kind, values[i]) for i in self._same_model]
        pairs = [_rank_correlation(a, b) for a, b in combinations(flat, 2) if a.shape == b.shape and a.size > 2]
        return fmean(pairs) if pairs else None

    def sentences(self) -> list[str]:
        """The conclusion, a sentence for each finding."""
        if not self._samples:
            return []
        return [s for s in (self._right(), *map(self._looks, self._places), self._sums(), self._agree()) if s]

    def _right(self) -> str:
        judged = ((run, accuracy(run)) for run in models(self._runs).values())
        by_model = [(run, *share) for run, share in judged if share is not None]
        if not by_model:
            return ""
        if len(by_model) == 1:
            _, share, count = by_model[0]
            return f"The model is right on {percent(share)} of {count} samples."
        shares = "; ".join(f"{run.folder.name}: {percent(share)} of {count}" for run, share, count in by_model)
        return f"Right predictions: {shares}. {_turned(by_model[0][0], by_model[-1][0])}"

    def _looks(self, number: int) -> str:
        everything = sum(self._places[number].values())  # one for each sample that has any relevance
        shares = {place: total / everything for place, total in self._places[number].items()}
        strongest = sorted(shares, key=lambda place: -shares[place])[:MOST_NAMED]
        if not strongest:
            return ""
        by = f" ({self._explainers[number]})" if len(self._explainers) > 1 else ""
        if self._kind == "image":
            first = strongest[0]
            third, share = _largest_third(shares)
            if share > 1 / 2 and shares[first] < MOST_OF * share:
                return (
                    f"What it looks at{by}: {percent(share, 0)} of the relevance lies in {third} third of the pictures."
                )
            if shares[first] < 2 / 9:
                return (
                    f"What it looks at{by}: no one place; of nine equal parts of the pictures none holds more than "
                    f"{percent(shares[first], 0)} of the relevance."
                )
            part = percent(shares[first], 0)
            return f"What it looks at{by}: {part} of the relevance lies in {first}, a ninth of the picture."
        listed = ", ".join(f"{place} ({percent(shares[place], 0)})" for place in strongest)
        return f"What it looks at{by}, by its share of the relevance: {listed}."

    def _sums(self) -> str:
        middle = {name: median(gaps) for name, gaps in self._gaps.items() if gaps}
        if not middle:
            return ""
        exact = [name for name, gap in middle.items() if gap <= SMALL_GAP]
        rest = [f"{name} by {percent(gap, 0)}" for name, gap in middle.items() if gap > SMALL_GAP]
        findings = [f"maps of {', '.join(exact)} add up to the score within {percent(SMALL_GAP, 0)}"] if exact else []
        findings += [f"maps miss what they should add up to: {', '.join(rest)} of the score"] if rest else []
        return f"How far to trust the maps: {'; '.join(findings)} (median)."

    def _agree(self) -> str:
        if not self._correlations:
            return (
                "A single explainer cannot show how far its maps can be trusted: add a run of another one, or measure "
                "it with xaikit evaluate."
            )
        mean = fmean(self._correlations)
        verdict = "agree" if mean >= AGREE else "agree in part" if mean >= DISAGREE else "disagree: trust no single map"
        return f"The explainers {verdict} (mean rank correlation {mean:.2f})."


def _largest_third(shares: Mapping[str, float]) -> tuple[str, float]:
    """The column or row of the nine parts of a picture that holds most, and its share."""
    rows = dict(zip(("the upper", "the middle", "the lower"), NINTHS, strict=True))
    columns = dict(zip(("the left", "the vertical middle", "the right"), zip(*NINTHS, strict=True), strict=True))
    sums = {name: sum(shares.get(place, 0.0) for place in places) for name, places in (rows | columns).items()}
    third = max(sums, key=lambda name: sums[name])
    return third, sums[third]


def _turned(before: Run, after: Run) -> str:
    earlier = {row["index"]: row for row in before.rows() if row["label"] is not None}
    pairs = [(earlier[row["index"]], row) for row in after.rows() if row["index"] in earlier]
    right = [(a["predicted"] == a["label"], b["predicted"] == a["label"]) for a, b in pairs]
    mended, spoilt = right.count((False, True)), right.count((True, False))
    return f"From {before.folder.name} to {after.folder.name}, {mended} turned right and {spoilt} turned wrong."


def _shares(kind: str, values: Array, parts: Sequence[str]) -> list[tuple[str, float]]:
    """What share of a sample's relevance, by size, lies in each place or part."""
    sizes = np.abs(np.nan_to_num(values.astype(float)))
    total = sizes.sum()
    if not total:
        return []
    if kind == "image":
        sizes = channels_first(sizes).sum(0) if sizes.ndim == 3 else sizes
        rows = [np.array_split(third, 3, axis=1) for third in np.array_split(sizes, 3, axis=0)]
        return [(NINTHS[i][j], rows[i][j].sum() / total) for i in range(3) for j in range(3)]
    if kind == "series":
        sizes = sizes[None] if sizes.ndim == 1 else sizes
        thirds = [np.array_split(channel, 3) for channel in sizes]
        channel_names = parts if len(parts) == len(sizes) else [f"channel {i}" for i in range(len(sizes))]
        return [
            (f"{THIRDS[k]} of {channel_names[i]}", t[k].sum() / total) for i, t in enumerate(thirds) for k in range(3)
        ]
    flat = sizes.reshape(len(sizes), -1).sum(1)
    return [(part, size / total) for part, size in zip(parts, flat, strict=False)]


def _sizes(kind: str, values: Array) -> Array:
    """The sizes of a map that are compared; of an image on a coarse grid, since neighbours share what they mean."""
    sizes = np.abs(np.nan_to_num(values.astype(float)))
    if kind != "image":
        return sizes.reshape(len(sizes), -1).sum(1) if kind == "text" else sizes.reshape(-1)
    sizes = channels_first(sizes).sum(0) if sizes.ndim == 3 else sizes
    rows, columns = (_starts(length) for length in sizes.shape)
    sums = np.add.reduceat(np.add.reduceat(sizes, rows, axis=0), columns, axis=1)
    areas = np.outer(*(np.diff(s, append=n) for s, n in zip((rows, columns), sizes.shape, strict=True)))
    return np.asarray(sums / areas).ravel()


def _starts(length: int) -> Array:
    """Where the cells along one side of a map begin."""
    cells = min(CELLS, length)
    return (np.arange(cells) * length + cells - 1) // cells


def _rank_correlation(a: Array, b: Array) -> float:
    """Spearman's, with equal values in the order they come; 0 where one of both is constant."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    ranks = np.stack([np.argsort(np.argsort(v, kind="stable"), kind="stable") for v in (a, b)])
    between = np.asarray(np.corrcoef(ranks))
    return float(between[0, 1])
