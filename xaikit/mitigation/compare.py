"""Before and after: assessments of several trainings, over several seeds, with intervals."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Self

from torch import Tensor

from xaikit.core.errors import InvalidInputError, InvalidTypeError, UnknownNameError, near_names
from xaikit.core.pandas_import import import_pandas
from xaikit.core.percentages import percent
from xaikit.core.results import NAME, Interval, Real, Result
from xaikit.mitigation.assessment import Assessment
from xaikit.mitigation.tables import aligned

# By the first word of a measure.
BETTER = {"accuracy": "↑", "worst": "↑", "changed": "↓", "reliance": "↓", "relies": "↓", "mass": "↓"}


def better(measure: str) -> str:
    """Whether a model is better with a higher (↑) or a lower (↓) measure; empty where neither is known.

    Args:
        measure: one of `Comparison.measures`.
    """
    return BETTER.get(measure.partition(" ")[0], "")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Comparison(Result):
    """Several trainings side by side.

    Attributes:
        rows: by training, one line of measures for each seed.
        confidence: of the intervals, which are mean +- t * s / sqrt(n) with Student's t for n - 1 degrees of freedom.
    """

    rows: dict[str, list[dict[str, Real]]]
    confidence: float = 0.95

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of the measures that every training has, in order."""
        first, *others = (row for rows in self.rows.values() for row in rows)
        return tuple(name for name in first if all(name in row for row in others))

    def interval(self, training: str, measure: str) -> Interval:
        """The mean over the seeds with its interval; low and high are NaN for a single seed.

        Args:
            training: one of `rows`.
            measure: one of `measures`.

        Raises:
            UnknownNameError: for a training or a measure that is not there.
        """
        return self._interval(self._values(training, measure))

    def mean(self, training: str, measure: str) -> float:
        """The mean over the seeds.

        Args:
            training: one of `rows`.
            measure: one of `measures`.

        Raises:
            UnknownNameError: for a training or a measure that is not there.
        """
        return self.interval(training, measure).mean

    def margin(self, training: str, measure: str) -> float:
        """Half the width of the interval around the mean; NaN for a single seed.

        Args:
            training: one of `rows`.
            measure: one of `measures`.

        Raises:
            UnknownNameError: for a training or a measure that is not there.
        """
        return self.interval(training, measure).margin

    def difference(self, measure: str, after: str, before: str) -> Interval:
        """The mean of after - before, seed by seed, with its interval.

        Args:
            measure: one of `measures`.
            after: one of `rows`.
            before: one of `rows`.

        Raises:
            InvalidInputError: where the two have not as many seeds.
            UnknownNameError: for a training or a measure that is not there.
        """
        a, b = self._values(after, measure), self._values(before, measure)
        if len(a) != len(b):
            raise InvalidInputError(f"{after!r} has {len(a)} seeds and {before!r} {len(b)}, so they make no pairs")
        return self._interval([x - y for x, y in zip(a, b, strict=True)])

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Self:
        """The comparison that `to_dict` wrote, also that of xaikit 0.1.

        Args:
            state: what `to_dict` returned.

        Raises:
            InvalidInputError: for another kind of result, one of a newer xaikit, or a field that is missing or wrong.

        >>> before_and_after = Comparison({"before": [{"accuracy kept": 0.5}], "after": [{"accuracy kept": 0.75}]})
        >>> Comparison.from_dict(before_and_after.to_dict()) == before_and_after
        True
        """
        return super().from_dict(cls._upgrade(state, {}))

    @classmethod
    def _upgrade(cls, state: Any, arrays: Mapping[str, Tensor]) -> Any:  # noqa: ARG003
        """Version 0.1 wrote mean, margin and values of each measure of each training, and nothing else."""
        if not isinstance(state, Mapping) or NAME in state or "rows" in state:
            return state
        rows = {}
        for training, measures in state.items():
            seeds = max((len(saved["values"]) for saved in measures.values()), default=0)
            rows[training] = [{name: saved["values"][k] for name, saved in measures.items()} for k in range(seeds)]
        return {"rows": rows}

    def to_pandas(self) -> Any:
        """One row for each training and measure: mean, margin, low, high, seeds.

        Raises:
            MissingDependencyError: where pandas is absent.
        """
        pd = import_pandas()
        lines = []
        for training in self.rows:
            for measure in self.measures:
                i = self.interval(training, measure)
                numbers = {"mean": i.mean, "margin": i.margin, "low": i.low, "high": i.high, "seeds": i.n}
                lines.append({"training": training, "measure": measure, **numbers})
        return pd.DataFrame(lines)

    def __repr__(self) -> str:
        lines = [["", *self.rows]]
        for measure in self.measures:
            cells = []
            for training in self.rows:
                interval = self.interval(training, measure)
                spread = "" if math.isnan(interval.margin) else f" +- {100 * interval.margin:.1f}"
                cells.append(percent(interval.mean).replace(" %", f"{spread} %"))
            lines.append([measure, *cells])
        seeds = ", ".join(f"{name} {len(rows)}" for name, rows in self.rows.items())
        *others, last = ["", *dict.fromkeys(m.partition(" ")[0] for m in self.measures if better(m) == "↓")]
        low = f"{', '.join(others[1:])} and {last}" if others[1:] else last
        note = f"; lower is better for {low}" if low else ""
        return "\n".join([*aligned(lines), f"seeds: {seeds}; {100 * self.confidence:g} % intervals{note}"])

    def _values(self, training: str, measure: str) -> list[float]:
        if training not in self.rows:
            raise UnknownNameError(f"there is no training {training!r}{near_names(training, self.rows)}")
        if measure not in self.measures:
            raise UnknownNameError(f"there is no measure {measure!r}{near_names(measure, self.measures)}")
        return [row[measure] for row in self.rows[training]]

    def _interval(self, values: Sequence[float]) -> Interval:
        n, mean, margin = len(values), statistics.fmean(values), math.nan
        if n > 1:
            from scipy.special import stdtrit

            margin = float(stdtrit(n - 1, (1 + self.confidence) / 2)) * statistics.stdev(values) / math.sqrt(n)
        return Interval(mean - margin, mean, mean + margin, self.confidence, n)


