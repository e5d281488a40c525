"""Before and after: assessments of several trainings, over several seeds, with intervals."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from xaikit.core.errors import InvalidInputError, InvalidTypeError, UnknownNameError, near_names
from xaikit.core.pandas_import import import_pandas
from xaikit.mitigation.assess import Assessment
from xaikit.mitigation.tables import aligned, percent


@dataclasses.dataclass(frozen=True, repr=False)
class Comparison:
    """Several trainings side by side.

    Attributes:
        rows: by training, one line of measures for each seed.
        confidence: of the intervals, which are mean +- t * s / sqrt(n) with Student's t for n - 1 degrees of freedom.
    """

    rows: dict[str, list[dict[str, float]]]
    confidence: float = 0.95

    @property
    def measures(self) -> tuple[str, ...]:
        """What every training has, in order."""
        first, *rest = (row for rows in self.rows.values() for row in rows)
        return tuple(name for name in first if all(name in row for row in rest))

    def mean(self, training: str, measure: str) -> float:
        """The mean over the seeds.

        Raises:
            UnknownNameError: for a training or a measure that is not there.
        """
        return statistics.fmean(self._values(training, measure))

    def margin(self, training: str, measure: str) -> float:
        """Half the width of the interval around the mean; NaN for a single seed."""
        return self._margin(self._values(training, measure))

    def difference(self, measure: str, after: str, before: str) -> tuple[float, float]:
        """Mean and margin of after - before, seed by seed.

        Raises:
            InvalidInputError: where the two have not as many seeds.
        """
        a, b = self._values(after, measure), self._values(before, measure)
        if len(a) != len(b):
            raise InvalidInputError(f"{after!r} has {len(a)} seeds and {before!r} {len(b)}, so they make no pairs")
        gains = [x - y for x, y in zip(a, b, strict=True)]
        return statistics.fmean(gains), self._margin(gains)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: mean, margin (None for one seed) and the values themselves."""
        return {
            training: {
                measure: {
                    "mean": self.mean(training, measure),
                    "margin": None if math.isnan(m := self.margin(training, measure)) else m,
                    "values": self._values(training, measure),
                }
                for measure in self.measures
            }
            for training in self.rows
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any], confidence: float = 0.95) -> Comparison:
        """The comparison that `to_dict` wrote.

        >>> made = Comparison({"before": [{"accuracy kept": 0.5}], "after": [{"accuracy kept": 0.75}]})
        >>> Comparison.from_dict(made.to_dict()) == made
        True
        """
        rows = {}
        for training, measures in state.items():
            seeds = max((len(found["values"]) for found in measures.values()), default=0)
            rows[training] = [{name: found["values"][k] for name, found in measures.items()} for k in range(seeds)]
        return cls(rows, confidence)

    def to_pandas(self) -> Any:
        """One row for each training and measure: mean, margin, low, high, seeds.

        Raises:
            MissingDependencyError: where pandas is absent.
        """
        pd = import_pandas()
        rows = []
        for training in self.rows:
            for measure in self.measures:
                mean, margin = self.mean(training, measure), self.margin(training, measure)
                ends = {"low": mean - margin, "high": mean + margin, "seeds": len(self.rows[training])}
                rows.append({"training": training, "measure": measure, "mean": mean, "margin": margin, **ends})
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        lines = [["", *self.rows]]
        for measure in self.measures:
            cells = []
            for training in self.rows:
                margin = self.margin(training, measure)
                spread = "" if math.isnan(margin) else f" +- {100 * margin:.1f}"
                cells.append(percent(self.mean(training, measure)).replace(" %", f"{spread} %"))
            lines.append([measure, *cells])
        seeds = ", ".join(f"{name} {len(rows)}" for name, rows in self.rows.items())
        return "\n".join([*aligned(lines), f"seeds: {seeds}; {100 * self.confidence:g} % intervals"])

    def _values(self, training: str, measure: str) -> list[float]:
        if training not in self.rows:
            raise UnknownNameError(f"there is no training {training!r}{near_names(training, self.rows)}")
        if measure not in self.measures:
            raise UnknownNameError(f"there is no measure {measure!r}{near_names(measure, self.measures)}")
        return [row[measure] for row in self.rows[training]]

    def _margin(self, values: Sequence[float]) -> float:
        n = len(values)
        if n < 2:
            return math.nan
        from scipy.stats import t

        return float(t.ppf((1 + self.confidence) / 2, n - 1)) * statistics.stdev(values) / math.sqrt(n)


def compare(
    trainings: Mapping[str, Assessment | Sequence[Assessment]], *, groups: bool = False, confidence: float = 0.95
) -> Comparison:
    """Assessments of several trainings as one table, such as ``compare({"vanilla": [...], "rrr": [...]})``.

    Args:
        trainings: by name, an assessment for each seed, in the same order of seeds.
        groups: also compare the accuracy in each group.
        confidence: of the intervals.

    Raises:
        InvalidInputError: for no training, one without an assessment, or a confidence outside (0, 1).
        InvalidTypeError: for what is no assessment.

    >>> from xaikit.mitigation import Assessment
    >>> def of(kept, flipped):
    ...     accuracy = {"kept": kept, "flipped": flipped}
    ...     return Assessment(accuracy, {n: {0: v} for n, v in accuracy.items()}, {}, {}, None, 100)
    >>> vanilla = [of(0.99, 0.21), of(0.98, 0.25), of(0.99, 0.23)]
    >>> compared = compare({"vanilla": vanilla, "rrr": [of(0.97, 0.93), of(0.96, 0.92), of(0.97, 0.94)]})
    >>> compared
                            vanilla            rrr
    accuracy kept     98.7 +- 1.4 %  96.7 +- 1.4 %
    accuracy flipped  23.0 +- 5.0 %  93.0 +- 2.5 %
    worst kept        98.7 +- 1.4 %  96.7 +- 1.4 %
    worst flipped     23.0 +- 5.0 %  93.0 +- 2.5 %
    seeds: vanilla 3, rrr 3; 95 % intervals
    >>> mean, margin = compared.difference("accuracy flipped", "rrr", "vanilla")
    >>> f"{mean:.3f} +- {margin:.3f}"
    '0.700 +- 0.066'
    """
    if not trainings:
        raise InvalidInputError("compare needs at least one training with its assessments")
    if not 0 < confidence < 1:
        raise InvalidInputError(f"confidence must lie between 0 and 1, got {confidence}")
    rows = {}
    for name, given in trainings.items():
        found = [given] if isinstance(given, Assessment) else list(given)
        if not found:
            raise InvalidInputError(f"there is no assessment of {name!r}")
        wrong = next((a for a in found if not isinstance(a, Assessment)), None)
        if wrong is not None:
            raise InvalidTypeError(f"compare takes what assess() returns, got a {type(wrong).__name__} for {name!r}")
        rows[name] = [a.row(groups=groups) for a in found]
    return Comparison(rows, confidence)
