"""Figures of the scores of concepts, of a concept atlas, and of concepts that were found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from scipy.ndimage import uniform_filter
from torch import Tensor

from xaikit.core.errors import InvalidInputError
from xaikit.core.percentages import percent
from xaikit.report.figures import BARS, INTERVAL, show_image
from xaikit.report.plain_text import PlainFigure

if TYPE_CHECKING:
    from xaikit.shortcuts.concept_atlas import ConceptAtlas
    from xaikit.shortcuts.concept_scores import ConceptScores
    from xaikit.shortcuts.found_concepts import FoundConcepts

CELL = 0.85  # inches of a crop
SMOOTHED = 8  # parts of a crop's side, over each of which relevance is averaged
CLEAR = 0.5  # share of the largest relevance from which on a crop is clear
VEIL = 0.8  # opacity of the grey over what has none
PALE = 0.3  # opacity of what is not significant


def concept_scores_figure(table: ConceptScores, level: float = 0.05) -> Figure:
    """A panel for each class and a colour for each layer; pale bars do not differ from random vectors.

    Args:
        table: what to draw.
        level: of the adjusted p.
    """
    targets = list(dict.fromkeys(row.target for row in table.rows))
    concepts = list(dict.fromkeys(row.concept for row in table.rows))
    layers = list(dict.fromkeys(row.layer for row in table.rows))
    width = 1.2 + 0.5 * len(concepts) * max(len(layers), 2)
    figure = PlainFigure(figsize=(max(4.0, width), 2.4 * len(targets) + 0.7), layout="constrained")
    panels = figure.subplots(len(targets), 1, squeeze=False)[:, 0]
    thick = 0.8 / len(layers)
    for axes, target in zip(panels, targets, strict=True):
        rows = {(row.layer, row.concept): row for row in table.rows if row.target == target}
        for k, layer in enumerate(layers):
            for place, concept in enumerate(concepts):
                row = rows.get((layer, concept))
                if row is None:
                    continue
                at = place + (k - (len(layers) - 1) / 2) * thick
                strong = row.p_adjusted < level
                axes.bar(at, row.score, thick * 0.92, color=BARS[k % len(BARS)], alpha=1.0 if strong else PALE)
                # A share lies between 0 and 1, and so does what is drawn of its spread.
                spread = [[min(row.deviation, row.score)], [min(row.deviation, 1 - row.score)]]
                axes.errorbar(at, row.score, spread, **INTERVAL)
                random = float(np.mean(row.random_scores))
                axes.plot([at - thick / 2, at + thick / 2], [random, random], color="black", linewidth=1.2)
        axes.set_ylim(0, 1.05)
        axes.set_xticks(range(len(concepts)), concepts, fontsize=8)
        axes.tick_params(axis="y", labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        if target is not None:
            axes.set_title(target if isinstance(target, str) else f"class {target}", loc="left", fontsize=9)
    figure.supylabel("share of samples whose score grows", fontsize=8)
    handles = [panels[0].bar(0, 0, color=BARS[k % len(BARS)], label=f"layer {layer}") for k, layer in enumerate(layers)]
    handles.append(panels[0].plot([], [], color="black", linewidth=1.2, label="random vectors")[0])
    if any(row.p_adjusted >= level for row in table.rows):
        handles.append(panels[0].bar(0, 0, color=BARS[0], alpha=PALE, label=f"pale: p >= {level:g}"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure


def concept_atlas_figure(atlas: ConceptAtlas) -> Figure:
    """A line of crops for each channel; what has no relevance that flows through the channel is under a grey veil.

    Args:
        atlas: what to draw.
    """
    titles = [
        [f"{sample}{f', class {label}' if label >= 0 else ''}" for sample, label in zip(*line, strict=True)]
        for line in zip(atlas.samples.tolist(), atlas.classes.tolist(), strict=True)
    ]
    labels = [f"channel {c}\n{percent(share)}" for c, share in zip(atlas.channels, atlas.shares, strict=True)]
    return _crops(atlas.pictures, atlas.maps, titles, labels)


def found_concepts_figure(found: FoundConcepts) -> Figure:
    """A line of crops for each concept; where it is weak they are under a grey veil. Beside it the drop of the score.

    Args:
        found: what to draw.

    Raises:
        InvalidInputError: where there are no pictures.
    """
    if found.pictures is None or found.maps is None:
        raise InvalidInputError(
            f"the samples or the outputs of layer {found.layer!r} are no pictures; to_pandas() lists the samples"
        )
    labels = [f"concept {k}\n{drop:+.2g}" for k, drop in enumerate(found.drops.tolist())]
    return _crops(found.pictures, found.maps, [list(map(str, line)) for line in found.samples.tolist()], labels)


def _crops(pictures: Tensor, maps: Tensor, titles: Sequence[Sequence[str]], labels: Sequence[str]) -> Figure:
    """Lines of crops (K, n, C, side, side), under a veil where their maps (K, n, side, side) are low."""
    down, across = pictures.shape[:2]
    figure = PlainFigure(figsize=(across * CELL + 1.1, down * (CELL + 0.12) + 0.2), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False)
    for k, line in enumerate(grid):
        for i, axes in enumerate(line):
            show_image(axes, pictures[k, i].numpy())
            heat = maps[k, i].numpy()
            smooth = uniform_filter(np.clip(heat, 0, None), max(1, heat.shape[0] // SMOOTHED), mode="nearest")
            visible = np.clip(smooth / (CLEAR * float(smooth.max()) or 1.0), 0, 1)
            axes.imshow(np.full_like(heat, 0.5), cmap="gray", vmin=0, vmax=1, alpha=VEIL * (1 - visible))
            axes.set_title(titles[k][i], fontsize=6, pad=2)
        line[0].set_ylabel(labels[k], fontsize=7, rotation=0, ha="right", va="center")
    return figure
