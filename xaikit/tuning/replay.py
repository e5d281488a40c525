"""A result as a study of Optuna's in memory, for its figures; results that were read back have no other."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from xaikit.core import Categorical, Float, Int, Spec
from xaikit.tuning.dimension import Dimension
from xaikit.tuning.result import TuneResult
from xaikit.tuning.rows import Row
from xaikit.tuning.study import quiet

if TYPE_CHECKING:
    import optuna


def as_study(result: TuneResult[Any], *, first_only: bool = False) -> optuna.Study:
    """The complete trials, each run once, with the settings that lie in the search space.

    Args:
        result: of a search.
        first_only: leave out all objectives but the first.
    """
    import optuna

    dims = {key: (_dimension(key, entry), entry["when"]) for key, entry in result.space.items()}
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = optuna.create_study(directions=[goal.direction for goal in result.goals[: 1 if first_only else None]])
        for row in result.trials:
            if row["state"] == "complete" and row["repeats"] is None:
                study.add_trial(_trial(row, dims, 1 if first_only else len(result.goals)))
    return study


def _trial(row: Row, dims: dict[str, tuple[Dimension, dict[str, Any]]], n_values: int) -> optuna.trial.FrozenTrial:
    import optuna

    settings = row["settings"]
    params = {
        key: settings[dim.name]
        for key, (dim, when) in dims.items()
        if dim.name in settings
        and all(settings.get(name) == label for name, label in when.items())
        and dim.contains(settings[dim.name])
    }
    return optuna.create_trial(
        values=[row["value"]] if n_values == 1 else list(row["values"].values()),
        params=params,
        distributions={key: _distribution(dims[key][0].spec) for key in params},
    )


def _dimension(key: str, entry: dict[str, Any]) -> Dimension:
    if "choices" in entry:
        return Dimension(entry["name"], key, Categorical(*entry["choices"]), None)
    kind = Int if entry["kind"] == "int" else Float
    return Dimension(entry["name"], key, kind(**{n: entry[n] for n in ("low", "high", "step", "log")}), None)


def _distribution(spec: Spec) -> optuna.distributions.BaseDistribution:
    from optuna import distributions

    if isinstance(spec, Categorical):
        return distributions.CategoricalDistribution(spec.choices)
    low, high, step, log = (getattr(spec, n) for n in ("low", "high", "step", "log"))
    if isinstance(spec, Int):
        return distributions.IntDistribution(int(low), int(high), log=log, step=int(step or 1))
    return distributions.FloatDistribution(low, high, log=log, step=step)
