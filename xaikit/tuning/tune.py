"""tune: the best settings of an explainer by a metric."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from xaikit.core import METRICS, Explainer, Float, Int, Spec, as_explainer
from xaikit.core.errors import InvalidInputError, InvalidTypeError, NonFiniteError, TuningError, UnboundError
from xaikit.metrics.base import Metric
from xaikit.tuning.data import Batch, batches
from xaikit.tuning.result import Stopped, TuneResult, dead_settings
from xaikit.tuning.space import Space
from xaikit.tuning.study import open_study, quiet

if TYPE_CHECKING:
    import optuna


def tune(  # noqa: PLR0913
    explainer: Explainer | str,
    metric: Metric | str,
    data: Any,
    *,
    n_trials: int = 50,
    sampler: str = "tpe",
    seed: int = 0,
    timeout: float | None = None,
    storage: Any = None,
    study_name: str | None = None,
    resume: bool = False,
    space: Mapping[str, Spec] | Sequence[str] | None = None,
    progress: bool = True,
) -> TuneResult:
    """Search an explainer's tunable settings for the best mean of a metric over some samples.

    Trial 0 is the explainer as it is. The next ones move one setting at a time, where the number of trials allows, so
    that settings without an effect are found; then the sampler decides. Every trial explains with the same seed, and
    settings that come again are not run again. Ctrl-C ends the search and keeps what was found.

    Args:
        explainer: a bound explainer.
        metric: a metric, or its name or spec; its DIRECTION says which way is better.
        data: a pair (inputs, targets), or a loader or list of such batches, read once.
        n_trials: trials to make, repeats included.
        sampler: "tpe" (tree-structured Parzen estimator), "random", or "grid" (ten points of a range without a step).
        seed: of the sampler and of every trial's random numbers.
        timeout: seconds after which no new trial starts.
        storage: where Optuna keeps the study: an URL such as "sqlite:///study.db" or an Optuna storage; None: memory.
        study_name: of the study in the storage.
        resume: go on with a study of that name, which must be about the same search.
        space: what to vary: names of settings, or specs by name; None: all of `explainer.get_tunables()`.
        progress: show a progress bar.

    Raises:
        InvalidInputError, InvalidTypeError, UnknownNameError: for arguments that cannot be right.
        UnboundError: for an explainer without a model.
        TuningError: when no trial gave a number; the message holds the first reason.

    >>> from xaikit.explainers import SmoothGrad
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
    >>> found = tune(SmoothGrad(model), "abpc", (torch.rand(5, 4), 0), n_trials=4, progress=False)
    >>> found.value >= found.default_value
    True
    """
    if not isinstance(explainer, Explainer):
        explainer = as_explainer(explainer)
    if explainer.model is None:
        raise UnboundError(f"{explainer!r} has no model yet; call .bind(model) first")
    metric = METRICS.create(metric)
    if not isinstance(metric, Metric):
        raise InvalidTypeError(f"tune needs a metric of {METRICS!r}, got {metric!r}")
    n_trials, seed = Int(ge=1).check(n_trials, "n_trials"), Int(ge=0).check(seed, "seed")
    timeout = None if timeout is None else Float(gt=0).check(timeout, "timeout")
    dims = dimensions(explainer, space)
    objective = Objective(explainer, metric, batches(data, explainer.device), dims, seed)
    with quiet():
        study = open_study(storage, study_name, resume, metric.DIRECTION, objective.about())
        study.sampler = make_sampler(sampler, dims, seed + len(study.trials))
        objective.recall(study)
        _enqueue(study, dims, n_trials, one_by_one=sampler != "grid")
        stopped = _search(study, objective, n_trials, timeout, progress)
    return _result(study, objective, stopped)


@dataclasses.dataclass
class Objective:
    """The metric of an explainer with the settings that a trial chooses."""

    explainer: Explainer
    metric: Metric
    data: list[Batch]
    dims: list[Dimension]
    seed: int
    seen: dict[str, tuple[int, float, str | None]] = dataclasses.field(default_factory=dict)
    cause: Exception | None = None  # of the first trial that failed

    def __call__(self, trial: optuna.Trial) -> float:
        """The mean over the samples; what went wrong is kept with the trial."""
        changes = self._changes(trial)
        key = json.dumps({d.name: changes.get(d.name, d.label) for d in self.dims})
        if key in self.seen:
            trial.set_user_attr("repeats", self.seen[key][0])
        else:
            self.seen[key] = (trial.number, *self._outcome(changes))
        _, value, error = self.seen[key]
        if error is not None:
            trial.set_user_attr("error", error)
            raise TuningError(error)
        if math.isnan(value):
            trial.set_user_attr("nan", True)
        return value

    def _outcome(self, changes: dict[str, Any]) -> tuple[float, str | None]:
        """The value of some settings, or why there is none: a trial may fail without ending the search."""
        try:
            return self.measure(self.explainer.set_kwargs(**changes)), None
        except Exception as err:
            wrong_call = isinstance(err, (InvalidInputError, InvalidTypeError)) and not isinstance(err, NonFiniteError)
            if wrong_call and not self.seen:
                raise  # the default settings are refused: it is the data or the targets, and no trial would do better
            self.cause = self.cause or err
            return math.nan, f"{type(err).__name__}: {err}"

    def measure(self, explainer: Explainer) -> float:
        """The metric's mean over all samples; NaN if it is not finite."""
        values = [self.metric.evaluate(explainer, x, y, seed=self.seed).detach().cpu().double() for x, y in self.data]
        mean = float(torch.cat(values).mean())
        return mean if math.isfinite(mean) else math.nan

    def about(self) -> dict[str, Any]:
        """What makes two searches the same."""
        space = {d.name: {"choices": d.choices} if d.choices else d.spec.model_dump() for d in self.dims}
        return {
            "explainer": repr(self.explainer.set_kwargs(model=None)),
            "metric": repr(self.metric),
            "space": json.loads(json.dumps(space)),
            "seed": self.seed,
        }

    def recall(self, study: optuna.Study) -> None:
        """Take over what an earlier search in the same study has measured."""
        for row in _table(study, self.dims):
            if row["state"] != "unfinished" and row["repeats"] is None:
                value = math.nan if row["value"] is None else row["value"]
                self.seen.setdefault(json.dumps(row["settings"]), (row["trial"], value, row["error"]))

    def _changes(self, trial: optuna.Trial) -> dict[str, Any]:
        fixed = trial.user_attrs.get("changes")
        if fixed is None:
            return {d.name: d.suggest(trial) for d in self.dims}
        for d in self.dims:
            # The sampler learns from a fixed trial what lies inside its space.
            if d.name in fixed or d.inside:
                d.suggest(trial)
        return fixed


