"""Evaluation: the table of explainers and metrics, with intervals, and all the numbers that it was made of."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from xaikit.core.errors import InvalidInputError, UnknownNameError, near_names
from xaikit.core.files import write_whole
from xaikit.core.pandas_import import import_pandas

N_RESAMPLES = 2000
BLOCK = 2**20  # resampled values held at a time


@dataclasses.dataclass(frozen=True)
class Row:
    """One metric of one explainer.

    Attributes:
        explainer: its label.
        metric: its label.
        direction: "maximize" or "minimize".
        mean: over the samples with a finite value; NaN where there is none.
        low, high: ends of the confidence interval of the mean; NaN for fewer than two such samples.
        n: samples with a finite value.
        n_nan: samples without one.
        values: of each sample, in the order of the data.
        error: why the explainer or the metric failed, or None.
    """

    explainer: str
    metric: str
    direction: Literal["maximize", "minimize"]
    mean: float
    low: float
    high: float
    n: int
    n_nan: int
    values: tuple[float, ...] = dataclasses.field(repr=False)
    error: str | None = None


@dataclasses.dataclass(frozen=True, repr=False)
class Evaluation:
    """What `evaluate` measured: one row for each explainer and metric.

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

    rows: tuple[Row, ...]
    confidence: float
    seed: int
    explainers: dict[str, Any]
    metrics: dict[str, Any]
    stopped: Literal["done", "interrupted"] = "done"

    def __getitem__(self, key: tuple[str, str]) -> Row:
        """The row of an explainer and a metric, by their labels."""
        for row in self.rows:
            if (row.explainer, row.metric) == key:
                return row
        name, known = (key[1], self.metrics) if key[0] in self.explainers else (key[0], self.explainers)
        raise UnknownNameError(f"the table has no {name!r}{near_names(str(name), known)}")

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def best(self, metric: str) -> str:
        """Label of the explainer with the best mean of a metric.

        Raises:
            InvalidInputError: when no explainer has a value.
        """
        rows = [self[name, metric] for name in self.explainers]
        rows = [row for row in rows if row.n]
        if not rows:
            raise InvalidInputError(f"no explainer has a value of {metric!r}")
        sign = 1 if rows[0].direction == "maximize" else -1
        return max(rows, key=lambda row: sign * row.mean).explainer

    def difference(self, metric: str, first: str, second: str) -> tuple[float, float, float]:
        """Mean of first - second over the samples that both have, and the ends of its confidence interval.

        The samples are paired, so this interval says more than two that overlap.
        """
        pairs = zip(self[first, metric].values, self[second, metric].values, strict=False)
        return interval([a - b for a, b in pairs], self.confidence, self.seed)

    def to_pandas(self) -> Any:
        """The rows as a DataFrame, without the values of the samples.

        Raises:
            MissingDependencyError: where pandas is absent.
        """
        pd = import_pandas(".rows")
        names = [f.name for f in dataclasses.fields(Row) if f.name != "values"]
        return pd.DataFrame([{n: getattr(row, n) for n in names} for row in self.rows], columns=names)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values, NaN as None; `from_dict` reads it back."""
        state = dataclasses.asdict(self)
        state["rows"] = [{k: _json(v) for k, v in row.items()} for row in state["rows"]]
        return state

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Evaluation:
        """The evaluation that `to_dict` wrote."""
        rows = []
        for item in state["rows"]:
            numbers = {k: _number(item[k]) for k in ("mean", "low", "high")}
            rows.append(Row(**{**item, **numbers, "values": tuple(_number(v) for v in item["values"])}))
        return cls(**{**state, "rows": tuple(rows)})

    def save(self, path: str | Path) -> Path:
        """Write as JSON; `load` reads it."""
        return write_whole(path, json.dumps(self.to_dict(), allow_nan=False))

    @classmethod
    def load(cls, path: str | Path) -> Evaluation:
        """Read what `save` wrote."""
        return cls.from_dict(json.loads(Path(path).read_text()))

    def __repr__(self) -> str:
        """The table: mean [low, high], the best of each metric marked with a star."""
        head = ["", *(f"{m} {'↑' if self._direction(m) == 'maximize' else '↓'}" for m in self.metrics)]
        best = {m: self.best(m) for m in self.metrics if any(self[e, m].n for e in self.explainers)}
        lines = [head] + [[e, *(self._cell(self[e, m], best.get(m)) for m in self.metrics)] for e in self.explainers]
        widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
        text = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines]
        notes = [f"mean [{self.confidence:.0%} bootstrap interval over samples]; * best, ↑ higher is better"]
        notes += [f"{row.explainer}, {row.metric}: {row.error}" for row in self.rows if row.error]
        notes += [f"{row.explainer}, {row.metric}: {row.n_nan} samples NaN" for row in self.rows if row.n_nan]
        notes += ["stopped by Ctrl-C"] if self.stopped == "interrupted" else []
        return "\n".join([*text, *notes])

    def _direction(self, metric: str) -> str:
        return next(row.direction for row in self.rows if row.metric == metric)

    def _cell(self, row: Row, best: str | None) -> str:
        if not row.n:
            return "failed" if row.error else "NaN"
        mark = "*" if row.explainer == best and len(self.explainers) > 1 else ""
        bounds = "" if math.isnan(row.low) else f" [{row.low:.3g}, {row.high:.3g}]"
        return f"{row.mean:.3g}{mark}{bounds}"


def make_row(  # noqa: PLR0913
    explainer: str, metric: str, direction: Any, values: list[float], *, confidence: float, seed: int, error: str | None
) -> Row:
    """The row of some values, with its interval."""
    finite = [v for v in values if math.isfinite(v)]
    mean, low, high = interval(values, confidence, seed)
    n, n_nan = len(finite), len(values) - len(finite)
    return Row(explainer, metric, direction, mean, low, high, n, n_nan, tuple(values), error)


def interval(values: list[float], confidence: float, seed: int) -> tuple[float, float, float]:
    """Mean of the finite values and the ends of its percentile bootstrap interval."""
    sample = torch.tensor([v for v in values if math.isfinite(v)], dtype=torch.float64)
    n = len(sample)
    if n < 2:
        return float(sample.mean()) if n else math.nan, math.nan, math.nan
    generator = torch.Generator().manual_seed(seed)
    means: list[Tensor] = []
    rows = max(1, BLOCK // n)
    for start in range(0, N_RESAMPLES, rows):
        drawn = torch.randint(n, (min(rows, N_RESAMPLES - start), n), generator=generator)
        means.append(sample[drawn].mean(1))
    tail = (1 - confidence) / 2
    low, high = torch.cat(means).quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return float(sample.mean()), low, high


def _json(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return [_json(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: float | None) -> float:
    return math.nan if value is None else value
