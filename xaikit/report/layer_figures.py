"""Figures of a transformer's blocks: relevance of tokens and heads, and the logit lens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from xaikit.core.errors import InvalidInputError
from xaikit.report.figures import SIGNED
from xaikit.report.generation_figures import CELL, LARGEST, MOST_LABELS, SMALLEST, label_of
from xaikit.report.plain_text import PlainFigure

if TYPE_CHECKING:
    from xaikit.language.layer_relevance import LayerRelevance
    from xaikit.language.logit_lens import LogitLens

LINE = "#b2182b"


def layers_figure(relevance: LayerRelevance, sample: int = 0, *, lens: LogitLens | None = None) -> Figure:
    """Relevance of tokens, and of heads, in each block, the last block on top; red counts for the score.

    Args:
        relevance: what to draw.
        sample: which sample.
        lens: of the same samples; its logits stand beside.

    Raises:
        InvalidInputError: for a sample that there is not, or a lens of other blocks.
    """
    _check(sample, len(relevance.values))
    if lens is not None and (lens.layers[1:] != relevance.layers or len(lens.values) != len(relevance.values)):
        raise InvalidInputError("the lens must be of the same samples and blocks as the relevance; call both alike")
    tokens = relevance.values[sample].float().numpy()
    heads = relevance.heads[sample].float().numpy()
    n_layers, n_tokens = tokens.shape
    names = relevance.tokens[sample] if relevance.tokens else [str(i) for i in range(n_tokens)]
    widths = [min(LARGEST, max(SMALLEST, CELL * n_tokens))]
    widths += [max(1.2, CELL * heads.shape[1])] * bool(heads.shape[1]) + [2.5] * (lens is not None)
    height = min(LARGEST, max(SMALLEST, CELL * n_layers))
    figure = PlainFigure(figsize=(sum(widths) + 2.2, height + 1.6), layout="constrained")
    panels = list(figure.subplots(1, len(widths), width_ratios=widths, squeeze=False)[0])
    _matrix(figure, panels[0], tokens, names, "tokens at a block's input")
    panels[0].set_yticks(range(n_layers), relevance.layers, fontsize=7)
    if heads.shape[1]:
        _matrix(figure, panels[1], heads, [str(i) for i in range(heads.shape[1])], "heads of a block")
        panels[1].set_yticks([])
    if lens is not None:
        _lens(panels[-1], lens, sample, first=1)
        panels[-1].set_ylim(-0.5, n_layers - 0.5)
    figure.suptitle(f"{relevance.spec.get('name')}, score {float(relevance.scores[sample]):.3g}", fontsize=9)
    return figure


def lens_figure(lens: LogitLens, sample: int = 0) -> Figure:
    """The target's logit after each block, the last on top, and the class that would be the answer there.

    Args:
        lens: what to draw.
        sample: which sample.

    Raises:
        InvalidInputError: for a sample that there is not.
    """
    _check(sample, len(lens.values))
    count = len(lens.layers)
    figure = PlainFigure(figsize=(5, min(LARGEST, max(SMALLEST, CELL * count)) + 1), layout="constrained")
    axes = figure.subplots()
    _lens(axes, lens, sample, first=0)
    axes.set_yticks(range(count), lens.layers, fontsize=7)
    return figure


def _lens(axes: Any, lens: LogitLens, sample: int, *, first: int) -> None:
    values = lens.values[sample, first:].float().numpy()
    axes.plot(values, range(len(values)), marker="o", markersize=4, color=LINE)
    for y, (x, text) in enumerate(zip(values, lens.best_names[sample][first:], strict=True)):
        axes.annotate(label_of(text), (x, y), xytext=(5, 0), textcoords="offset points", fontsize=7, va="center")
    axes.set_yticks([])
    axes.margins(x=0.35)
    axes.tick_params(axis="x", labelsize=7)
    axes.set_xlabel(f"logit of {label_of(lens.target_names[sample])}; beside it, the best", fontsize=8)


def _matrix(figure: Figure, axes: Any, values: Any, columns: list[str], title: str) -> None:
    limit = float(np.nanmax(np.abs(values))) or 1.0
    picture = axes.imshow(
        values, cmap=SIGNED, vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest", origin="lower"
    )
    step = -(-len(columns) // MOST_LABELS)
    places = list(range(0, len(columns), step))
    rotation = 90 if any(len(text) > 2 for text in columns) else 0
    axes.set_xticks(places, [label_of(columns[i]) for i in places], fontsize=7, rotation=rotation)
    axes.set_xlabel(title, fontsize=8)
    figure.colorbar(picture, ax=axes, fraction=0.05, pad=0.01).ax.tick_params(labelsize=7)


def _check(sample: int, count: int) -> None:
    if not 0 <= sample < count:
        raise InvalidInputError(f"sample must be from 0 to {count - 1}, got {sample}")
