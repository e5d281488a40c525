"""Goal: an objective of a search: a metric, a weighted sum of metrics, or a function of the user."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from xaikit.core import METRICS, Explainer, Float
from xaikit.core.batch import Batch
from xaikit.core.errors import InvalidInputError, InvalidTypeError, near_names
from xaikit.metrics.base import Metric, OptimizationDirection

DIRECTIONS = ("maximize", "minimize")


@dataclasses.dataclass(frozen=True)
class Goal:
    """One objective.

    Attributes:
        name: in tables and figures.
        direction: whether higher ("maximize") or lower ("minimize") is better.
        terms: metrics with their weights; empty for a function of the user.
    """

    name: str
    direction: OptimizationDirection
    terms: tuple[tuple[Metric, float], ...] = ()

    def better(self, a: float, b: float) -> bool:
        """Whether `a` is better than `b`; any number is better than NaN.

        Args:
            a: a value of this objective.
            b: another one.
        """
        return not math.isnan(a) and (math.isnan(b) or (a > b if self.direction == "maximize" else a < b))

    def evaluate(
        self, explainer: Explainer, batch: Batch, attributions: Any = None, *, postprocess: Any = None, seed: int = 0
    ) -> Tensor:
        """The objective of each sample (N,) in double precision: the metric, or the sum of weight * metric.

        In a sum a metric that is better when lower counts negatively, so that a higher sum is better.

        Args:
            explainer: a bound explainer.
            batch: the samples.
            attributions: of the samples, where they have been computed already; see `Metric.evaluate`.
            postprocess: what is done to every attribution; see `Metric.evaluate`.
            seed: of every random number.
        """
        inputs, targets, masks = batch
        options = {"relevant_region": masks, "postprocess": postprocess, "seed": seed}
        values = [
            metric.evaluate(explainer, inputs, targets, attributions, **options).detach().cpu().double()
            for metric, _ in self.terms
        ]
        if len(values) == 1 and self.direction == self.terms[0][0].DIRECTION:
            return values[0]
        signs = [weight if metric.DIRECTION == "maximize" else -weight for metric, weight in self.terms]
        return torch.stack([s * v for s, v in zip(signs, values, strict=True)]).sum(0)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` reads them back."""
        return {
            "name": self.name,
            "direction": self.direction,
            "terms": [{"metric": m.spec(), "weight": w} for m, w in self.terms],
        }

    @property
    def repeatable(self) -> bool:
        """Whether measuring again gives the same number, which does not hold for seconds."""
        return all(metric.REPEATABLE for metric, _ in self.terms)

    @property
    def needs_masks(self) -> bool:
        """Whether a metric compares with where the relevance should lie."""
        return any(metric.NEEDS_MASK for metric, _ in self.terms)

    def check_masks(self, data: list[Batch]) -> None:
        """Check that the data has masks where a metric compares with them.

        Args:
            data: the batches.

        Raises:
            InvalidInputError: when it has none.
        """
        for metric, _ in self.terms:
            if metric.NEEDS_MASK and all(batch.masks is None for batch in data):
                raise InvalidInputError(
                    f"the metric {_name(metric)!r} compares with masks, and the data has none: give "
                    f"relevant_region=, where the relevance should lie, or (inputs, targets, relevant_region)"
                )

    def fingerprint(self) -> str:
        """A text that is different for goals that measure something different."""
        if len(self.terms) == 1 and self.direction == self.terms[0][0].DIRECTION:
            return repr(self.terms[0][0])
        return f"{self.direction} {' + '.join(f'{w:g} {m!r}' for m, w in self.terms) or self.name}"

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Goal:
        """The goal that `to_dict` wrote.

        Args:
            state: what `to_dict` returned.

        Raises:
            UnknownNameError: for a metric that is not registered here, such as one of a plugin.
        """
        terms = tuple((METRICS.create(term["metric"]), term["weight"]) for term in state["terms"])
        return cls(state["name"], state["direction"], terms)


def as_goals(metric: Any, direction: str | None = None) -> tuple[Goal, ...]:
    """The goals for a metric or several.

    Args:
        metric: a metric (its name or spec too), a dict from metrics to weights, or a list of either.
        direction: the direction that the user expects, checked against the metric's own.

    Raises:
        InvalidTypeError, UnknownNameError: for what is no metric.
        InvalidInputError: for no metric at all, a weight that is not positive, a direction against the metric's own.
    """
    several = isinstance(metric, Sequence) and not isinstance(metric, str)
    if several and not metric:
        raise InvalidInputError("tune needs a metric, got an empty list")
    goals = _distinct([_goal(item) for item in (metric if several else [metric])])
    if direction is not None:
        check_direction(direction)
        for goal in goals:
            if goal.direction != direction:
                higher = "higher" if goal.direction == "maximize" else "lower"
                raise InvalidInputError(
                    f"direction={direction!r} is against {goal.name}, which is better when {higher}; "
                    f"leave direction out"
                )
    return goals


def check_direction(direction: Any) -> OptimizationDirection:
    """One of the two directions."""
    if direction not in DIRECTIONS:
        raise InvalidInputError(
            f"direction must be 'maximize' or 'minimize', got {direction!r}{near_names(str(direction), DIRECTIONS)}"
        )
    return direction


def _goal(value: Any) -> Goal:
    if isinstance(value, Mapping) and not isinstance(value.get("name"), str):
        if not value:
            raise InvalidInputError("a weighted sum needs a metric, got an empty dict")
        terms = tuple((_metric(m), Float(gt=0).check(w, f"the weight of {m}")) for m, w in value.items())
        return Goal(" + ".join(f"{w:g} {_sign(m)}{_name(m)}" for m, w in terms), "maximize", terms)
    metric = _metric(value)
    return Goal(_name(metric), metric.DIRECTION, ((metric, 1.0),))


def _metric(value: Any) -> Metric:
    metric = METRICS.create(value)
    if not isinstance(metric, Metric):
        raise InvalidTypeError(f"tune needs a metric of {METRICS!r}, got {metric!r}")
    return metric


def _name(metric: Metric) -> str:
    return metric.NAME or type(metric).__name__


def _sign(metric: Metric) -> str:
    return "" if metric.DIRECTION == "maximize" else "-"


def _distinct(goals: list[Goal]) -> tuple[Goal, ...]:
    """Goals whose names differ, since tables and figures go by name."""
    names = [goal.name for goal in goals]
    twice = {n for n in names if names.count(n) > 1}
    distinct = [dataclasses.replace(g, name=repr(g.terms[0][0])) if g.name in twice else g for g in goals]
    if len({g.name for g in distinct}) < len(distinct):
        raise InvalidInputError(f"the same metric stands twice among the objectives: {', '.join(names)}")
    return tuple(distinct)
