"""The importance of each setting in a search, by Optuna."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xaikit.core import Categorical, Float, Int, Spec
from xaikit.core.process_wide import warnings_ignored
from xaikit.tuning.dimension import Dimension
from xaikit.tuning.result import TuneResult
from xaikit.tuning.rows import TrialRow
from xaikit.tuning.study import quiet

if TYPE_CHECKING:
    import optuna


def importances(result: TuneResult[Any]) -> dict[str, float]:
    """The share of the first objective's variation that each setting explains, largest first; Optuna estimates it.

    It is computed from what the result holds, so a result that was read back gives the same.
    """
    import optuna

    dims = {key: (_dimension(key, entry), entry["when"]) for key, entry in result.space.items()}
    with quiet(), warnings_ignored():  # that a part of Optuna is experimental, that few trials say little
        study = optuna.create_study(direction=result.goals[0].direction)
        for row in result.trials:
            if row["state"] == "complete" and row["repeats"] is None:
                study.add_trial(_trial(row, dims))
        # The default of Optuna 5; that of Optuna 4 draws at random, and differs from call to call.
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))


def _trial(row: TrialRow, dims: dict[str, tuple[Dimension, dict[str, Any]]]) -> optuna.trial.FrozenTrial:
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
        value=row["value"],
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
