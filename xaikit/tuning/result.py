"""TuneResult: the result of a search."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar

from torch import nn

from xaikit import upward
from xaikit.core import MITIGATORS, POSTPROCESSORS, Configured, Explainer
from xaikit.core.pandas_import import import_pandas
from xaikit.core.results import Interval, Result, Stopped
from xaikit.tuning.goals import Goal
from xaikit.tuning.rows import TrialRow

if TYPE_CHECKING:
    import optuna

if TYPE_CHECKING:
    from typing_extensions import TypeVar as TypeVarWithDefault

    T = TypeVarWithDefault("T", bound=Configured, default=Any)  # where nothing says what was searched, such as `load`
else:
    T = TypeVar("T", bound=Configured)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class FrontPoint(Result, Generic[T]):
    """One point of a Pareto front.

    Attributes:
        value: the explainer or mitigator.
        values: the value of each objective, by name.
        trial: number of the trial.
        postprocess: the postprocessor after the explainer; None if none was searched.
    """

    value: T
    values: dict[str, float]
    trial: int
    postprocess: Configured | None = None

    def __repr__(self) -> str:
        values = ", ".join(f"{name} {value:.4g}" for name, value in self.values.items())
        after = "" if self.postprocess is None else f", then {self.postprocess!r}"
        return f"FrontPoint(trial {self.trial}: {values}; {_without_model(self.value)!r}{after})"

    def _compared(self) -> tuple[Any, ...]:
        return (_without_model(self.value), self.values, self.trial, self.postprocess)

    @classmethod
    def _decode(cls, state: Mapping[str, Any], kind: str = "explainer", model: nn.Module | None = None) -> Self:
        return cls(
            _created(kind, state["value"], model),  # type: ignore[arg-type]
            state["values"],
            state["trial"],
            _postprocess(state["postprocess"]),
        )


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class TuneResult(Result, Generic[T]):
    """The result of `tune`. With several objectives the first one decides what is `best`; `front` has the Pareto front.

    Two results are equal if everything but their models and their studies is equal.

    Attributes:
        best: the explainer (or mitigator) with the best settings.
        value: its metric, the mean over the samples.
        default_value: the metric of the settings that the search began with; NaN if they failed.
        goals: the objectives.
        trials: one dict per trial: trial, state ("complete", "nan", "pruned", "failed", "unfinished"), value, settings,
            seconds, repeats (the earlier trial with the same settings, which was not run again), error (why it
            failed); with several objectives also values.
        inactive_settings: settings whose change alone never changed the metric in this search.
        stopped: why it ended: "done" (all trials), "exhausted" (the whole space was tried), "out_of_time", or
            "interrupted" (by Ctrl-C).
        front: the trials that no other trial beats in every objective; with one objective only the best.
        gain_interval: the best trial's mean gain per sample over the default with its 95 % interval, on the samples of
            the search; None for a single sample or a mitigator.
        kept_default: whether that interval contains 0, so that `best` is the default.
        space: the searched ranges and choices as plain values, by their names for Optuna.
        postprocess: the best postprocessor; None if none was searched.
        seed: of the sampler and of every trial.
        model: the model that the best mitigator trained; None for an explainer. Not saved.
        study: Optuna's study; None in a result that was read back.
    """

    RENAMED: ClassVar[Mapping[str, str]] = {"dead": "inactive_settings"}

    best: T
    value: float
    default_value: float
    goals: tuple[Goal, ...]
    trials: list[TrialRow]
    inactive_settings: tuple[str, ...]
    stopped: Stopped
    front: tuple[FrontPoint[T], ...] = ()
    gain_interval: Interval | None = None
    kept_default: bool = False
    space: dict[str, Any] = dataclasses.field(default_factory=dict)
    postprocess: Configured | None = None
    seed: int | None = None
    model: nn.Module | None = dataclasses.field(default=None, compare=False)
    study: optuna.Study | None = dataclasses.field(default=None, compare=False)

    @property
    def metric(self) -> Any:
        """The metric of the first objective, or its goal for a weighted sum or a function of the user."""
        terms = self.goals[0].terms
        return terms[0][0] if len(terms) == 1 else self.goals[0]

    @property
    def gain(self) -> float:
        """The improvement of the best settings over the first ones; positive if they are better."""
        difference = self.value - self.default_value
        return difference if self.goals[0].direction == "maximize" else -difference

    @property
    def n_nan(self) -> int:
        """Trials whose metric was not a finite number."""
        return sum(row["state"] == "nan" for row in self.trials)

    @property
    def n_failed(self) -> int:
        """Trials that ended in an error; `trials` holds the message."""
        return sum(row["state"] == "failed" for row in self.trials)

    @property
    def n_pruned(self) -> int:
        """Trials that were stopped early."""
        return sum(row["state"] == "pruned" for row in self.trials)

    @classmethod
    def from_dict(cls, state: Mapping[str, Any], model: nn.Module | None = None) -> Self:
        """The result that `to_dict` wrote.

        Args:
            state: what `to_dict` returned.
            model: what its explainers are bound to; None leaves them without one.

        Raises:
            InvalidInputError: for another kind of result, one of a newer xaikit, or a field that is missing or wrong.
            UnknownNameError: for an explainer or a metric that is not registered here, such as one of a plugin.
        """
        return cls._from_state(state, lambda decoded: cls._decode(decoded, model))

    @classmethod
    def load(cls, path: str | Path, model: nn.Module | None = None) -> Self:
        """The result that `save` wrote.

        Args:
            path: the file.
            model: what its explainers are bound to; None leaves them without one.

        Raises:
            InvalidInputError: for a damaged file, another kind of result, or one that a newer xaikit wrote.
            OSError: where there is no such file.
        """
        return cls._load(path, lambda state: cls._decode(state, model))

    def plot(self, kind: str = "history") -> Any:
        """A figure of the search.

        Args:
            kind: "history", "importance" or "front"; see `xaikit.report.tuning_figures`.

        Returns:
            A matplotlib figure.
        """
        # Through `upward`, as in Attribution.plot: matplotlib is only imported when something is drawn.
        return upward.load("tuning_figures").plot(self, kind)

    def to_pandas(self) -> Any:
        """The trials as a DataFrame, one column per setting.

        Raises:
            MissingDependencyError: where pandas is absent.
        """
        pd = import_pandas(".trials")
        return pd.json_normalize(self.trials)

    def __repr__(self) -> str:
        goal = self.goals[0]
        note = " (the default: no gain beyond noise)" if self.kept_default else ""
        lines = [f"best: {_without_model(self.best)!r}{note}"]
        lines += [] if self.postprocess is None else [f"then: {self.postprocess!r}"]
        gain = "" if self.gain_interval is None else f"; gain of the best trial per sample {self.gain_interval!r}"
        lines.append(f"{goal.name} ({goal.direction}): {self.value:.4g}, before {self.default_value:.4g}{gain}")
        counts = {"failed": self.n_failed, "NaN": self.n_nan, "stopped early": self.n_pruned}
        trials = [f"{len(self.trials)} trials", *(f"{n} {state}" for state, n in counts.items() if n)]
        lines.append(f"{', '.join(trials)}; stopped: {self.stopped}")
        if len(self.front) > 1:
            lines.append(f"front: {len(self.front)} trials that no other beats in every objective")
        if self.inactive_settings:
            lines.append(f"without any effect: {', '.join(self.inactive_settings)}")
        return "\n".join(["TuneResult", *lines])

    def _compared(self) -> tuple[Any, ...]:
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.compare}
        return tuple({**fields, "best": _without_model(self.best)}.values())

    def _state(self) -> dict[str, Any]:
        goals = [goal.to_dict() for goal in self.goals]
        return {"kind": self.best.REGISTRY.kind, **super()._state(), "goals": goals}

    @classmethod
    def _upgrade(cls, state: Any, arrays: Mapping[str, Any]) -> Any:  # noqa: ARG003
        """Version 0.1 had other names, and an interval without its mean."""
        if not isinstance(state, Mapping) or "dead" not in state:
            return state
        new = {"inactive_settings" if key == "dead" else key: value for key, value in state.items()}
        if isinstance(ends := state.get("gain_interval"), list):
            # Student's intervals are symmetric.
            low, high = ends
            new["gain_interval"] = {"low": low, "mean": (low + high) / 2, "high": high, "level": 0.95, "n": 0}
        return new

    @classmethod
    def _decode(cls, state: Mapping[str, Any], model: nn.Module | None = None) -> Self:
        kind, default, gain = state["kind"], state["default_value"], state["gain_interval"]
        return cls(
            best=_created(kind, state["best"], model),  # type: ignore[arg-type]
            postprocess=_postprocess(state["postprocess"]),
            value=state["value"],
            default_value=math.nan if default is None else default,
            gain_interval=None if gain is None else Interval.from_dict(gain),
            kept_default=state["kept_default"],
            goals=tuple(Goal.from_dict(goal) for goal in state["goals"]),
            front=tuple(FrontPoint._decode(point, kind, model) for point in state["front"]),  # noqa: SLF001
            trials=list(state["trials"]),
            inactive_settings=tuple(state["inactive_settings"]),
            stopped=Stopped(state["stopped"]),
            space=dict(state["space"]),
            seed=state.get("seed"),
        )


def _without_model(value: Any) -> Any:
    return value.set_kwargs(model=None) if isinstance(value, Explainer) else value


def _created(kind: str, spec: Any, model: nn.Module | None) -> Any:
    return Explainer.from_spec(spec, model) if kind == "explainer" else MITIGATORS.create(spec)


def _postprocess(spec: Any) -> Configured | None:
    return None if spec is None else POSTPROCESSORS.create(spec)
