"""The trials of a study as a table: one plain dict per trial."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from xaikit.tuning.goals import Goal
from xaikit.tuning.space import Point, Space

if TYPE_CHECKING:
    import optuna

SETTINGS = "settings"  # user attribute of a trial whose settings we chose, not Optuna's sampler
TrialRow = dict[str, Any]


def key_of(point: Point) -> str:
    """A point as text, for comparing."""
    return json.dumps(point, sort_keys=True)


def table(trials: Sequence[optuna.trial.FrozenTrial], space: Space, goals: Sequence[Goal]) -> list[TrialRow]:
    """A row for each trial that has begun and chosen its settings."""
    rows = (row_of(trial, space, goals) for trial in trials if trial.datetime_start)
    return [row for row in rows if row is not None]


def row_of(trial: optuna.trial.FrozenTrial, space: Space, goals: Sequence[Goal]) -> TrialRow | None:
    """The row of a trial; None if it had not chosen its settings yet."""
    point = point_of(trial, space)
    if point is None:
        return None
    attrs = trial.user_attrs
    complete = trial.state.name == "COMPLETE"
    if complete or trial.state.name == "PRUNED":
        state = "complete" if complete else "pruned"
    else:
        state = "failed" if "error" in attrs else "nan" if attrs.get("nan") else "unfinished"
    values = trial.values if complete else None
    row = {
        "trial": trial.number,
        "state": state,
        "value": values[0] if values else None,
        "settings": point,
        "seconds": trial.duration.total_seconds() if trial.duration else None,
        "repeats": attrs.get("repeats"),
        "error": attrs.get("error"),
    }
    if len(goals) > 1:
        row["values"] = {goal.name: value for goal, value in zip(goals, values, strict=True)} if values else None
    return row


def point_of(trial: optuna.trial.FrozenTrial, space: Space) -> Point | None:
    """The settings of a trial; None if it had not chosen all of them yet."""
    chosen = trial.user_attrs.get(SETTINGS)
    if chosen is not None:
        return chosen
    try:
        return space.walk(lambda dim: dim.tidy(trial.params[dim.key]))
    except KeyError:
        return None


def inactive_settings_of(rows: Sequence[TrialRow], goals: Sequence[Goal]) -> tuple[str, ...]:
    """Settings without effect: all trials that differ only in this setting gave the same value, and there were some.

    The settings of an object exist only if the object is chosen, so they and the choice count as one difference.
    An objective that differs from run to run, such as seconds, is left out.
    """
    judges = [goal.name for goal in goals if goal.repeatable]
    if not judges:
        return ()
    complete = [row for row in rows if row["state"] == "complete"]
    names = dict.fromkeys(name for row in complete for name in row["settings"])
    inactive = []
    for name in names:
        groups: dict[str, list[TrialRow]] = {}
        for row in complete:
            if name in row["settings"]:
                others = {n: v for n, v in row["settings"].items() if n != name and not n.startswith(f"{name}.")}
                groups.setdefault(key_of(others), []).append(row)
        compared = [group for group in groups.values() if len({json.dumps(row["settings"][name]) for row in group}) > 1]
        if compared and all(len({_results(row, judges) for row in group}) == 1 for group in compared):
            inactive.append(name)
    return tuple(inactive)


def _results(row: TrialRow, names: Sequence[str]) -> tuple[float, ...]:
    values = row.get("values")
    return tuple(values[name] for name in names) if values else (row["value"],)
