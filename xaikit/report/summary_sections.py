"""Sections of a report about a whole data set: mean maps of the classes, columns that go together, words."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from xaikit.report.html import Picture, Table
from xaikit.report.names import Names
from xaikit.report.summary_figures import (
    MAX_LEAVES,
    class_maps_figure,
    clusters_figure,
    dependence_figure,
    words_figure,
)
from xaikit.runs import Run, Summary
from xaikit.runs.summary_tables import ClassMaps

FEWEST = 3  # samples that have something in common
MOST_COLUMNS = 6  # of the table of classes
NAMED = 5  # columns or words that a description names


def summary_sections(
    run: Run, names: Names | None = None, *, kind: str | None = None, title: str = ""
) -> list[Table | Picture]:
    """What the explanations of a run have in common, as small pictures.

    Of pictures and series the mean map of each class. Of tables the mean relevance in each class, columns whose
    relevance goes together, and, where one class was explained of all and the run keeps the inputs, the dependence for
    the column that counts most. Of texts the mean relevance of each word, where the run keeps the inputs. A report
    shows the relevance of each column and the waterfall of each row by itself.

    Args:
        run: that `explain_dataset` or `load_run` returned.
        names: of classes, columns and tokens; what is left out comes from the run.
        kind: "image", "series", "tabular" or "text"; None chooses by the form of the samples.
        title: ends each heading, such as the name of the explainer.

    Returns:
        Pictures; none for fewer than three samples.

    Raises:
        InvalidInputError: for samples of several sizes, or of a form that has no kind.
    """
    if len(run) < FEWEST:
        return []
    names = names or Names()
    summary = Summary(run, kind=kind, features=names.features or None, tokens=names.tokens)
    by = f", {title}" if title else ""
    if summary.kind == "text":
        return _words(summary, names, by) if run[0].inputs is not None else []
    sections: list[Table | Picture] = []
    if summary.explains_classes:
        maps = summary.class_maps()
        if names.classes:
            maps = dataclasses.replace(maps, names=tuple(names.of_class(k) for k in maps.classes))
        sections.append(_class_table(maps, by) if summary.kind == "tabular" else _class_maps(maps, by))
    return sections + (_columns(summary, run, by) if summary.kind == "tabular" else [])


def _class_maps(maps: ClassMaps, by: str) -> Picture:
    listed = ", ".join(f"{name} ({n:,} samples)" for name, n in zip(maps.names, maps.counts, strict=True))
    description = f"A map of the mean relevance over the samples of each explained class: {listed}."
    return Picture(f"Mean relevance in each class{by}", class_maps_figure(maps, narrow=True), description)


def _class_table(maps: ClassMaps, by: str) -> Table:
    """A row for each class, a column for each of the columns that count most."""
    columns = maps.features or tuple(f"feature {j}" for j in range(maps.means.shape[1]))
    top = maps.sizes.max(0).values.argsort(descending=True, stable=True)[:MOST_COLUMNS].tolist()
    rows: list[dict[str, Any]] = [
        {"class": name, "samples": n, **{columns[j]: float(mean[j]) for j in top}}
        for name, n, mean in zip(maps.names, maps.counts, maps.means, strict=True)
    ]
    note = "The mean relevance of a column over the samples of each explained class."
    return Table(
        f"Mean relevance in each class{by}",
        rows,
        note + (" Only the columns that count most." if len(columns) > len(top) else ""),
    )


def _columns(summary: Summary, run: Run, by: str) -> list[Table | Picture]:
    """Pictures of a table: columns in clusters, and the dependence of the one that counts most."""
    table = summary.columns()
    sections: list[Table | Picture] = []
    if 2 < len(table.names) <= MAX_LEAVES:
        clusters = summary.clusters()
        members = [
            [n for n, k in zip(table.names, clusters.labels, strict=True) if k == c] for c in set(clusters.labels)
        ]
        together = "; ".join(" and ".join(group) for group in members if len(group) > 1)
        description = f"Columns whose relevance goes together over all rows: {together or 'none'}."
        sections.append(Picture(f"Columns that go together{by}", clusters_figure(clusters, narrow=True), description))
    if len({row["target"] for row in run.rows()}) == 1 and table.values is not None:
        strongest = table.names[int(table.mean_size.argmax())]
        points = summary.dependence(strongest)
        description = (
            f"The relevance of {strongest} beside its value, a point for each of {summary.n} rows, and the mean in "
            "ranges of the value."
        )
        sections.append(Picture(f"Relevance of {strongest} by its value{by}", dependence_figure(points), description))
    return sections


def _words(summary: Summary, names: Names, by: str) -> list[Table | Picture]:
    table = summary.words(padding=names.padding or None)
    means: Any = table.mean.numpy()
    strongest = [f"{table.names[i]} {means[i]:.3g}" for i in np.argsort(-np.abs(means), kind="stable")[:NAMED]]
    description = f"The mean relevance of each word wherever it stands, the largest: {', '.join(strongest)}."
    return [Picture(f"Relevance of each word{by}", words_figure(table, narrow=True), description)]
