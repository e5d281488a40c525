"""Figures of agglomerative hierarchies: one panel for each level of an image, one row for each of a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xaikit.core.errors import InvalidInputError
from xaikit.core.image_forms import channels_first
from xaikit.report.plain_text import PlainFigure

SIGNED = "RdBu_r"
MAX_LEVELS = 8


def plot_hierarchy(hierarchy: Any, inputs: Any = None, *, tokens: Sequence[str] | None = None) -> Figure:
    """The scores of the groups, level by level. Borders show the groups; parts that are in no group yet are white.

    Args:
        hierarchy: what `AgglomerativeDecomposition.hierarchy` returned, of an image or a sequence.
        inputs: the image (1, C, H, W), drawn first.
        tokens: the words of a sentence, written below.

    Raises:
        InvalidInputError: for tokens of another number than the sequence has.
    """
    scores, ids = hierarchy.scores.cpu().numpy(), hierarchy.ids.cpu().numpy()
    limit = float(np.abs(scores).max()) or 1.0
    selected = hierarchy.selected.cpu().numpy().copy()
    selected[0] = True
    scores = np.where(selected, scores, np.nan)
    if scores.ndim == 2:
        return _sentence(scores, ids, limit, tokens)
    while scores.ndim > 3:  # the channels of an image share their groups
        scores, ids = scores[:, 0], ids[:, 0]
    levels = np.unique(np.linspace(0, len(scores) - 1, min(MAX_LEVELS, len(scores))).round().astype(int))
    first = 0 if inputs is None else 1
    figure = PlainFigure(figsize=(2 * (len(levels) + first), 2.4), layout="constrained")
    axes = figure.subplots(1, len(levels) + first, squeeze=False)[0]
    if inputs is not None:
        _image(axes[0], inputs)
    for axis, level in zip(axes[first:], levels, strict=True):
        drawn = axis.imshow(scores[level], cmap=SIGNED, vmin=-limit, vmax=limit)
        _borders(axis, ids[level])
        count = len(np.unique(ids[level]))
        axis.set_title(f"{count} group{'s' if count > 1 else ''}", fontsize=8)
        axis.set(xticks=[], yticks=[])
    figure.colorbar(drawn, ax=list(axes), shrink=0.8, fraction=0.02, pad=0.01)
    figure.suptitle(f"class {hierarchy.target}", fontsize=9)
    return figure


def _image(axis: Axes, inputs: Any) -> None:
    image = inputs.detach().cpu().float()[0]
    image = channels_first(image) if image.ndim == 3 else image
    image = image.permute(1, 2, 0) if len(image) == 3 else image.mean(0)
    spread = (image.max() - image.min()).clamp_min(1e-12)
    axis.imshow(((image - image.min()) / spread).numpy(), cmap="gray")
    axis.set_title("input", fontsize=8)
    axis.set(xticks=[], yticks=[])


def _borders(axis: Axes, ids: Any) -> None:
    for y, x in np.argwhere(ids[:, 1:] != ids[:, :-1]):
        axis.plot([x + 0.5, x + 0.5], [y - 0.5, y + 0.5], color="black", linewidth=0.6)
    for y, x in np.argwhere(ids[1:] != ids[:-1]):
        axis.plot([x - 0.5, x + 0.5], [y + 0.5, y + 0.5], color="black", linewidth=0.6)


def _sentence(scores: Any, ids: Any, limit: float, tokens: Sequence[str] | None) -> Figure:
    levels, length = scores.shape
    if tokens is not None and len(tokens) != length:
        raise InvalidInputError(f"the sequence has {length} tokens, got {len(tokens)} words")
    figure = PlainFigure(figsize=(0.6 * length + 1.5, 0.35 * levels + 1), layout="constrained")
    axis = figure.subplots()
    drawn = axis.imshow(scores[::-1], cmap=SIGNED, vmin=-limit, vmax=limit, aspect="auto")
    for level, x in np.argwhere(ids[::-1][:, 1:] != ids[::-1][:, :-1]):
        axis.plot([x + 0.5, x + 0.5], [level - 0.5, level + 0.5], color="black", linewidth=0.8)
    axis.set_xticks(
        range(length),
        [str(i) for i in range(length)] if tokens is None else list(tokens),
        rotation=45,
        ha="right",
        rotation_mode="anchor",
    )
    axis.set_yticks(range(levels), [str(level) for level in reversed(range(levels))])
    axis.set_ylabel("level")
    figure.colorbar(drawn, ax=axis, fraction=0.03, pad=0.02)
    return figure
