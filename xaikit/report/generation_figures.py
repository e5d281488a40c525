"""Figures of an explained generation: the matrix, and bars for what the whole answer rests on."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from xaikit.core.errors import InvalidInputError
from xaikit.report.figures import SIGNED
from xaikit.report.plain_text import PlainFigure

if TYPE_CHECKING:
    from xaikit.language.generation import Generation

MOST_LABELS = 60  # on an axis; beyond it every second, third, ... is written
LONGEST_LABEL = 24  # letters
CELL = 0.22  # inches
SMALLEST, LARGEST = 2.5, 16.0  # inches of a side
MISSING = "\u25a1"  # stands for a letter that the font lacks; the page shows all
BREAKS = {"\n": "\u21b5", "\t": "\u21e5", "$": r"\$"}  # matplotlib reads text between dollars as a formula


def matrix_figure(generation: Generation, *, scale: float | None = None) -> Figure:
    """The matrix: generated tokens downwards, what they rest on to the right; red counts for a token, blue against it.

    Args:
        generation: what to draw.
        scale: the absolute value at which the colours end; None takes the largest.

    Raises:
        InvalidInputError: for a scale that is not above 0.
    """
    if scale is not None and not scale > 0:
        raise InvalidInputError(f"scale must be above 0, got {scale}")
    values = generation.values.float().cpu().numpy()
    rows, columns = values.shape
    width, height = (min(LARGEST, max(SMALLEST, CELL * count)) for count in (columns, rows))
    figure = PlainFigure(figsize=(width + 2.2, height + 1.8), layout="constrained")
    axes = figure.subplots()
    limit = scale or float(np.abs(values).max()) or 1.0
    future = np.triu(np.ones_like(values, dtype=bool), generation.n_prompt) if generation.units == "tokens" else None
    shown_values = values if future is None or rows == 1 else np.where(future, np.nan, values)
    picture = axes.imshow(shown_values, cmap=SIGNED, vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
    axes.set_facecolor("0.92")  # what is not yet written
    _label(axes.xaxis, generation.tokens, rotation=90)
    _label(axes.yaxis, generation.generated)
    axes.add_line(Line2D([generation.n_prompt - 0.5] * 2, [-0.5, rows - 0.5], color="black", linewidth=1))
    axes.set_xlabel(f"prompt ({generation.n_prompt} {generation.units}), then the answer", fontsize=8)
    axes.set_ylabel("generated", fontsize=8)
    figure.colorbar(picture, ax=axes, fraction=0.03, pad=0.01)
    figure.suptitle(f"{generation.score}, {generation.spec.get('name')}", fontsize=9)
    return figure


def bars_figure(generation: Generation, *, n: int = 30) -> Figure:
    """A bar for each column, its sum over the whole answer, in the order of the text.

    Args:
        generation: what to draw, for example in units of documents.
        n: at most so many bars, the largest; the others are summed in one.

    Raises:
        InvalidInputError: for no bar.
    """
    if n < 1:
        raise InvalidInputError(f"n must be at least 1, got {n}")
    sums: NDArray[Any] = generation.values.float().sum(0).cpu().numpy()
    largest = sorted(np.argsort(-np.abs(sums), kind="stable")[:n].tolist())
    labels, values = [generation.tokens[i] for i in largest], [float(sums[i]) for i in largest]
    if len(sums) > n:
        labels.append(f"{len(sums) - n} others")
        values.append(float(sums.sum() - sums[largest].sum()))
    figure = PlainFigure(figsize=(6, 0.28 * len(values) + 1), layout="constrained")
    axes = figure.subplots()
    colours = ["#b2182b" if value > 0 else "#2166ac" for value in values]
    axes.barh(range(len(values)), values, color=colours)
    axes.set_yticks(range(len(values)), [label_of(text) for text in labels], fontsize=8)
    axes.invert_yaxis()
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel(f"{generation.score}, sum over the answer, {generation.spec.get('name')}", fontsize=8)
    return figure


def label_of(text: str) -> str:
    """A text as the label of an axis: short, with signs for what cannot be seen."""
    for letter, sign in BREAKS.items():
        text = text.replace(letter, sign)
    text = "".join(letter if _is_in_font(letter) else MISSING for letter in text)
    text = text.strip() or "\u2423" * min(len(text), 3)
    return text if len(text) <= LONGEST_LABEL else f"{text[: LONGEST_LABEL - 1]}\u2026"


@functools.cache
def _is_in_font(letter: str) -> bool:
    """Whether matplotlib's default font has a letter; it warns of each that it lacks."""
    return bool(font_manager.get_font(font_manager.findfont("DejaVu Sans")).get_char_index(ord(letter)))


def _label(axis: Any, texts: list[str], **style: Any) -> None:
    step = -(-len(texts) // MOST_LABELS)
    places = list(range(0, len(texts), step))
    axis.set_ticks(places, [label_of(texts[i]) for i in places], fontsize=7, **style)
