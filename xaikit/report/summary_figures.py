"""Figures of a `Summary`: mean maps, beeswarm, dependence, waterfall, clustered bars, words."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.cluster.hierarchy import dendrogram

from xaikit.core.errors import InvalidInputError
from xaikit.core.image_forms import channels_first
from xaikit.report.columns import MAX_COLUMNS, NEGATIVE, NEUTRAL, POSITIVE, VALUES, WIDTH, columns_figure, rows_figure
from xaikit.report.figures import BARS, SIGNED, UNSIGNED, grouped_bars
from xaikit.report.plain_text import PlainFigure

if TYPE_CHECKING:
    from xaikit.runs.summary_tables import (
        ClassMaps,
        ColumnClusters,
        ColumnRelevance,
        Dependence,
        Waterfall,
        WordRelevance,
    )

Array = NDArray[Any]

ACROSS = 5  # maps beside each other
MAX_CLASSES = 20
MAX_WORDS = 20
MAX_DOTS = 5000  # of a dependence; of more samples, evenly spread ones are drawn
MAX_LEAVES = 30  # columns of clustered bars


def class_maps_figure(table: ClassMaps, *, narrow: bool = False) -> Figure:
    """A picture of each class with one scale for all; of rows of a table, bars for the columns that count most.

    Args:
        table: what to draw; at most 20 classes, those with the most samples.
        narrow: four small maps in a line, or short lines of series, for a page that is read on a phone, too.
    """
    means = table.means.numpy()
    chosen = sorted(np.argsort([-n for n in table.counts], kind="stable")[:MAX_CLASSES].tolist())
    titles = [f"{table.names[k]}, n = {table.counts[k]:,}" for k in chosen]
    if means.ndim == 2:
        top = np.argsort(-table.sizes.numpy().max(0), kind="stable")[: MAX_COLUMNS // 2]
        columns = table.features or [f"feature {j}" for j in range(means.shape[1])]
        rows = {
            title: {textwrap.fill(columns[j], 14): float(means[k, j]) for j in top}
            for k, title in zip(chosen[:7], titles, strict=False)
        }
        figure = grouped_bars(rows, title="Mean relevance", percent=False)
        figure.axes[0].axhline(0, color="black", linewidth=0.8)
        return figure
    if means.ndim not in (3, 4):
        raise InvalidInputError(f"mean maps of shape {means.shape[1:]} have no picture; use to_pandas()")
    maps = np.stack([channels_first(means[k]).sum(0) for k in chosen]) if means.ndim == 4 else means[chosen]
    return _maps(maps, titles, table.features, narrow)


def _maps(maps: Array, titles: list[str], channels: tuple[str, ...], narrow: bool) -> Figure:
    series = bool(channels) or maps.shape[1] * 4 < maps.shape[2]
    across = 1 if series else min(4 if narrow else ACROSS, len(maps))
    down = -(-len(maps) // across)
    side = max(1.2, 4.0 / max(2, across)) if narrow else 1.7  # a phone is four inches wide
    size = (
        (4.6 if narrow else 7.0, 0.5 + down * (0.6 + 0.22 * min(maps.shape[1], 12)))
        if series
        else (across * side + 0.8, down * (side + 0.25))
    )
    figure = PlainFigure(figsize=size, layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).reshape(-1)
    limit = float(np.abs(maps).max()) or 1.0
    signed = bool((maps < 0).any())
    options: dict[str, Any] = {"cmap": SIGNED if signed else UNSIGNED, "vmin": -limit if signed else 0, "vmax": limit}
    for axes in panels[len(maps) :]:
        axes.set_axis_off()
    for axes, values, title in zip(panels, maps, titles, strict=False):
        drawn = axes.imshow(values, aspect="auto" if series else "equal", interpolation="nearest", **options)
        axes.set_title(textwrap.fill(title, 60 if series else int(13 * side)), fontsize=8 if narrow else 9, loc="left")
        axes.tick_params(labelsize=7)
        if series:
            axes.set_yticks(range(len(values)), channels or range(len(values)))
        else:
            axes.set_xticks([])
            axes.set_yticks([])
    bar = figure.colorbar(drawn, ax=list(panels), fraction=0.05, pad=0.02, aspect=30)
    bar.set_label("mean relevance", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    return figure


def beeswarm(table: ColumnRelevance, *, narrow: bool = False) -> Figure:
    """Bars of the mean size of each column, and a point for each of at most 1,000 samples.

    Args:
        table: what to draw.
        narrow: the points stand below the bars, for a phone.
    """
    values = None if table.values is None else table.values.numpy()
    return columns_figure(
        table.points.numpy(), values, list(table.names), narrow=narrow, mean_size=table.mean_size.numpy()
    )


def dependence_figure(table: Dependence, *, bins: int = 10) -> Figure:
    """The relevance of a column over its value, a point for each sample, and the mean of each range of values.

    Args:
        table: what to draw.
        bins: of the line, as for `Dependence.binned`.
    """
    x, y = table.values.numpy(), table.relevance.numpy()
    chosen = np.linspace(0, len(x) - 1, min(len(x), MAX_DOTS)).round().astype(int)
    figure = PlainFigure(figsize=(5.6, 3.8), layout="constrained")
    axes = figure.subplots()
    axes.axhline(0, color="black", linewidth=0.8)
    options: dict[str, Any] = {"s": 12, "linewidths": 0, "alpha": 0.7}
    if table.other_values is None:
        axes.scatter(x[chosen], y[chosen], color=NEUTRAL, **options)
    else:
        shade = table.other_values.numpy()
        low, high = np.quantile(shade, [0.05, 0.95])
        high = high if high > low else low + 1
        drawn = axes.scatter(x[chosen], y[chosen], c=shade[chosen], cmap=VALUES, vmin=low, vmax=high, **options)
        bar = figure.colorbar(drawn, ax=axes, aspect=30, pad=0.02, extend="both")
        bar.set_label(table.other, fontsize=8)
        bar.ax.tick_params(labelsize=7)
    line = table.bins(bins)
    axes.plot(line["value"], line["relevance"], color=POSITIVE, marker="o", markersize=4, label="mean in a range")
    axes.set_xlabel(table.column, fontsize=9)
    axes.set_ylabel(f"relevance of {textwrap.fill(table.column, WIDTH)}", fontsize=9)
    axes.legend(frameon=False, fontsize=8)
    _plain(axes)
    return figure


def waterfall_figure(table: Waterfall) -> Figure:
    """From what is not attributed to the score, the largest step first.

    Args:
        table: what to draw.
    """
    values = None if table.values is None else table.values.numpy()[None]
    score = np.array([table.score])
    return rows_figure(table.relevance.numpy()[None], values, [table.title], list(table.names), score)


def clusters_figure(table: ColumnClusters, *, narrow: bool = False) -> Figure:
    """Bars of the mean size of each column in the order of the tree, and the tree beside them.

    Args:
        table: what to draw; at most 30 columns.
        narrow: for a page that is read on a phone, too.

    Raises:
        InvalidInputError: for more columns.
    """
    count = len(table.names)
    if count > MAX_LEAVES:
        raise InvalidInputError(f"clustered bars show at most {MAX_LEAVES} columns, got {count}; use to_pandas()")
    figure = PlainFigure(figsize=(5.0 if narrow else 7.6, 0.9 + 0.3 * count), layout="constrained")
    bars, branches = figure.subplots(1, 2, width_ratios=(1.5, 1), sharey=True)
    tree = dendrogram(table.merges.numpy(), no_plot=True)
    order = tree["leaves"]
    places = {column: place for place, column in enumerate(order)}
    for path_y, path_x in zip(tree["icoord"], tree["dcoord"], strict=True):
        branches.plot(path_x, (np.array(path_y) - 5) / 10, color=NEUTRAL, linewidth=1)
    branches.axvline(table.distance, color=POSITIVE, linestyle="--", linewidth=1)
    branches.annotate(
        "cut", (table.distance, count - 0.5), (2, 2), textcoords="offset points", color=POSITIVE, fontsize=7
    )
    branches.set_xlim(0, 1.02)
    between = "\n" if narrow else " "
    branches.set_xlabel(f"distance,{between}1 - |correlation{between}of relevance|", fontsize=8)
    sizes = table.mean_size.numpy()
    # A colour for each cluster of several columns, grey for columns that stand alone.
    several = [k for k in range(len(table.joint_size)) if table.labels.count(k) > 1]
    shades = {k: BARS[i % (len(BARS) - 1)] for i, k in enumerate(several)}
    bars.barh([places[j] for j in order], sizes[order], color=[shades.get(table.labels[j], NEUTRAL) for j in order])
    for j in order:
        bars.annotate(
            f"{sizes[j]:.3g}", (sizes[j], places[j]), (3, 0), textcoords="offset points", va="center", fontsize=7
        )
    bars.set_yticks(range(count), [textwrap.fill(table.names[j], WIDTH) for j in order], fontsize=8)
    bars.margins(x=0.18)
    bars.set_ylim(-0.6, count - 0.4)
    bars.set_xlabel("mean size of the relevance", fontsize=8)
    for axes in (bars, branches):
        _plain(axes)
    branches.spines["left"].set_visible(False)
    branches.tick_params(axis="y", left=False, labelleft=False)
    return figure


def words_figure(table: WordRelevance, *, most: int = MAX_WORDS, min_count: int = 1, narrow: bool = False) -> Figure:
    """Bars of the mean relevance for (right) and against (left) the explained class, of the words with the most in all.

    Args:
        table: what to draw.
        most: number of words.
        min_count: leaves out words that stand there less often.
        narrow: for a page that is read on a phone, too.

    Raises:
        InvalidInputError: where no word is left.
    """
    mean = table.mean.numpy()
    often = [i for i, count in enumerate(table.counts) if count >= min_count]
    chosen = sorted(often[: max(most, 1)], key=lambda i: -mean[i])  # the table has the most relevant first
    if not chosen:
        raise InvalidInputError(f"no word stands there {min_count} times; lower min_count")
    lines = range(len(chosen))
    figure = PlainFigure(figsize=(4.6 if narrow else 6.0, 0.9 + 0.27 * len(chosen)), layout="constrained")
    axes = figure.subplots()
    axes.barh(lines, table.positive.numpy()[chosen], color=POSITIVE, label="for")
    axes.barh(lines, table.negative.numpy()[chosen], color=NEGATIVE, label="against")
    axes.scatter(mean[chosen], lines, 14, color="black", zorder=3, label="mean")
    labels = [f"{textwrap.shorten(table.names[i], WIDTH) or '·'}  ({table.counts[i]:,})" for i in chosen]
    axes.set_yticks(lines, labels, fontsize=8)
    axes.invert_yaxis()
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel("relevance for each time that the word stands there (how often)", fontsize=8)
    figure.legend(loc="outside upper right", ncols=3, frameon=False, fontsize=8)
    _plain(axes)
    return figure


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="x", labelsize=8)
