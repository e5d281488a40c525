"""Text as coloured tokens, in lines that wrap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path
from numpy.typing import NDArray

from xaikit.core.errors import InvalidInputError
from xaikit.report.plain_text import PlainFigure
from xaikit.runs.summary_words import unpadded_length

Array = NDArray[Any]

WIDTH, LINE, SIZE, GAP = 7.0, 0.32, 11, 0.12  # inches, inches, points, inches
FONT = FontProperties(family="DejaVu Sans", size=SIZE)


def token_strip(
    values: Array, titles: Sequence[str], tokens: Sequence[Sequence[str]] | None, ids: Array | None = None
) -> Figure:
    """One block of lines for each sample: red tokens have positive values, blue ones negative.

    Args:
        values: attribution of tokens (N, T), or of their embeddings (N, T, D), which is summed over D.
        titles: one for each sample.
        tokens: T strings for each of the N samples; None shows their ids, or else their places.
        ids: of the tokens (N, T); padding at the end of a text is then left out.
    """
    weights = values.reshape(*values.shape[:2], -1).sum(2)
    places = np.tile(np.arange(weights.shape[1]), (len(weights), 1))
    strings = (places if ids is None else ids).astype(str).tolist() if tokens is None else tokens
    if len(strings) != len(weights) or any(len(row) != weights.shape[1] for row in strings):
        raise InvalidInputError(f"names must hold {weights.shape[1]} tokens for each of {len(weights)} samples")
    if ids is not None:
        ends = [unpadded_length(row, weight.tolist()) for row, weight in zip(ids.tolist(), weights, strict=True)]
        strings, weights = ([row[:end] for row, end in zip(rows, ends, strict=True)] for rows in (strings, weights))
    blocks = [_lines([str(w) for w in row]) for row in strings]
    heights = [LINE * (lines + 1.2) for _, lines in blocks]
    figure = PlainFigure(figsize=(WIDTH, sum(heights) + 0.1))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(sum(heights) + 0.1, 0))
    axes.set_axis_off()
    top = 0.25
    for (placed, _), row, title, weight, height in zip(blocks, strings, titles, weights, heights, strict=True):
        axes.text(0.1, top, title, fontsize=9, va="center")
        colours = Normalize(-1, 1)
        shares = weight / (float(np.abs(weight).max()) or 1.0)
        for (x, line), word, share in zip(placed, row, shares, strict=True):
            # Only two thirds of the colour scale, so that black letters stay readable on every colour.
            face = colormaps["RdBu_r"](colours(0.66 * share))
            box = {"facecolor": face, "edgecolor": "none", "boxstyle": "round,pad=0.18"}
            place = (x, top + LINE * (line + 1))
            axes.text(*place, _one_line(str(word)), fontproperties=FONT, va="center", bbox=box)
        top += height
    return figure


def _lines(strings: Sequence[str]) -> tuple[list[tuple[float, int]], int]:
    """The position of each word, as its left edge in inches and its line; and the number of lines."""
    placed, x, line = [], 0.15, 0
    for word in strings:
        text = _one_line(word)
        width = text_to_path.get_text_width_height_descent(text, FONT, ismath=False)[0] / 72
        if x + width > WIDTH - 0.15 and x > 0.15:
            x, line = 0.15, line + 1
        placed.append((x, line))
        x += width + GAP + 0.08
    return placed, line + 1


def _one_line(word: str) -> str:
    """A word without line breaks; a dot if it is empty."""
    return " ".join(word.split()) or "·"
