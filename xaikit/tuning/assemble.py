"""Making the result of a search that has ended."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from xaikit.core.errors import TuningError
from xaikit.core.results import Stopped
from xaikit.tuning.goals import Goal
from xaikit.tuning.result import FrontPoint, TuneResult
from xaikit.tuning.rows import TrialRow, inactive_settings_of
from xaikit.tuning.search import Search
from xaikit.tuning.space import Point


def assemble(search: Search, stopped: Stopped) -> TuneResult[Any]:
    """The result of a search, whatever was tuned.

    Raises:
        TuningError: when no trial gave a number; the message holds the first reason.
    """
    rows = search.rows
    undominated = search.undominated
    search.close()
    if not any(row["state"] == "complete" for row in rows):
        raise TuningError(_no_result_message(rows)) from search.cause
    best = best_row(rows, search.goals[0])
    tuned, *after = search.space.make(best["settings"])
    start = row_at(rows, search.space.start)
    return TuneResult(
        best=tuned,
        postprocess=after[0] if after else None,
        value=best["value"],
        default_value=math.nan if start is None else start["value"],
        goals=search.goals,
        trials=rows,
        inactive_settings=inactive_settings_of(rows, search.goals),
        stopped=stopped,
        front=tuple(_front_point(search, row) for row in _front(rows, best, undominated)),
        space=search.space.describe(),
        seed=search.seed,
        study=search.study,
    )


def row_at(rows: Sequence[TrialRow], point: Point) -> TrialRow | None:
    """The first complete trial with those settings."""
    return next((row for row in rows if row["settings"] == point and row["state"] == "complete"), None)


def best_row(rows: Sequence[TrialRow], goal: Goal) -> TrialRow:
    """The first of the best complete trials."""
    best: TrialRow | None = None
    for row in rows:
        if row["state"] == "complete" and (best is None or goal.better(row["value"], best["value"])):
            best = row
    if best is None:
        raise TuningError(_no_result_message(rows))
    return best


def _front(rows: Sequence[TrialRow], best: TrialRow, undominated: set[int] | None) -> list[TrialRow]:
    """Trials that no other beats in every objective, each once."""
    if undominated is None:
        return [best]
    return [row for row in rows if row["trial"] in undominated and row["repeats"] is None]


def _front_point(search: Search, row: TrialRow) -> FrontPoint[Any]:
    tuned, *after = search.space.make(row["settings"])
    values = row["values"] if len(search.goals) > 1 else {search.goals[0].name: row["value"]}
    return FrontPoint(tuned, values, row["trial"], after[0] if after else None)


def _no_result_message(rows: Sequence[TrialRow]) -> str:
    errors = [row for row in rows if row["state"] == "failed"]
    nans = [row for row in rows if row["state"] == "nan"]
    counts = f"{len(errors)} failed and {len(nans)} gave NaN"
    if errors:
        return f"no trial gave a number: {counts}; trial {errors[0]['trial']} failed with {errors[0]['error']}"
    return (
        f"no trial gave a number: {counts}; look at the attribution of {nans[0]['settings'] if nans else 'trial 0'}, "
        f"which is not finite, or for samples about which the metric says nothing, such as one with an empty mask "
        f"or an attribution that is the same everywhere"
    )
