"""TuneResult: what a search found, as a value that outlives it."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from torch import nn

from xaikit import upward
from xaikit.core import MITIGATORS, POSTPROCESSORS, Configured, Explainer
from xaikit.core.errors import InvalidInputError
from xaikit.core.files import write_whole
from xaikit.core.pandas_import import import_pandas
from xaikit.tuning.goals import Goal
from xaikit.tuning.rows import Row
from xaikit.tuning.search import Stopped

if TYPE_CHECKING:
    import optuna

T = TypeVar("T", bound=Configured)


@dataclasses.dataclass(frozen=True)
class FrontPoint(Generic[T]):
    """One point of a Pareto front.

    Attributes:
        value: the explainer or mitigator.
        values: each objective, by name.
        trial: its number.
        postprocess: what comes after the explainer, where that is searched.
    """

    value: T
    values: dict[str, float]
    trial: int
    postprocess: Configured | None = None


@dataclasses.dataclass(frozen=True)
class TuneResult(Generic[T]):
    """What `tune` found. With several objectives the first decides what is `best`; `front` holds the others' answers.

    Attributes:
        best: the explainer (or mitigator) with the best settings.
        value: its metric, the mean over the samples.
        default_value: the metric of the settings that the search began with; NaN if they failed.
        goals: what was sought, and which way is better.
        trials: one dict per trial: trial, state ("complete", "nan", "pruned", "failed", "unfinished"), value, settings,
            seconds, repeats (the earlier trial with the same settings, which was not run again), error (why it
            failed); with several objectives also values.
        dead: settings whose change alone never changed the metric in this search.
        stopped: why it ended: all trials done, the whole space tried, time up, or Ctrl-C.
        front: what no other trial beats in every objective; with one objective the best alone.
        gain_interval: the 95 % interval of the best trial's mean gain per sample over the default, on the samples of
            the search; None for a single sample or a mitigator.
        kept_default: whether that interval reaches down to 0, so that `best` is the default after all.
        space: what was searched, as plain values by Optuna's names.
        postprocess: the best postprocessor, where that was searched.
        model: of a mitigator: the model that it trained.
        study: Optuna's own record; None in a result that was read back.
    """

    best: T
    value: float
    default_value: float
    goals: tuple[Goal, ...]
    trials: list[Row] = dataclasses.field(repr=False)
    dead: tuple[str, ...]
    stopped: Stopped
    front: tuple[FrontPoint[T], ...] = dataclasses.field(default=(), repr=False)
    gain_interval: tuple[float, float] | None = None
    kept_default: bool = False
    space: dict[str, Any] = dataclasses.field(default_factory=dict, repr=False)
    postprocess: Configured | None = None
    model: nn.Module | None = dataclasses.field(default=None, repr=False, compare=False)
    study: optuna.Study | None = dataclasses.field(default=None, repr=False, compare=False)

    @property
    def metric(self) -> Any:
        """The metric that decided, or the goal where that is a weighted sum or a measure of the user's own."""
        terms = self.goals[0].terms
        return terms[0][0] if len(terms) == 1 else self.goals[0]

    @property
    def gain(self) -> float:
        """By how much the best settings beat the first ones, positive for better."""
        difference = self.value - self.default_value
        return difference if self.goals[0].direction == "maximize" else -difference

    @property
    def n_nan(self) -> int:
        """Trials whose metric was not a finite number."""
        return sum(row["state"] == "nan" for row in self.trials)

    @property
    def n_failed(self) -> int:
        """Trials that ended in an error, which their row keeps."""
        return sum(row["state"] == "failed" for row in self.trials)

    @property
    def n_pruned(self) -> int:
        """Trials that were stopped early."""
        return sum(row["state"] == "pruned" for row in self.trials)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the model and the study, as plain JSON values; `from_dict` reads it back.

        Raises:
            InvalidInputError: when the explainer has a setting that no JSON can hold.
        """
        return {
            "kind": self.best.REGISTRY.kind,
            "best": self.best.spec(),
            "postprocess": None if self.postprocess is None else self.postprocess.spec(),
            "value": self.value,
            "default_value": _or_none(self.default_value),
            "gain_interval": self.gain_interval and list(self.gain_interval),
            "kept_default": self.kept_default,
            "goals": [goal.to_dict() for goal in self.goals],
            "front": [
                {
                    "value": c.value.spec(),
                    "postprocess": None if c.postprocess is None else c.postprocess.spec(),
                    "values": c.values,
                    "trial": c.trial,
                }
                for c in self.front
            ],
            "trials": self.trials,
            "dead": list(self.dead),
            "stopped": self.stopped,
            "space": self.space,
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any], model: nn.Module | None = None) -> TuneResult:
        """The result that `to_dict` wrote, its explainers bound to `model` if one is given."""
        default, interval = state["default_value"], state["gain_interval"]

        def made(spec: Any) -> Any:
            return _made(state["kind"], spec, model)

        return cls(
            best=made(state["best"]),
            postprocess=_postprocess(state["postprocess"]),
            value=state["value"],
            default_value=math.nan if default is None else default,
            gain_interval=interval and tuple(interval),
            kept_default=state["kept_default"],
            goals=tuple(Goal.from_dict(goal) for goal in state["goals"]),
            front=tuple(
                FrontPoint(made(c["value"]), c["values"], c["trial"], _postprocess(c["postprocess"]))
                for c in state["front"]
            ),
            trials=list(state["trials"]),
            dead=tuple(state["dead"]),
            stopped=state["stopped"],
            space=dict(state["space"]),
        )

    def save(self, path: str | Path) -> Path:
        """Write `to_dict` as a JSON file."""
        return write_whole(path, json.dumps(self.to_dict(), indent=1, allow_nan=False))

    @classmethod
    def load(cls, path: str | Path, model: nn.Module | None = None) -> TuneResult:
        """The result that `save` wrote.

        Raises:
            InvalidInputError: for a file that is none.
        """
        try:
            state = json.loads(Path(path).read_text())
            return cls.from_dict(state, model)
        except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError) as err:
            raise InvalidInputError(f"{path} holds no result of a search ({err})") from None

    def plot(self, kind: str = "history") -> Any:
        """A figure: "history", "importance" or "front"; see `xaikit.report.tuning_figures`."""
        # Upwards, as Attribution.plot: figures need matplotlib, which nobody pays for before drawing.
        return upward.load("tuning_figures").plot(self, kind)

    def to_pandas(self) -> Any:
        """The trials as a DataFrame, one column per setting.

        Raises:
            MissingDependencyError: where pandas is absent.
        """
        pd = import_pandas(".trials")
        return pd.json_normalize(self.trials)


def _made(kind: str, spec: Any, model: nn.Module | None) -> Any:
    return Explainer.from_spec(spec, model) if kind == "explainer" else MITIGATORS.create(spec)


def _postprocess(spec: Any) -> Configured | None:
    return None if spec is None else POSTPROCESSORS.create(spec)


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
