"""A figure of interactions: the matrix over pairs of groups, and the attribution of each group beside it."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from xaikit.report.columns import NEGATIVE, POSITIVE
from xaikit.report.figures import SIGNED
from xaikit.report.plain_text import PlainFigure

if TYPE_CHECKING:
    from xaikit.explainers.interactions import Interactions

NUMBERED = 12  # groups up to which each cell shows its number
MOST_LABELS = 40
WIDTH = 22  # letters of a line of a label


def interactions_figure(interactions: Interactions, sample: int = 0) -> Figure:
    """The matrix of one sample; red counts for the score, blue against it. Bars show the sums of the rows.

    What a group does alone, on the diagonal, is grey, and the colours end at the largest entry of a pair.

    Args:
        interactions: what to draw.
        sample: which sample.
    """
    matrix = interactions.values[sample].double().cpu().numpy()
    count = len(matrix)
    side = min(9.0, max(2.4, 0.55 * count if count <= NUMBERED else 0.28 * count))
    figure = PlainFigure(figsize=(side + 3.6, side + 1.2), layout="constrained")
    cells = figure.subplots()
    alone = np.eye(count, dtype=bool)
    limit = float(np.abs(matrix[~alone]).max(initial=0.0)) or 1.0
    cells.imshow(np.where(alone, 0.15, np.nan), cmap="Greys", vmin=0, vmax=1, interpolation="nearest")
    pairs = np.ma.masked_array(matrix, alone)
    drawn = cells.imshow(pairs, cmap=SIGNED, vmin=-limit, vmax=limit, interpolation="nearest")
    step = -(-count // MOST_LABELS)
    places = list(range(0, count, step))
    labels = [textwrap.fill(interactions.names[i], WIDTH) for i in places]
    cells.set_xticks(places, labels, fontsize=8, rotation=90 if max(map(len, labels)) > 3 else 0)
    cells.set_yticks(places, labels, fontsize=8)
    if count <= NUMBERED:
        for row, column in np.ndindex(matrix.shape):
            value = matrix[row, column]
            colour = "white" if abs(value) > 0.6 * limit and row != column else "black"
            text = f"{value:.2g}" if abs(value) > 0.005 * limit else "0"
            cells.text(column, row, text, ha="center", va="center", fontsize=7, color=colour)
    bar = figure.colorbar(drawn, ax=cells, location="left", fraction=0.04, pad=0.02, aspect=30)
    bar.ax.tick_params(labelsize=7)
    bars = cells.inset_axes((1.04, 0.0, 1.3 / side, 1.0))
    sums = matrix.sum(1)
    bars.barh(range(count), sums, color=[NEGATIVE if value < 0 else POSITIVE for value in sums])
    bars.set_ylim(count - 0.5, -0.5)
    bars.set_yticks([])
    bars.axvline(0, color="black", linewidth=0.8)
    bars.set_title("sum of the row", fontsize=8)
    bars.tick_params(axis="x", labelsize=7)
    bars.spines[["top", "right", "left"]].set_visible(False)
    cells.set_title(f"{interactions.method}, in all {matrix.sum():.3g} (grey: alone)", fontsize=9, loc="left")
    return figure
