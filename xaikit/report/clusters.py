"""The figure of a spectral relevance analysis: eigenvalues, the samples in the plane, examples of each cluster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from xaikit.core.errors import InvalidInputError
from xaikit.core.percentages import percent
from xaikit.report.figures import _array, _overlay, show_image
from xaikit.report.html import Table
from xaikit.report.plain_text import PlainFigure
from xaikit.shortcuts import Clusters

COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb", "#000000", "#994f00", "#40b0a6")


TYPICAL, OFTEN = 3, 3  # samples and classes that a table names of each cluster


def cluster_sections(content: Mapping[str, Any], *, title: str = "Clusters of explanations") -> list[Table]:
    """A row for each cluster that `xaikit shortcuts` found: what is predicted, how right, what it looks at, whom.

    Args:
        content: of its shortcuts.json.
        title: of the table.

    Raises:
        InvalidInputError: for anything else.
    """
    clusters = content.get("clusters")
    if not isinstance(clusters, list) or not all(isinstance(c, Mapping) and "size" in c for c in clusters):
        raise InvalidInputError("the content holds no clusters; xaikit shortcuts writes them as shortcuts.json")
    rows = []
    for cluster in clusters:
        samples = cluster.get("samples", [])[:TYPICAL]
        predicted = list(cluster.get("predicted", {}).items())[:OFTEN]
        strongest = cluster.get("strongest", [])
        row: dict[str, Any] = {"cluster": cluster["cluster"], "samples": cluster["size"]}
        row["predicted"] = ", ".join(f"{name} ({count})" for name, count in predicted)
        row["right"] = cluster.get("accuracy")
        if strongest:
            row["looks at"] = ", ".join(f"{item['name']} {percent(item['share'], 0)}" for item in strongest)
        row["most typical"] = ", ".join(item["name"] or f"sample {item['index']}" for item in samples)
        rows.append(row)
    note = (
        "Samples with similar explanations (spectral relevance analysis). A cluster of one class that looks elsewhere "
        "than the rest of it may follow a shortcut. What is spread over the samples (stripes, a hue), or lies "
        "elsewhere in each (a line that moves), makes no cluster: a scan finds it."
    )
    return [Table(title, rows, note, shares=True)]


def clusters_figure(
    clusters: Clusters, images: Any = None, *, attributions: Any = None, n_examples: int = 6, marked: Any = None
) -> Figure:
    """Eigenvalues and embedding above; below, one row for each cluster: its mean map, then its most typical samples.

    Args:
        clusters: what `SpRAy` found.
        images: (N, C, H, W), drawn under the examples' heatmaps.
        attributions: heatmaps of the examples at full size; None draws the maps that were compared.
        n_examples: number of samples that are shown of each cluster.
        marked: booleans (N,): samples with a ring in the embedding, such as those that are known to hold a shortcut.

    Raises:
        InvalidInputError: for maps that are no images, or images of another number of samples.
    """
    maps = clusters.maps.numpy() if attributions is None else _array(attributions)
    if clusters.maps.ndim != 3:
        raise InvalidInputError(f"clusters of images are drawn, got maps of shape {tuple(clusters.maps.shape[1:])}")
    pictures = None if images is None else _array(images)
    for name, values in (("images", pictures), ("attributions", maps)):
        if values is not None and len(values) != len(clusters.labels):
            raise InvalidInputError(f"{name} must hold the {len(clusters.labels)} clustered samples, got {len(values)}")
    k, columns = clusters.n_clusters, n_examples + 1
    figure = PlainFigure(figsize=(1.35 * columns + 0.6, 3.1 + 1.45 * k), layout="constrained")
    upper, lower = figure.subfigures(  # type: ignore[misc]
        2, 1, height_ratios=[2.9, 1.45 * k]
    )
    _spectrum(upper.add_subplot(1, 2, 1), clusters)
    _plane(upper.add_subplot(1, 2, 2), clusters, marked)
    grid = lower.subplots(k, columns, squeeze=False)
    for cluster, row in enumerate(grid):
        samples = clusters.samples(cluster)
        _overlay(row[0], clusters.mean_map(cluster).numpy(), None)
        row[0].set_ylabel(f"cluster {cluster}\n{len(samples)} samples", fontsize=9)
        row[0].spines[:].set(color=_colour(cluster), linewidth=3)  # the colour of the cluster's points above
        for axes, i in zip(row[1:], samples, strict=False):
            if pictures is not None:
                show_image(axes, pictures[i])
            _overlay(axes, maps[i], None if pictures is None else pictures[i])
            axes.set_title(f"sample {i}", fontsize=7, pad=2)
        for axes in row[1 + len(samples) :]:
            axes.axis("off")
    grid[0, 0].set_title("mean map", fontsize=8)
    return figure


def _colour(cluster: int) -> str:
    return COLOURS[cluster % len(COLOURS)]


def _spectrum(axes: Any, clusters: Clusters) -> None:
    values = clusters.eigenvalues
    places = np.arange(1, len(values) + 1)
    chosen = clusters.n_clusters
    axes.plot(places, values, "o-", color="#555555", markersize=4, linewidth=1)
    axes.plot(places[:chosen], values[:chosen], "o", color="#b2182b", markersize=5)
    if chosen < len(values):
        axes.axvline(chosen + 0.5, color="#b2182b", linewidth=1, linestyle=":")
    axes.set_title(f"eigenvalues of the Laplacian: {chosen} cluster{'s' if chosen > 1 else ''}", fontsize=9)
    axes.set_xlabel("number", fontsize=8)
    axes.set_xticks(places)
    axes.set_ylim(bottom=min(0, -0.03 * float(values.max())))
    axes.spines[["top", "right"]].set_visible(False)


def _plane(axes: Any, clusters: Clusters, marked: Any) -> None:
    for cluster in range(clusters.n_clusters):
        points = clusters.embedding[clusters.labels == cluster]
        axes.scatter(*points.T, s=12, color=_colour(cluster), label=f"cluster {cluster}")
    if marked is not None:
        points = clusters.embedding[_array(marked).astype(bool)]
        axes.scatter(*points.T, s=34, facecolors="none", edgecolors="black", linewidths=0.7, label="marked")
    axes.set_title("samples, near where explained alike", fontsize=9)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
