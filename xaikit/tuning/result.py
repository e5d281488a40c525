"""TuneResult: what a search found, as a value that outlives it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from xaikit.core import METRICS, Explainer
from xaikit.core.errors import MissingDependencyError
from xaikit.metrics.base import Metric

if TYPE_CHECKING:
    import optuna


Stopped = Literal["trials", "space", "timeout", "interrupted"]


@dataclasses.dataclass(frozen=True)
class TuneResult:
    """What `tune` found.

    Attributes:
        best: the explainer with the best settings.
        value: its metric, the mean over the samples.
        default_value: the metric of the settings that the search began with; NaN if they failed.
        metric: what was measured; its DIRECTION says which way is better.
        trials: one dict per trial: trial, state ("complete", "nan", "failed", "unfinished"), value, settings, seconds,
            repeats (the earlier trial with the same settings, which was not run again), error (why it failed).
        dead: settings whose change alone never changed the metric in this search.
        stopped: why it ended: all trials done, the whole space tried, time up, or Ctrl-C.
        study: Optuna's own record; None in a result that was read back.
    """

    best: Explainer
    value: float
    default_value: float
    metric: Metric
    trials: list[dict[str, Any]] = dataclasses.field(repr=False)
    dead: tuple[str, ...]
    stopped: Stopped
    study: optuna.Study | None = dataclasses.field(default=None, repr=False, compare=False)

    @property
    def gain(self) -> float:
        """By how much the best settings beat the first ones, positive for better."""
        difference = self.value - self.default_value
        return difference if self.metric.DIRECTION == "maximize" else -difference

    @property
    def n_nan(self) -> int:
        """Trials whose metric was not a finite number."""
        return sum(row["state"] == "nan" for row in self.trials)

    @property
    def n_failed(self) -> int:
        """Trials that ended in an error, which their row keeps."""
        return sum(row["state"] == "failed" for row in self.trials)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the model and the study, as plain JSON values; `from_dict` reads it back.

        Raises:
            InvalidInputError: when the explainer has a setting that no JSON can hold.
        """
        return {
            "best": self.best.spec(),
            "value": self.value,
            "default_value": _or_none(self.default_value),
            "metric": self.metric.spec(),
            "trials": self.trials,
            "dead": list(self.dead),
            "stopped": self.stopped,
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any], model: nn.Module | None = None) -> TuneResult:
        """The result that `to_dict` wrote, its explainer bound to `model` if one is given."""
        default = state["default_value"]
        return cls(
            best=Explainer.from_spec(state["best"], model),
            value=state["value"],
            default_value=math.nan if default is None else default,
            metric=METRICS.create(state["metric"]),
            trials=list(state["trials"]),
            dead=tuple(state["dead"]),
            stopped=state["stopped"],
        )

    def to_pandas(self) -> Any:
        """The trials as a DataFrame, one column per setting.

        Raises:
            MissingDependencyError: where pandas is absent.
        """
        try:
            import pandas as pd
        except ImportError as err:
            raise MissingDependencyError("a DataFrame needs pandas: pip install pandas, or use .trials") from err
        return pd.json_normalize(self.trials)


def dead_settings(trials: list[dict[str, Any]]) -> tuple[str, ...]:
    """Settings for which trials that differ in nothing else were compared, and all gave the same value."""
    done = [row for row in trials if row["state"] == "complete"]
    names = list(done[0]["settings"]) if done else []
    dead = []
    for name in names:
        groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
        for row in done:
            others = tuple(v for n, v in row["settings"].items() if n != name)
            groups.setdefault(others, []).append(row)
        compared = [rows for rows in groups.values() if len({row["settings"][name] for row in rows}) > 1]
        if compared and all(len({row["value"] for row in rows}) == 1 for rows in compared):
            dead.append(name)
    return tuple(dead)


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