def compare(
    trainings: Mapping[str, Assessment | Sequence[Assessment]], *, groups: bool = False, confidence: float = 0.95
) -> Comparison:
    """Assessments of several trainings as one table, such as ``compare({"vanilla": [...], "rrr": [...]})``.

    Args:
        trainings: by name, an assessment for each seed, in the same order of seeds.
        groups: also compare the accuracy in each group.
        confidence: of the intervals.

    Returns:
        The table, with the mean over the seeds and its interval for each training and measure.

    Raises:
        InvalidInputError: for no training, one without an assessment, or a confidence outside (0, 1).
        InvalidTypeError: for what is no assessment.

    >>> from xaikit.mitigation import Assessment
    >>> def assessment(kept, flipped):
    ...     accuracy = {"kept": kept, "flipped": flipped}
    ...     return Assessment(accuracy, {n: {0: v} for n, v in accuracy.items()}, {}, {}, None, 100)
    >>> vanilla = [assessment(0.99, 0.21), assessment(0.98, 0.25), assessment(0.99, 0.23)]
    >>> rrr = [assessment(0.97, 0.93), assessment(0.96, 0.92), assessment(0.97, 0.94)]
    >>> compared = compare({"vanilla": vanilla, "rrr": rrr})
    >>> compared
                            vanilla            rrr
    accuracy kept     98.7 +- 1.4 %  96.7 +- 1.4 %
    accuracy flipped  23.0 +- 5.0 %  93.0 +- 2.5 %
    worst kept        98.7 +- 1.4 %  96.7 +- 1.4 %
    worst flipped     23.0 +- 5.0 %  93.0 +- 2.5 %
    seeds: vanilla 3, rrr 3; 95 % intervals
    >>> compared.difference("accuracy flipped", "rrr", "vanilla")
    0.7 [0.634, 0.766] (95 % interval, n = 3)
    """
    if not trainings:
        raise InvalidInputError("compare needs at least one training with its assessments")
    if not 0 < confidence < 1:
        raise InvalidInputError(f"confidence must lie between 0 and 1, got {confidence}")
    rows = {}
    for name, value in trainings.items():
        assessments = [value] if isinstance(value, Assessment) else list(value)
        if not assessments:
            raise InvalidInputError(f"there is no assessment of {name!r}")
        wrong = next((a for a in assessments if not isinstance(a, Assessment)), None)
        if wrong is not None:
            raise InvalidTypeError(f"compare takes what assess() returns, got a {type(wrong).__name__} for {name!r}")
        rows[name] = [a.row(groups=groups) for a in assessments]
    return Comparison(rows, confidence)
