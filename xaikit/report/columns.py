"""Figures of tables: one row as bars or as a waterfall, and the relevance of each column over many rows."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from xaikit.core.errors import InvalidInputError
from xaikit.report.plain_text import PlainFigure

Array = NDArray[Any]

POSITIVE, NEGATIVE, NEUTRAL = "#b2182b", "#2166ac", "#777777"  # the ends of RdBu, and what has no side
VALUES = "viridis"  # colours of a column's values
MAX_FEATURES = 20  # of one row
MAX_COLUMNS = 12  # over many rows
MAX_POINTS = 1000  # of a column; of more rows, evenly spread ones are drawn
BINS = 60  # across the axis, in which points that would hide each other are moved apart
SWARM = 0.42  # how far from the middle of its line a point is moved at most
WIDTH = 30  # letters of a line of a label


def ranked(weights: Array, most: int) -> tuple[Array, Array]:
    """The places of the largest sizes, and the places that are summed as "others"; one alone is never summed.

    Args:
        weights: one number for each column.
        most: how many lines there may be, that of the others included.
    """
    order = np.argsort(-np.abs(weights), kind="stable")
    return (order, order[:0]) if len(order) <= most else (order[: most - 1], order[most - 1 :])


def draw_row(axes: Axes, value: Array, labels: Sequence[str], score: float | None) -> None:
    """The relevance of one row's columns, the largest on top; with a score as a waterfall that ends at it.

    Args:
        axes: to draw on.
        value: of each column, (F,).
        labels: of each column.
        score: which the values add up to, with what is not attributed; None draws bars from 0.
    """
    top, others = ranked(value, MAX_FEATURES)
    sizes = [*value[top], *([value[others].sum()] if len(others) else [])]
    texts = [*(labels[j] for j in top), *([f"{len(others)} others, summed"] if len(others) else [])]
    colours = [NEGATIVE if size < 0 else POSITIVE for size in sizes]
    starts = [0.0] * len(sizes)
    if score is not None:
        base = score - float(value.sum())
        starts = [0.0, *(base + np.concatenate([[0.0], np.cumsum(sizes)[:-1]])), 0.0]
        sizes, texts = [base, *sizes, score], ["not attributed", *texts, "score"]
        colours = [NEUTRAL, *colours, NEUTRAL]
    axes.barh(range(len(sizes)), sizes, left=starts, color=colours)
    for place, (start, size) in enumerate(zip(starts, sizes, strict=True)):
        if score is not None and place < len(sizes) - 1:
            axes.plot([start + size] * 2, [place - 0.4, place + 1.4], color=NEUTRAL, linewidth=0.6)
        axes.annotate(
            f"{size:+.3g}" if 0 < place < len(sizes) - 1 or score is None else f"{size:.3g}",
            (max(start, start + size), place), (3, 0), textcoords="offset points", va="center", fontsize=7,
        )  # fmt: skip
    axes.set_yticks(range(len(sizes)), [textwrap.fill(text, WIDTH) for text in texts], fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)


def rows_figure(
    values: Array, inputs: Array | None, titles: Sequence[str], names: Sequence[str] | None, scores: Array | None
) -> Figure:
    """One panel for each row.

    Args:
        values: relevance (N, F).
        inputs: what was explained, (N, F); its numbers stand in the labels.
        titles: of the panels.
        names: of the columns.
        scores: (N,), which the values add up to; None draws bars from 0.

    Raises:
        InvalidInputError: for another number of names than columns.
    """
    values = values.reshape(len(values), -1)
    columns = column_names(names, values.shape[1])
    n_lines = min(values.shape[1], MAX_FEATURES) + (0 if scores is None else 2)
    figure = PlainFigure(figsize=(6.6, len(values) * (0.7 + 0.24 * n_lines) + 0.3), layout="constrained")
    for i, axes in enumerate(figure.subplots(len(values), 1, squeeze=False)[:, 0]):
        labels = columns
        if inputs is not None:
            labels = [f"{name} = {v:.4g}" for name, v in zip(columns, inputs[i].reshape(-1).tolist(), strict=True)]
        draw_row(axes, values[i], labels, None if scores is None else float(scores[i]))
        axes.set_title(titles[i], loc="left", fontsize=9)
    return figure


def columns_figure(
    values: Array,
    inputs: Array | None = None,
    names: Sequence[str] | None = None,
    *,
    narrow: bool = False,
    mean_size: Array | None = None,
) -> Figure:
    """The relevance of each column over many rows: the mean size as bars, and a point for each row (a beeswarm).

    Args:
        values: relevance (N, F).
        inputs: the rows (N, F); a point has the colour of its column's value, from low to high. None: one colour.
        names: of the columns.
        narrow: the points stand below the bars instead of beside them, for a phone.
        mean_size: length of the bars, (F,), where `values` are only some of the rows; None takes the mean of these.

    Raises:
        InvalidInputError: for another number of names than columns, or values that are no table.
    """
    if values.ndim != 2 or not len(values):
        raise InvalidInputError(f"a figure of columns needs the relevance of rows, (N, F), got shape {values.shape}")
    columns = column_names(names, values.shape[1])
    means = np.abs(values).mean(0) if mean_size is None else mean_size
    top, others = ranked(means, MAX_COLUMNS)
    n_lines = len(top) + bool(len(others))
    height = 0.9 + 0.3 * n_lines
    figure = PlainFigure(figsize=(4.6, 2 * height) if narrow else (7.6, height), layout="constrained")
    left, right = figure.subplots(2, 1) if narrow else figure.subplots(1, 2, width_ratios=(1, 1.7))
    sizes = [*means[top], *([means[others].sum()] if len(others) else [])]
    texts = [*(columns[j] for j in top), *([f"{len(others)} others, summed"] if len(others) else [])]
    bars = left.barh(range(n_lines), sizes, color=NEUTRAL)
    if len(others):
        bars[-1].set(color="white", edgecolor=NEUTRAL, hatch="///")
    for place, size in enumerate(sizes):
        left.annotate(f"{size:.3g}", (size, place), (3, 0), textcoords="offset points", va="center", fontsize=7)
    for axes, lines in ((left, texts), (right, texts[: len(top)] if narrow else [""] * len(top))):
        axes.set_yticks(range(len(lines)), [textwrap.fill(text, WIDTH) for text in lines], fontsize=8)
        axes.set_ylim((n_lines if axes is left or not narrow else len(top)) - 0.5, -0.5)
    left.margins(x=0.18)
    left.set_xlabel("mean size of the relevance", fontsize=8)
    chosen = np.linspace(0, len(values) - 1, min(len(values), MAX_POINTS)).round().astype(int)
    for place, column in enumerate(top):
        _swarm(right, place, values[chosen, column], None if inputs is None else inputs[chosen, column])
    right.axvline(0, color="black", linewidth=0.8)
    right.set_xlabel(f"relevance for the explained score,\na point for each of {len(chosen)} rows", fontsize=8)
    if inputs is not None:
        bar = figure.colorbar(ScalarMappable(Normalize(0, 1), VALUES), ax=right, aspect=30, pad=0.02)
        bar.set_ticks([0, 1], labels=["low", "high"], fontsize=8)
        bar.set_label("value in the column", fontsize=8)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(axis="x", labelsize=8)
    return figure


def description_of(values: Array, names: Sequence[str] | None = None) -> str:
    """What `columns_figure` shows, in words, for readers who cannot see it.

    Args:
        values: relevance (N, F).
        names: of the columns.
    """
    columns, means = column_names(names, values.shape[1]), np.abs(values).mean(0)
    top, others = ranked(means, MAX_COLUMNS)
    listed = [f"{columns[j]} {means[j]:.3g}" for j in top]
    listed += [f"{len(others)} others together {means[others].sum():.3g}"] if len(others) else []
    return f"Mean size of the relevance over {len(values)} rows: {', '.join(listed)}."


def column_names(names: Sequence[str] | None, count: int) -> list[str]:
    """The names of the columns, or numbers.

    Raises:
        InvalidInputError: for another number of names.
    """
    if names and len(names) != count:
        raise InvalidInputError(f"names must name {count} features, got {len(names)}")
    return [str(name) for name in names] if names else [f"feature {j}" for j in range(count)]


def _swarm(axes: Axes, place: int, relevance: Array, values: Array | None) -> None:
    """The points of one column, moved apart across their line where they would hide each other."""
    finite = np.isfinite(relevance)
    relevance = relevance[finite]
    colours: Any = NEUTRAL
    if values is not None:
        low, high = np.nanquantile(values[finite], [0.05, 0.95]) if finite.any() else (0.0, 1.0)
        colours = np.clip((values[finite] - low) / ((high - low) or 1.0), 0, 1)
    span = float(np.ptp(relevance)) if len(relevance) else 0.0
    bins = (
        np.zeros(len(relevance), int) if not span else ((relevance - relevance.min()) / span * (BINS - 1)).astype(int)
    )
    offsets = np.zeros(len(relevance))
    fullest = max((int((bins == b).sum()) for b in np.unique(bins)), default=1)
    step = SWARM / max(math.ceil(fullest / 2), 6)
    for b in np.unique(bins):
        members = np.flatnonzero(bins == b)
        ranks = np.arange(len(members))
        offsets[members] = np.where(ranks % 2, 1, -1) * ((ranks + 1) // 2) * step  # 0, up, down, up, ...
    axes.scatter(relevance, place + offsets, 7, colours, cmap=None if values is None else VALUES, linewidths=0)
