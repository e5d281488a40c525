"""From a search that has ended to its result."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from xaikit.core.errors import TuningError
from xaikit.tuning.goals import Goal
from xaikit.tuning.result import Candidate, TuneResult
from xaikit.tuning.rows import Row, dead_settings
from xaikit.tuning.search import Search, Stopped


def assemble(search: Search, stopped: Stopped) -> TuneResult[Any]:
    """The result of a search, whatever was tuned.

    Raises:
        TuningError: when no trial gave a number; the message holds the first reason.
    """
    rows = search.rows
    if not any(row["state"] == "complete" for row in rows):
        raise TuningError(_nothing(rows)) from search.cause
    best = best_row(rows, search.goals[0])
    made = search.space.make(best["settings"])
    start = search.space.start
    default = next((r["value"] for r in rows if r["settings"] == start and r["state"] == "complete"), math.nan)
    return TuneResult(
        best=made[0],
        postprocess=made[1] if len(made) > 1 else None,
        value=best["value"],
        default_value=default,
        goals=search.goals,
        trials=rows,
        dead=dead_settings(rows),
        stopped=stopped,
        front=tuple(_candidate(search, row) for row in _front(search, rows, best)),
        space=search.space.describe(),
        study=search.study,
    )


def best_row(rows: Sequence[Row], goal: Goal) -> Row:
    """The first of the best complete trials."""
    best: Row | None = None
    for row in rows:
        if row["state"] == "complete" and (best is None or goal.better(row["value"], best["value"])):
            best = row
    if best is None:
        raise TuningError(_nothing(rows))
    return best


def _front(search: Search, rows: Sequence[Row], best: Row) -> list[Row]:
    """Trials that no other beats in every objective, each once."""
    if len(search.goals) == 1:
        return [best]
    numbers = {trial.number for trial in search.study.best_trials}
    return [row for row in rows if row["trial"] in numbers and row["repeats"] is None]


def _candidate(search: Search, row: Row) -> Candidate[Any]:
    made = search.space.make(row["settings"])
    values = row["values"] if len(search.goals) > 1 else {search.goals[0].name: row["value"]}
    return Candidate(made[0], values, row["trial"], made[1] if len(made) > 1 else None)


def _nothing(rows: Sequence[Row]) -> str:
    errors = [row for row in rows if row["state"] == "failed"]
    nans = [row for row in rows if row["state"] == "nan"]
    counts = f"{len(errors)} failed and {len(nans)} gave NaN"
    if errors:
        return f"no trial gave a number: {counts}; trial {errors[0]['trial']} failed with {errors[0]['error']}"
    return (
        f"no trial gave a number: {counts}; look at the attribution of {nans[0]['settings'] if nans else 'trial 0'}, "
        f"which is not finite, or at the metric's output"
    )