def _enqueue(study: optuna.Study, dims: list[Dimension], n_trials: int, *, one_by_one: bool) -> None:
    """The explainer as it is, then one setting at a time moved far away: that shows which settings are dead."""
    if study.trials:
        return
    fixed: list[dict[str, Any]] = [{}]
    if one_by_one and len(dims) > 1 and n_trials >= 4 * (len(dims) + 1):
        fixed += [{d.name: d.farthest} for d in dims]
    for changes in fixed:
        start = {d.name: d.label for d in dims if d.inside}
        study.enqueue_trial({**start, **changes}, user_attrs={"changes": changes})


def _search(study: optuna.Study, objective: Objective, n_trials: int, timeout: float | None, progress: bool) -> Stopped:
    """Run the trials; return why the search ended."""
    size = math.prod(d.size for d in objective.dims)
    inside = all(d.inside for d in objective.dims)
    begun, before = time.monotonic(), _n_finished(study)
    stopped: Stopped = "trials"
    best: list[float] = []
    better = max if objective.metric.DIRECTION == "maximize" else min
    with tqdm(total=n_trials, desc="tune", unit="trial", disable=not progress) as bar:

        def after(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
            nonlocal stopped
            bar.update()
            if trial.value is not None:
                # Asking the study for its best would read its storage in every trial.
                best.append(better(best.pop() if best else trial.value, trial.value))
                bar.set_postfix(best=f"{best[0]:.4g}")
            if inside and len(objective.seen) >= size:
                stopped = "space"
                study.stop()

        try:
            study.optimize(objective, n_trials=n_trials, timeout=timeout, callbacks=[after], catch=(TuningError,))
        except KeyboardInterrupt:
            if not any(row["state"] == "complete" for row in _table(study, objective.dims)):
                raise
            return "interrupted"
    if stopped == "trials" and _n_finished(study) - before < n_trials:
        return "timeout" if timeout is not None and time.monotonic() - begun >= timeout else "space"
    return stopped


def _n_finished(study: optuna.Study) -> int:
    return sum(trial.state.is_finished() for trial in study.trials)


def _table(study: optuna.Study, dims: list[Dimension]) -> list[dict[str, Any]]:
    rows = []
    for trial in study.trials:
        attrs = trial.user_attrs
        # A trial that was interrupted before it chose, or is still waiting, has nothing to tell.
        settings = _settings(trial, dims) if trial.datetime_start else None
        if settings is None:
            continue
        done = trial.state.name == "COMPLETE"
        state = "complete" if done else "failed" if "error" in attrs else "nan" if attrs.get("nan") else "unfinished"
        rows.append(
            {
                "trial": trial.number,
                "state": state,
                "value": trial.value if done else None,
                "settings": settings,
                "seconds": trial.duration.total_seconds() if trial.duration else None,
                "repeats": attrs.get("repeats"),
                "error": attrs.get("error"),
            }
        )
    return rows


def _settings(trial: optuna.trial.FrozenTrial, dims: list[Dimension]) -> dict[str, Any] | None:
    """What a trial ran with; None if it had not chosen yet."""
    changes = trial.user_attrs.get("changes")
    if changes is not None:
        return {d.name: changes.get(d.name, d.label) for d in dims}
    return {d.name: d.tidy(trial.params[d.name]) for d in dims} if len(trial.params) == len(dims) else None


def _result(study: optuna.Study, objective: Objective, stopped: Stopped) -> TuneResult:
    rows = _table(study, objective.dims)
    done = [row for row in rows if row["state"] == "complete"]
    if not done:
        raise TuningError(_nothing(rows)) from objective.cause
    best = study.best_trial
    changes = best.user_attrs.get("changes", _settings(best, objective.dims))
    first = rows[0]
    return TuneResult(
        best=objective.explainer.set_kwargs(**changes),  # type: ignore[arg-type]
        value=best.value,  # type: ignore[arg-type]
        default_value=math.nan if first["value"] is None else first["value"],
        metric=objective.metric,
        trials=rows,
        dead=dead_settings(rows),
        stopped=stopped,
        study=study,
    )


def _nothing(rows: list[dict[str, Any]]) -> str:
    errors = [row for row in rows if row["state"] == "failed"]
    nans = [row for row in rows if row["state"] == "nan"]
    counts = f"{len(errors)} failed and {len(nans)} gave NaN"
    if errors:
        return f"no trial gave a number: {counts}; trial {errors[0]['trial']} failed with {errors[0]['error']}"
    return (
        f"no trial gave a number: {counts}; look at the attribution of {nans[0]['settings'] if nans else 'trial 0'}, "
        f"which is not finite, or at the metric's output"
    )
