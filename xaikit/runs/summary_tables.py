"""What a summary of a run returns: tables of numbers, each with `to_pandas` and a picture."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from xaikit import upward
from xaikit.core.pandas_import import import_pandas
from xaikit.core.params import Int
from xaikit.core.results import Real, Result

AXES = {1: ("column",), 2: ("channel", "step"), 3: ("channel", "row", "column")}  # of a map, by its number of axes


class Drawn:
    """Base: a table with a picture."""

    FIGURE = ""

    def plot(self, **options: Any) -> Any:
        """The numbers as a matplotlib figure.

        Args:
            options: of the function of this name in `xaikit.report.summary_figures`.
        """
        return getattr(upward.load("summary_figures"), self.FIGURE)(self, **options)

    def to_pandas(self) -> Any:
        """The numbers as a table of pandas.

        Raises:
            MissingDependencyError: without pandas.
        """
        return import_pandas().DataFrame(self.by_column())

    def by_column(self) -> dict[str, Sequence[Any]]:
        """The table as lists, by the names of its columns."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ClassMaps(Drawn, Result):
    """The mean map of each class.

    Attributes:
        classes: their numbers, ascending.
        counts: samples of each class.
        means: mean relevance, (classes, ...), in the form of a sample.
        sizes: mean of |relevance|, likewise.
        names: of the classes.
        features: names of the columns or channels; empty where they have none.
    """

    FIGURE = "class_maps_figure"

    classes: tuple[int, ...]
    counts: tuple[int, ...]
    means: Tensor
    sizes: Tensor
    names: tuple[str, ...]
    features: tuple[str, ...] = ()

    def by_column(self) -> dict[str, Sequence[Any]]:
        """The table as lists, by the names of its columns."""
        shape = self.means.shape[1:]
        places = np.indices(shape).reshape(len(shape), -1)
        n = places.shape[1]
        axes = AXES.get(len(shape), tuple(f"axis {k}" for k in range(len(shape))))
        by_axis = {axis: np.tile(place, len(self.classes)).tolist() for axis, place in zip(axes, places, strict=True)}
        if self.features:
            by_axis[axes[0]] = [self.features[j] for j in by_axis[axes[0]]]
        return {
            "class": [name for name in self.names for _ in range(n)],
            "samples": [count for count in self.counts for _ in range(n)],
            **by_axis,
            "mean": self.means.flatten().tolist(),
            "mean_size": self.sizes.flatten().tolist(),
        }


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ColumnRelevance(Drawn, Result):
    """The relevance of each column over all samples.

    Attributes:
        names: of the columns.
        mean, mean_size: mean of the relevance and of |relevance|, (F,).
        deviation: standard deviation of the relevance, (F,).
        positive: share of the samples in which the relevance is above 0, (F,).
        n: number of samples.
        points: relevance of at most 1,000 evenly spread samples, (P, F), for the picture.
        values: what stood in the columns of these, (P, F); None where the inputs were not kept.
    """

    FIGURE = "beeswarm"

    names: tuple[str, ...]
    mean: Tensor
    mean_size: Tensor
    deviation: Tensor
    positive: Tensor
    n: int
    points: Tensor
    values: Tensor | None = None

    def by_column(self) -> dict[str, Sequence[Any]]:
        """The table as lists, by the names of its columns."""
        numbers = {key: getattr(self, key).tolist() for key in ("mean_size", "mean", "deviation", "positive")}
        return {"column": self.names, **numbers}


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Dependence(Drawn, Result):
    """How the relevance of a column depends on what stands in it.

    Attributes:
        column: its name.
        indices: of the samples in the data, (N,).
        values: what stands in the column, (N,).
        relevance: of the column, (N,).
        other: name of a second column; empty for none.
        other_values: what stands there, (N,).
    """

    FIGURE = "dependence_figure"

    column: str
    indices: Tensor
    values: Tensor
    relevance: Tensor
    other: str = ""
    other_values: Tensor | None = None

    def binned(self, bins: int = 10) -> Any:
        """A table of pandas: the mean relevance in each of at most `bins` ranges of values with equally many samples.

        Args:
            bins: at least 1; equal values are never parted, so that there may be fewer.

        Raises:
            InvalidInputError: for fewer bins.
            MissingDependencyError: without pandas.
        """
        return import_pandas().DataFrame(self.bins(bins))

    def bins(self, bins: int = 10) -> dict[str, list[float]]:
        """The columns of `binned`: low, high, value (mean), relevance (mean), deviation and samples of each range.

        Args:
            bins: as for `binned`.

        Raises:
            InvalidInputError: for fewer bins than 1.
        """
        bins = Int(ge=1).check(bins, "bins")
        x, y = self.values.numpy(), self.relevance.numpy()
        edges = np.unique(x)
        if len(edges) > bins:
            edges = np.unique(np.quantile(x, np.linspace(0, 1, bins + 1)[:-1], method="lower"))
        place = np.searchsorted(edges, x, side="right")
        rows = [(x[place == k], y[place == k]) for k in np.unique(place)]
        return {
            "low": [float(a.min()) for a, _ in rows],
            "high": [float(a.max()) for a, _ in rows],
            "value": [float(a.mean()) for a, _ in rows],
            "relevance": [float(b.mean()) for _, b in rows],
            "deviation": [float(b.std()) for _, b in rows],
            "samples": [len(a) for a, _ in rows],
        }

    def by_column(self) -> dict[str, Sequence[Any]]:
        """The table as lists, by the names of its columns."""
        table = {"index": self.indices.tolist(), "relevance": self.relevance.tolist()}
        for name, values in ((self.column, self.values), (self.other, self.other_values)):
            if values is not None:
                free = next(label for label in (name, f"{name} (value)", f"{name} (other)") if label not in table)
                table[free] = values.tolist()
        return {key: table[key] for key in sorted(table, key=lambda key: key == "relevance")}


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Waterfall(Drawn, Result):
    """The way from what is not attributed to the score of one sample, column by column, the largest step first.

    Attributes:
        index: of the sample in the data.
        title: sample and explained class.
        names: of the columns.
        relevance: of the columns, (F,).
        values: what stands in the columns, (F,); None where the inputs were not kept.
        base: score - sum of the relevance: for methods with a baseline its score, but for their gap.
        score: of the explained class.
    """

    FIGURE = "waterfall_figure"

    index: int
    title: str
    names: tuple[str, ...]
    relevance: Tensor
    values: Tensor | None
    base: Real
    score: Real

    def by_column(self) -> dict[str, Sequence[Any]]:
        """The table as lists, by the names of its columns."""
        order = self.relevance.abs().argsort(descending=True, stable=True)
        steps = self.relevance[order]
        table: dict[str, Sequence[Any]] = {"column": [self.names[j] for j in order.tolist()]}
        if self.values is not None:
            table["value"] = self.values[order].tolist()
        return {**table, "relevance": steps.tolist(), "reached": (self.base + steps.cumsum(0)).tolist()}


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ColumnClusters(Drawn, Result):
    """Columns whose relevance goes together, as a tree.

    Attributes:
        names: of the columns.
        mean_size: mean of |relevance|, (F,).
        correlation: of the columns' relevance over the samples, (F, F); 0 for a column of constant relevance.
        merges: the tree, (F - 1, 4), in the form of `scipy.cluster.hierarchy.linkage`.
        labels: the cluster of each column, from 0, the largest joint size first.
        joint_size: of each cluster: mean of |sum of its columns' relevance|, (clusters,).
        distance: where the tree was cut.
    """

    FIGURE = "clusters_figure"

    names: tuple[str, ...]
    mean_size: Tensor
    correlation: Tensor
    merges: Tensor
    labels: tuple[int, ...]
    joint_size: Tensor
    distance: float

    def by_column(self) -> dict[str, Sequence[Any]]:
        """The table as lists, by the names of its columns."""
        order = sorted(range(len(self.names)), key=lambda j: (self.labels[j], -float(self.mean_size[j])))
        return {
            "cluster": [self.labels[j] for j in order],
            "column": [self.names[j] for j in order],
            "mean_size": self.mean_size[order].tolist(),
            "joint_size": [float(self.joint_size[self.labels[j]]) for j in order],
        }


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class WordRelevance(Drawn, Result):
    """The relevance of each word over all texts, the most relevance in all first.

    Attributes:
        names: the words.
        counts: how often each stands there.
        texts: in how many texts.
        positive, negative: sum of the relevance above and below 0 over the count, (words,); their sum is the mean.
        n: number of texts.
    """

    FIGURE = "words_figure"

    names: tuple[str, ...]
    counts: tuple[int, ...]
    texts: tuple[int, ...]
    positive: Tensor
    negative: Tensor
    n: int

    @property
    def mean(self) -> Tensor:
        """Mean relevance of each word, (words,)."""
        return self.positive + self.negative

    def by_column(self) -> dict[str, Sequence[Any]]:
        """The table as lists, by the names of its columns."""
        table = {"word": self.names, "count": self.counts, "texts": self.texts, "mean": self.mean.tolist()}
        return {**table, "positive": self.positive.tolist(), "negative": self.negative.tolist()}
