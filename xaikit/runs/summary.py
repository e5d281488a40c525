"""Summary: what a run says about a whole data set, read shard by shard."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from xaikit.core.errors import InvalidInputError, InvalidTypeError, UnknownNameError, near_names
from xaikit.core.params import Float, Int
from xaikit.runs.moments import RunningMoments
from xaikit.runs.run import Run
from xaikit.runs.shards import Shard
from xaikit.runs.summary_tables import ClassMaps, ColumnClusters, ColumnRelevance, Dependence, Waterfall, WordRelevance
from xaikit.runs.summary_words import WordCounts

MAX_POINTS = 1000  # samples of a beeswarm
MAX_COLUMNS = 1000  # whose correlations are compared in pairs
KINDS = {2: "tabular", 3: "series", 4: "image"}  # by the number of axes of a batch
CLASSES = ("target", "label", "predicted")
REMEDY = "explain the data with keep_inputs=True"


class _SummaryRows(NamedTuple):
    """Some samples of a run, in float64."""

    indices: Tensor
    values: Tensor
    inputs: Any
    shard: Shard
    chosen: Tensor


class Summary:
    """What the explanations of a run have in common. Each method reads the run once, one shard in memory at a time.

    Every table has `to_pandas()` and `plot()`, a figure of matplotlib. `n` is the number of samples, of the class alone
    where one is named.

    Args:
        run: that `explain_dataset` or `load_run` returned.
        kind: "tabular", "series", "image" or "text"; None chooses by the form of the samples.
        of_class: only samples of which this class, a number or a name, was explained.
        part: which tensor, where a sample has several; its name or number.
        features: names of the columns or channels; None takes the run's. Series are (N, channels, T), or, where the
            names fit that alone, (N, T, channels).
        tokens: a function from token ids to as many strings, such as `tokenizer.convert_ids_to_tokens`; None shows ids.

    Raises:
        InvalidInputError: for a run without samples, or without samples of the class.
        InvalidTypeError: for anything but a run.
    """

    def __init__(
        self,
        run: Run,
        *,
        kind: str | None = None,
        of_class: int | str | None = None,
        part: int | str | None = None,
        features: Sequence[str] | None = None,
        tokens: Callable[[Sequence[int]], Sequence[str]] | None = None,
    ) -> None:
        if not isinstance(run, Run):
            raise InvalidTypeError(
                f"Summary takes a run, from explain_dataset or load_run(folder), got {type(run).__name__}"
            )
        if kind not in (None, *KINDS.values(), "text"):
            raise InvalidInputError(f"kind must be tabular, series, image or text, got {kind!r}")
        if tokens is not None and not callable(tokens):
            raise InvalidTypeError(f"tokens must be a function from token ids to strings, got {type(tokens).__name__}")
        self._classes: Sequence[str] = run.display_names.get("classes", ())
        if isinstance(of_class, str):
            if of_class not in self._classes and not of_class.isdecimal():
                raise UnknownNameError(f"no class is called {of_class!r}{near_names(of_class, self._classes)}")
            of_class = self._classes.index(of_class) if of_class in self._classes else int(of_class)
        self._run, self._of_class, self._part, self._tokens = run, of_class, part, tokens
        self._features = tuple(map(str, run.display_names.get("features", ()) if features is None else features))
        self.n = sum(of_class in (None, row["target"]) for row in run.rows())
        if not self.n:
            which = "" if of_class is None else f" of which class {of_class} was explained"
            raise InvalidInputError(f"{run.folder} holds no sample{which}")
        self._steps_first = False
        first = next(self._rows(), None)
        if first is None:
            raise InvalidInputError(f"none of the {self.n} samples of {run.folder} has a finite relevance")
        self._shape = tuple(first.values.shape[1:])
        self.kind = kind or _kind_of(first)
        # Of series (N, T, channels) the names of the channels tell that they stand last.
        self._steps_first = self.kind == "series" and self._shape[0] != self._shape[-1] == len(self._features)
        self._shape = self._shape[::-1] if self._steps_first else self._shape

    @property
    def explains_classes(self) -> bool:
        """Whether a class was explained of each sample; a model with a single output has none."""
        return next(self._run.rows())["target"] is not None

    def class_maps(self, by: str = "target") -> ClassMaps:
        """The mean relevance of each place in the samples of each class; of all together where the model has none.

        Args:
            by: which class of a sample counts: the explained one ("target"), its "label", or the "predicted" one.

        Raises:
            InvalidInputError: for another word, a run without such classes, texts, or samples of several sizes.
        """
        if by not in CLASSES:
            raise InvalidInputError(f"by must be one of {', '.join(CLASSES)}, got {by!r}")
        if self.kind == "text":
            raise InvalidInputError("places of texts have no meaning in common; use words() for their mean relevance")
        sums: dict[int, Tensor] = {}
        sizes: dict[int, Tensor] = {}
        counts: dict[int, int] = {}
        for rows in self._rows():
            values = rows.values
            if tuple(values.shape[1:]) != self._shape:
                raise InvalidInputError(
                    f"samples must be of one size to have a mean, got {self._shape} and {tuple(values.shape[1:])}"
                )
            classes = getattr(rows.shard, {"target": "targets", "label": "labels"}.get(by, by))
            if classes is None and by != "target":
                raise InvalidInputError(f"{self._run.folder} holds no {by} class of its samples; leave by= out")
            classes = torch.zeros(len(values), device="cpu").long() if classes is None else classes[rows.chosen]
            for label in classes.unique().tolist():
                members = values[classes == label]
                sums[label] = sums.get(label, 0) + members.sum(0)
                sizes[label] = sizes.get(label, 0) + members.abs().sum(0)
                counts[label] = counts.get(label, 0) + len(members)
        order = sorted(counts)
        return ClassMaps(
            tuple(order),
            tuple(counts[k] for k in order),
            torch.stack([sums[k] / counts[k] for k in order]),
            torch.stack([sizes[k] / counts[k] for k in order]),
            tuple(map(self._class_name, order)) if by != "target" or self.explains_classes else ("all samples",),
            self._names() if self._features and self.kind in ("tabular", "series") else (),
        )

    def columns(self) -> ColumnRelevance:
        """The relevance of each column of a table, or of each channel of a series, over all samples.

        Raises:
            InvalidInputError: for pictures and texts.
        """
        names = self._names()
        spread = set(np.linspace(0, self.n - 1, min(self.n, MAX_POINTS)).round().astype(int).tolist())
        moments, size = RunningMoments(pairs=False), torch.zeros(len(names), device="cpu").double()
        positive = torch.zeros_like(size)
        points, inputs, place = [], [], 0
        for rows in self._rows():
            values = self._by_column(rows.values)
            moments.add(values)
            size += values.abs().sum(0)
            positive += (values > 0).sum(0)
            picked = [i for i in range(len(values)) if place + i in spread]
            place += len(values)
            points.append(values[picked])
            if self.kind == "tabular" and rows.inputs is not None:
                inputs.append(rows.inputs.double()[picked])
        n, stood = moments.n, torch.cat(inputs) if inputs else None
        deviation = (moments.squares / n).sqrt()
        return ColumnRelevance(names, moments.mean, size / n, deviation, positive / n, n, torch.cat(points), stood)

    def dependence(self, column: int | str, other: int | str | None = None) -> Dependence:
        """The relevance of a column beside what stands in it, for each sample.

        Two numbers of each sample are held in memory, three with another column.

        Args:
            column: its name or number.
            other: a second column, whose values colour the points: where the relevance depends on both.

        Raises:
            InvalidInputError: for anything but tables, or a run without its inputs.
            UnknownNameError: for a column that is not there.
        """
        names = self._names()
        if self.kind != "tabular":
            raise InvalidInputError(
                f"dependence needs a table, whose columns have one value; the run holds {self.kind}"
            )
        j = self._column(column, names)
        k = None if other is None else self._column(other, names)
        indices, values, relevance, others = [], [], [], []
        for rows in self._rows():
            if rows.inputs is None:
                raise InvalidInputError(f"dependence needs what stood in the columns; {REMEDY}")
            indices.append(rows.indices)
            values.append(rows.inputs.double()[:, j])
            relevance.append(rows.values[:, j])
            others.append(rows.inputs.double()[:, 0 if k is None else k])
        table = Dependence(names[j], torch.cat(indices), torch.cat(values), torch.cat(relevance))
        return table if k is None else dataclasses.replace(table, other=names[k], other_values=torch.cat(others))

    def waterfall(self, sample: int | str) -> Waterfall:
        """One row of a table, from what is not attributed to its score.

        Args:
            sample: its index in the data, or its name.

        Raises:
            InvalidInputError: for anything but tables, a sample that is not there, or a method that promises no sum.
        """
        names = self._names()
        if self.kind != "tabular":
            raise InvalidInputError(f"a waterfall shows a row of a table; the run holds {self.kind}")
        row = self._run[self._position(sample)]
        if row.gap is None:
            raise InvalidInputError(
                f"a waterfall adds relevance up to the score, and {self._run.job['explainer']['name']} promises no "
                "such sum; explain with a method that does, such as integrated_gradients or exact_shapley"
            )
        relevance = self._picked(row.values, "values").double().reshape(-1)
        inputs = None if row.inputs is None else self._picked(row.inputs, "inputs").double().reshape(-1)
        explained = "" if row.target is None else f", {self._class_name(row.target)}"
        title = f"{row.name or f'sample {row.index}'}{explained}"
        return Waterfall(
            row.index, title, names, relevance, inputs, row.score - float(relevance.sum()), float(row.score)
        )

    def clusters(self, distance: float = 0.5) -> ColumnClusters:
        """Columns whose relevance goes together, by average linkage over the distance 1 - |correlation|.

        Args:
            distance: columns closer than this are one cluster, from 0 (all apart) to 1.

        Raises:
            InvalidInputError: for pictures and texts, fewer than two columns or samples, or too many columns.
        """
        from scipy.cluster.hierarchy import fcluster, linkage
        from scipy.spatial.distance import squareform

        names = self._names()
        distance = Float(ge=0, le=1).check(distance, "distance")
        if not 2 <= len(names) <= MAX_COLUMNS or self.n < 2:
            raise InvalidInputError(
                f"clusters compare each pair of 2 to {MAX_COLUMNS} columns over at least 2 samples, got {len(names)} "
                f"columns and {self.n} samples"
            )
        moments, size = RunningMoments(pairs=True), torch.zeros(len(names), device="cpu").double()
        for rows in self._rows():
            values = self._by_column(rows.values)
            moments.add(values)
            size += values.abs().sum(0)
        spread = moments.squares.diagonal().clamp_min(0).sqrt()
        # What rounding leaves of a constant column is no spread.
        varies = spread > 1e-9 * (size / moments.n) * moments.n**0.5
        scale = spread.outer(spread)
        correlation = torch.where(varies.outer(varies), moments.squares / scale.where(scale > 0, 1.0), 0.0)
        correlation = correlation.clamp(-1, 1).fill_diagonal_(1.0)
        merges = linkage(squareform(1 - correlation.abs().numpy(), checks=False), "average", optimal_ordering=True)
        numbers = torch.from_numpy(fcluster(merges, distance, "distance")).long() - 1
        joint = torch.zeros(int(numbers.max()) + 1, device="cpu").double()
        for rows in self._rows():
            values = self._by_column(rows.values)
            joint += values.new_zeros(len(values), len(joint)).index_add_(1, numbers, values).abs().sum(0)
        order = joint.argsort(descending=True, stable=True)
        labels = tuple(order.argsort()[numbers].tolist())
        return ColumnClusters(
            names, size / moments.n, correlation, torch.from_numpy(merges), labels, joint[order] / moments.n, distance
        )

    def words(self, *, padding: int | str | None = None, join: bool = True) -> WordRelevance:
        """The relevance of each word over all texts, wherever it stands; each text counts up to its padding.

        Args:
            padding: id or text of the padding token, which is left out. None: a repeated last token without relevance.
            join: put pieces of a word together ("##ing", or what has no "Ġ" or "▁" before it); needs `tokens`.

        Raises:
            InvalidInputError: for anything but texts, or a run without its token ids.
        """
        if self.kind != "text":
            raise InvalidInputError(
                f"words need token ids beside the relevance, and the run holds {self.kind}; {REMEDY}, or name "
                "kind='text'"
            )
        table = WordCounts(self._tokens, padding, join=join)
        for rows in self._rows():
            if rows.inputs is None or rows.inputs.is_floating_point():
                raise InvalidInputError(f"words need token ids, whole numbers; {REMEDY}")
            weights = rows.values.flatten(2).sum(2) if rows.values.ndim > 2 else rows.values
            mask = _attention_mask(rows)
            for i, (ids, weight) in enumerate(zip(rows.inputs.tolist(), weights.tolist(), strict=True)):
                table.add(ids, weight, None if mask is None else mask[i].tolist())
        return table.result()

    def __repr__(self) -> str:
        which = "" if self._of_class is None else f" of class {self._of_class}"
        return f"Summary({self.kind}: {self.n} samples{which} of {self._run.folder})"

    # ------------------------------------------------------------------ reading

    def _rows(self) -> Iterator[_SummaryRows]:
        """The chosen samples of each shard; those that are not finite are left out, with a warning at the end."""
        dropped = 0
        for shard in self._run.shards():
            values = self._picked(shard.values, "values").double()
            chosen = torch.ones(len(values), dtype=torch.bool, device="cpu")
            if self._of_class is not None:
                chosen = torch.zeros_like(chosen) if shard.targets is None else shard.targets == self._of_class
            finite = values.flatten(1).isfinite().all(1) if values.ndim > 1 else values.isfinite()
            dropped += int((chosen & ~finite).sum())
            chosen = chosen & finite
            values = values.transpose(1, 2) if self._steps_first else values
            if bool(chosen.any()):
                inputs = None if shard.inputs is None else self._picked(shard.inputs, "inputs")[chosen]
                yield _SummaryRows(shard.indices[chosen], values[chosen], inputs, shard, chosen)
        if dropped:
            warnings.warn(f"{dropped} samples whose relevance is not finite are left out", stacklevel=4)

    def _picked(self, value: Any, what: str) -> Tensor:
        """The tensor that is summarised."""
        if isinstance(value, Tensor):
            if what == "values" and self._part not in (None, 0):
                raise InvalidInputError(f"part= names one of several tensors, and each sample has one: {self._part!r}")
            return value
        parts = dict(value) if isinstance(value, Mapping) else dict(enumerate(value))
        key: Any = self._part
        if key is None:
            key = next(iter(parts)) if len(parts) == 1 else "input_ids"
        elif key not in parts and key in range(len(parts)):
            key = list(parts)[key]
        if key not in parts:
            raise InvalidInputError(
                f"the {what} of a sample are {len(parts)} tensors; name one of {', '.join(map(repr, parts))} with part="
            )
        tensor: Tensor = parts[key]
        return tensor

    def _by_column(self, values: Tensor) -> Tensor:
        """The relevance of columns, or of channels summed over their steps, (n, F)."""
        return values if values.ndim == 2 else values.flatten(2).sum(2)

    def _names(self) -> tuple[str, ...]:
        """The names of the columns or channels."""
        if self.kind not in ("tabular", "series") or len(self._shape) not in (1, 2):
            raise InvalidInputError(
                f"columns are those of a table or the channels of a series, and the run holds {self.kind} "
                f"{self._shape}; use {'words()' if self.kind == 'text' else 'class_maps()'}"
            )
        count, word = self._shape[0], "feature" if self.kind == "tabular" else "channel"
        if self._features and len(self._features) != count:
            raise InvalidInputError(f"features must name {count} {word}s, got {len(self._features)}")
        return self._features or tuple(f"{word} {j}" for j in range(count))

    def _column(self, column: int | str, names: tuple[str, ...]) -> int:
        if isinstance(column, str):
            if column not in names:
                raise UnknownNameError(f"there is no column {column!r}{near_names(column, names)}")
            return names.index(column)
        number: int = Int(ge=0, le=len(names) - 1).check(column, "the number of a column")
        return number

    def _position(self, sample: int | str) -> int:
        """Where a sample stands among the explained ones."""
        if isinstance(sample, str):
            names = [row["name"] for row in self._run.rows()]
            if sample not in names:
                remedy = near_names(sample, names) if any(names) else "; they have none, so give an index"
                raise UnknownNameError(f"no sample is called {sample!r}{remedy}")
            return names.index(sample)
        indices = self._run.indices
        if isinstance(sample, bool) or sample not in indices:
            raise InvalidInputError(
                f"the run holds {len(indices)} samples with indices {indices[0]} to {indices[-1]}, got {sample!r}"
            )
        return indices.index(sample)

    def _class_name(self, index: int) -> str:
        return str(self._classes[index]) if 0 <= index < len(self._classes) else f"class {index}"


def _kind_of(rows: _SummaryRows) -> str:
    """The kind of the samples by shape and type.

    Raises:
        InvalidInputError: for a form that none has.
    """
    inputs, values = rows.inputs, rows.values
    integers = inputs is not None and not inputs.is_floating_point() and inputs.ndim == 2
    if integers and values.shape[:2] == inputs.shape:
        return "text"
    if values.ndim not in KINDS:
        raise InvalidInputError(f"samples of shape {tuple(values.shape[1:])} are of no kind; name it with kind=")
    return KINDS[values.ndim]


def _attention_mask(rows: _SummaryRows) -> Tensor | None:
    """Which tokens the model saw, where the inputs say so."""
    inputs = rows.shard.inputs
    mask = inputs.get("attention_mask") if isinstance(inputs, Mapping) else None
    return None if mask is None else mask[rows.chosen]
