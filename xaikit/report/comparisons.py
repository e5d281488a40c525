"""Figures of comparisons: bars before and after, with intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.figure import Figure

from xaikit.core.errors import InvalidInputError
from xaikit.mitigation import Comparison
from xaikit.report.figures import grouped_bars


def plot_comparison(
    comparison: Comparison, *, measures: Sequence[str] | None = None, kind: str = "accuracy", title: str = ""
) -> Figure:
    """A group of bars for each measure, one bar for each training; lines show the intervals over the seeds.

    Args:
        comparison: what `compare` returned.
        measures: which of its measures; None takes all whose name begins with `kind`.
        kind: "accuracy", "worst", "changed" or "mass".
        title: above the figure.

    Raises:
        InvalidInputError: where no measure is left.
    """
    chosen = [m for m in comparison.measures if m.startswith(f"{kind} ")] if measures is None else list(measures)
    if not chosen:
        raise InvalidInputError(f"there is nothing to draw: no measure begins with {kind!r}")
    short = {m: m.removeprefix(f"{kind} ") if measures is None else m for m in chosen}
    table = {name: {short[m]: comparison.mean(name, m) for m in chosen} for name in comparison.rows}
    margins = {name: {short[m]: _zero_if_nan(comparison.margin(name, m)) for m in chosen} for name in comparison.rows}
    headings = {"accuracy": "Accuracy", "worst": "Accuracy in the worst group", "changed": "Predictions that change"}
    heading = title or (headings.get(kind, "Relevance in the mask") if measures is None else "")
    figure = grouped_bars(table, title=heading, margins=margins)
    axes = figure.axes[0]
    if any(len(rows) > 1 for rows in comparison.rows.values()):
        axes.set_xlabel(f"mean over the seeds, {100 * comparison.confidence:g} % intervals", fontsize=8)
    return figure


def _zero_if_nan(margin: float) -> float:
    return 0.0 if math.isnan(margin) else margin
