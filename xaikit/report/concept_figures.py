"""A figure of the scores of concepts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from xaikit.report.figures import BARS, INTERVAL

if TYPE_CHECKING:
    from xaikit.shortcuts.concept_scores import ConceptScores

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
    figure = Figure(figsize=(max(4.0, width), 2.4 * len(targets) + 0.7), layout="constrained")
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
            axes.set_title(f"class {target}", loc="left", fontsize=9)
    figure.supylabel("share of samples whose score grows", fontsize=8)
    handles = [panels[0].bar(0, 0, color=BARS[k % len(BARS)], label=f"layer {layer}") for k, layer in enumerate(layers)]
    handles.append(panels[0].plot([], [], color="black", linewidth=1.2, label="random vectors")[0])
    if any(row.p_adjusted >= level for row in table.rows):
        handles.append(panels[0].bar(0, 0, color=BARS[0], alpha=PALE, label=f"pale: p >= {level:g}"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure
