"""Evaluation: the table of explainers and metrics, with intervals, and all the numbers that it was made of."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any, Self

import torch
from torch import Tensor

from xaikit.core.errors import InvalidInputError, UnknownNameError, near_names
from xaikit.core.pandas_import import import_pandas
from xaikit.core.percentages import percent
from xaikit.core.registries import METRICS
from xaikit.core.results import Interval, Real, Result, Stopped
from xaikit.metrics.base import OptimizationDirection

N_RESAMPLES = 2000
BLOCK = 2**20  # resampled values held at a time


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class EvaluationRow(Result):
    """One metric of one explainer.

    Attributes:
        explainer: its label.
        metric: its label.
        direction: "maximize" or "minimize": which way the metric is better.
        interval: mean over the samples with a finite value, and its confidence interval.
        n_nan: samples without a finite value.
        values: of each sample, in the order of the data.
        error: why the explainer or the metric failed, or None.
    """

    explainer: str
    metric: str
    direction: OptimizationDirection
    interval: Interval
    n_nan: int
    values: tuple[Real, ...] = dataclasses.field(repr=False)
    error: str | None = None

    @property
    def mean(self) -> float:
        """The mean over the samples with a finite value; NaN where there is none."""
        return self.interval.mean

    @property
    def low(self) -> float:
        """Lower end of the mean's confidence interval; NaN for fewer than two finite values."""
        return self.interval.low

    @property
    def high(self) -> float:
        """Upper end of the mean's confidence interval; NaN for fewer than two finite values."""
        return self.interval.high

    @property
    def n(self) -> int:
        """Number of samples with a finite value."""
        return self.interval.n

    def _state(self) -> dict[str, Any]:
        """The fields, with the interval's numbers beside them, so that a row of JSON is flat."""
        numbers = {"mean": self.mean, "low": self.low, "high": self.high, "level": self.interval.level, "n": self.n}
        state = super()._state()
        del state["interval"]
        return {**state, **numbers}

    @classmethod
    def _decode(cls, state: Mapping[str, Any]) -> Self:
        return super()._decode({**state, "interval": state})


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Evaluation(Result):
    """The result of `evaluate`: one row for each explainer and metric.

    Intervals are percentile bootstrap intervals of the mean over the samples (Efron and Tibshirani 1993): 2,000
    seeded resamples. They tell how the mean would vary over other samples, not over other models.

    Attributes:
        rows: explainer by explainer, metric by metric.
        confidence: of the intervals.
        seed: of the explainers, the metrics and the resamples.
        explainers: spec of each explainer, by label.
        metrics: spec of each metric, by label.
        stopped: "done", or "interrupted" by Ctrl-C: then the rows hold what was measured until then.
    """

    rows: tuple[EvaluationRow, ...]
    confidence: float
    seed: int
    explainers: dict[str, Any]
    metrics: dict[str, Any]
    stopped: Stopped = Stopped.DONE

    def __getitem__(self, key: tuple[str, str]) -> EvaluationRow:
        """The row of an explainer and a metric, by their labels."""
        for row in self.rows:
            if (row.explainer, row.metric) == key:
                return row
        name, labels = (key[1], self.metrics) if key[0] in self.explainers else (key[0], self.explainers)
        raise UnknownNameError(f"the table has no {name!r}{near_names(str(name), labels)}")

    def __iter__(self) -> Iterator[EvaluationRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def best(self, metric: str) -> str:
        """Label of the explainer with the best mean of a metric.

        Args:
            metric: its label.

        Raises:
            UnknownNameError: for a metric that the table does not have.
            InvalidInputError: when no explainer has a value.
        """
        rows = [self[name, metric] for name in self.explainers]
        rows = [row for row in rows if row.n]
        if not rows:
            raise InvalidInputError(f"no explainer has a value of {metric!r}")
        sign = 1 if rows[0].direction == "maximize" else -1
        return max(rows, key=lambda row: sign * row.mean).explainer

    def difference(self, metric: str, first: str, second: str) -> Interval:
        """The mean of first - second over the samples that both have, with its confidence interval.

        The samples are paired, so this interval says more than whether the intervals of the two overlap.

        Args:
            metric: label of the metric.
            first: label of the explainer whose values count positively.
            second: label of the explainer whose values are subtracted.

        Raises:
            UnknownNameError: for a label that the table does not have.
        """
        pairs = zip(self[first, metric].values, self[second, metric].values, strict=False)
        return bootstrap_interval([a - b for a, b in pairs], self.confidence, self.seed)

    def to_pandas(self) -> Any:
        """The rows as a DataFrame, without the values of the samples.

        Raises:
            MissingDependencyError: where pandas is absent.
        """
        pd = import_pandas(".rows")
        names = ["explainer", "metric", "direction", "mean", "low", "high", "n", "n_nan", "error"]
        return pd.DataFrame([{n: getattr(row, n) for n in names} for row in self.rows], columns=names)

    def _state(self) -> dict[str, Any]:
        return {**super()._state(), "rows": [row._state() for row in self.rows]}  # noqa: SLF001 - its own rows

    @classmethod
    def _decode(cls, state: Mapping[str, Any]) -> Self:
        # Rows that xaikit 0.1 wrote have no level of their own.
        level = state["confidence"]
        rows = tuple(EvaluationRow._decode({"level": level, **row}) for row in state["rows"])  # noqa: SLF001
        return super()._decode({**state, "rows": rows})

    def __repr__(self) -> str:
        """The table: mean [low, high], the best of each metric marked with a star."""
        head = ["", *(f"{m} {'↑' if self._direction(m) == 'maximize' else '↓'}" for m in self.metrics)]
        best = {m: self.best(m) for m in self.metrics if any(self[e, m].n for e in self.explainers)}
        lines = [head] + [[e, *(self._cell(self[e, m], best.get(m)) for m in self.metrics)] for e in self.explainers]
        widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
        text = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines]
        notes = [f"mean [{percent(self.confidence, 0)} bootstrap interval over samples]; * best", *self.directions()]
        notes += [f"{row.explainer}, {row.metric}: {row.error}" for row in self.rows if row.error]
        notes += [f"{row.explainer}, {row.metric}: {row.n_nan} samples NaN" for row in self.rows if row.n_nan]
        notes += ["stopped by Ctrl-C"] if self.stopped == Stopped.INTERRUPTED else []
        return "\n".join([*text, *notes])

    def directions(self) -> list[str]:
        """What the arrows of a table mean, and for whom: sentences without a full stop."""
        directions = {row.direction for row in self.rows}
        arrows = [text for way, text in (("maximize", "↑ higher"), ("minimize", "↓ lower")) if way in directions]
        with_region = [label for label, spec in self.metrics.items() if _compares_with_region(spec)]
        sentences = [f"{' and '.join(arrows)} is better, for the explanation"] if arrows else []
        if with_region:
            is_better = "is better where the region is what the model should look at"
            sentences.append(
                f"{' and '.join(with_region)}: higher {is_better}; of a shortcut's region lower is better, for the "
                "model"
            )
        return sentences

    def _direction(self, metric: str) -> str:
        return next(row.direction for row in self.rows if row.metric == metric)

    def _cell(self, row: EvaluationRow, best: str | None) -> str:
        if not row.n:
            return "failed" if row.error else "NaN"
        mark = "*" if row.explainer == best and len(self.explainers) > 1 else ""
        bounds = "" if math.isnan(row.low) else f" [{row.low:.3g}, {row.high:.3g}]"
        return f"{row.mean:.3g}{mark}{bounds}"


def _compares_with_region(spec: Any) -> bool:
    """Whether a metric's spec is of one that compares with a mask."""
    name = str(spec.get("name")) if isinstance(spec, Mapping) else ""
    return name in METRICS and bool(METRICS.get(name).NEEDS_MASK)


def make_row(  # noqa: PLR0913
    explainer: str,
    metric: str,
    direction: OptimizationDirection,
    values: list[float],
    *,
    confidence: float,
    seed: int,
    error: str | None,
) -> EvaluationRow:
    """The row of some values, with its interval."""
    n_nan = sum(not math.isfinite(v) for v in values)
    interval = bootstrap_interval(values, confidence, seed)
    return EvaluationRow(explainer, metric, direction, interval, n_nan, tuple(values), error)


def bootstrap_interval(values: list[float], confidence: float, seed: int) -> Interval:
    """Mean of the finite values with its percentile bootstrap interval.

    Args:
        values: of the samples; those that are not finite are left out.
        confidence: of the interval.
        seed: of the resamples.
    """
    sample = torch.tensor([v for v in values if math.isfinite(v)], dtype=torch.float64, device="cpu")
    n = len(sample)
    mean = float(sample.mean()) if n else math.nan
    if n < 2:
        return Interval(math.nan, mean, math.nan, confidence, n)
    generator = torch.Generator().manual_seed(seed)
    means: list[Tensor] = []
    rows = max(1, BLOCK // n)
    for start in range(0, N_RESAMPLES, rows):
        drawn = torch.randint(n, (min(rows, N_RESAMPLES - start), n), generator=generator, device="cpu")
        means.append(sample[drawn].mean(1))
    tail = (1 - confidence) / 2
    low, high = torch.cat(means).quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64, device="cpu")).tolist()
    return Interval(low, mean, high, confidence, n)
